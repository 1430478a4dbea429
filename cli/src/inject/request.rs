//! From arguments to a fault: each mistake is told in one line that names the
//! value and the valid ones, as early as it can be known.

use crate::args::{Inject, Mode, Trigger};
use crate::exit::{Exit, coded};
use crate::host::guests;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xfi_model::{
    AgentHello, BitOp, DomainInfo, Fault, GuestKind, Hex64, HostLayout, Location, ModeFilter,
    Register, TriggerKind, VcpuId, XenRelease, bit_list,
};
use xfi_symbols::{
    At, Elf, Hypercall, Locations, RipExpr, RipFilter, SymbolTable, Symbols, SymbolsError,
    find_hypercall,
};
use xfi_testbed::up::Up;
use xfi_testbed::{Artifacts, TestbedError, release_asked_for};

/// How much longer than `--after` an injection waits when not told.
const EXPIRE: Duration = Duration::from_secs(10);

/// Xen takes no longer times (`XFI_MAX_DELAY_NS`).
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked for, as far as it can be checked without a host.
pub(super) struct Request<'a> {
    args: &'a Inject,
    register: Register,
    /// The bit, when one was asked for by its number.
    bit: Option<u32>,
    mask: u64,
    op: BitOp,
    rip: Option<RipExpr>,
    mode: Option<ModeFilter>,
    place: Option<Place>,
    trigger: xfi_model::Trigger,
}

/// A place in Xen.
struct Place {
    hypercall: Hypercall,
    at: At,
}

fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    coded(Exit::Usage, message)
}

