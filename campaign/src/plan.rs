//! A campaign file and a seed, expanded to runs.

use crate::{Calibration, CampaignFile, TestbedSection};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use sha2::{Digest, Sha256};
use xfi_model::{
    BitOp, Fault, GuestKind, GuestLayout, Hex64, Location, Plan, PlannedRun, Register, RunId,
    RunKind, SnapshotIndex, Timing, Trigger, VcpuId,
};

/// The stream that decides the order; runs use their own ids as streams.
const ORDER_STREAM: u64 = u64::MAX;

/// Expands a campaign. The result is a function of the arguments alone, and
/// each run draws from a random stream of its own.
pub fn expand(
    file: &CampaignFile,
    target: &GuestLayout,
    timing: Timing,
    golden: &Calibration,
) -> Plan {
    let space = fault_space(file, target.kind);
    let f = &file.faults;
    let kinds = interleave(file.seed, f.injections, f.golden, f.dummy);
    let TestbedSection::Emulated { snapshots, .. } = &file.testbed;
    // Each injection stands for an equal part of the space it is drawn from.
    let weight = space.len() as f64 / f64::from(f.injections.max(1));
    let runs = kinds
        .into_iter()
        .enumerate()
        .map(|(i, kind)| {
            let id = RunId(i as u32);
            let mut rng = stream(file.seed, u64::from(id.0));
            let snapshot = SnapshotIndex(rng.random_range(0..*snapshots));
            let moment_ns = timing.lead_ns + rng.random_range(0..timing.moments_ns.max(1));
            let load_seed = rng.random();
            let (vcpu, register, bit) = space[rng.random_range(0..space.len())];
            let fault = (kind != RunKind::Golden).then(|| Fault {
                location: Location::VcpuRegister {
                    domain: target.name.clone(),
                    vcpu: VcpuId(vcpu),
                    register,
                },
                mask: Hex64(if kind == RunKind::Dummy { 0 } else { 1 << bit }),
                op: BitOp::Flip,
                trigger: Trigger {
                    kind: f.trigger,
                    after_ns: moment_ns,
                    nth: 1,
                    expire_ns: Some(moment_ns + timing.expire_after_moment_ns),
                    rip: f.rip,
                    mode: f.mode,
                },
            });
            PlannedRun {
                id,
                kind,
                fault,
                snapshot,
                moment_ns,
                weight: if kind == RunKind::Injection {
                    weight
                } else {
                    0.0
                },
                load_seed,
            }
        })
        .collect();
    Plan {
        format: 1,
        campaign: file.name.clone(),
        seed: file.seed,
        timing,
        fault_space_bits: space.len() as u64,
        bands: golden.bands.clone(),
        runs,
    }
}

/// Every (vCPU, register, bit) that the campaign may hit in a guest of this
/// kind. Bits a register does not have, or that cannot be changed, are not part
/// of the space.
pub fn fault_space(file: &CampaignFile, kind: GuestKind) -> Vec<(u32, Register, u32)> {
    let f = &file.faults;
    let mut space = Vec::new();
    for &vcpu in &f.vcpus {
        for &register in &f.registers {
            for bit in 0..register.width() {
                let wanted = f.bits.as_ref().is_none_or(|bits| bits.contains(&bit));
                if wanted && register.faultable_bits(kind) >> bit & 1 == 1 {
                    space.push((vcpu, register, bit));
                }
            }
        }
    }
    space
}

