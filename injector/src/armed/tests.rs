use super::*;
use std::cell::RefCell;
use xfi_model::{BitOp, GuestKind, Register, RegisterFile, TriggerKind, VcpuId};
use xfi_toolstack::{Error, HypercallFlip};

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
    fn arm_hypercall(&self, _: &HypercallRequest) -> ToolResult<InjectionId> {
        *self.state.borrow_mut() = Some(InjectionState::Armed);
        Ok(InjectionId(9))
    }
    fn hypercall_status(&self, id: InjectionId) -> ToolResult<HypercallRecord> {
        let state = self.status(id)?.record.state;
        Ok(HypercallRecord {
            id,
            state,
            dummy: false,
            hypercall: 23,
            address: 0xffff_82d0_402f_1c60,
            domid: None,
            vcpu: None,
            register: Register::Rbx,
            mask: 1 << 21,
            nth: 1,
            armed_now_ns: 40,
            finished_now_ns: Some(100),
            calls_watched: 7,
            hits: 1,
            hits_by_interrupts: 0,
            flip: (state == InjectionState::Fired).then(|| HypercallFlip {
                domid: DomId(2),
                vcpu: VcpuId(0),
                guest_kind: GuestKind::Pv,
                pcpu: 0,
                now_ns: 100,
                tsc: 0,
                before: RegisterFile::new(),
                after: RegisterFile::new(),
            }),
        })
    }
    fn disarm(&self, _: InjectionId) -> ToolResult<u32> {
        *self.disarmed.borrow_mut() += 1;
        let mut state = self.state.borrow_mut();
        if *state == Some(InjectionState::Armed) && self.questions_until_fired.borrow().is_none() {
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
            guest_mode: GuestMode::User,
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

fn request() -> ArmRequest {
    ArmRequest {
        domid: DomId(1),
        vcpu: VcpuId(0),
        register: Register::Rbx,
        mask: 1 << 21,
        op: BitOp::Flip,
        dummy: false,
        trigger: TriggerKind::Kick,
        not_before_ns: 10,
        nth: 1,
        expire_ns: None,
        rip: None,
        mode: None,
    }
}

fn armed(fake: &Rc<Fake>) -> Armed<Fake> {
    Armed::in_vcpu(Rc::clone(fake), &target(), &request()).unwrap()
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
fn inside_a_hypercall_the_caller_is_known_once_it_fired() {
    let fake = Rc::new(Fake::default());
    *fake.questions_until_fired.borrow_mut() = Some(1);
    let request = HypercallRequest {
        hypercall: 23,
        address: 0xffff_82d0_402f_1c60,
        domid: None,
        vcpu: None,
        register: Register::Rbx,
        mask: 1 << 21,
        op: BitOp::Flip,
        dummy: false,
        not_before_ns: 0,
        nth: 1,
        expire_ns: None,
    };
    let callers = vec![(DomId(1), "web1".to_owned()), (DomId(2), "web2".to_owned())];
    let mut a = Armed::in_hypercall(Rc::clone(&fake), callers, &request).unwrap();
    assert_eq!(a.domid(), DomId::INVALID);
    assert_eq!(a.record().unwrap().domain, ANY_DOMAIN);
    let record = a.poll().unwrap().unwrap().record;
    assert_eq!((record.domain.as_str(), record.domid), ("web2", DomId(2)));
    assert_eq!(record.flip.unwrap().guest_mode, GuestMode::Hypervisor);
    assert_eq!((record.events_seen, record.events_matched), (7, 1));
}

#[test]
fn disarming_one_that_is_just_firing_tells_that_it_fired() {
    let fake = Rc::new(Fake::default());
    *fake.questions_until_fired.borrow_mut() = Some(1);
    let mut a = armed(&fake);
    assert_eq!(a.disarm().unwrap().record.state, InjectionState::Fired);
}
