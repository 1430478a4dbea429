//! `xfi workload http` beside wrk and JMeter on one Apache: requests for each
//! second of the client's CPU time, which a busy machine distorts less than
//! requests a second; and the memory of a run of a million requests. `make
//! bench` runs it. The figures go to `target/bench.json`, beside the others.

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Map, Value, json};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

type Error = Box<dyn std::error::Error>;

/// Connections of each client program.
const CLIENTS: u32 = 10;
/// Interleaved pairs of wrk and xfi.
const PAIRS: usize = 5;
/// How long one of a pair runs, seconds.
const SECONDS: u32 = 8;
const BODY: usize = 1024;
const MILLION: u32 = 1_000_000;
const JMETER_REQUESTS: u32 = 20_000;

fn main() -> Result<(), Error> {
    // `cargo test` and clippy build benches too; they must not run them.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let apache = Apache::start(&tree)?;
    let log = apache.dir.path().join("requests.log");
    let mut figures = Figures::new(&tree);

    // First: the largest resident set of all children so far is then its own.
    eprintln!("a million requests with their log ...");
    let each = (MILLION / CLIENTS).to_string();
    let asked = apache.xfi(&log, &["--for", "1h", "--requests", &each])?;
    if asked.requests != u64::from(MILLION) {
        return Err(format!("{} requests instead of a million", asked.requests).into());
    }
    let rss_mib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64 / 1024.0;
    figures.add("http_million_requests_rss_mib", rss_mib, "MiB", 1);
    let log_mb = fs::metadata(&log)?.len() as f64 / 1e6;
    figures.add("http_million_requests_log_mb", log_mb, "MB", 1);

    eprintln!("{PAIRS} pairs of wrk and xfi, {SECONDS} s each ...");
    let (mut wrk, mut xfi, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let theirs = apache.wrk()?.per_cpu_second();
        let time = format!("{SECONDS}s");
        let ours = apache.xfi(&log, &["--for", &time])?.per_cpu_second();
        wrk.push(theirs);
        xfi.push(ours);
        ratios.push(ours / theirs);
    }
    figures.add("wrk_requests_per_cpu_s", median(&mut wrk), "1/s", PAIRS);
    figures.add("http_requests_per_cpu_s", median(&mut xfi), "1/s", PAIRS);
    figures.add("http_over_wrk", median(&mut ratios), "", PAIRS);

    eprintln!("JMeter, {JMETER_REQUESTS} requests ...");
    let jmeter = apache.jmeter()?.per_cpu_second();
    figures.add("jmeter_requests_per_cpu_s", jmeter, "1/s", 1);
    figures.add("http_over_jmeter", median(&mut xfi) / jmeter, "", 1);
    figures.write(&tree)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a client program did.
struct Asked {
    requests: u64,
    cpu_s: f64,
}

impl Asked {
    fn per_cpu_second(&self) -> f64 {
        self.requests as f64 / self.cpu_s
    }
}

/// CPU time of all children that ended, seconds.
fn children_cpu_s() -> Result<f64, Error> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// Runs a program; its stdout and its CPU time.
fn measure(command: &mut Command) -> Result<(String, f64), Error> {
    let before = children_cpu_s()?;
    let out = command.stdin(Stdio::null()).output()?;
    let cpu_s = children_cpu_s()? - before;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        return Err(format!("{command:?}: {}: {why}", out.status).into());
    }
    Ok((String::from_utf8(out.stdout)?, cpu_s))
}

/// Apache with a static page, as fast as it can.
struct Apache {
    child: Child,
    url: String,
    port: u16,
    dir: tempfile::TempDir,
}

impl Apache {
    fn start(tree: &Path) -> Result<Apache, Error> {
        let dir = tempfile::tempdir()?;
        // Its workers are www-data.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let body: String = (0..BODY)
            .map(|i| char::from(b'a' + (i % 26) as u8))
            .collect();
        fs::write(dir.path().join("page"), body)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let here = dir.path().display();
        let config = fs::read_to_string(tree.join("ansible/guests/web/httpd.conf"))?
            .replace("Listen 0.0.0.0:80", &format!("Listen 127.0.0.1:{port}"))
            .replace("/run/apache2.pid", &format!("{here}/pid"))
            .replace("/var/www", &here.to_string())
            .replace("/dev/stderr", &format!("{here}/errors"));
        let file = dir.path().join("httpd.conf");
        fs::write(
            &file,
            format!("{config}\nDefaultRuntimeDir {here}\nMutex file:{here}\n"),
        )?;
        let child = Command::new("/usr/sbin/apache2")
            .args(["-D", "FOREGROUND", "-f"])
            .arg(&file)
            .stdin(Stdio::null())
            // At its end it signals its whole process group.
            .process_group(0)
            .spawn()?;
        let apache = Apache {
            child,
            url: format!("http://127.0.0.1:{port}/page"),
            port,
            dir,
        };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(apache);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("Apache does not start".into())
    }

