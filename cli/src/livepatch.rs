//! `xfi livepatch`: the injector for a Xen that is running already.

use crate::args::{Livepatch, ReleaseArg};
use crate::exit::{Exit, coded};
use crate::host::{self, Host};
use crate::output;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use xfi_model::{AgentHello, Command, EventBody, XenRelease};
use xfi_testbed::Artifacts;
use xfi_testbed::up::Up;

/// What Xen knows it by.
const NAME: &str = "xfi";

/// Tries: Xen gives up when its CPUs do not all come to rest within 30 ms.
const LOAD: &str = r#"
file=$(mktemp /run/xfi-livepatch.XXXXXX) || exit
trap 'rm -f "$file"' EXIT
cat >"$file" && xen-livepatch upload "$0" "$file" || exit
for try in 1 2 3 4 5; do xen-livepatch apply "$0" && exit; done
xen-livepatch unload "$0"
exit 1"#;

const UNLOAD: &str = r#"
for try in 1 2 3 4 5; do xen-livepatch revert "$0" && exec xen-livepatch unload "$0"; done
exit 1"#;

/// Names of what is loaded, one a line, behind the first.
const LIST: &str = "xen-livepatch list";

/// Runs one of the subcommands.
pub(crate) fn run(command: Livepatch) -> Result<()> {
    match command {
        Livepatch::Build { release } => build(release),
        Livepatch::Load { payload } => load(payload),
        Livepatch::Unload => unload(),
    }
}

fn build(release: ReleaseArg) -> Result<()> {
    let release = release.or_asked_for()?;
    let artifacts = Artifacts::find()?;
    let Some(tree) = artifacts.source_tree() else {
        bail!("XFI_ARTIFACTS is set, so there is no source tree to build from; unset it");
    };
    let program = tree.join("xen-patches/livepatch/build.sh");
    let status = Process::new(&program)
        .arg(release.name())
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("{} failed ({status})", program.display());
    }
    output::print(&format!(
        "{}\nload it with: xfi livepatch load",
        artifacts.livepatch(release).display()
    ));
    Ok(())
}

fn load(payload: Option<PathBuf>) -> Result<()> {
    let mut host = Host::find()?;
    let hello = host.hello()?;
    let xen = hello.xen_version.as_deref().unwrap_or("of unknown version");
    match delivery(&hello) {
        Some("livepatch") => {
            output::print("it is loaded already");
            return Ok(());
        }
        Some(_) => {
            return Err(coded(
                Exit::Usage,
                format!("Xen {xen} here has the injector built in; it needs no livepatch"),
            ));
        }
        None => {}
    }
    if !hello.opted_in {
        return Err(coded(
            Exit::NoHost,
            "this host does not allow injection; if it may be broken on purpose: touch \
             /etc/xfi/allow-injection",
        ));
    }
    let file = match payload {
        Some(file) => file,
        None => {
            let release = release_of(&hello)?;
            let file = Artifacts::find()?.livepatch(release);
            if !file.is_file() {
                return Err(coded(
                    Exit::NoHost,
                    format!(
                        "there is no {}; make it with: xfi livepatch build --release {release}",
                        file.display()
                    ),
                ));
            }
            check_build_id(&file, &hello)?;
            file
        }
    };
    let bytes = std::fs::read(&file)
        .with_context(|| format!("cannot read the payload {}", file.display()))?;
    if let Err(e) = in_dom0(LOAD, &bytes) {
        return Err(with_xens_words(&mut host, e));
    }
    let hello = host.hello()?;
    let Some(c) = hello.capabilities else {
        bail!("Xen took the livepatch, but its hypercall does not answer");
    };
    output::print(&format!(
        "loaded into Xen {}: {}",
        hello.xen_version.unwrap_or_default(),
        c.features.join(" ")
    ));
    Ok(())
}

fn unload() -> Result<()> {
    let mut host = Host::find()?;
    if !is_loaded(&in_dom0(LIST, &[])?) {
        output::print("it is not loaded");
        return Ok(());
    }
    // While something is armed Xen refuses.
    let disarmed = if delivery(&host.hello()?).is_some() {
        host.ask(Command::Disarm { id: None })?
            .iter()
            .find_map(|e| match e.body {
                EventBody::Disarmed { count } => Some(count),
                _ => None,
            })
            .unwrap_or(0)
    } else {
        0
    };
    if let Err(e) = in_dom0(UNLOAD, &[]) {
        return Err(with_xens_words(&mut host, e));
    }
    output::print(&match disarmed {
        0 => "unloaded".to_owned(),
        n => format!("unloaded; {n} that were armed have been disarmed"),
    });
    Ok(())
}

