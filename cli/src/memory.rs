//! A word of memory, Xen's or a domain's, and `xfi inject` into one.

use crate::args::{Inject, Output};
use crate::exit::{Exit, coded};
use crate::host::Host;
use crate::inject::{self, check_build, need_hypercall, open_xen};
use crate::output;
use anyhow::Result;
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use xfi_model::{
    AgentHello, DOM0_NAME, EventBody, Fault, Hex64, InjectionState, Location, MemoryRecord,
    TriggerKind, bit_list,
};
use xfi_symbols::{Elf, Place};

#[derive(Debug, Args)]
#[command(next_help_heading = "A word of memory")]
pub(crate) struct MemoryArgs {
    /// Of Xen's own: an address, SYMBOL or SYMBOL+OFFSET.
    #[arg(long, value_name = "PLACE", group = "memory")]
    pub(crate) xen_memory: Option<String>,
    /// Of a domain's, dom0's too, by what the domain takes for the physical address:
    /// web1:0x1000000, Domain-0:0x1000000.
    #[arg(long, value_name = "DOMAIN:ADDRESS", group = "memory")]
    pub(crate) guest_memory: Option<String>,
    /// The word's size, 1, 2, 4 or 8 bytes [default: the largest the address is a multiple of].
    #[arg(long, value_name = "BYTES", requires = "memory")]
    pub(crate) size: Option<String>,
}

/// Where memory is to be read or changed, as far as no host is needed to tell.
#[derive(Debug)]
pub(crate) struct Asked {
    whose: Whose,
    size: Option<u32>,
}

#[derive(Debug)]
enum Whose {
    Xen(Place),
    Domain { name: String, address: u64 },
}

fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    coded(Exit::Usage, message)
}

impl MemoryArgs {
    /// The place that was asked for; none when none was.
    pub(crate) fn asked(&self) -> Result<Option<Asked>> {
        let whose = if let Some(text) = &self.xen_memory {
            let place = text.parse();
            Whose::Xen(place.map_err(|e| usage(format!("--xen-memory: {e}")))?)
        } else if let Some(text) = &self.guest_memory {
            domain_place(text)?
        } else {
            return Ok(None);
        };
        let size = self.size.as_deref().map(word_size).transpose()?;
        let asked = Asked { whose, size };
        // Mistakes that can be told without a host first.
        if let Whose::Xen(Place::Address(address)) | Whose::Domain { address, .. } = &asked.whose {
            asked.size_at(*address)?;
        }
        Ok(Some(asked))
    }
}

fn domain_place(text: &str) -> Result<Whose> {
    let bad = || {
        usage(format!(
            "--guest-memory: '{text}' is not DOMAIN:ADDRESS, such as web1:0x1000000"
        ))
    };
    let (name, address) = text.rsplit_once(':').ok_or_else(bad)?;
    let Hex64(address) = address.parse().map_err(|_| bad())?;
    let name = match name {
        "" => return Err(bad()),
        "dom0" => DOM0_NAME,
        name => name,
    };
    Ok(Whose::Domain {
        name: name.to_owned(),
        address,
    })
}

fn word_size(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(n @ (1 | 2 | 4 | 8)) => Ok(n),
        _ => Err(usage(format!(
            "--size: '{text}' is no size of a word; valid: 1 2 4 8"
        ))),
    }
}

impl Asked {
    /// The word's size at this address, bytes.
    fn size_at(&self, address: u64) -> Result<u32> {
        let largest = 1 << address.trailing_zeros().min(3);
        let size = self.size.unwrap_or(largest);
        if size > largest {
            let valid: Vec<_> = [1, 2, 4, 8]
                .into_iter()
                .filter(|n| *n <= largest)
                .map(|n: u32| n.to_string())
                .collect();
            return Err(usage(format!(
                "--size: {address:#x} is no multiple of {size}; valid there: {}",
                valid.join(" ")
            )));
        }
        Ok(size)
    }