/// SHA-256 of the plan's canonical JSON.
pub fn hash(plan: &Plan) -> String {
    let json = serde_json::to_vec(plan).expect("a plan is plain data");
    Sha256::digest(json)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Half the width of a 95 % interval around a share of one half, the widest
/// there is, after `n` injections (normal approximation).
pub fn half_width(n: u32) -> f64 {
    if n == 0 {
        0.5
    } else {
        (Z * (0.25 / f64::from(n)).sqrt()).min(0.5)
    }
}

/// Injections after which [`half_width`] is `e` at most, from an unbounded
/// fault space (moments make it so): Leveugle et al., DATE 2009, eq. (4) with
/// p = 0.5.
pub fn sample_size(e: f64) -> u32 {
    (Z * Z * 0.25 / (e * e)).ceil() as u32
}

fn stream(seed: u64, stream: u64) -> ChaCha12Rng {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Spreads golden and dummy runs among the injections, so that a noisy hour
/// does not fall on one kind: the campaign is cut into as many blocks as there
/// are golden or dummy runs, and each block is shuffled.
fn interleave(seed: u64, injections: u32, golden: u32, dummy: u32) -> Vec<RunKind> {
    let mut rng = stream(seed, ORDER_STREAM);
    let blocks = golden.max(dummy).max(1);
    let part = |n: u32, b: u32| {
        let cut = |b: u32| u64::from(n) * u64::from(b) / u64::from(blocks);
        (cut(b + 1) - cut(b)) as usize
    };
    let mut order = Vec::new();
    for b in 0..blocks {
        let mut block = Vec::new();
        block.extend(std::iter::repeat_n(RunKind::Injection, part(injections, b)));
        block.extend(std::iter::repeat_n(RunKind::Golden, part(golden, b)));
        block.extend(std::iter::repeat_n(RunKind::Dummy, part(dummy, b)));
        block.shuffle(&mut rng);
        order.extend(block);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn file(seed: u64, injections: u32, golden: u32, dummy: u32) -> CampaignFile {
        let text = format!(
            "format=1\nname=\"t\"\nseed={seed}\n[testbed]\nkind=\"emulated\"\nlayout=\"http\"\n\
             [workload]\nkind=\"http\"\nclients_per_guest=2\nhash_bytes=1\n\
             [faults]\ninjections={injections}\ngolden={golden}\ndummy={dummy}\n"
        );
        CampaignFile::parse(&text, Path::new("c.toml")).unwrap()
    }

    fn timing() -> Timing {
        Timing {
            lead_ns: 1_000,
            moments_ns: 5_000,
            window_ns: 2_000,
            timeout_ns: 1_000,
            expire_after_moment_ns: 100,
            golden_period_ns: 500,
            golden_p999_ns: 900,
        }
    }

    fn plan(f: &CampaignFile) -> Plan {
        let target = GuestLayout {
            name: "web1".into(),
            kind: GuestKind::Pv,
            memory_mib: 128,
            vcpus: 1,
            kernel: String::new(),
            ramdisk: String::new(),
            args: String::new(),
            ip: None,
            port: None,
            ready_line: String::new(),
        };
        expand(f, &target, timing(), &Calibration::default())
    }

    #[test]
    fn reserved_rflags_bits_are_not_in_the_space() {
        let size = |kind| fault_space(&file(1, 1, 0, 0), kind).len();
        let writable = xfi_model::RFLAGS_WRITABLE.count_ones() as usize;
        assert_eq!(size(GuestKind::Pvh), 17 * 64 + writable);
        // Xen forces IF and the two bits of IOPL.
        assert_eq!(size(GuestKind::Pv), 17 * 64 + writable - 3);
    }

    #[test]
    fn sample_sizes_are_those_of_leveugle() {
        assert_eq!(sample_size(0.05), 385);
        assert_eq!(sample_size(0.01), 9604);
        assert!(half_width(385) <= 0.05 && half_width(384) > 0.05);
    }

    proptest! {
        #[test]
        fn a_plan_depends_on_its_seed_alone(seed in 0u64..1 << 60, n in 1u32..60, g in 0u32..9, d in 0u32..9) {
            let a = plan(&file(seed, n, g, d));
            prop_assert_eq!(hash(&a), hash(&plan(&file(seed, n, g, d))));
            prop_assert_ne!(hash(&a), hash(&plan(&file(seed + 1, n, g, d))));
            let count = |k| a.runs.iter().filter(|r| r.kind == k).count() as u32;
            prop_assert_eq!(count(RunKind::Injection), n);
            prop_assert_eq!(count(RunKind::Golden), g);
            prop_assert_eq!(count(RunKind::Dummy), d);
            for (i, r) in a.runs.iter().enumerate() {
                prop_assert_eq!(r.id.0 as usize, i);
                prop_assert!((1_000..6_000).contains(&r.moment_ns));
                match (r.kind, &r.fault) {
                    (RunKind::Golden, f) => prop_assert!(f.is_none()),
                    (RunKind::Dummy, Some(f)) => prop_assert_eq!(f.mask.0, 0),
                    (_, Some(f)) => {
                        prop_assert_eq!(f.mask.0.count_ones(), 1);
                        let register = f.location.vcpu_register().unwrap();
                        prop_assert!(register.check_bit(f.bit().unwrap()).is_ok());
                    }
                    (_, None) => prop_assert!(false, "no fault"),
                }
            }
        }

        #[test]
        fn golden_runs_are_spread_over_the_campaign(seed: u64) {
            let order = interleave(seed, 40, 5, 5);
            for block in order.chunks(10) {
                prop_assert_eq!(block.iter().filter(|k| **k == RunKind::Golden).count(), 1);
            }
        }
    }
}
