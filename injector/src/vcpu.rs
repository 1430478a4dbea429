//! Faults in a register of a guest's vCPU (thesis §3.2.2.2).

use crate::{InjectError, Result};
use std::rc::Rc;
use xfi_model::{
    DomId, Fault, GuestKind, InjectionId, InjectionRecord, InjectionState, Location, Register,
    TriggerKind,
};
use xfi_toolstack::{
    ArmRequest, Hypercall, HypervisorInfo, Result as ToolResult, Snapshot, Target,
};

/// Times in a request are refused above this (`XFI_MAX_DELAY_NS`).
pub const MAX_DELAY_NS: u64 = 86_400_000_000_000;

/// The part of Xen that a vCPU fault needs; [`Hypercall`] but in tests.
pub trait Hypervisor {
    /// Arms.
    ///
    /// # Errors
    /// What Xen refused.
    fn arm(&self, request: &ArmRequest) -> ToolResult<InjectionId>;
    /// State and record.
    ///
    /// # Errors
    /// When Xen knows no such injection.
    fn status(&self, id: InjectionId) -> ToolResult<Snapshot>;
    /// Disarms one.
    ///
    /// # Errors
    /// When the call fails.
    fn disarm(&self, id: InjectionId) -> ToolResult<u32>;
    /// Xen's `NOW()`, nanoseconds.
    ///
    /// # Errors
    /// When the call fails.
    fn now_ns(&self) -> ToolResult<u64>;
}

impl Hypervisor for Hypercall {
    fn arm(&self, request: &ArmRequest) -> ToolResult<InjectionId> {
        Hypercall::arm(self, request)
    }
    fn status(&self, id: InjectionId) -> ToolResult<Snapshot> {
        Hypercall::status(self, id)
    }
    fn disarm(&self, id: InjectionId) -> ToolResult<u32> {
        Hypercall::disarm(self, Some(id))
    }
    fn now_ns(&self) -> ToolResult<u64> {
        Ok(self.info()?.now_ns)
    }
}

/// The domain a vCPU fault is meant for.
///
/// # Errors
/// [`InjectError::NotAvailable`] or [`InjectError::NotOfVcpu`] for a fault that
/// is in no vCPU's register.
pub fn domain_of(fault: &Fault) -> Result<&str> {
    match &fault.location {
        Location::VcpuRegister { domain, .. } => Ok(domain),
        Location::HypercallRegister { .. } => Err(NO_HYPERCALL_LOCATIONS),
        other => Err(InjectError::NotOfVcpu(other.to_string())),
    }
}

const NO_HYPERCALL_LOCATIONS: InjectError =
    InjectError::NotAvailable("injection inside a hypercall's handler");

/// Checks a fault against the domain and against what this Xen can do, before
/// anything is armed.
///
/// # Errors
/// Names the offending value and the valid ones.
pub fn check(
    fault: &Fault,
    dummy: bool,
    target: &Target,
    info: &HypervisorInfo,
) -> Result<ArmRequest> {
    check_bits(fault, dummy, target, |kind, register| {
        info.bits(kind, register)
    })
}

fn check_bits(
    fault: &Fault,
    dummy: bool,
    target: &Target,
    armable: impl Fn(GuestKind, Register) -> u64,
) -> Result<ArmRequest> {
    let (vcpu, register) = match &fault.location {
        Location::VcpuRegister { vcpu, register, .. } => (vcpu, register),
        Location::HypercallRegister { .. } => return Err(NO_HYPERCALL_LOCATIONS),
        other => return Err(InjectError::NotOfVcpu(other.to_string())),
    };
    target.check_vcpu(*vcpu)?;
    let valid = armable(target.kind, *register);
    let refused = fault.mask.0 & !valid;
    if refused != 0 {
        return Err(InjectError::BitsNotArmable {
            register: *register,
            bits: refused,
            valid,
            kind: target.kind,
        });
    }
    if fault.mask.0 == 0 && !dummy {
        return Err(InjectError::EmptyMask);
    }
    let trigger = &fault.trigger;
    let bad = |what, value, valid| Err(InjectError::BadTrigger { what, value, valid });
    match trigger.kind {
        TriggerKind::Address => {
            return Err(InjectError::NotAvailable(
                "address trigger for a vCPU; valid: kick, switch",
            ));
        }
        TriggerKind::Deadline { unix_ns } => {
            return bad("deadline", unix_ns, "for a vCPU: kick or switch");
        }
        TriggerKind::Kick | TriggerKind::Switch => {}
    }
    if trigger.nth == 0 {
        return bad("nth", 0, "the first event is 1");
    }
    if trigger.after_ns > MAX_DELAY_NS {
        return bad("after_ns", trigger.after_ns, "at most one day");
    }
    match trigger.expire_ns {
        Some(0) => return bad("expire_ns", 0, "leave it out to wait for ever"),
        Some(n) if n > MAX_DELAY_NS => return bad("expire_ns", n, "at most one day"),
        Some(n) if n <= trigger.after_ns => {
            return bad("expire_ns", n, "it must be later than after_ns");
        }
        _ => {}
    }
    Ok(ArmRequest {
        domid: target.domid,
        vcpu: *vcpu,
        register: *register,
        mask: fault.mask.0,
        op: fault.op,
        dummy,
        trigger: trigger.kind,
        not_before_ns: trigger.after_ns,
        nth: trigger.nth,
        expire_ns: trigger.expire_ns,
        rip: trigger.rip,
        mode: trigger.mode,
    })
}

