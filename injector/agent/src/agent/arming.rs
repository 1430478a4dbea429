//! From a fault that names things to one that is armed in Xen.

use super::Agent;
use crate::host::{Host, Refusal};
use xfi_injector::armed::Armed;
use xfi_injector::{hypercall, vcpu};
use xfi_model::{AgentRun, DOM0_NAME, DomId, Fault, Location};
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
}
