//! Where RIP must lie: ranges, modes and symbols as written on a command line
//! or in a campaign file.

use crate::{SymbolTable, Symbols, SymbolsError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use xfi_model::{FaultError, GuestKind, Hex64, ModeFilter, RipRange};

/// What can be written.
pub(crate) const SYNTAX: &str = "START..END, half-open, START below END, hexadecimal (0x...) or \
    decimal; user, kernel or xen; a symbol of Xen (do_iret) or of a guest's kernel \
    (web1:schedule), whole, at an offset (web1:schedule+0x10) or from one to another \
    (web1:schedule+0x10..+0x40)";

/// The addresses that the x86-64 Xen ABI keeps for Xen
/// (`HYPERVISOR_VIRT_START` and `_END` of `public/arch-x86/xen-x86_64.h`).
pub const XEN_RESERVED: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// Where RIP must lie, as written.
///
/// Parsed without symbols; [`RipExpr::resolve`] looks them up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RipExpr {
    text: String,
    items: Vec<Item>,
}

/// What Xen is to check: both, where both are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RipFilter {
    /// RIP lies in here.
    pub range: Option<RipRange>,
    /// The vCPU is in this mode.
    pub mode: Option<ModeFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Mode(ModeFilter),
    /// A whole symbol, or the instruction at an offset in it.
    Symbol(Name, Option<u64>),
    Range(Point, Point),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    /// Whose kernel; `None` is Xen.
    domain: Option<String>,
    symbol: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    Address(u64),
    InSymbol(Name, u64),
}

impl RipExpr {
    /// The domain whose kernel's symbols it names, when it names any.
    ///
    /// # Errors
    /// [`SymbolsError::TooMany`] when it names several domains'.
    pub fn domain(&self) -> Result<Option<&str>, SymbolsError> {
        let mut domains: Vec<&str> = self.names().filter_map(|n| n.domain.as_deref()).collect();
        domains.sort_unstable();
        domains.dedup();
        if domains.len() > 1 {
            return Err(self.too_many(format!("kernels of {} domains", domains.len())));
        }
        Ok(domains.first().copied())
    }

    /// Whether symbols are needed to resolve it.
    pub fn needs_symbols(&self) -> bool {
        self.names().next().is_some()
    }

    /// Looks up what it names, for a vCPU of a guest of this kind.
    ///
    /// `symbols.kernel` are the symbols of the domain's kernel, `symbols.xen`
    /// those of the Xen inside it, or of the Xen it runs on: they serve to tell
    /// why nothing can match.
    ///
    /// # Errors
    /// When a name is not known, when it asks for more than Xen's hypercall can
    /// check at once, and when no vCPU of such a guest could ever match.
    pub fn resolve(&self, symbols: &Symbols, kind: GuestKind) -> Result<RipFilter, SymbolsError> {
        self.domain()?;
        let never = |why: String| SymbolsError::NeverMatches {
            text: self.text.clone(),
            why,
        };
        let mut modes = Vec::new();
        let mut ranges = Vec::new();
        for item in &self.items {
            match item {
                Item::Mode(mode) if modes.contains(mode) => {}
                Item::Mode(mode) => modes.push(*mode),
                Item::Symbol(name, offset) => {
                    let whole = name.range(symbols)?;
                    ranges.push(match offset {
                        None => whole,
                        Some(offset) => {
                            let at = name.at(&whole, *offset, false)?;
                            self.range(at, at.saturating_add(1))?
                        }
                    });
                }
                Item::Range(start, end) => {
                    let (start, end) =
                        (start.address(symbols, false)?, end.address(symbols, true)?);
                    ranges.push(self.range(start, end)?);
                }
            }
        }
        let ranges = merge(ranges);
        let filter = match (modes.as_slice(), ranges.as_slice()) {
            ([mode], []) => RipFilter {
                mode: Some(*mode),
                range: None,
            },
            ([], [range]) => RipFilter {
                mode: None,
                range: Some(*range),
            },
            ([], several) => {
                return Err(self.too_many(format!("{} separate ranges", several.len())));
            }
            (several, []) => return Err(self.too_many(format!("{} modes", several.len()))),
            _ => return Err(self.too_many("a mode or else a range".to_owned())),
        };
        if kind == GuestKind::Pv {
            let xens = self.names().find(|n| n.domain.is_none());
            if let Some(name) = xens {
                return Err(never(format!(
                    "{} is Xen's, and a PV guest's vCPU is not in Xen when it is switched in; for \
                     its kernel's symbol write DOMAIN:{}, for Xen's own code see --hypercall",
                    name.symbol, name.symbol
                )));
            }
            let in_xen =
                |r: RipRange| XEN_RESERVED.contains(&r.start()) && r.end() <= XEN_RESERVED.end;
            if filter.mode == Some(ModeFilter::Hypervisor) || filter.range.is_some_and(in_xen) {
                return Err(never(
                    "a PV guest's vCPU never runs hypervisor code; only a Xen inside an HVM or PVH \
                     guest does"
                        .to_owned(),
                ));
            }
        }
        Ok(filter)
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        self.items.iter().flat_map(|item| match item {
            Item::Mode(_) => vec![],
            Item::Symbol(name, _) => vec![name],
            Item::Range(a, b) => [a, b].into_iter().filter_map(Point::name).collect(),
        })
    }

