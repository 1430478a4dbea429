//! From a fault that names things to one that is armed in Xen, and to its record.

use super::Agent;
use crate::host::{Host, Refusal};
use xfi_injector::armed::{self, Armed};
use xfi_injector::{InjectError, hypercall, vcpu};
use xfi_model::{AgentRun, DOM0_NAME, DomId, Fault, InjectionRecord, Location};
use xfi_toolstack::Hypercall;

impl Agent {
    /// Resolves the names and arms.
    pub(super) fn arm(
        &mut self,
        fault: &Fault,
        run: &AgentRun,
    ) -> Result<Armed<Hypercall>, Refusal> {
        let xen = self.host.hypercall()?;
        Host::check_opted_in("injecting faults")?;
        let info = xen.info()?;
        if !matches!(fault.location, Location::HypercallRegister { .. }) {
            let target = self.host.target(vcpu::domain_of(fault)?)?;
            let request = vcpu::check(fault, run.dummy, &target, &info)?;
            if run.final_checks {
                self.before_run();
            }
            return Ok(Armed::in_vcpu(xen, &target, &request)?);
        }
        let callers: Vec<_> = self
            .host
            .domains()?
            .into_iter()
            .filter_map(|d| Some((d.domid?, d.name)))
            .collect();
        let caller = match fault.location.domain() {
            None => None,
            Some(DOM0_NAME) => Some(DomId::DOM0),
            Some(name) => Some(self.host.target(name)?.domid),
        };
        let request = hypercall::check(fault, run.dummy, caller, &info)?;
        if run.final_checks {
            self.before_run();
        }
        Ok(Armed::in_hypercall(xen, callers, &request)?)
    }

    /// Records of what this process armed, as far as Xen still has them.
    pub(super) fn records(&mut self) -> Result<Vec<InjectionRecord>, Refusal> {
        let hypercall = self.host.hypercall()?;
        let mut records = Vec::new();
        let mut gone = Vec::new();
        for (id, place) in &self.known {
            match armed::snapshot(&*hypercall, *id, place) {
                Ok(snapshot) => records.push(snapshot.record),
                Err(InjectError::Toolstack(xfi_toolstack::Error::NoSuchInjection(_))) => {
                    gone.push(*id);
                }
                Err(e) => return Err(e.into()),
            }
        }
        self.known.retain(|(id, _)| !gone.contains(id));
        Ok(records)
    }
}
