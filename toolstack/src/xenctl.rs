//! The part of libxenctrl that nothing else gives: Xen's console ring, the
//! list of domains as Xen itself has it, and the machine's size.
#![expect(unsafe_code, reason = "calls libxenctrl")]

use crate::{Error, Result, host};
use std::io;
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use xfi_model::{DomId, DomainState, GuestKind};
use xfi_xenctrl_sys::{RELEASE, SAME_STRUCTURES, ctrl};

/// More than any host runs.
const MAX_DOMAINS: usize = 1024;
/// How much of the console ring is read at once.
const RING_CHUNK: usize = 32 * 1024;

/// A domain as Xen has it; Xen knows no names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XenDomain {
    /// Its id.
    pub domid: DomId,
    /// The toolstack's UUID of it: another domain with the same id has another.
    pub handle: [u8; 16],
    /// Its state.
    pub state: DomainState,
    /// PV, HVM or PVH.
    pub kind: GuestKind,
    /// vCPUs, online or not.
    pub vcpus: u32,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// The frame of its shared info page (a PV domain's: a machine frame).
    pub shared_info_frame: u64,
}

/// The machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineInfo {
    /// Physical CPUs.
    pub cpus: u32,
    /// Their frequency, kHz.
    pub cpu_khz: u32,
    /// Memory, KiB.
    pub memory_kib: u64,
    /// Of that, free.
    pub free_kib: u64,
}

/// An open libxenctrl, of the running Xen's release.
pub struct XenControl {
    lib: ctrl::XenCtrl,
    handle: NonNull<ctrl::xc_interface>,
    release: String,
    /// Up to where `new_console_lines` has read the ring.
    ring_index: u32,
}

impl std::fmt::Debug for XenControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XenControl")
            .field("release", &self.release)
            .finish_non_exhaustive()
    }
}

impl XenControl {
    /// Loads the libxenctrl that belongs to the running Xen.
    ///
    /// # Errors
    /// [`Error::NotAvailable`], saying what is missing.
    pub fn open() -> Result<Self> {
        if !Path::new("/dev/xen/privcmd").exists() {
            return Err(Error::NotAvailable(
                "/dev/xen/privcmd does not exist, so this is not dom0 of a Xen host".to_owned(),
            ));
        }
        let release = host::xen_release().unwrap_or_else(|| RELEASE.to_owned());
        let soname = format!("libxenctrl.so.{release}");
        // Debian keeps a release's own libraries apart from the linker's path.
        let names = [
            soname.clone(),
            format!("/usr/lib/xen-{release}/lib/x86_64-linux-gnu/{soname}"),
        ];
        let mut reasons = Vec::new();
        for name in names {
            // SAFETY: the functions declared in xenctrl.h and used here have
            // had these signatures in every release since 4.8; structures are
            // passed only where `same_structures` holds.
            match unsafe { ctrl::XenCtrl::new(&name) } {
                Ok(lib) => return Self::with(lib, release),
                Err(e) => reasons.push(e.to_string()),
            }
        }
        Err(Error::NotAvailable(format!(
            "loading {soname}: {} (Debian: apt install libxenmisc{release})",
            reasons.join("; ")
        )))
    }

    fn with(lib: ctrl::XenCtrl, release: String) -> Result<Self> {
        // SAFETY: null loggers ask for the default one; no flags are set.
        let handle = unsafe { lib.xc_interface_open(null_mut(), null_mut(), 0) };
        match NonNull::new(handle) {
            Some(handle) => Ok(XenControl {
                lib,
                handle,
                release,
                ring_index: 0,
            }),
            None => Err(Error::NotAvailable(format!(
                "libxenctrl cannot open its interface: {}",
                io::Error::last_os_error()
            ))),
        }
    }

    /// The release of the loaded library, such as `4.20`.
    pub fn release(&self) -> &str {
        &self.release
    }

    fn same_structures(&self, what: &str) -> Result<()> {
        let shared = |release| SAME_STRUCTURES.contains(&release);
        if self.release == RELEASE || shared(RELEASE) && shared(&self.release) {
            Ok(())
        } else {
            Err(Error::NotAvailable(format!(
                "{what}: this program was built for libxenctrl of Xen {RELEASE}, the host has {}",
                self.release
            )))
        }
    }

    /// All domains, by id.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when this program was built for another release.
    pub fn domains(&self) -> Result<Vec<XenDomain>> {
        self.same_structures("listing domains")?;
        let mut infos: Vec<ctrl::xc_domaininfo_t> = Vec::new();
        let mut room = 16;
        loop {
            infos.resize_with(room, Default::default);
            // SAFETY: `infos` has room for `room` elements of the structure
            // that the library writes, and lives through the call.
            let got = unsafe {
                self.lib.xc_domain_getinfolist(
                    self.handle.as_ptr(),
                    0,
                    room as u32,
                    infos.as_mut_ptr(),
                )
            };
            let Ok(got) = usize::try_from(got) else {
                let source = io::Error::last_os_error();
                return Err(Error::Hypercall {
                    op: "listing domains",
                    source,
                });
            };
            if got < room || room >= MAX_DOMAINS {
                infos.truncate(got);
                break;
            }
            room *= 4;
        }
        Ok(infos.iter().map(domain).collect())
    }