impl<'a> Request<'a> {
    /// Checks what needs no host.
    pub(super) fn check(args: &'a Inject) -> Result<Request<'a>> {
        let register: Register = args
            .reg
            .as_deref()
            .unwrap_or_default()
            .parse()
            .map_err(|e| usage(format!("--reg: {e}")))?;
        let place = place(args, register)?;
        let (bit, mask) = bits(args, register)?;
        let rip: Option<RipExpr> = args
            .rip
            .as_ref()
            .map(|text| text.parse().map_err(|e| usage(format!("--rip: {e}"))))
            .transpose()?;
        let after = duration("--after", &args.after)?;
        let expire = match &args.expire {
            Some(text) => duration("--expire", text)?,
            None => (after + EXPIRE).min(LONGEST),
        };
        if expire <= after {
            return Err(usage(format!(
                "--expire: '{}' is not later than --after '{}'; the injection could never fire",
                args.expire.as_deref().unwrap_or("24h"),
                args.after
            )));
        }
        if args.nth == 0 {
            return Err(usage("--nth: 0 is not an event; valid: 1 and up"));
        }
        let kind = match (&place, args.trigger) {
            (Some(_), _) => TriggerKind::Address,
            (None, Some(Trigger::Switch)) => TriggerKind::Switch,
            (None, Some(Trigger::Kick) | None) => TriggerKind::Kick,
        };
        Ok(Request {
            args,
            register,
            bit,
            mask,
            op: args.op.into(),
            rip,
            mode: args.mode.map(|m| match m {
                Mode::User => ModeFilter::User,
                Mode::Kernel => ModeFilter::Kernel,
                Mode::Hypervisor => ModeFilter::Hypervisor,
            }),
            place,
            trigger: xfi_model::Trigger {
                kind,
                after_ns: after.as_nanos() as u64,
                nth: args.nth,
                expire_ns: Some(expire.as_nanos() as u64),
                rip: None,
                mode: None,
            },
        })
    }

    /// The symbols that serve here: the testbed's, or the files given.
    pub(super) fn symbols(&self, host: Option<&(Artifacts, HostLayout)>) -> Result<Symbols> {
        let mut symbols = host
            .map(|(artifacts, host)| artifacts.symbols(host))
            .unwrap_or_default();
        let given = &self.args.symbols;
        let load = |path: &Path, option: &str| {
            SymbolTable::load(path).map_err(|e| usage(format!("{option}: {e}")))
        };
        if let Some(path) = &given.xen_symbols {
            symbols.xen = load(path, "--xen-symbols")?;
        }
        if let Some(path) = &given.kernel_symbols {
            symbols.kernel = load(path, "--kernel-symbols")?;
        }
        Ok(symbols)
    }

    /// The fault, on a host with these domains.
    pub(super) fn fault(
        &self,
        default_target: Option<&str>,
        hello: &AgentHello,
        symbols: &Symbols,
    ) -> Result<Fault> {
        let mut trigger = self.trigger.clone();
        let location = match &self.place {
            Some(place) => self.in_hypercall(place, hello)?,
            None => {
                let domain = self.domain(default_target, &hello.domains)?;
                let filter = self.on_vcpu(domain, symbols)?;
                trigger.rip = filter.range;
                trigger.mode = filter.mode;
                Location::VcpuRegister {
                    domain: domain.name.clone(),
                    vcpu: VcpuId(self.args.vcpu),
                    register: self.register,
                }
            }
        };
        Ok(Fault {
            location,
            mask: Hex64(self.mask),
            op: self.op,
            trigger,
        })
    }

    /// Checks vCPU, bits and RIP against the domain.
    fn on_vcpu(&self, domain: &DomainInfo, symbols: &Symbols) -> Result<RipFilter> {
        let name = &domain.name;
        let vcpu = self.args.vcpu;
        if vcpu >= domain.vcpus {
            return Err(usage(format!(
                "--vcpu: {name} has no vCPU {vcpu}; valid: {}",
                match domain.vcpus {
                    0 | 1 => "0".to_owned(),
                    n => format!("0 to {}", n - 1),
                }
            )));
        }
        // Not known of a domain that is just going: the agent says so then.
        let kind = domain.kind.unwrap_or(GuestKind::Hvm);
        let valid = self.register.faultable_bits(kind);
        if self.mask & !valid != 0 {
            let option = if self.bit.is_some() {
                "--bit"
            } else {
                "--mask"
            };
            return Err(usage(format!(
                "{option}: {} of {} cannot be changed in a {} guest; valid: {}",
                bit_list(self.mask & !valid),
                self.register,
                crate::output::word(&kind).to_uppercase(),
                bit_list(valid)
            )));
        }
        let filter = match &self.rip {
            Some(expr) => expr
                .resolve(symbols, kind)
                .map_err(|e| usage(format!("--rip: {e}")))?,
            None => RipFilter::default(),
        };
        if self.mode == Some(ModeFilter::Hypervisor) && kind == GuestKind::Pv {
            return Err(usage(format!(
                "--mode: {name} is a PV guest, whose vCPUs never run hypervisor code; valid: user, \
                 kernel"
            )));
        }
        filter
            .and_mode(self.mode)
            .map_err(|e| usage(format!("--mode: {e}")))
    }

    fn in_hypercall(&self, place: &Place, hello: &AgentHello) -> Result<Location> {
        let elf = open_xen(self.args.symbols.xen_symbols.as_deref())?;
        check_build(&elf, hello)?;
        let found = locate(place.hypercall, &elf, &place.at)?;
        let caller = match &self.args.domain {
            None => None,
            Some(name) => {
                if !hello.domains.iter().any(|d| &d.name == name) {
                    let names: Vec<&str> = hello.domains.iter().map(|d| d.name.as_str()).collect();
                    return Err(coded(
                        Exit::NoDomain,
                        format!("--domain: no domain '{name}'; valid: {}", names.join(" ")),
                    ));
                }
                Some(name.clone())
            }
        };
        Ok(Location::HypercallRegister {
            hypercall: place.hypercall.name.to_owned(),
            number: place.hypercall.number,
            address: found.0,
            symbol: found.1,
            domain: caller,
            register: self.register,
        })
    }

    /// The named domain, else the one whose symbols are named, else the
    /// layout's default target, else the only guest.
    fn domain<'d>(
        &self,
        default: Option<&str>,
        domains: &'d [DomainInfo],
    ) -> Result<&'d DomainInfo> {
        let in_rip = match &self.rip {
            Some(expr) => expr.domain().map_err(|e| usage(format!("--rip: {e}")))?,
            None => None,
        };
        if let (Some(named), Some(in_rip)) = (self.args.domain.as_deref(), in_rip)
            && named != in_rip
        {
            return Err(usage(format!(
                "--rip: '{}' is in {in_rip}, the fault in {named} (--domain)",
                self.args.rip.as_deref().unwrap_or_default()
            )));
        }
        let option = if self.args.domain.is_some() {
            "--domain"
        } else {
            "--rip"
        };
        choose(
            self.args.domain.as_deref().or(in_rip),
            option,
            default,
            domains,
        )
    }
}

fn place(args: &Inject, register: Register) -> Result<Option<Place>> {
    let (Some(hypercall), Some(at)) = (&args.hypercall, &args.at) else {
        return Ok(None);
    };
    let hypercall = find_hypercall(hypercall).map_err(|e| usage(format!("--hypercall: {e}")))?;
    let at = at.parse().map_err(|e| usage(format!("--at: {e}")))?;
    if !Register::IN_HYPERCALLS.contains(&register) {
        let valid: Vec<_> = Register::IN_HYPERCALLS.iter().map(|r| r.name()).collect();
        return Err(usage(format!(
            "--reg: {register} cannot be changed inside a hypercall; valid: {}",
            valid.join(" ")
        )));
    }
    Ok(Some(Place { hypercall, at }))
}