/// An injection that this process armed. Dropped while it is armed, it is
/// disarmed.
#[derive(Debug)]
pub struct Armed<H: Hypervisor> {
    hypervisor: Rc<H>,
    id: InjectionId,
    domain: String,
    domid: DomId,
    ended: bool,
}

/// An injection's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Xen's record.
    pub record: InjectionRecord,
    /// Xen's `NOW()` at the end, nanoseconds.
    finished_now_ns: Option<u64>,
}

impl<H: Hypervisor> Armed<H> {
    /// Arms.
    ///
    /// # Errors
    /// What Xen refused.
    pub fn arm(hypervisor: Rc<H>, target: &Target, request: &ArmRequest) -> Result<Self> {
        let id = hypervisor.arm(request).map_err(|e| with_names(e, target))?;
        Ok(Armed {
            hypervisor,
            id,
            domain: target.name.clone(),
            domid: target.domid,
            ended: false,
        })
    }

    /// The id Xen gave it.
    pub fn id(&self) -> InjectionId {
        self.id
    }

    /// The domain it is in.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// The domain's name when it was armed.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The record as it is.
    ///
    /// # Errors
    /// When Xen knows it no longer.
    pub fn record(&self) -> Result<InjectionRecord> {
        Ok(self.snapshot()?.record)
    }

    /// Asks whether it ended; `None` while it is armed.
    ///
    /// # Errors
    /// When Xen knows it no longer.
    pub fn poll(&mut self) -> Result<Option<Ended>> {
        let snapshot = self.snapshot()?;
        if snapshot.record.state == InjectionState::Armed {
            return Ok(None);
        }
        self.ended = true;
        Ok(Some(Ended {
            record: snapshot.record,
            finished_now_ns: snapshot.finished_now_ns,
        }))
    }

