//! What `xfi inject` prints.

use crate::output;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use xfi_model::{BitOp, Hex64, InjectionRecord, InjectionState, Register, RegisterFile};

/// What `xfi inject --output json` prints. The committed schema is
/// `docs/schema/inject.json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct InjectView {
    /// The format's version; 1.
    format: u32,
    /// `fired`, `expired`, `disarmed`, `target_gone` or `refused`.
    state: String,
    /// The injection's id, unique since that Xen booted.
    id: u64,
    /// The domain's name.
    domain: String,
    /// Its id.
    domid: u16,
    /// The vCPU.
    vcpu: u32,
    /// The register asked for.
    register: String,
    /// The bit asked for; null when several were.
    bit: Option<u32>,
    /// The bits asked for, as `0x…`.
    mask: String,
    /// `flip`, `set` or `clear`.
    op: String,
    /// `pv`, `hvm` or `pvh`; null when it did not fire.
    guest_kind: Option<String>,
    /// `user`, `kernel` or `hypervisor`; null when it did not fire.
    guest_mode: Option<String>,
    /// The physical CPU; null when it did not fire.
    pcpu: Option<u32>,
    /// RIP before the flip, as `0x…`; null when it did not fire.
    rip: Option<String>,
    /// RIP as `symbol+0x…`, where known.
    rip_symbol: Option<String>,
    /// All registers before, by name, as `0x…`; null when it did not fire.
    before: Option<BTreeMap<String, String>>,
    /// All registers after, by name, as `0x…`; null when it did not fire.
    after: Option<BTreeMap<String, String>>,
    /// The bits that differ between before and after, by register.
    changed: BTreeMap<String, Vec<u32>>,
    /// From arming to the flip, nanoseconds; null when it did not fire.
    arm_to_fire_ns: Option<u64>,
    /// The vCPU's state at the drawn moment: `running`, `runnable`, `blocked`
    /// or `offline`.
    runstate_at_drawn: Option<String>,
    /// Context-switch events seen since the drawn moment.
    events_seen: u64,
    /// Of these, those that passed the filters.
    events_matched: u64,
    /// Times a timer stopped the vCPU.
    kicks: u64,
}

impl InjectView {
    /// The view of a fault's record.
    pub(super) fn of(r: &InjectionRecord, op: BitOp) -> Self {
        let file = |f: &RegisterFile| {
            f.iter()
                .map(|(r, v)| (r.to_string(), v.to_string()))
                .collect()
        };
        let bits = |mask: u64| (0..64).filter(|b| mask >> b & 1 == 1).collect();
        let flip = r.flip.as_ref();
        InjectView {
            format: 1,
            state: output::word(&r.state),
            id: r.id.0,
            domain: r.domain.clone(),
            domid: r.domid.0,
            vcpu: r.vcpu.0,
            register: r.register.to_string(),
            bit: (r.mask.0.count_ones() == 1).then(|| r.mask.0.trailing_zeros()),
            mask: r.mask.to_string(),
            op: output::word(&op),
            guest_kind: flip.map(|f| output::word(&f.guest_kind)),
            guest_mode: flip.map(|f| output::word(&f.guest_mode)),
            pcpu: flip.map(|f| f.pcpu),
            rip: flip.and_then(|f| Some(f.before.get(&Register::Rip)?.to_string())),
            rip_symbol: flip.and_then(|f| f.rip_symbol.clone()),
            before: flip.map(|f| file(&f.before)),
            after: flip.map(|f| file(&f.after)),
            changed: r
                .changed_bits()
                .into_iter()
                .map(|(r, m)| (r.to_string(), bits(m)))
                .collect(),
            arm_to_fire_ns: r.arm_to_fire_ns(),
            runstate_at_drawn: r.runstate_at_drawn.map(|s| output::word(&s)),
            events_seen: r.events_seen,
            events_matched: r.events_matched,
            kicks: r.kicks,
        }
    }
}

pub(super) fn text(r: &InjectionRecord, view: &InjectView, op: BitOp) -> String {
    let Some(flip) = &r.flip else {
        return format!(
            "{}: injection {} into {} of {} vCPU {}; {} events seen, {} matched; nothing is armed",
            view.state, r.id, r.register, r.domain, r.vcpu, r.events_seen, r.events_matched
        );
    };
    let value = |f: &RegisterFile| f.get(&r.register).map_or("?".into(), Hex64::to_string);
    let before = flip.before.get(&r.register).map_or(0, |v| v.0);
    let asked = op.apply(before, r.mask.0) ^ before;
    let changed: Vec<String> = view
        .changed
        .iter()
        .map(|(reg, bits)| {
            let list: Vec<_> = bits.iter().map(u32::to_string).collect();
            let word = if bits.len() == 1 { "bit" } else { "bits" };
            format!("{word} {} of {reg}", list.join(", "))
        })
        .collect();
    let changed = match changed.as_slice() {
        // Setting what is set already.
        [] if asked == 0 => "nothing: the bits were so already".to_owned(),
        [] => "nothing".to_owned(),
        [one] if r.changed_bits() == [(r.register, asked)] => format!("exactly {one}"),
        several => several.join("; "),
    };
    let symbol = flip
        .rip_symbol
        .as_ref()
        .map_or(String::new(), |s| format!("  {s}"));
    format!(
        "fired    injection {id} in {domain} (domain {domid}), vCPU {vcpu} on pCPU {pcpu}\n\
         guest    {kind}, in {mode} mode\n\
         rip      {rip}{symbol}\n\
         before   {reg} = {before}\n\
         after    {reg} = {after}\n\
         changed  {changed}\n\
         timing   {time} from arming to firing; {seen} events seen, {matched} matched",
        id = r.id,
        domain = r.domain,
        domid = r.domid,
        vcpu = r.vcpu,
        pcpu = flip.pcpu,
        kind = output::word(&flip.guest_kind).to_uppercase(),
        mode = output::word(&flip.guest_mode),
        rip = view.rip.as_deref().unwrap_or("?"),
        reg = r.register,
        before = value(&flip.before),
        after = value(&flip.after),
        time = output::duration(r.arm_to_fire_ns().unwrap_or(0)),
        seen = r.events_seen,
        matched = r.events_matched,
    )
}

pub(super) fn why_not(r: &InjectionRecord) -> String {
    match r.state {
        InjectionState::Expired => format!(
            "the injection expired unfired: {} events seen, {} matched",
            r.events_seen,
            if r.events_matched == 0 {
                "none".into()
            } else {
                r.events_matched.to_string()
            }
        ),
        InjectionState::Disarmed => "the injection was disarmed before it fired".into(),
        InjectionState::TargetGone => format!("domain {} went away before it fired", r.domain),
        InjectionState::Refused => {
            "Xen refused the flip, as the guest could not have run with it; nothing was changed"
                .into()
        }
        InjectionState::Armed | InjectionState::Fired => "the injection did not end".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        let schema = serde_json::to_string_pretty(&schemars::schema_for!(InjectView)).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/inject.json");
        if std::env::var_os("XFI_BLESS").is_some() {
            std::fs::write(path, format!("{schema}\n")).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed.trim(),
            schema,
            "docs/schema/inject.json is out of date; XFI_BLESS=1 writes it anew"
        );
    }
}
