//! What a testbed is made of: the built files, where they are and whether they
//! are all there.

use crate::TestbedError;
use crate::digest::DigestCache;
use crate::error::IoContext;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use xfi_model::{HostLayout, Layout, XenBuild, XenRelease};
use xfi_symbols::{SymbolTable, Symbols};

/// The agent for guests, as `make agent` builds it.
const GUEST_AGENT: &str = "x86_64-unknown-linux-gnu/agent/xfi-agent";

/// The directory with everything that was built: the workspace's `target/`.
#[derive(Debug, Clone)]
pub struct Artifacts {
    root: PathBuf,
}

/// The files that one layout boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The hypervisor, uncompressed.
    pub xen: PathBuf,
    /// dom0's kernel, uncompressed.
    pub kernel: PathBuf,
    /// dom0's initramfs, without the agent.
    pub initrd: PathBuf,
    /// dom0's disk.
    pub image: PathBuf,
    /// The agent's binary.
    pub agent: PathBuf,
    /// The agent for guests, static; none where it was not built.
    pub guest_agent: Option<PathBuf>,
    /// The private key that dom0's sshd accepts.
    pub ssh_key: PathBuf,
}

/// SHA-256 of what a testbed is made of; all of it keys the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// QEMU's own version line.
    pub qemu_version: String,
    /// QEMU's binary.
    pub qemu: String,
    /// The hypervisor.
    pub xen: String,
    /// dom0's kernel.
    pub kernel: String,
    /// dom0's initramfs.
    pub initrd: String,
    /// dom0's disk.
    pub image: String,
    /// The agent.
    pub agent: String,
    /// The agent for guests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_agent: Option<String>,
}

impl Artifacts {
    /// Finds the artefact root: `$XFI_ARTIFACTS`, else the `target/` of the
    /// source tree that the current directory or this program lies in.
    ///
    /// # Errors
    /// [`TestbedError::NoArtifactRoot`].
    pub fn find() -> Result<Artifacts, TestbedError> {
        if let Some(root) = std::env::var_os("XFI_ARTIFACTS").filter(|v| !v.is_empty()) {
            let root = PathBuf::from(root);
            let root = root
                .canonicalize()
                .context("finding $XFI_ARTIFACTS", &root)?;
            return Ok(Artifacts { root });
        }
        let starts = [
            std::env::current_dir().ok(),
            std::env::current_exe()
                .ok()
                .and_then(|p| p.canonicalize().ok()),
        ];
        starts
            .into_iter()
            .flatten()
            .find_map(|start| source_tree(&start))
            .map(|tree| Artifacts {
                root: tree.join("target"),
            })
            .ok_or(TestbedError::NoArtifactRoot)
    }