    /// Disarms it, unless it ended first, and returns its record either way.
    ///
    /// # Errors
    /// When a call fails; it is then disarmed again when dropped.
    pub fn disarm(&mut self) -> Result<Ended> {
        // One that is just firing is not disarmed and ends a moment later.
        for _ in 0..1000 {
            self.hypervisor.disarm(self.id)?;
            if let Some(ended) = self.poll()? {
                return Ok(ended);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(xfi_toolstack::Error::Nonsense {
            op: "disarm",
            what: format!("injection {} still armed", self.id),
        }
        .into())
    }

    /// How long ago it ended, by Xen's clock.
    pub fn age_ns(&self, ended: &Ended) -> u64 {
        match (self.hypervisor.now_ns(), ended.finished_now_ns) {
            (Ok(now), Some(then)) => now.saturating_sub(then),
            _ => 0,
        }
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let mut snapshot = self.hypervisor.status(self.id)?;
        snapshot.record.domain.clone_from(&self.domain);
        Ok(snapshot)
    }
}

impl<H: Hypervisor> Drop for Armed<H> {
    fn drop(&mut self) {
        if !self.ended {
            // Nothing more can be done about it here; Xen disarms it when the
            // domain goes.
            let _ = self.hypervisor.disarm(self.id);
        }
    }
}

/// Xen knows ids only.
fn with_names(e: xfi_toolstack::Error, target: &Target) -> InjectError {
    use xfi_toolstack::Error;
    match e {
        Error::NoSuchVcpu { vcpu, .. } => Error::NoSuchVcpu {
            domain: target.name.clone(),
            vcpu,
            vcpus: target.vcpus,
        },
        e => e,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use xfi_model::{BitOp, Hex64, RegisterFile, Trigger, VcpuId};
    use xfi_toolstack::Error;

    /// A Xen that fires after some questions.
    #[derive(Default)]
    struct Fake {
        state: RefCell<Option<InjectionState>>,
        questions_until_fired: RefCell<Option<u32>>,
        disarmed: RefCell<u32>,
    }

    impl Hypervisor for Fake {
        fn arm(&self, _: &ArmRequest) -> ToolResult<InjectionId> {
            *self.state.borrow_mut() = Some(InjectionState::Armed);
            Ok(InjectionId(9))
        }
        fn status(&self, id: InjectionId) -> ToolResult<Snapshot> {
            if let Some(n) = self.questions_until_fired.borrow_mut().as_mut() {
                if *n == 0 {
                    *self.state.borrow_mut() = Some(InjectionState::Fired);
                }
                *n = n.saturating_sub(1);
            }
            let state = self.state.borrow().ok_or(Error::NoSuchInjection(id.0))?;
            Ok(Snapshot {
                record: record(id, state),
                finished_now_ns: Some(100),
            })
        }
        fn disarm(&self, _: InjectionId) -> ToolResult<u32> {
            *self.disarmed.borrow_mut() += 1;
            let mut state = self.state.borrow_mut();
            if *state == Some(InjectionState::Armed)
                && self.questions_until_fired.borrow().is_none()
            {
                *state = Some(InjectionState::Disarmed);
            }
            Ok(1)
        }
        fn now_ns(&self) -> ToolResult<u64> {
            Ok(150)
        }
    }

    fn record(id: InjectionId, state: InjectionState) -> InjectionRecord {
        InjectionRecord {
            id,
            state,
            dummy: false,
            domain: String::new(),
            domid: DomId(1),
            vcpu: VcpuId(0),
            register: Register::Rbx,
            mask: Hex64(1 << 21),
            armed_now_ns: 0,
            drawn_now_ns: 0,
            runstate_at_drawn: None,
            events_seen: 0,
            events_matched: 0,
            events_skipped_io: 0,
            kicks: 0,
            flip: (state == InjectionState::Fired).then(|| xfi_model::Flip {
                now_ns: 100,
                tsc: Hex64(0),
                pcpu: 0,
                guest_kind: GuestKind::Pv,
                guest_mode: xfi_model::GuestMode::User,
                rip_symbol: None,
                before: RegisterFile::new(),
                after: RegisterFile::new(),
            }),
        }
    }

    fn target() -> Target {
        Target {
            name: "web1".to_owned(),
            domid: DomId(1),
            kind: GuestKind::Pv,
            vcpus: 1,
        }
    }

    fn fault() -> Fault {
        Fault {
            location: Location::VcpuRegister {
                domain: "web1".to_owned(),
                vcpu: VcpuId(0),
                register: Register::Rbx,
            },
            mask: Hex64(1 << 21),
            op: BitOp::Flip,
            trigger: Trigger {
                kind: TriggerKind::Kick,
                after_ns: 10,
                nth: 1,
                expire_ns: None,
                rip: None,
                mode: None,
            },
        }
    }

    fn all_bits(_: GuestKind, register: Register) -> u64 {
        register.writable_bits()
    }

    fn armed(fake: &Rc<Fake>) -> Armed<Fake> {
        let request = check_bits(&fault(), false, &target(), all_bits).unwrap();
        Armed::arm(Rc::clone(fake), &target(), &request).unwrap()
    }

    #[test]
    fn dropped_while_armed_it_is_disarmed() {
        let fake = Rc::new(Fake::default());
        drop(armed(&fake));
        assert_eq!(*fake.disarmed.borrow(), 1);
    }

    #[test]
    fn once_fired_it_is_left_alone_and_carries_the_name_and_the_age() {
        let fake = Rc::new(Fake::default());
        *fake.questions_until_fired.borrow_mut() = Some(2);
        let mut a = armed(&fake);
        assert_eq!(a.poll().unwrap(), None);
        assert_eq!(a.poll().unwrap(), None);
        let ended = a.poll().unwrap().unwrap();
        assert_eq!(ended.record.state, InjectionState::Fired);
        assert_eq!(ended.record.domain, "web1");
        assert_eq!(a.age_ns(&ended), 50);
        drop(a);
        assert_eq!(*fake.disarmed.borrow(), 0);
    }

    #[test]
    fn disarming_one_that_is_just_firing_tells_that_it_fired() {
        let fake = Rc::new(Fake::default());
        *fake.questions_until_fired.borrow_mut() = Some(1);
        let mut a = armed(&fake);
        assert_eq!(a.disarm().unwrap().record.state, InjectionState::Fired);
    }

    #[test]
    fn faults_that_could_never_fire_are_refused_with_the_value() {
        let check = |f: &Fault, dummy| check_bits(f, dummy, &target(), all_bits);
        let with = |change: &dyn Fn(&mut Fault)| {
            let mut f = fault();
            change(&mut f);
            f
        };
        for (f, word) in [
            (with(&|f| f.trigger.nth = 0), "nth"),
            (
                with(&|f| f.trigger.expire_ns = Some(10)),
                "later than after_ns",
            ),
            (
                with(&|f| f.trigger.after_ns = u64::MAX),
                "18446744073709551615",
            ),
            (with(&|f| f.mask = Hex64(0)), "mask"),
            (
                with(&|f| {
                    f.location = Location::VcpuRegister {
                        domain: "web1".to_owned(),
                        vcpu: VcpuId(3),
                        register: Register::Rbx,
                    };
                }),
                "no vCPU 3",
            ),
            (
                with(&|f| {
                    f.location = Location::VcpuRegister {
                        domain: "web1".to_owned(),
                        vcpu: VcpuId(0),
                        register: Register::Cs,
                    };
                }),
                "bits 21 of cs",
            ),
        ] {
            let e = check(&f, false).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
        assert!(check(&with(&|f| f.mask = Hex64(0)), true).is_ok());
    }
}