    fn range(&self, start: u64, end: u64) -> Result<RipRange, SymbolsError> {
        RipRange::new(start, end).map_err(|e| {
            self.bad(match e {
                FaultError::BadRipRange { why, .. } => why,
                _ => "is no range",
            })
        })
    }

    fn bad(&self, why: &'static str) -> SymbolsError {
        SymbolsError::BadRip {
            text: self.text.clone(),
            why,
        }
    }

    fn too_many(&self, what: String) -> SymbolsError {
        SymbolsError::TooMany {
            text: self.text.clone(),
            what,
        }
    }
}

impl RipFilter {
    /// Adds a mode asked for besides.
    ///
    /// # Errors
    /// [`SymbolsError::TooMany`] when it is another than the one there is.
    pub fn and_mode(mut self, mode: Option<ModeFilter>) -> Result<RipFilter, SymbolsError> {
        match (self.mode, mode) {
            (Some(a), Some(b)) if a != b => Err(SymbolsError::TooMany {
                text: a.to_string(),
                what: format!("mode {a} besides mode {b}"),
            }),
            (have, more) => {
                self.mode = have.or(more);
                Ok(self)
            }
        }
    }
}

impl Name {
    fn table<'a>(&self, symbols: &'a Symbols) -> Result<(&'a SymbolTable, String), SymbolsError> {
        let (table, owner, hint) = match &self.domain {
            None => (
                &symbols.xen,
                "Xen".to_owned(),
                "give its xen-syms with --xen-symbols",
            ),
            Some(domain) => (
                &symbols.kernel,
                format!("{domain}'s kernel"),
                "they are kept when a snapshot of a testbed is made (xfi testbed up); or give its \
                 System.map with --kernel-symbols",
            ),
        };
        if table.is_empty() {
            return Err(SymbolsError::NoSymbols {
                name: self.symbol.clone(),
                owner,
                hint,
            });
        }
        Ok((table, owner))
    }

    fn range(&self, symbols: &Symbols) -> Result<RipRange, SymbolsError> {
        let (table, owner) = self.table(symbols)?;
        let found = table.code(&self.symbol, &owner).map_err(|e| match e {
            SymbolsError::UnknownSymbol { name, owner, near } => {
                // A guest kernel's name without the domain is an easy slip.
                let elsewhere = self.domain.is_none() && !symbols.kernel.named(&name).is_empty();
                let near = if elsewhere {
                    format!("; the guests' kernel has: write DOMAIN:{name}")
                } else {
                    near
                };
                SymbolsError::UnknownSymbol { name, owner, near }
            }
            other => other,
        })?;
        RipRange::new(found.0.address, found.1).map_err(|_| SymbolsError::NotCode {
            name: self.symbol.clone(),
            owner,
        })
    }

    /// The address at an offset; at the very end only for a range's end.
    fn at(&self, whole: &RipRange, offset: u64, is_end: bool) -> Result<u64, SymbolsError> {
        let size = whole.end() - whole.start();
        if offset < size || is_end && offset == size {
            return Ok(whole.start() + offset);
        }
        Err(SymbolsError::OutsideSymbol {
            name: self.symbol.clone(),
            offset,
            size,
        })
    }
}

impl Point {
    fn name(&self) -> Option<&Name> {
        match self {
            Point::Address(_) => None,
            Point::InSymbol(name, _) => Some(name),
        }
    }

