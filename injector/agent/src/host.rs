//! This host, as far as the agent needs it: everything is opened when first
//! needed and kept, so that a run finds it open.

use std::path::Path;
use std::rc::Rc;
#[cfg(feature = "dom0")]
use std::time::{Duration, Instant};
use xfi_injector::integrity::{self, Integrity};
use xfi_model::{AgentErrorCode, DOM0_NAME, DomId, DomainInfo, IntegrityResult};
use xfi_toolstack::{DomainTable, Error, Hypercall, Result, Target, XenControl, XenDomain};

#[cfg(feature = "dom0")]
use xfi_toolstack::Libvirt;

/// Injecting faults into a host must be wanted by who owns it.
pub(crate) const MARKER: &str = "/etc/xfi/allow-injection";

/// How long a destroyed domain may take to be gone.
#[cfg(feature = "dom0")]
const GONE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Host {
    hypercall: Option<Rc<Hypercall>>,
    control: Option<XenControl>,
    table: DomainTable,
    integrity: Option<Integrity>,
    #[cfg(feature = "dom0")]
    libvirt: Libvirt,
}

/// A refusal, in the protocol's terms.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: AgentErrorCode,
    pub(crate) message: String,
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal {
            code: xfi_injector::error_code(&e),
            message: e.to_string(),
        }
    }
}

impl From<xfi_injector::InjectError> for Refusal {
    fn from(e: xfi_injector::InjectError) -> Self {
        Refusal {
            code: e.code(),
            message: e.to_string(),
        }
    }
}

impl Host {
    pub(crate) fn hypercall(&mut self) -> Result<Rc<Hypercall>> {
        if let Some(open) = &self.hypercall {
            return Ok(Rc::clone(open));
        }
        let open = Rc::new(Hypercall::open()?);
        self.hypercall = Some(Rc::clone(&open));
        Ok(open)
    }

    fn control(&mut self) -> Result<(&mut XenControl, &mut DomainTable)> {
        let control = match self.control.take() {
            Some(control) => control,
            None => XenControl::open()?,
        };
        Ok((self.control.insert(control), &mut self.table))
    }

    pub(crate) fn opted_in() -> bool {
        Path::new(MARKER).exists()
    }

    pub(crate) fn check_opted_in(what: &str) -> std::result::Result<(), Refusal> {
        if Self::opted_in() {
            return Ok(());
        }
        Err(Refusal {
            code: AgentErrorCode::NotAllowed,
            message: format!(
                "{what} can take this whole host down, and it has not opted in; if that is \
                 wanted, run on it, as root: mkdir -p /etc/xfi && touch {MARKER}"
            ),
        })
    }

    /// The domains as Xen has them: cheap, no daemon involved.
    pub(crate) fn domains(&mut self) -> Result<Vec<DomainInfo>> {
        let cheap = self
            .control()
            .and_then(|(control, table)| table.list(control));
        #[cfg(feature = "dom0")]
        if matches!(cheap, Err(Error::NotAvailable(_))) && self.hypercall().is_ok() {
            // Another release's libxenctrl: libvirt hides the difference.
            return self.libvirt.list();
        }
        cheap
    }

    /// The same, and those that are only defined.
    pub(crate) fn all_domains(&mut self) -> Result<Vec<DomainInfo>> {
        #[cfg_attr(not(feature = "dom0"), expect(unused_mut, reason = "nothing is added"))]
        let mut list = self.domains()?;
        #[cfg(feature = "dom0")]
        if let Ok(known) = self.libvirt.list() {
            for domain in known {
                if domain.domid.is_none() && list.iter().all(|d| d.name != domain.name) {
                    list.push(domain);
                }
            }
        }
        Ok(list)
    }

    pub(crate) fn target(&mut self, name: &str) -> Result<Target> {
        let cheap = self
            .control()
            .and_then(|(control, table)| table.find(control, name));
        #[cfg(feature = "dom0")]
        if matches!(cheap, Err(Error::NotAvailable(_))) {
            let list = self.libvirt.list()?;
            let running = || list.iter().filter(|d| d.domid.is_some());
            return match running().find(|d| d.name == name) {
                Some(DomainInfo {
                    domid: Some(domid),
                    kind: Some(kind),
                    vcpus,
                    ..
                }) => Ok(Target {
                    name: name.to_owned(),
                    domid: *domid,
                    kind: *kind,
                    vcpus: *vcpus,
                }),
                _ => Err(Error::NoSuchDomain {
                    name: name.to_owned(),
                    running: running().map(|d| d.name.clone()).collect(),
                }),
            };
        }
        cheap
    }

    /// A domain as Xen has it, dom0 too.
    pub(crate) fn xen_domain(&mut self, name: &str) -> Result<XenDomain> {
        let (control, table) = self.control()?;
        let domid = match name {
            DOM0_NAME => DomId::DOM0,
            name => table.find(control, name)?.domid,
        };
        let mut domains = control.domains()?.into_iter();
        domains
            .find(|d| d.domid == domid)
            .ok_or(Error::NoSuchDomainId { domid: domid.0 })
    }

    pub(crate) fn console(&mut self) -> Result<Vec<String>> {
        self.control()?.0.console()
    }