    /// The word, on this host, and the Xen with its symbols, where it is at hand.
    pub(crate) fn locate(
        &self,
        hello: &AgentHello,
        xen_symbols: Option<&Path>,
    ) -> Result<(Location, Option<Elf>)> {
        match &self.whose {
            Whose::Xen(place) => {
                need_hypercall(hello)?;
                let elf = symbols(place, hello, xen_symbols)?;
                let address = match (place, &elf) {
                    (Place::Address(address), _) => *address,
                    (place, Some(elf)) => place
                        .resolve(elf)
                        .map_err(|e| usage(format!("--xen-memory: {e}")))?,
                    (place, None) => return Err(usage(format!("--xen-memory: no '{place}'"))),
                };
                let location = Location::XenMemory {
                    address: Hex64(address),
                    symbol: elf.as_ref().and_then(|e| e.symbols().lookup(address)),
                    size: self.size_at(address)?,
                };
                Ok((location, elf))
            }
            Whose::Domain { name, address } => {
                if !hello.domains.iter().any(|d| &d.name == name) {
                    let names: Vec<_> = hello.domains.iter().map(|d| d.name.as_str()).collect();
                    return Err(coded(
                        Exit::NoDomain,
                        format!(
                            "--guest-memory: no domain '{name}' is running; valid: {}",
                            names.join(" ")
                        ),
                    ));
                }
                let location = Location::GuestMemory {
                    domain: name.clone(),
                    address: Hex64(*address),
                    size: self.size_at(*address)?,
                };
                Ok((location, None))
            }
        }
    }
}

/// An address needs no symbols: they only name it, and another Xen's do not.
fn symbols(place: &Place, hello: &AgentHello, given: Option<&Path>) -> Result<Option<Elf>> {
    let opened = open_xen(given).and_then(|elf| {
        check_build(&elf, hello)?;
        Ok(elf)
    });
    match (place, given) {
        (Place::Address(_), None) => Ok(opened.ok()),
        _ => opened.map(Some),
    }
}

/// Runs `xfi inject --xen-memory` and `--guest-memory`.
pub(crate) fn inject(args: &Inject, asked: &Asked) -> Result<()> {
    let bits = Bits::check(args)?;
    if let Whose::Xen(Place::Address(address)) | Whose::Domain { address, .. } = &asked.whose {
        bits.mask(asked.size_at(*address)?)?;
    }
    let after = inject::duration("--after", &args.after)?;
    let mut host = Host::find()?;
    let hello = host.hello()?;
    let (location, _) = asked.locate(&hello, args.symbols.xen_symbols.as_deref())?;
    let size = match &location {
        Location::XenMemory { size, .. } | Location::GuestMemory { size, .. } => *size,
        other => return Err(usage(format!("{other} is no word of memory"))),
    };
    let fault = Fault {
        location,
        mask: Hex64(bits.mask(size)?),
        op: args.op.into(),
        trigger: xfi_model::Trigger {
            kind: TriggerKind::Kick,
            after_ns: u64::try_from(after.as_nanos()).unwrap_or(u64::MAX),
            nth: 1,
            expire_ns: None,
            rip: None,
            mode: None,
        },
    };
    let record = inject::follow(&mut host, fault, after, |body| match body {
        EventBody::MemoryInjection { record } => {
            let fired = record.state == InjectionState::Fired;
            Some((record, fired))
        }
        _ => None,
    })?;
    let view = MemoryView::of(&record);
    match args.output.output {
        Output::Json => output::json(&view)?,
        Output::Text => output::print(&text(&record, &view)),
    }
    if record.state == InjectionState::Fired {
        Ok(())
    } else {
        Err(coded(
            Exit::NotFired,
            "the injection was disarmed before it fired",
        ))
    }
}

/// `--bit` or `--mask`.
enum Bits {
    Bit(u32),
    Mask(u64),
}

impl Bits {
    fn check(args: &Inject) -> Result<Bits> {
        if let Some(text) = &args.mask {
            return match text.parse() {
                Ok(Hex64(0)) => Err(usage("--mask: 0x0 changes nothing; valid: 0x1 and up")),
                Ok(Hex64(mask)) => Ok(Bits::Mask(mask)),
                Err(_) => Err(usage(format!(
                    "--mask: '{text}' is no 64-bit number; valid: such as 0x3 for bits 0 and 1"
                ))),
            };
        }
        let text = args.bit.as_deref().unwrap_or_default();
        match text.parse() {
            Ok(bit @ 0..64) => Ok(Bits::Bit(bit)),
            _ => Err(usage(format!(
                "--bit: '{text}' is no bit of a word; valid: 0 to 63"
            ))),
        }
    }

    /// As bits of a word of so many bytes.
    fn mask(&self, size: u32) -> Result<u64> {
        let valid = u64::MAX >> (64 - 8 * size);
        let last = 8 * size - 1;
        match *self {
            Bits::Bit(bit) if bit > last => Err(usage(format!(
                "--bit: {bit} is outside the {size}-byte word there; valid: 0 to {last}"
            ))),
            Bits::Bit(bit) => Ok(1 << bit),
            Bits::Mask(mask) if mask & !valid != 0 => Err(usage(format!(
                "--mask: {} of {mask:#x} are outside the {size}-byte word there; valid: 0 to \
                 {last}",
                bit_list(mask & !valid)
            ))),
            Bits::Mask(mask) => Ok(mask),
        }
    }
}