    /// Every body is compared, every request is written to the log.
    fn xfi(&self, log: &Path, more: &[&str]) -> Result<Asked, Error> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xfi"));
        command
            .args(["workload", "http", "--url", &self.url, "--think", "0s"])
            .args(["--clients", &CLIENTS.to_string(), "--output", "json"])
            .arg("--log")
            .arg(log)
            .args(more);
        let (printed, cpu_s) = measure(&mut command)?;
        let summary: Value = serde_json::from_str(&printed)?;
        let correct = &summary["verdicts"]["correct"];
        Ok(Asked {
            requests: correct.as_u64().ok_or("no request was right")?,
            cpu_s,
        })
    }

    fn wrk(&self) -> Result<Asked, Error> {
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", &CLIENTS.to_string()]).args([
            "-d",
            &format!("{SECONDS}s"),
            &self.url,
        ]);
        let (printed, cpu_s) = measure(&mut command)?;
        let line = printed.lines().find(|l| l.contains(" requests in "));
        let requests = line.and_then(|l| l.split_whitespace().next());
        Ok(Asked {
            requests: requests.ok_or("wrk printed no count")?.parse()?,
            cpu_s,
        })
    }

    /// Without a listener and without an assertion: at its best.
    fn jmeter(&self) -> Result<Asked, Error> {
        let plan = self.dir.path().join("plan.jmx");
        fs::write(&plan, jmeter_plan(self.port))?;
        let results = self.dir.path().join("results.jtl");
        let mut command = Command::new("jmeter");
        command
            .args(["-n", "-t"])
            .arg(&plan)
            .arg("-l")
            .arg(&results)
            .current_dir(self.dir.path());
        let (_, cpu_s) = measure(&mut command)?;
        let results = fs::read_to_string(&results)?;
        let right = |l: &&str| l.contains(",200,") || l.contains("rc=\"200\"");
        Ok(Asked {
            requests: results.lines().filter(right).count() as u64,
            cpu_s,
        })
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn jmeter_plan(port: u16) -> String {
    let loops = JMETER_REQUESTS / CLIENTS;
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<jmeterTestPlan version="1.2" properties="2.8" jmeter="2.13">
<hashTree>
<TestPlan guiclass="TestPlanGui" testclass="TestPlan" testname="plan" enabled="true"/>
<hashTree>
<ThreadGroup guiclass="ThreadGroupGui" testclass="ThreadGroup" testname="clients" enabled="true">
<elementProp name="ThreadGroup.main_controller" elementType="LoopController">
<boolProp name="LoopController.continue_forever">false</boolProp>
<stringProp name="LoopController.loops">{loops}</stringProp>
</elementProp>
<stringProp name="ThreadGroup.num_threads">{CLIENTS}</stringProp>
<stringProp name="ThreadGroup.ramp_time">0</stringProp>
</ThreadGroup>
<hashTree>
<HTTPSamplerProxy guiclass="HttpTestSampleGui" testclass="HTTPSamplerProxy" testname="page" enabled="true">
<elementProp name="HTTPsampler.Arguments" elementType="Arguments"><collectionProp name="Arguments.arguments"/></elementProp>
<stringProp name="HTTPSampler.domain">127.0.0.1</stringProp>
<stringProp name="HTTPSampler.port">{port}</stringProp>
<stringProp name="HTTPSampler.path">/page</stringProp>
<stringProp name="HTTPSampler.method">GET</stringProp>
<boolProp name="HTTPSampler.use_keepalive">true</boolProp>
</HTTPSamplerProxy>
<hashTree/>
</hashTree>
</hashTree>
</hashTree>
</jmeterTestPlan>
"#
    )
}

struct Figures {
    commit: String,
    all: Map<String, Value>,
}

impl Figures {
    fn new(tree: &Path) -> Figures {
        let out = Command::new("git")
            .arg("-C")
            .arg(tree)
            .args(["describe", "--always", "--dirty", "--abbrev=12"])
            .output();
        let commit = out.map_or_else(
            |_| "unknown".into(),
            |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
        );
        Figures {
            commit,
            all: Map::new(),
        }
    }

    fn add(&mut self, name: &str, value: f64, unit: &str, n: usize) {
        println!("{name:34} {value:10.2} {unit:12} n={n}");
        let figure = json!({ "value": value, "unit": unit, "n": n, "commit": self.commit });
        self.all.insert(name.to_owned(), figure);
    }

    /// Beside what other benches wrote.
    fn write(self, tree: &Path) -> Result<(), Error> {
        let path = tree.join("target/bench.json");
        let mut all: Map<String, Value> = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(_) => Map::new(),
        };
        all.extend(self.all);
        fs::write(&path, serde_json::to_vec_pretty(&all)?)?;
        println!("written to target/bench.json");
        Ok(())
    }
}