    pub(crate) fn new_console_lines(&mut self) -> Result<Vec<String>> {
        self.control()?.0.new_console_lines()
    }

    /// Makes the known answers, once.
    pub(crate) fn prepare_integrity(&mut self) -> std::result::Result<&Integrity, Refusal> {
        let test = match self.integrity.take() {
            Some(test) => test,
            None => Self::make_integrity()?,
        };
        Ok(self.integrity.insert(test))
    }

    fn make_integrity() -> std::result::Result<Integrity, Refusal> {
        let failed = |e: std::io::Error, directory: &Path| Refusal {
            code: AgentErrorCode::Failed,
            message: format!(
                "preparing the integrity test in {}: {e}",
                directory.display()
            ),
        };
        let usual = Path::new(integrity::DIRECTORY);
        Integrity::prepare(usual).or_else(|_| {
            // Not root: no faults will be armed, but the test can be tried.
            let own = std::env::temp_dir().join(format!("xfi-integrity-{}", std::process::id()));
            Integrity::prepare(&own).map_err(|e| failed(e, &own))
        })
    }

    pub(crate) fn integrity(&mut self) -> std::result::Result<IntegrityResult, Refusal> {
        Ok(self.prepare_integrity()?.run(integrity::DEADLINE))
    }

    /// Defines and starts a guest; says in words what was done.
    #[cfg(feature = "dom0")]
    pub(crate) fn start(&mut self, guest: &xfi_model::GuestLayout) -> Result<(bool, String)> {
        use crate::ramdisk::Ramdisk;
        use xfi_toolstack::StartOutcome;
        let ramdisk =
            Ramdisk::with_agent(&guest.name, &guest.ramdisk).map_err(|e| Error::BadGuest {
                name: guest.name.clone(),
                why: format!("its ramdisk {}: {e}", guest.ramdisk),
            })?;
        let mut booted = guest.clone();
        if let Some(ramdisk) = &ramdisk {
            booted.ramdisk = ramdisk.path();
        }
        Ok(match self.libvirt.start(&booted)? {
            StartOutcome::Started(id) => (true, format!("{} started, domain {id}", guest.name)),
            StartOutcome::WasRunning(id) => (
                false,
                format!("{} is running already, domain {id}", guest.name),
            ),
        })
    }

    #[cfg(feature = "dom0")]
    pub(crate) fn destroy(&mut self, name: &str) -> Result<()> {
        // One that crashed and was kept has an id, too.
        let list = self.domains().unwrap_or_default();
        let domid = list.iter().find(|d| d.name == name).and_then(|d| d.domid);
        self.libvirt.destroy(name)?;
        self.table.forget(name);
        // libvirt returns while Xen still frees the domain's memory.
        let end = Instant::now() + GONE;
        while let Ok(list) = self.domains() {
            if domid.is_none() || list.iter().all(|d| d.domid != domid) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Error::Libvirt {
                    what: format!("destroying '{name}'"),
                    message: format!("it is still there after {} s, as a zombie", GONE.as_secs()),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    #[cfg(not(feature = "dom0"))]
    pub(crate) fn start(&mut self, _: &xfi_model::GuestLayout) -> Result<(bool, String)> {
        Err(without_libvirt())
    }

    #[cfg(not(feature = "dom0"))]
    pub(crate) fn destroy(&mut self, _: &str) -> Result<()> {
        Err(without_libvirt())
    }
}

#[cfg(not(feature = "dom0"))]
fn without_libvirt() -> Error {
    Error::NotAvailable("this agent was built without libvirt (feature dom0)".to_owned())
}

/// The functions of the running kernel, without its modules'.
pub(crate) fn kernel_symbols() -> std::result::Result<String, Refusal> {
    const FILE: &str = "/proc/kallsyms";
    let refusal = |message: String| Refusal {
        code: AgentErrorCode::Failed,
        message,
    };
    let all = std::fs::read_to_string(FILE).map_err(|e| refusal(format!("{FILE}: {e}")))?;
    let map = functions(&all);
    if map.is_empty() {
        return Err(refusal(format!(
            "{FILE} hides its addresses; see kernel.kptr_restrict"
        )));
    }
    Ok(map)
}

fn functions(kallsyms: &str) -> String {
    let mut map = String::new();
    for line in kallsyms.lines() {
        let mut words = line.split('\t').next().unwrap_or_default().split(' ');
        let (Some(address), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        let in_module = line.contains('\t');
        let hidden = address.bytes().all(|b| b == b'0');
        if !in_module && !hidden && matches!(kind, "t" | "T" | "w" | "W") {
            map.push_str(line);
            map.push('\n');
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_functions_are_told() {
        let kallsyms = "0000000000000000 A fixed_percpu_data\n\
                        ffffffff81000000 T _text\n\
                        ffffffff82000000 D data\n\
                        ffffffffc0000000 t probe\t[virtio_net]\n\
                        ffffffff81000040 t local\n";
        assert_eq!(
            functions(kallsyms),
            "ffffffff81000000 T _text\nffffffff81000040 t local\n"
        );
        assert!(functions("0000000000000000 T _text\n").is_empty());
    }
}