/// What `xfi inject --output json` prints of a fault in memory. The committed
/// schema is `docs/schema/inject-memory.json`.
#[derive(Debug, Serialize, JsonSchema)]
struct MemoryView {
    /// The format's version; 1.
    format: u32,
    /// `fired` or `disarmed`.
    state: String,
    /// The domain whose memory it is; null for Xen's own.
    domain: Option<String>,
    /// Xen's virtual address, or what the domain takes for the physical one, as
    /// `0x…`.
    address: String,
    /// The same as `symbol+0x…`, where known.
    symbol: Option<String>,
    /// The word's size, bytes.
    size: u32,
    /// The bits asked for, as `0x…`.
    mask: String,
    /// `flip`, `set` or `clear`.
    op: String,
    /// The word before, as `0x…`; null when it did not fire.
    before: Option<String>,
    /// The word after, as `0x…`; null when it did not fire.
    after: Option<String>,
    /// The bits that differ between before and after.
    changed: Vec<u32>,
    /// The machine address, as `0x…`; null for an HVM or PVH guest's memory.
    machine_address: Option<String>,
    /// When, by dom0's clock, nanoseconds since 1970; null when it did not fire.
    unix_ns: Option<u64>,
    /// Xen's `NOW()`, nanoseconds; null where the memory is a domain's.
    now_ns: Option<u64>,
    /// The time-stamp counter, as `0x…`; null where the memory is a domain's.
    tsc: Option<String>,
}

impl MemoryView {
    fn of(r: &MemoryRecord) -> Self {
        let (address, symbol, size) = match &r.location {
            Location::XenMemory {
                address,
                symbol,
                size,
            } => (address.to_string(), symbol.clone(), *size),
            Location::GuestMemory { address, size, .. } => (address.to_string(), None, *size),
            other => (other.to_string(), None, 8),
        };
        let flip = r.flip.as_ref();
        let differ = flip.map_or(0, |f| f.before.0 ^ f.after.0);
        MemoryView {
            format: 1,
            state: output::word(&r.state),
            domain: r.location.domain().map(str::to_owned),
            address,
            symbol,
            size,
            mask: hex_word(r.mask.0, size),
            op: output::word(&r.op),
            before: flip.map(|f| hex_word(f.before.0, size)),
            after: flip.map(|f| hex_word(f.after.0, size)),
            changed: (0..64).filter(|b| differ >> b & 1 == 1).collect(),
            machine_address: flip.and_then(|f| Some(f.machine_address?.to_string())),
            unix_ns: flip.map(|f| f.at.realtime_ns),
            now_ns: flip.and_then(|f| f.now_ns),
            tsc: flip.and_then(|f| Some(f.tsc?.to_string())),
        }
    }
}

/// A word with all the digits of its size.
pub(crate) fn hex_word(value: u64, size: u32) -> String {
    let width = 2 + 2 * size as usize;
    format!("{value:#0width$x}")
}

fn text(r: &MemoryRecord, view: &MemoryView) -> String {
    let (Some(flip), Some(before), Some(after)) = (&r.flip, &view.before, &view.after) else {
        return format!("{}: {}; nothing was changed", view.state, r.location);
    };
    let asked = r.op.apply(flip.before.0, r.mask.0) ^ flip.before.0;
    let differ = flip.before.0 ^ flip.after.0;
    let bits = |mask: u64| {
        let word = if mask.count_ones() == 1 {
            "bit"
        } else {
            "bits"
        };
        format!("{word} {}", bit_list(mask))
    };
    let changed = match differ {
        // Setting what is set already.
        0 if asked == 0 => "nothing: the bits were so already".to_owned(),
        0 => "nothing".to_owned(),
        d if d == asked => format!("exactly {}", bits(d)),
        d => bits(d),
    };
    let at = UNIX_EPOCH + Duration::from_nanos(flip.at.realtime_ns);
    let machine = view
        .machine_address
        .as_ref()
        .map_or(String::new(), |m| format!(", machine address {m}"));
    format!(
        "fired    in {location}{machine}\n\
         before   {before}\n\
         after    {after}\n\
         changed  {changed}\n\
         timing   {time}",
        location = r.location,
        time = humantime::format_rfc3339_micros(at),
    )
}

#[cfg(test)]
mod tests;