fn delivery(hello: &AgentHello) -> Option<&str> {
    hello.capabilities.as_ref().map(|c| c.delivery.as_str())
}

/// Whether `xen-livepatch list` names ours: ` xfi    | APPLIED | …`.
fn is_loaded(list: &str) -> bool {
    list.lines()
        .any(|line| line.split('|').next().is_some_and(|n| n.trim() == NAME))
}

/// The release of the running Xen, `4.17` of `4.17.5`.
fn release_of(hello: &AgentHello) -> Result<XenRelease> {
    let version = hello.xen_version.as_deref().unwrap_or_default();
    let of = |r: &XenRelease| {
        version
            .strip_prefix(r.name())?
            .starts_with('.')
            .then_some(())
    };
    let known = XenRelease::ALL.into_iter();
    known.clone().find(|r| of(r).is_some()).ok_or_else(|| {
        let known: Vec<&str> = known.map(XenRelease::name).collect();
        coded(
            Exit::NoHost,
            format!(
                "this host runs Xen '{version}', and livepatches are made for {}; name another \
                 payload with --payload",
                known.join(" and ")
            ),
        )
    })
}

/// The payload fits one build of Xen; Xen itself says no more than `EINVAL`.
fn check_build_id(payload: &Path, hello: &AgentHello) -> Result<()> {
    let manifest = payload.with_file_name("manifest.json");
    let text = std::fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let manifest: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is not JSON", manifest.display()))?;
    let (ours, theirs) = (manifest["build_id"].as_str(), hello.xen_build_id.as_deref());
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => Err(coded(
            Exit::NoHost,
            format!(
                "the payload is for {} (build id {ours}), and this host runs Xen {} (build id \
                 {theirs}); boot that one, or pin this one's packages in xen-patches/*/stock \
                 and its source in sources",
                manifest["package"].as_str().unwrap_or("another Xen"),
                hello.xen_version.as_deref().unwrap_or("of unknown version")
            ),
        )),
        _ => Ok(()),
    }
}

/// Runs a shell script in dom0, as root; its `$0` is the livepatch's name.
fn in_dom0(script: &str, input: &[u8]) -> Result<String> {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin\n{script}");
    let mut command = if host::in_dom0() {
        let mut c = Process::new("sh");
        c.args(["-c", &script, NAME]);
        c
    } else {
        let words = Up::find()?.ssh_command();
        let Some((program, args)) = words.split_first() else {
            bail!("no way to log in")
        };
        let mut c = Process::new(program);
        // One word to the shell there, in which nothing of it means anything.
        let quoted = script.replace('\'', r"'\''");
        c.args(args).arg(format!("sh -c '{quoted}' {NAME}"));
        c
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a shell in dom0")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A script that ended early says why by itself.
        let _ = stdin.write_all(input);
    }
    let out = child.wait_with_output().context("a shell in dom0")?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_owned();
    if out.status.success() {
        return Ok(text(&out.stdout));
    }
    let said = format!("{}\n{}", text(&out.stdout), text(&out.stderr));
    let last = said.lines().rfind(|l| !l.trim().is_empty());
    bail!("xen-livepatch: {}", last.unwrap_or("failed without a word"))
}

/// Xen tells the reason on its console only.
fn with_xens_words(host: &mut Host, e: anyhow::Error) -> anyhow::Error {
    let said = host.ask(Command::XenConsole).ok().and_then(|events| {
        let lines = events.into_iter().find_map(|e| match e.body {
            EventBody::XenConsole { lines } => Some(lines),
            _ => None,
        })?;
        lines.into_iter().rfind(|l| l.contains("livepatch: "))
    });
    match said {
        Some(line) => e.context(format!("Xen says: {}", line.trim())),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_found_among_other_livepatches() {
        let list = " ID                                     | status     | metadata\n\
                    ----------------------------------------+------------+---------------\n\
                    xsa999                                  | APPLIED    |\n\
                    xfi                                     | APPLIED    |\n";
        assert!(is_loaded(list));
        assert!(!is_loaded(&list.replace("xfi ", "xfi2")));
        assert!(!is_loaded(""));
    }
}