    /// The artefacts in this directory.
    pub fn at(root: impl Into<PathBuf>) -> Artifacts {
        Artifacts { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The source tree the artefacts belong to, when they lie in one.
    pub fn source_tree(&self) -> Option<&Path> {
        self.root.parent().filter(|p| is_source_tree(p))
    }

    fn image_dir(&self, release: XenRelease) -> PathBuf {
        self.root.join("image").join(release.debian())
    }

    fn xen_dir(&self, release: XenRelease, build: XenBuild) -> PathBuf {
        self.root.join("xen").join(match build {
            XenBuild::Patched => release.to_string(),
            XenBuild::Stock => format!("{release}-stock"),
        })
    }

    /// The livepatch for the stock Xen; perhaps not built yet.
    pub fn livepatch(&self, release: XenRelease) -> PathBuf {
        self.xen_dir(release, XenBuild::Stock).join("xfi.livepatch")
    }

    /// The manifest of the Xen that `host` boots.
    pub fn xen_manifest(&self, host: &HostLayout) -> PathBuf {
        self.xen_dir(host.release, host.xen).join("manifest.json")
    }

    /// The files that `layout` boots; all of them exist.
    ///
    /// # Errors
    /// [`TestbedError::NotBuilt`], naming every missing file.
    pub fn require(&self, layout: &Layout) -> Result<BootFiles, TestbedError> {
        let host = &layout.host;
        let image = self.image_dir(host.release);
        let files = BootFiles {
            xen: self.xen_dir(host.release, host.xen).join("xen"),
            kernel: image.join("vmlinux-dom0"),
            initrd: image.join("initrd-dom0.cpio"),
            image: image.join("dom0.img"),
            agent: self.agent(),
            guest_agent: Some(self.root.join(GUEST_AGENT)).filter(|p| p.is_file()),
            ssh_key: image.join("ssh_key"),
        };
        let all = [
            &files.xen,
            &files.kernel,
            &files.initrd,
            &files.image,
            &files.agent,
            &files.ssh_key,
        ];
        let missing: Vec<String> = all
            .iter()
            .filter(|p| !p.is_file())
            .map(|p| self.relative(p))
            .collect();
        if missing.is_empty() {
            Ok(files)
        } else {
            let stock = host.xen == XenBuild::Stock && !files.xen.is_file();
            let release = match host.release {
                usual if usual == XenRelease::default() => String::new(),
                other => format!(" --release {other}"),
            };
            let testbed = format!("xfi testbed build{release}");
            let livepatch = format!("xfi livepatch build{release}");
            let command = match (stock, missing.len()) {
                (true, 1) => livepatch,
                (true, _) => format!("{testbed} && {livepatch}"),
                (false, _) => testbed,
            };
            Err(TestbedError::NotBuilt { missing, command })
        }
    }

    /// The agent as `make agent` builds it; another build only where that is
    /// missing, so that building something else does not change the testbed.
    fn agent(&self) -> PathBuf {
        let builds = ["agent", "release", "debug"].map(|p| self.root.join(p).join("xfi-agent"));
        builds
            .iter()
            .find(|p| p.is_file())
            .unwrap_or(&builds[0])
            .clone()
    }

    fn relative(&self, path: &Path) -> String {
        let base = self.root.parent().unwrap_or(&self.root);
        path.strip_prefix(base)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// Digests of everything that `layout`'s testbed is made of.
    ///
    /// # Errors
    /// As for [`Artifacts::require`], and when QEMU is not installed.
    pub fn digests(&self, layout: &Layout) -> Result<Digests, TestbedError> {
        let files = self.require(layout)?;
        let qemu = crate::emulated::qemu_program()?;
        let mut cache = DigestCache::open(&self.root.join("testbed/digests.json"));
        let digests = Digests {
            qemu_version: crate::emulated::qemu_version(&qemu)?,
            qemu: cache.sha256(&qemu)?,
            xen: cache.sha256(&files.xen)?,
            kernel: cache.sha256(&files.kernel)?,
            initrd: cache.sha256(&files.initrd)?,
            image: cache.sha256(&files.image)?,
            agent: cache.sha256(&files.agent)?,
            guest_agent: match &files.guest_agent {
                Some(agent) => Some(cache.sha256(agent)?),
                None => None,
            },
        };
        cache.save();
        Ok(digests)
    }

    /// All names that are known on this host.
    pub fn symbols(&self, host: &HostLayout) -> Symbols {
        Symbols {
            xen: self.xen_symbols(host),
            kernel: self.guest_kernel_symbols(host.release),
        }
    }

    /// The patched Xen with its symbols and debug information, whether it is
    /// there or not.
    pub fn xen_syms(&self, release: XenRelease) -> PathBuf {
        self.xen_dir(release, XenBuild::Patched).join("xen-syms")
    }

    /// That Xen's symbols; empty when they are not there.
    fn xen_symbols(&self, host: &HostLayout) -> SymbolTable {
        let dir = self.xen_dir(host.release, host.xen);
        // The first has the symbols' sizes too; Debian ships none of its own.
        SymbolTable::load(&dir.join("xen-syms"))
            .or_else(|_| SymbolTable::load(&dir.join("xen.symbols")))
            .unwrap_or_default()
    }

    /// The guests' kernel symbols; empty until a snapshot of this image has been
    /// made.
    fn guest_kernel_symbols(&self, release: XenRelease) -> SymbolTable {
        SymbolTable::load(&self.kernel_symbols_file(release)).unwrap_or_default()
    }

    /// Where the image's kernel has its functions. Debian ships no usable
    /// `System.map`, so dom0's `/proc/kallsyms` is kept when a snapshot is made:
    /// guests boot the same kernel, and Xen's domain builder relocates neither.
    pub(crate) fn kernel_symbols_file(&self, release: XenRelease) -> PathBuf {
        let image = self.image_dir(release);
        let image = image.canonicalize().unwrap_or(image);
        let name = image
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        self.root
            .join("testbed/symbols")
            .join(format!("{name}.map"))
    }
}

fn is_source_tree(dir: &Path) -> bool {
    dir.join("xen-patches").is_dir() && dir.join("Cargo.toml").is_file()
}

fn source_tree(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .find(|dir| is_source_tree(dir))
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::at(dir.path().join("target"));
        let layout = crate::find_layout("http").unwrap();
        let e = artifacts.require(&layout).unwrap_err().to_string();
        assert!(
            e.contains("target/xen/4.20/xen, target/image/trixie/vmlinux-dom0"),
            "{e}"
        );
        assert!(e.ends_with("run: xfi testbed build"), "{e}");
    }

    #[test]
    fn the_stock_xen_comes_with_the_livepatch() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::at(dir.path().join("target"));
        let mut layout = crate::find_layout("http").unwrap();
        layout.host.xen = XenBuild::Stock;
        let e = artifacts.require(&layout).unwrap_err().to_string();
        assert!(e.contains("target/xen/4.20-stock/xen,"), "{e}");
        assert!(
            e.ends_with("xfi testbed build && xfi livepatch build"),
            "{e}"
        );
    }

    #[test]
    fn another_release_has_its_own_xen_and_its_own_image() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::at(dir.path().join("target"));
        let mut layout = crate::find_layout("http").unwrap();
        layout.host.release = XenRelease::V4_17;
        let e = artifacts.require(&layout).unwrap_err().to_string();
        assert!(
            e.contains("target/xen/4.17/xen, target/image/bookworm/vmlinux-dom0"),
            "{e}"
        );
        assert!(e.ends_with("run: xfi testbed build --release 4.17"), "{e}");
        layout.host.xen = XenBuild::Stock;
        let e = artifacts.require(&layout).unwrap_err().to_string();
        assert!(e.contains("target/xen/4.17-stock/xen,"), "{e}");
        assert!(e.ends_with("xfi livepatch build --release 4.17"), "{e}");
    }

    #[test]
    fn the_source_tree_is_found_from_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        assert_eq!(source_tree(&inner), None);
        std::fs::create_dir(dir.path().join("xen-patches")).unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(source_tree(&inner).as_deref(), Some(dir.path()));
    }
}
