//! What a run directory was made with: `manifest.json`.

use serde::{Deserialize, Serialize};

/// Provenance of one campaign execution. Unknown fields are read over, so that
/// an older `xfi report` still opens a newer run directory of the same format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The file format's version; 1.
    pub format: u32,
    /// The campaign's name.
    pub campaign: String,
    /// When the run directory was made, RFC 3339, UTC.
    pub created_at: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the plan.
    pub plan_hash: String,
    /// The version of `xfi`.
    pub xfi_version: String,
    /// The commit it was built from, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Whether the tree differed from that commit.
    #[serde(default)]
    pub git_dirty: bool,
    /// Xen's version, such as `4.20.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xen_version: Option<String>,
    /// Xen's build id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xen_build_id: Option<String>,
    /// SHA-256 of the testbed's image, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// QEMU's version, on an emulated testbed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_version: Option<String>,
    /// The layout's name.
    pub layout: String,
    /// K: how many independently warmed snapshots the runs draw from.
    pub snapshots: u32,
    /// Workers that ran at once.
    pub workers: u32,
    /// The machine that ran the campaign.
    pub host: HostFacts,
    /// The observation window W after the flip, nanoseconds.
    pub window_ns: u64,
}

/// The machine that ran a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// The processor's model name.
    pub cpu: String,
    /// Processors.
    pub cores: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_of_a_newer_xfi_of_the_same_format_is_read() {
        let text = r#"{"format":1,"campaign":"c","created_at":"2026-01-01T00:00:00Z","seed":1,
            "plan_hash":"00","xfi_version":"0.1.0","layout":"pv2","snapshots":2,"workers":2,
            "host":{"hostname":"h","cpu":"c","cores":2,"memory_mib":1,"kernel":"k"},
            "window_ns":2000000000,"later_field":true}"#;
        let m: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!((m.snapshots, m.xen_version), (2, None));
    }
}
