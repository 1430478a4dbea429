//! Which domains there are, by name.

use crate::{Error, Result, XenControl, XenDomain, XenStore};
use std::collections::BTreeMap;
use xfi_model::{DomId, DomainInfo, DomainState, GuestKind, VcpuId};

/// A running domain that a fault can be put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its id.
    pub domid: DomId,
    /// PV, HVM or PVH.
    pub kind: GuestKind,
    /// vCPUs.
    pub vcpus: u32,
}

impl Target {
    /// Checks that the domain has this vCPU.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`].
    pub fn check_vcpu(&self, vcpu: VcpuId) -> Result<()> {
        if vcpu.0 < self.vcpus {
            Ok(())
        } else {
            Err(Error::NoSuchVcpu {
                domain: self.name.clone(),
                vcpu: vcpu.0,
                vcpus: self.vcpus,
            })
        }
    }
}

/// The domains and their names.
///
/// One hypercall lists the domains; a name is asked of XenStore once in a
/// domain's life. So it may be used while an experiment runs.
#[derive(Debug)]
pub struct DomainTable {
    store: Option<XenStore>,
    names: BTreeMap<(DomId, [u8; 16]), String>,
    /// Domains that were seen running, to be listed as gone when they are.
    seen: BTreeMap<String, DomainInfo>,
}

impl DomainTable {
    /// An empty table.
    pub fn new() -> Self {
        DomainTable {
            store: None,
            names: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// All domains, dom0 first, zombies included; after them those that were
    /// here earlier and are gone, as shut off.
    ///
    /// # Errors
    /// When Xen cannot be asked.
    pub fn list(&mut self, xen: &XenControl) -> Result<Vec<DomainInfo>> {
        let domains = xen.domains()?;
        Ok(self.with_names(&domains))
    }

    /// The running domain of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], naming those there are.
    pub fn find(&mut self, xen: &XenControl, name: &str) -> Result<Target> {
        find_in(&self.list(xen)?, name)
    }

    /// Forgets a domain that was destroyed on purpose.
    pub fn forget(&mut self, name: &str) {
        self.seen.remove(name);
    }

    fn with_names(&mut self, domains: &[XenDomain]) -> Vec<DomainInfo> {
        let mut list = Vec::with_capacity(domains.len());
        for d in domains {
            let name = self.name(d);
            list.push(DomainInfo {
                domid: Some(d.domid),
                name,
                state: d.state,
                kind: Some(d.kind),
                vcpus: d.vcpus,
                memory_kib: d.memory_kib,
            });
        }
        let gone: Vec<DomainInfo> = self
            .seen
            .values()
            .filter(|old| list.iter().all(|d| d.name != old.name))
            .map(|old| DomainInfo {
                domid: None,
                state: DomainState::Shutoff,
                ..old.clone()
            })
            .collect();
        for d in &list {
            if d.state != DomainState::Dying {
                self.seen.insert(d.name.clone(), d.clone());
            }
        }
        list.extend(gone);
        list
    }

    fn name(&mut self, d: &XenDomain) -> String {
        let key = (d.domid, d.handle);
        if let Some(name) = self.names.get(&key) {
            return name.clone();
        }
        if d.domid == DomId::DOM0 {
            return "Domain-0".to_owned();
        }
        if self.store.is_none() {
            self.store = XenStore::open().ok();
        }
        let asked = self.store.as_mut().map(|store| store.domain_name(d.domid));
        match asked {
            Some(Ok(Some(name))) => {
                self.names.insert(key, name.clone());
                return name;
            }
            // The connection may be out of step: a new one next time.
            Some(Err(_)) => self.store = None,
            Some(Ok(None)) | None => {}
        }
        format!("(domain {})", d.domid)
    }
}

impl Default for DomainTable {
    fn default() -> Self {
        Self::new()
    }
}

fn find_in(list: &[DomainInfo], name: &str) -> Result<Target> {
    let alive = |d: &&DomainInfo| matches!(d.state, DomainState::Running | DomainState::Paused);
    let found = list.iter().filter(alive).find(|d| d.name == name);
    match found {
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
            running: list.iter().filter(alive).map(|d| d.name.clone()).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xen(domid: u16, state: DomainState) -> XenDomain {
        XenDomain {
            domid: DomId(domid),
            handle: [domid as u8; 16],
            state,
            kind: GuestKind::Pv,
            vcpus: 1,
            memory_kib: 1,
            shared_info_frame: 0,
        }
    }

    fn table() -> DomainTable {
        let mut table = DomainTable::new();
        for (id, name) in [(1u16, "web1"), (2, "web2")] {
            table
                .names
                .insert((DomId(id), [id as u8; 16]), name.to_owned());
        }
        table
    }

    #[test]
    fn a_domain_that_is_gone_is_listed_as_shut_off() {
        let mut t = table();
        t.with_names(&[xen(0, DomainState::Running), xen(1, DomainState::Running)]);
        let list = t.with_names(&[xen(0, DomainState::Running)]);
        assert_eq!(list.len(), 2);
        assert_eq!(
            (list[1].name.as_str(), list[1].state),
            ("web1", DomainState::Shutoff)
        );
        assert_eq!(list[1].domid, None);
        t.forget("web1");
        assert_eq!(t.with_names(&[xen(0, DomainState::Running)]).len(), 1);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let mut t = table();
        let list = t.with_names(&[
            xen(0, DomainState::Running),
            xen(1, DomainState::Running),
            xen(2, DomainState::Crashed),
        ]);
        assert_eq!(find_in(&list, "web1").unwrap().domid, DomId(1));
        let e = find_in(&list, "nosuch").unwrap_err().to_string();
        assert_eq!(
            e,
            "no running domain is called 'nosuch'; running: Domain-0, web1"
        );
        // A crashed domain has no vCPU to put a fault in.
        assert!(find_in(&list, "web2").is_err());
    }

    #[test]
    fn a_vcpu_that_is_not_there_is_named_with_the_number_there_are() {
        let t = Target {
            name: "web1".to_owned(),
            domid: DomId(1),
            kind: GuestKind::Pv,
            vcpus: 1,
        };
        assert!(t.check_vcpu(VcpuId(0)).is_ok());
        let e = t.check_vcpu(VcpuId(1)).unwrap_err().to_string();
        assert_eq!(e, "domain 'web1' has no vCPU 1; it has 1");
    }
}