    fn address(&self, symbols: &Symbols, is_end: bool) -> Result<u64, SymbolsError> {
        match self {
            Point::Address(address) => Ok(*address),
            Point::InSymbol(name, offset) => name.at(&name.range(symbols)?, *offset, is_end),
        }
    }
}

/// Joins ranges that touch.
fn merge(mut ranges: Vec<RipRange>) -> Vec<RipRange> {
    ranges.sort_by_key(|r| (r.start(), r.end()));
    let mut merged: Vec<RipRange> = Vec::new();
    for range in ranges {
        let joined = merged
            .last()
            .filter(|last| range.start() <= last.end())
            .and_then(|last| RipRange::new(last.start(), last.end().max(range.end())).ok());
        match joined {
            Some(joined) => *merged.last_mut().expect("a last one") = joined,
            None => merged.push(range),
        }
    }
    merged
}

impl FromStr for RipExpr {
    type Err = SymbolsError;

    fn from_str(text: &str) -> Result<RipExpr, SymbolsError> {
        let bad = |why| SymbolsError::BadRip {
            text: text.to_owned(),
            why,
        };
        let items = text
            .split(',')
            .map(|part| item(part.trim()).map_err(bad))
            .collect::<Result<Vec<Item>, _>>()?;
        Ok(RipExpr {
            text: text.to_owned(),
            items,
        })
    }
}

fn item(text: &str) -> Result<Item, &'static str> {
    match text {
        "" => return Err("is empty"),
        "user" => return Ok(Item::Mode(ModeFilter::User)),
        "kernel" => return Ok(Item::Mode(ModeFilter::Kernel)),
        "xen" => return Ok(Item::Mode(ModeFilter::Hypervisor)),
        _ => {}
    }
    let Some((start, end)) = text.split_once("..") else {
        if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(':') {
            return Err("has no '..'");
        }
        let (name, offset) = in_symbol(text).ok_or("is no symbol")?;
        return Ok(Item::Symbol(name, offset));
    };
    let start = point(start, None).ok_or("has a bad start")?;
    let end = point(end, start.name()).ok_or("has a bad end")?;
    if let (Point::Address(a), Point::Address(b)) = (&start, &end)
        && a >= b
    {
        return Err(if a == b { "is empty" } else { "is reversed" });
    }
    Ok(Item::Range(start, end))
}

/// An end of a range; `+0x40` counts from the start of the symbol `before`.
fn point(text: &str, before: Option<&Name>) -> Option<Point> {
    let text = text.trim();
    if let Some(offset) = text.strip_prefix('+') {
        return Some(Point::InSymbol(before?.clone(), number(offset)?));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(':') {
        return number(text).map(Point::Address);
    }
    let (mut name, offset) = in_symbol(text)?;
    if name.domain.is_none() {
        name.domain = before.and_then(|b| b.domain.clone());
    }
    Some(Point::InSymbol(name, offset.unwrap_or(0)))
}

fn in_symbol(text: &str) -> Option<(Name, Option<u64>)> {
    let (domain, rest) = match text.split_once(':') {
        Some((domain, rest)) => (Some(domain), rest),
        None => (None, text),
    };
    let (symbol, offset) = match rest.split_once('+') {
        Some((symbol, offset)) => (symbol, Some(number(offset)?)),
        None => (rest, None),
    };
    let domain_ok = |d: &str| {
        !d.is_empty()
            && d.chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
    };
    let symbol_ok = symbol.starts_with(|c: char| c.is_ascii_alphabetic() || "_.$".contains(c))
        && symbol
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.$@".contains(c));
    (domain.is_none_or(domain_ok) && symbol_ok).then(|| {
        let name = Name {
            domain: domain.map(str::to_owned),
            symbol: symbol.to_owned(),
        };
        (name, offset)
    })
}

fn number(text: &str) -> Option<u64> {
    text.starts_with(|c: char| c.is_ascii_digit())
        .then(|| text.parse::<Hex64>().ok())?
        .map(|h| h.0)
}

impl fmt::Display for RipExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for RipExpr {
    type Error = SymbolsError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<RipExpr> for String {
    fn from(expr: RipExpr) -> String {
        expr.text
    }
}

impl From<RipRange> for RipExpr {
    fn from(range: RipRange) -> RipExpr {
        RipExpr {
            text: range.to_string(),
            items: vec![Item::Range(
                Point::Address(range.start()),
                Point::Address(range.end()),
            )],
        }
    }
}

#[cfg(test)]
mod tests;
