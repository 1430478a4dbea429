//! What this process has armed in Xen: disarmed when it is dropped.

use crate::{InjectError, Result};
use std::rc::Rc;
use xfi_model::{
    DomId, Flip, GuestMode, Hex64, InjectionId, InjectionRecord, InjectionState, VcpuId,
};
use xfi_toolstack::{
    ArmRequest, Hypercall, HypercallRecord, HypercallRequest, Result as ToolResult, Snapshot,
    Target,
};

/// The domain's name in the record of an injection into any domain's calls,
/// until one was hit.
pub const ANY_DOMAIN: &str = "any";

/// The part of Xen that its faults need; [`Hypercall`] but in tests.
pub trait Hypervisor {
    /// Arms in a vCPU.
    ///
    /// # Errors
    /// What Xen refused.
    fn arm(&self, request: &ArmRequest) -> ToolResult<InjectionId>;
    /// State and record of one in a vCPU.
    ///
    /// # Errors
    /// When Xen knows no such injection.
    fn status(&self, id: InjectionId) -> ToolResult<Snapshot>;
    /// Arms inside a hypercall.
    ///
    /// # Errors
    /// What Xen refused.
    fn arm_hypercall(&self, request: &HypercallRequest) -> ToolResult<InjectionId>;
    /// State and record of one inside a hypercall.
    ///
    /// # Errors
    /// When Xen knows no such injection.
    fn hypercall_status(&self, id: InjectionId) -> ToolResult<HypercallRecord>;
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
    fn arm_hypercall(&self, request: &HypercallRequest) -> ToolResult<InjectionId> {
        Hypercall::arm_hypercall(self, request)
    }
    fn hypercall_status(&self, id: InjectionId) -> ToolResult<HypercallRecord> {
        Hypercall::hypercall_status(self, id)
    }
    fn disarm(&self, id: InjectionId) -> ToolResult<u32> {
        Hypercall::disarm(self, Some(id))
    }
    fn now_ns(&self) -> ToolResult<u64> {
        Ok(self.info()?.now_ns)
    }
}

/// Where an injection is.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a domain's vCPU.
    Vcpu {
        /// The domain's name when it was armed.
        domain: String,
        /// The domain.
        domid: DomId,
    },
    /// In Xen, while it serves a hypercall.
    Hypercall {
        /// Who may call, by name, when it was armed.
        callers: Vec<(DomId, String)>,
        /// Whose calls; none for any domain's.
        domid: Option<DomId>,
    },
}

/// State and record, with the domain's name: Xen knows ids only.
///
/// # Errors
/// When Xen knows no such injection.
pub fn snapshot<H: Hypervisor>(hypervisor: &H, id: InjectionId, place: &Place) -> Result<Snapshot> {
    match place {
        Place::Vcpu { domain, .. } => {
            let mut snapshot = hypervisor.status(id)?;
            snapshot.record.domain.clone_from(domain);
            Ok(snapshot)
        }
        Place::Hypercall { callers, .. } => {
            Ok(from_hypercall(hypervisor.hypercall_status(id)?, callers))
        }
    }
}

fn from_hypercall(r: HypercallRecord, callers: &[(DomId, String)]) -> Snapshot {
    let domid = r.flip.as_ref().map(|f| f.domid).or(r.domid);
    let vcpu = r.flip.as_ref().map(|f| f.vcpu).or(r.vcpu);
    let domain = match domid {
        None => ANY_DOMAIN.to_owned(),
        Some(id) => callers
            .iter()
            .find(|(d, _)| *d == id)
            .map_or_else(|| format!("domain {id}"), |(_, name)| name.clone()),
    };
    Snapshot {
        record: InjectionRecord {
            id: r.id,
            state: r.state,
            dummy: r.dummy,
            domain,
            domid: domid.unwrap_or(DomId::INVALID),
            vcpu: vcpu.unwrap_or(VcpuId(0)),
            register: r.register,
            mask: Hex64(r.mask),
            armed_now_ns: r.armed_now_ns,
            drawn_now_ns: r.armed_now_ns,
            runstate_at_drawn: None,
            events_seen: r.calls_watched,
            events_matched: r.hits,
            events_skipped_io: r.hits_by_interrupts,
            kicks: 0,
            flip: r.flip.map(|f| Flip {
                now_ns: f.now_ns,
                tsc: Hex64(f.tsc),
                pcpu: f.pcpu,
                guest_kind: f.guest_kind,
                guest_mode: GuestMode::Hypervisor,
                rip_symbol: None,
                before: f.before,
                after: f.after,
            }),
        },
        finished_now_ns: r.finished_now_ns,
    }
}

/// An injection that this process armed. Dropped while it is armed, it is
/// disarmed.
#[derive(Debug)]
pub struct Armed<H: Hypervisor> {
    hypervisor: Rc<H>,
    id: InjectionId,
    place: Place,
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
    /// Arms in a vCPU.
    ///
    /// # Errors
    /// What Xen refused.
    pub fn in_vcpu(hypervisor: Rc<H>, target: &Target, request: &ArmRequest) -> Result<Self> {
        let id = hypervisor.arm(request).map_err(|e| with_names(e, target))?;
        Ok(Armed {
            hypervisor,
            id,
            place: Place::Vcpu {
                domain: target.name.clone(),
                domid: target.domid,
            },
            ended: false,
        })
    }

    /// Arms inside a hypercall; `domains` are those that may call.
    ///
    /// # Errors
    /// What Xen refused.
    pub fn in_hypercall(
        hypervisor: Rc<H>,
        domains: Vec<(DomId, String)>,
        request: &HypercallRequest,
    ) -> Result<Self> {
        let id = hypervisor.arm_hypercall(request)?;
        Ok(Armed {
            hypervisor,
            id,
            place: Place::Hypercall {
                callers: domains,
                domid: request.domid,
            },
            ended: false,
        })
    }

    /// The id Xen gave it.
    pub fn id(&self) -> InjectionId {
        self.id
    }

    /// The domain it is in; [`DomId::INVALID`] for calls of any.
    pub fn domid(&self) -> DomId {
        match &self.place {
            Place::Vcpu { domid, .. } => *domid,
            Place::Hypercall { domid, .. } => domid.unwrap_or(DomId::INVALID),
        }
    }

    /// The record as it is.
    ///
    /// # Errors
    /// When Xen knows it no longer.
    pub fn record(&self) -> Result<InjectionRecord> {
        Ok(self.snapshot()?.record)
    }

    /// What it takes to ask for the record later.
    pub fn place(&self) -> &Place {
        &self.place
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
        snapshot(&*self.hypervisor, self.id, &self.place)
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
mod tests;