fn bits(args: &Inject, register: Register) -> Result<(Option<u32>, u64)> {
    if let Some(text) = &args.mask {
        let Ok(Hex64(mask)) = text.parse() else {
            return Err(usage(format!(
                "--mask: '{text}' is no 64-bit number; valid: bits {} of {register}, such as 0x3 \
                 for bits 0 and 1",
                bit_list(register.writable_bits())
            )));
        };
        register
            .check_mask(mask)
            .map_err(|e| usage(format!("--mask: {e}")))?;
        return Ok((None, mask));
    }
    let text = args.bit.as_deref().unwrap_or_default();
    let bit: u32 = text.parse().map_err(|_| {
        usage(format!(
            "--bit: '{text}' is not a bit number; valid for {register}: 0 to {}",
            register.width() - 1
        ))
    })?;
    register
        .check_bit(bit)
        .map_err(|e| usage(format!("--bit: {e}")))?;
    Ok((Some(bit), 1 << bit))
}

/// A duration as typed.
pub(crate) fn duration(name: &str, text: &str) -> Result<Duration> {
    let duration = humantime::parse_duration(text).map_err(|_| {
        usage(format!(
            "{name}: '{text}' is not a duration; valid: 500ms, 2s, 1m"
        ))
    })?;
    if duration > LONGEST {
        return Err(usage(format!(
            "{name}: '{text}' is longer than Xen waits; valid: up to 24h"
        )));
    }
    Ok(duration)
}

/// The Xen release meant: the running testbed's, else the one asked for.
fn release_meant() -> Result<XenRelease, TestbedError> {
    match Up::find() {
        Ok(up) => Ok(up.info().layout.host.release),
        Err(_) => Ok(release_asked_for()?.unwrap_or_default()),
    }
}

/// The Xen whose instructions are meant: the file given, else the patched one
/// built here.
pub(crate) fn open_xen(given: Option<&Path>) -> Result<Elf> {
    let path: PathBuf = match given {
        Some(path) => path.to_owned(),
        None => Artifacts::find()
            .ok()
            .map(|a| release_meant().map(|release| a.xen_syms(release)))
            .transpose()?
            .filter(|path| path.is_file())
            .ok_or_else(|| {
                coded(
                    Exit::NoHost,
                    "no Xen with symbols is built here; build it with `xfi testbed build`, or name \
                     one with --xen-symbols",
                )
            })?,
    };
    Elf::open(&path).map_err(|e| match given {
        Some(_) => usage(format!("--xen-symbols: {e}")),
        None => coded(Exit::Failure, e),
    })
}

/// An instruction's address holds in one build of Xen alone.
pub(crate) fn check_build(elf: &Elf, hello: &AgentHello) -> Result<()> {
    match (elf.build_id(), hello.xen_build_id.as_deref()) {
        (Some(file), Some(host)) if file != host => Err(usage(format!(
            "{} is Xen {file}, {} runs Xen {host}; name that one's xen-syms with --xen-symbols",
            elf.path().display(),
            hello.hostname
        ))),
        _ => Ok(()),
    }
}

/// The address of an instruction, and its name.
fn locate(hypercall: Hypercall, elf: &Elf, at: &At) -> Result<(Hex64, String)> {
    let wrong = |e: SymbolsError| match e {
        SymbolsError::NoHandler { .. } => usage(format!("--hypercall: {e}")),
        other => usage(format!("--at: {other}")),
    };
    let handler = hypercall.handler(elf).map_err(wrong)?;
    let all = Locations::of(&handler, elf, None).map_err(wrong)?;
    let found = all.find(at).map_err(wrong)?;
    Ok((found.address, found.symbol.clone()))
}

/// The named domain, else the layout's default target, else the only guest.
pub(crate) fn choose<'d>(
    named: Option<&str>,
    option: &str,
    default: Option<&str>,
    domains: &'d [DomainInfo],
) -> Result<&'d DomainInfo> {
    let all: Vec<&DomainInfo> = guests(domains).collect();
    let by_name = |name: &str| all.iter().find(|d| d.name == name).copied();
    let names: Vec<&str> = all.iter().map(|d| d.name.as_str()).collect();
    let list = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    };
    if let Some(name) = named {
        if name == "Domain-0" {
            return Err(coded(
                Exit::NoDomain,
                format!(
                    "{option}: 'Domain-0' is the PVM, not a guest; valid: {list}; of dom0 name a \
                     task: --process, --kthread or --role"
                ),
            ));
        }
        return by_name(name).ok_or_else(|| {
            coded(
                Exit::NoDomain,
                format!("{option}: no guest '{name}' is running; valid: {list}"),
            )
        });
    }
    if let Some(domain) = default.and_then(by_name) {
        return Ok(domain);
    }
    match all.as_slice() {
        [only] => Ok(only),
        [] => Err(coded(Exit::NoDomain, "no guest is running on this host")),
        _ => Err(coded(
            Exit::NoDomain,
            format!("several guests are running; name one with --domain: {list}"),
        )),
    }
}

#[cfg(test)]
mod tests;