    /// The machine's size.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when this program was built for another release.
    pub fn machine(&self) -> Result<MachineInfo> {
        self.same_structures("reading the machine's size")?;
        let mut info = ctrl::xc_physinfo_t::default();
        // SAFETY: `info` is the structure that the library writes.
        if unsafe { self.lib.xc_physinfo(self.handle.as_ptr(), &mut info) } < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::Hypercall {
                op: "reading the machine's size",
                source,
            });
        }
        Ok(MachineInfo {
            cpus: info.nr_cpus,
            cpu_khz: info.cpu_khz,
            memory_kib: info.total_pages * 4,
            free_kib: info.free_pages * 4,
        })
    }

    /// Xen's console ring, whole.
    ///
    /// # Errors
    /// When the call fails.
    pub fn console(&self) -> Result<Vec<String>> {
        let mut index = 0;
        self.read_ring(false, &mut index).map(|bytes| lines(&bytes))
    }

    /// What Xen wrote since the last call of this function (everything at the
    /// first).
    ///
    /// # Errors
    /// When the call fails.
    pub fn new_console_lines(&mut self) -> Result<Vec<String>> {
        let mut index = self.ring_index;
        let bytes = self.read_ring(true, &mut index)?;
        self.ring_index = index;
        Ok(lines(&bytes))
    }

    fn read_ring(&self, incremental: bool, index: &mut u32) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut incremental = incremental;
        // The ring may grow while it is read; its size bounds the loop.
        for _ in 0..256 {
            let mut chunk = vec![0u8; RING_CHUNK];
            let mut count = RING_CHUNK as u32;
            // SAFETY: `chunk` has `count` bytes; `count` and `index` are
            // written through the pointers and live through the call.
            let ret = unsafe {
                self.lib.xc_readconsolering(
                    self.handle.as_ptr(),
                    chunk.as_mut_ptr().cast(),
                    &mut count,
                    0,
                    i32::from(incremental),
                    index,
                )
            };
            if ret < 0 {
                let source = io::Error::last_os_error();
                return Err(Error::Hypercall {
                    op: "reading Xen's console ring",
                    source,
                });
            }
            let count = (count as usize).min(RING_CHUNK);
            all.extend_from_slice(&chunk[..count]);
            if count < RING_CHUNK {
                break;
            }
            incremental = true;
        }
        Ok(all)
    }
}

impl Drop for XenControl {
    fn drop(&mut self) {
        // SAFETY: opened by this library and not used after.
        unsafe { self.lib.xc_interface_close(self.handle.as_ptr()) };
    }
}

fn domain(info: &ctrl::xc_domaininfo_t) -> XenDomain {
    XenDomain {
        domid: DomId(info.domain),
        handle: info.handle,
        state: state(info.flags),
        kind: kind(info.flags, info.arch_config.emulation_flags),
        vcpus: info.max_vcpu_id.wrapping_add(1),
        memory_kib: info.tot_pages * 4,
        shared_info_frame: info.shared_info_frame,
    }
}

fn state(flags: u32) -> DomainState {
    if flags & ctrl::XEN_DOMINF_dying != 0 {
        DomainState::Dying
    } else if flags & ctrl::XEN_DOMINF_shutdown != 0 {
        match (flags >> ctrl::XEN_DOMINF_shutdownshift) & ctrl::XEN_DOMINF_shutdownmask {
            ctrl::SHUTDOWN_crash | ctrl::SHUTDOWN_watchdog => DomainState::Crashed,
            _ => DomainState::Shutoff,
        }
    } else if flags & ctrl::XEN_DOMINF_paused != 0 {
        DomainState::Paused
    } else {
        DomainState::Running
    }
}

/// Xen itself tells only PV from HVM; what tells PVH is that no device is
/// emulated but the local APIC (as libxl makes PVH guests).
fn kind(flags: u32, emulated: u32) -> GuestKind {
    if flags & ctrl::XEN_DOMINF_hvm_guest == 0 {
        GuestKind::Pv
    } else if emulated & !(ctrl::XEN_X86_EMU_LAPIC | ctrl::XEN_X86_EMU_USE_PIRQ) == 0 {
        GuestKind::Pvh
    } else {
        GuestKind::Hvm
    }
}

/// Lines of console bytes: carriage returns and bytes that are no text go.
fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .map(|line| {
            line.trim_end_matches(['\r', '\0'])
                .trim_start_matches('\0')
                .to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_reasons_tell_a_crash_from_an_end() {
        let shut = |reason: u32| {
            state(ctrl::XEN_DOMINF_shutdown | reason << ctrl::XEN_DOMINF_shutdownshift)
        };
        assert_eq!(shut(ctrl::SHUTDOWN_crash), DomainState::Crashed);
        assert_eq!(shut(ctrl::SHUTDOWN_poweroff), DomainState::Shutoff);
        assert_eq!(state(ctrl::XEN_DOMINF_blocked), DomainState::Running);
        assert_eq!(state(0), DomainState::Running);
        assert_eq!(
            state(ctrl::XEN_DOMINF_dying | ctrl::XEN_DOMINF_paused),
            DomainState::Dying
        );
    }

    #[test]
    fn pvh_is_told_from_hvm_by_what_is_emulated() {
        assert_eq!(kind(0, 0), GuestKind::Pv);
        assert_eq!(
            kind(ctrl::XEN_DOMINF_hvm_guest, ctrl::XEN_X86_EMU_LAPIC),
            GuestKind::Pvh
        );
        assert_eq!(
            kind(
                ctrl::XEN_DOMINF_hvm_guest,
                ctrl::XEN_X86_EMU_LAPIC | ctrl::XEN_X86_EMU_PM
            ),
            GuestKind::Hvm
        );
    }

    #[test]
    fn console_bytes_become_clean_lines() {
        assert_eq!(
            lines(b"(XEN) one\r\n\n(XEN) t\xffo\n\0"),
            ["(XEN) one", "(XEN) t\u{fffd}o"]
        );
    }
}
