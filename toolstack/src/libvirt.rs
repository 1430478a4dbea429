//! The domains' lives, through libvirt.

use crate::{Error, Result, domain_xml};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::sys;
use xfi_model::{DomId, DomainInfo, DomainState, GuestKind, GuestLayout};

/// libvirt's name for the local Xen host.
const URI: &str = "xen:///system";

/// Where the driver writes what libxl says.
const LOG: &str = "/var/log/libvirt/libxl/libxl-driver.log";

/// How a start went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOutcome {
    /// It was started.
    Started(DomId),
    /// It ran already and was left alone.
    WasRunning(DomId),
}

/// libvirt's Xen driver; connected when first needed, and again after the
/// connection broke.
#[derive(Debug, Default)]
pub struct Libvirt {
    connection: Option<Connect>,
}

impl Libvirt {
    /// Not connected yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn connection(&mut self) -> Result<&Connect> {
        let alive = self
            .connection
            .as_ref()
            .is_some_and(|c| c.is_alive().unwrap_or(false));
        if !alive {
            self.connection = None;
            // Errors are returned; they need not be printed as well.
            virt::error::clear_error_callback();
            let connection = Connect::open(Some(URI))
                .map_err(|e| failed(&format!("connecting to {URI}"), &e))?;
            self.connection = Some(connection);
        }
        self.connection.as_ref().ok_or_else(|| Error::Libvirt {
            what: format!("connecting to {URI}"),
            message: "no connection".to_owned(),
        })
    }

    fn lookup(connection: &Connect, name: &str) -> Result<Option<Domain>> {
        check_name(name)?;
        match Domain::lookup_by_name(connection, name) {
            Ok(domain) => Ok(Some(domain)),
            Err(e) if e.code() == ErrorNumber::NoDomain => Ok(None),
            Err(e) => Err(failed(&format!("looking up '{name}'"), &e)),
        }
    }

    /// Starts a guest that exists only while it runs, so that nothing is left
    /// behind and no definition of the host's owner is touched. One that was
    /// kept after a crash is destroyed first; one that runs is left alone.
    ///
    /// # Errors
    /// What libvirt said.
    pub fn start(&mut self, guest: &GuestLayout) -> Result<StartOutcome> {
        let xml = domain_xml(guest)?;
        let connection = self.connection()?;
        let name = &guest.name;
        if let Some(domain) = Self::lookup(connection, name)?
            && domain.is_active().unwrap_or(false)
        {
            let crashed = matches!(
                domain.get_state(),
                Ok((sys::VIR_DOMAIN_CRASHED | sys::VIR_DOMAIN_SHUTOFF, _))
            );
            if !crashed && let Some(id) = domid(&domain) {
                return Ok(StartOutcome::WasRunning(id));
            }
            domain
                .destroy()
                .map_err(|e| failed(&format!("destroying '{name}'"), &e))?;
        }
        let domain = Domain::create_xml(connection, &xml, 0).map_err(|e| Error::Libvirt {
            what: format!("starting '{name}'"),
            message: format!("{}; {LOG} may say more", e.message()),
        })?;
        let id = domid(&domain).ok_or_else(|| Error::Libvirt {
            what: format!("starting '{name}'"),
            message: "it ended at once".to_owned(),
        })?;
        Ok(StartOutcome::Started(id))
    }

    /// Destroys a running domain at once.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], or what libvirt said.
    pub fn destroy(&mut self, name: &str) -> Result<()> {
        let connection = self.connection()?;
        let active = |d: &Domain| d.is_active().unwrap_or(false);
        match Self::lookup(connection, name)?.filter(active) {
            Some(domain) => domain
                .destroy()
                .map_err(|e| failed(&format!("destroying '{name}'"), &e)),
            None => Err(Error::NoSuchDomain {
                name: name.to_owned(),
                running: self
                    .list()?
                    .into_iter()
                    .filter(|d| d.domid.is_some())
                    .map(|d| d.name)
                    .collect(),
            }),
        }
    }

    /// All domains that libvirt knows, running or only defined.
    ///
    /// # Errors
    /// What libvirt said.
    pub fn list(&mut self) -> Result<Vec<DomainInfo>> {
        let domains = self
            .connection()?
            .list_all_domains(0)
            .map_err(|e| failed("listing the domains", &e))?;
        let mut list: Vec<DomainInfo> = domains
            .iter()
            // A domain may go between the list and the question about it.
            .filter_map(|d| {
                let info = d.get_info().ok()?;
                Some(DomainInfo {
                    domid: domid(d),
                    name: d.get_name().ok()?,
                    state: state(info.state),
                    kind: d.get_os_type().ok().and_then(|t| kind(&t)),
                    vcpus: info.nr_virt_cpu,
                    memory_kib: info.memory,
                })
            })
            .collect();
        list.sort_by_key(|d| (d.domid.is_none(), d.domid));
        Ok(list)
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains('\0') {
        return Err(Error::BadGuest {
            name: name.to_owned(),
            why: "this is no domain's name".to_owned(),
        });
    }
    Ok(())
}

fn domid(domain: &Domain) -> Option<DomId> {
    domain
        .get_id()
        .and_then(|id| u16::try_from(id).ok())
        .map(DomId)
}

fn state(state: sys::virDomainState) -> DomainState {
    match state {
        sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED => DomainState::Running,
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Paused,
        sys::VIR_DOMAIN_SHUTDOWN | sys::VIR_DOMAIN_SHUTOFF => DomainState::Shutoff,
        sys::VIR_DOMAIN_CRASHED => DomainState::Crashed,
        _ => DomainState::Unknown,
    }
}

fn kind(os_type: &str) -> Option<GuestKind> {
    match os_type {
        "linux" | "xen" => Some(GuestKind::Pv),
        "xenpvh" => Some(GuestKind::Pvh),
        "hvm" => Some(GuestKind::Hvm),
        _ => None,
    }
}

fn failed(what: &str, e: &virt::error::Error) -> Error {
    Error::Libvirt {
        what: what.to_owned(),
        message: e.message().to_owned(),
    }
}
