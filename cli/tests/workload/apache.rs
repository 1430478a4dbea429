//! Debian's Apache on this machine, with the web guests' configuration and CGI:
//! a golden run has no wrong answer. Where Apache is not installed this is
//! skipped, and says so; where `CI` is set it fails instead.

use crate::server::ran;
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const APACHE: &str = "/usr/sbin/apache2";

/// An Apache of our own; it ends when dropped.
struct Apache {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Apache {
    fn start() -> Option<Apache> {
        if !Path::new(APACHE).exists() {
            assert!(std::env::var_os("CI").is_none(), "CI needs {APACHE}");
            println!("skipped: no {APACHE}; apt-get install apache2-bin");
            return None;
        }
        let guest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ansible/guests/web");
        let dir = tempfile::tempdir().unwrap();
        // Its workers are www-data.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("cgi-bin")).unwrap();
        fs::copy(guest.join("sha1"), dir.path().join("cgi-bin/sha1")).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path().join("cgi-bin/sha1"), executable).unwrap();
        fs::write(dir.path().join("index.html"), "<p>static</p>\n").unwrap();
        // Freed before Apache takes it: a test that lost it fails, and says so.
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let here = dir.path().to_str().unwrap();
        let config = fs::read_to_string(guest.join("httpd.conf")).unwrap();
        let config = config
            .replace("Listen 0.0.0.0:80", &format!("Listen 127.0.0.1:{port}"))
            .replace("/run/apache2.pid", &format!("{here}/pid"))
            .replace("/usr/lib/cgi-bin", &format!("{here}/cgi-bin"))
            .replace("/var/www", here)
            .replace("/dev/stderr", &format!("{here}/errors"));
        let config = format!("{config}\nDefaultRuntimeDir {here}\nMutex file:{here}\n");
        let file = dir.path().join("httpd.conf");
        fs::write(&file, config).unwrap();
        let child = Command::new(APACHE)
            .args(["-D", "FOREGROUND", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            // At its end it signals its whole process group.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut apache = Apache { child, port, dir };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = apache.child.try_wait().unwrap();
            let waited = begun.elapsed() > Duration::from_secs(60);
            assert!(
                ended.is_none() && !waited,
                "Apache did not start: {}",
                apache.errors()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(apache)
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default()
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its workers.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Two minutes in the long tests, as a golden run should; else a moment.
fn how_long() -> &'static str {
    match std::env::var("XFI_LAB").as_deref() {
        Ok("long") => "2m",
        _ => "3s",
    }
}

#[track_caller]
fn golden(apache: &Apache, path: &str, more: &[&str]) -> u64 {
    let url = format!("http://127.0.0.1:{}{path}", apache.port);
    let mut args = vec![
        "http",
        "--url",
        &url,
        "--for",
        how_long(),
        "--output",
        "json",
    ];
    args.extend(more);
    let ran = ran(&args);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stderr, apache.errors());
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(printed["wrong"], 0);
    let verdicts = printed["verdicts"].as_object().unwrap();
    assert_eq!(verdicts.keys().collect::<Vec<_>>(), ["correct"]);
    println!("{path} {more:?}: {} right answers", verdicts["correct"]);
    verdicts["correct"].as_u64().unwrap()
}

#[test]
fn golden_runs_have_no_wrong_answer() {
    let Some(apache) = Apache::start() else {
        return;
    };
    let cgi = "/cgi-bin/sha1?n=65536";
    assert!(golden(&apache, cgi, &["--profile", "ten-clients"]) > 10);
    assert!(
        golden(
            &apache,
            cgi,
            &["--profile", "light-load", "--connection-per-request"]
        ) > 1
    );
    let open = ["--open-loop", "40", "--clients", "10"];
    assert!(golden(&apache, "/index.html", &open) > 10);
}

#[test]
fn a_page_that_apache_refuses_is_one_line() {
    let Some(apache) = Apache::start() else {
        return;
    };
    for (path, says) in [
        ("/nosuch", "status 404"),
        ("/cgi-bin/sha1?n=x", "status 400"),
        ("/cgi-bin/sha1?m=1", "status 400"),
    ] {
        let url = format!("http://127.0.0.1:{}{path}", apache.port);
        let ran = ran(&["http", "--url", &url]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""));
        assert_eq!(ran.stderr, format!("xfi: {url}: {says}\n"));
    }
}
