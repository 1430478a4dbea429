//! `xfi testbed`.

use crate::args::{Output, ReleaseArg, Testbed, Xen};
use crate::output;
use crate::progress::Steps;
use anyhow::{Context, Result, bail};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use xfi_model::{XenBuild, XenRelease};
use xfi_testbed::up::{Up, UpOptions, down, up};
use xfi_testbed::{Artifacts, find_layout};

/// Runs one of the subcommands.
pub(crate) fn run(command: Testbed) -> Result<()> {
    match command {
        Testbed::Build { release } => build(release),
        Testbed::Up {
            layout,
            xen,
            release,
            ssh_port,
        } => bring_up(&layout, xen, release, ssh_port),
        Testbed::Down => {
            output::print(if down()? {
                "testbed stopped"
            } else {
                "no testbed was up"
            });
            Ok(())
        }
        Testbed::Status(o) => status(o.output),
        Testbed::Reset => {
            let mut up = Up::find()?;
            let mut steps = Steps::default();
            let report = up.reset(&mut |s| steps.take(s))?;
            drop(steps);
            output::print(&format!(
                "back at the snapshot after {}",
                output::duration(report.restore.as_nanos() as u64)
            ));
            Ok(())
        }
        Testbed::Ssh { command } => ssh(&command),
        Testbed::Console { follow } => console(follow),
    }
}

fn build(release: ReleaseArg) -> Result<()> {
    let release = release.or_asked_for()?;
    let artifacts = Artifacts::find()?;
    let Some(tree) = artifacts.source_tree() else {
        bail!("XFI_ARTIFACTS is set, so there is no source tree to build from; unset it");
    };
    // Making a root file system is all that needs root.
    let (image, debian) = ("ansible/build-image.sh", release.debian());
    let (image, image_args) = match nix::unistd::geteuid().is_root() {
        true => (image, vec![debian]),
        false => ("sudo", vec![image, debian]),
    };
    // One agent serves all releases; it is built with the headers of the usual one.
    let usual = XenRelease::default();
    let mut xens = vec![usual];
    xens.extend(Some(release).filter(|r| *r != usual));
    let mut steps: Vec<(String, &str, Vec<&str>)> = xens
        .into_iter()
        .map(|r| {
            let what = format!("patched Xen {r} (about 3 minutes)");
            (what, "xen-patches/build.sh", vec![r.name()])
        })
        .collect();
    let what = "image (about 5 minutes, by sudo unless you are root)";
    steps.push((what.to_owned(), image, image_args));
    let what = "agents (about 2 minutes)";
    steps.push((what.to_owned(), "scripts/build-agent.sh", Vec::new()));
    for (what, program, args) in steps {
        eprintln!("building the {what}; nothing to do if it is cached");
        let path = tree.join(program);
        let status = Command::new(if path.exists() { path } else { program.into() })
            .args(args)
            .current_dir(tree)
            .status()
            .with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{program} failed ({status}); its last lines say why. Run it again once mended");
        }
    }
    output::print(&match release {
        r if r == usual => "built; start it with: xfi testbed up".to_owned(),
        other => format!("built; start it with: xfi testbed up --release {other}"),
    });
    Ok(())
}

fn bring_up(
    layout: &str,
    xen: Option<Xen>,
    release: ReleaseArg,
    ssh_port: Option<u16>,
) -> Result<()> {
    let mut layout = find_layout(layout)?;
    if let Some(release) = release.release {
        layout.host.release = release;
    }
    match xen {
        Some(Xen::Patched) => layout.host.xen = XenBuild::Patched,
        Some(Xen::Stock) => layout.host.xen = XenBuild::Stock,
        None => {}
    }
    let artifacts = Artifacts::find()?;
    let mut steps = Steps::default();
    let options = UpOptions { ssh_port };
    let info = up(&artifacts, &layout, &options, &mut |s| steps.take(s))?;
    drop(steps);
    let mut text = format!(
        "testbed '{}' is up with Xen {} (QEMU pid {})\n",
        info.layout.name, info.layout.host.release, info.pid
    );
    for (guest, addr) in &info.endpoints {
        text += &format!("  {guest:8} http://{addr}/cgi-bin/sha1\n");
    }
    text += match layout.host.xen {
        XenBuild::Patched => "next: xfi domains; xfi inject --reg rbx --bit 21; xfi testbed down",
        XenBuild::Stock => {
            "Debian's own Xen; next: xfi livepatch load; xfi inject --reg rbx --bit 21; xfi \
             livepatch unload"
        }
    };
    output::print(&text);
    Ok(())
}

fn status(output: Output) -> Result<()> {
    let status = Up::find()?.status()?;
    if output == Output::Json {
        return output::json(&status);
    }
    let info = &status.info;
    let mut text = format!(
        "testbed  {} (snapshot {})\nXen      {}, {}\nQEMU     pid {}, up {}, {} MiB of its own\n",
        info.layout.name,
        &info.snapshot_key.chars().take(12).collect::<String>(),
        info.layout.host.release,
        output::word(&info.layout.host.xen),
        info.pid,
        humantime::format_duration(Duration::from_secs(status.uptime_s)),
        status.private_mib
    );
    for (guest, addr) in &info.endpoints {
        text += &format!("guest    {guest} at http://{addr}/\n");
    }
    text += &format!("dom0     ssh on 127.0.0.1:{}\n", info.ssh_port);
    text += &match &status.panic_line {
        Some(line) => format!("PANIC    {line}\n         put it back with: xfi testbed reset"),
        None => format!("console  {}", info.console_log.display()),
    };
    output::print(&text);
    Ok(())
}

fn ssh(command: &[String]) -> Result<()> {
    let words = Up::find()?.ssh_command();
    let Some((program, args)) = words.split_first() else {
        bail!("no way to log in")
    };
    // The shell takes this program's place: signals and exit code are its own.
    let e = Command::new(program).args(args).args(command).exec();
    Err(e).with_context(|| format!("cannot run {program}"))
}

fn console(follow: bool) -> Result<()> {
    let log = Up::find()?.info().console_log.clone();
    let mut seen = copy_from(&log, 0)?;
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_millis(200));
        if Up::find().is_err() {
            bail!("the testbed is gone");
        }
        seen = copy_from(&log, seen)?;
    }
}

/// Copies the file to stdout from `offset`; returns how far it got. A file
/// that has become shorter was begun anew.
fn copy_from(path: &Path, offset: u64) -> Result<u64> {
    let name = || path.display().to_string();
    let mut file = std::fs::File::open(path).with_context(name)?;
    let length = file.metadata().with_context(name)?.len();
    let from = if length < offset { 0 } else { offset };
    file.seek(SeekFrom::Start(from)).with_context(name)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(name)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&bytes)
        .and_then(|()| out.flush())
        .context("standard output")?;
    Ok(from + bytes.len() as u64)
}
