//! The instructions of a hypercall's handler, numbered: the places where a
//! fault inside a hypercall can be put (thesis §3.2.2.1).

use crate::table::offset_name;
use crate::{Elf, Handler, SourceLines, Symbol, SymbolTable, SymbolsError};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction as Decoded,
    Mnemonic, OpKind, SymbolResolver, SymbolResult,
};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use xfi_model::Hex64;

/// Where the processor is on its way through a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// Reached from the entry with no conditional jump taken.
    Straight,
    /// Reached only by a jump that is taken under a condition.
    Branch,
    /// Moved out of line by the compiler, as it is seldom run.
    OutOfLine,
    /// Fills a gap; never runs.
    Padding,
}

/// A handler's instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Locations {
    /// The format's version; 1.
    pub format: u32,
    /// The hypercall's name.
    pub hypercall: String,
    /// Its number in `public/xen.h`.
    pub number: u32,
    /// The handler that 64-bit guests' calls run.
    pub handler: String,
    /// Other handlers of the same hypercall, which are not listed.
    pub others: Vec<String>,
    /// The build id of the Xen they are of, where known.
    pub build_id: Option<String>,
    /// The pieces the handler consists of, the one with the entry first.
    pub parts: Vec<Part>,
    /// Its instructions in order of number.
    pub instructions: Vec<Instruction>,
}

/// A piece of a handler: one symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Part {
    /// The symbol.
    pub symbol: String,
    /// Where it starts, as `0x…`.
    #[schemars(with = "String")]
    pub address: Hex64,
    /// Its size in bytes.
    pub size: u64,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Instruction {
    /// Its number in this list, from 0: the entry.
    pub number: usize,
    /// Its address, as `0x…`.
    #[schemars(with = "String")]
    pub address: Hex64,
    /// The same as `symbol+0x…`.
    pub symbol: String,
    /// Its bytes in hexadecimal, as in the file.
    pub bytes: String,
    /// The instruction in AT&T syntax, as in Xen's source.
    pub text: String,
    /// Source file and line, where debug information tells.
    pub source: Option<String>,
    /// Where on the handler's way it lies.
    pub path: Path,
    /// Every way through the handler that ends well, without code that is out
    /// of line, passes here: a call that is handled hits it.
    pub always: bool,
    /// Xen may rewrite it when it boots, for the processor it finds: bytes and
    /// text are then not what runs.
    pub rewritten_at_boot: bool,
    /// Why nothing can be armed here; null where it can.
    pub not_armable: Option<String>,
}

/// Which instruction: as written on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// By its number in the list.
    Number(usize),
    /// By its offset from the handler's start.
    Offset(u64),
    /// By its address.
    Address(u64),
    /// By `symbol+0x…`.
    Symbol(String),
}

impl std::str::FromStr for At {
    type Err = SymbolsError;

    /// `5`, `+0x1c`, `0xffff82d0…` or `do_iret+0x1c`.
    fn from_str(text: &str) -> Result<At, SymbolsError> {
        let bad = || SymbolsError::NoLocation {
            at: text.to_owned(),
            handler: "a handler".to_owned(),
            valid: "a number as in `xfi locations`, +OFFSET, an address 0x…, or SYMBOL+OFFSET"
                .to_owned(),
        };
        let number = |t: &str| t.parse::<Hex64>().map(|h| h.0).map_err(|_| bad());
        if let Some(offset) = text.strip_prefix('+') {
            Ok(At::Offset(number(offset)?))
        } else if text.starts_with("0x") || text.starts_with("0X") {
            Ok(At::Address(number(text)?))
        } else if text.starts_with(|c: char| c.is_ascii_digit()) {
            text.parse().map(At::Number).map_err(|_| bad())
        } else if let Some((name, offset)) = text.split_once('+') {
            Ok(At::Symbol(offset_name(name, number(offset)?)))
        } else if text.is_empty() || text.starts_with('-') {
            Err(bad())
        } else {
            Ok(At::Symbol(text.to_owned()))
        }
    }
}

impl Locations {
    /// Lists a handler's instructions: a linear sweep over its symbol, then over
    /// each piece that is out of line. `lines` gives the source lines, when
    /// they are wanted.
    ///
    /// # Errors
    /// [`SymbolsError::BadFile`] when the file does not have the code.
    pub fn of(
        handler: &Handler,
        elf: &Elf,
        lines: Option<&SourceLines<'_>>,
    ) -> Result<Locations, SymbolsError> {
        let mut parts = Vec::new();
        let mut decoded: Vec<(usize, Decoded, &[u8])> = Vec::new();
        for symbol in std::iter::once(&handler.symbol).chain(&handler.outlined) {
            let code = code_of(elf, symbol)?;
            let part = parts.len();
            parts.push(Part {
                symbol: symbol.name.clone(),
                address: Hex64(symbol.address),
                size: code.len() as u64,
            });
            decoded.extend(sweep(symbol.address, code).map(|(i, bytes)| (part, i, bytes)));
        }
        let ways = Ways::of(&decoded, handler.symbol.address);
        let names = Names(elf.shared_symbols());
        let mut formatter = GasFormatter::with_options(Some(Box::new(names)), None);
        formatter.options_mut().set_uppercase_hex(false);
        formatter
            .options_mut()
            .set_small_hex_numbers_in_decimal(false);
        let mut text = |instruction: &Decoded| {
            let mut out = String::new();
            formatter.format(instruction, &mut out);
            out
        };
        let instructions = decoded
            .iter()
            .enumerate()
            .map(|(number, (part, instruction, bytes))| {
                let address = instruction.ip();
                let path = ways.path(address, *part);
                Instruction {
                    number,
                    address: Hex64(address),
                    symbol: offset_name(&parts[*part].symbol, address - parts[*part].address.0),
                    bytes: hex(bytes),
                    text: text(instruction),
                    source: lines.and_then(|l| l.line(address)),
                    path,
                    always: ways.always.contains(&address),
                    rewritten_at_boot: elf.alternative(address).is_some(),
                    not_armable: not_armable(elf, instruction, path),
                }
            })
            .collect();
        Ok(Locations {
            format: 1,
            hypercall: handler.hypercall.name.to_owned(),
            number: handler.hypercall.number,
            handler: handler.symbol.name.clone(),
            others: handler.others.clone(),
            build_id: elf.build_id().map(str::to_owned),
            parts,
            instructions,
        })
    }

    /// The instruction asked for.
    ///
    /// # Errors
    /// [`SymbolsError::NoLocation`] with what is valid, or
    /// [`SymbolsError::NotArmable`] with the reason.
    pub fn find(&self, at: &At) -> Result<&Instruction, SymbolsError> {
        let start = self.parts.first().map_or(0, |p| p.address.0);
        let found = match at {
            At::Number(n) => self.instructions.get(*n),
            At::Offset(offset) => start
                .checked_add(*offset)
                .and_then(|address| self.by_address(address)),
            At::Address(address) => self.by_address(*address),
            At::Symbol(name) => self.instructions.iter().find(|i| &i.symbol == name),
        };
        let Some(found) = found else {
            let at = match at {
                At::Number(n) => n.to_string(),
                At::Offset(n) => format!("+{n:#x}"),
                At::Address(n) => format!("{n:#x}"),
                At::Symbol(name) => name.clone(),
            };
            return Err(SymbolsError::NoLocation {
                at,
                handler: self.handler.clone(),
                valid: format!(
                    "0 to {}, or where an instruction starts, as `xfi locations {}` lists",
                    self.instructions.len().saturating_sub(1),
                    self.hypercall
                ),
            });
        };
        match &found.not_armable {
            None => Ok(found),
            Some(why) => Err(SymbolsError::NotArmable {
                number: found.number,
                handler: self.handler.clone(),
                symbol: found.symbol.clone(),
                why: why.clone(),
            }),
        }
    }

    fn by_address(&self, address: u64) -> Option<&Instruction> {
        self.instructions.iter().find(|i| i.address.0 == address)
    }
}

fn code_of<'a>(elf: &'a Elf, symbol: &Symbol) -> Result<&'a [u8], SymbolsError> {
    let end = elf.symbols().end(symbol);
    end.and_then(|end| elf.at(symbol.address..end))
        .filter(|code| !code.is_empty())
        .ok_or_else(|| SymbolsError::BadFile {
            path: elf.path().to_owned(),
            what: format!("it does not hold the code of {}", symbol.name),
            wanted: "the Xen that runs, with symbols and code (xen-syms)",
        })
}

/// Every instruction, one after the other. A byte that starts none is one by
/// itself, and the sweep goes on behind it.
fn sweep(start: u64, code: &[u8]) -> impl Iterator<Item = (Decoded, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = code.get(at..).filter(|r| !r.is_empty())?;
        let mut decoder = Decoder::with_ip(64, rest, start + at as u64, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let length = if instruction.is_invalid() {
            1
        } else {
            instruction.len()
        };
        at += length;
        Some((instruction, &rest[..length]))
    })
}

/// Where a near branch goes.
fn target(i: &Decoded) -> Option<u64> {
    matches!(i.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32)
        .then(|| i.near_branch_target())
}

/// What can be told about the order in which instructions run.
struct Ways {
    straight: BTreeSet<u64>,
    always: BTreeSet<u64>,
    padding: BTreeSet<u64>,
}

/// Whether a handler's exit can be reached in line without this instruction. A
/// jump through a table may lead anywhere, so also out.
fn avoidable(in_line: &BTreeMap<u64, &Decoded>, entry: u64, avoided: u64) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![entry];
    while let Some(at) = next.pop() {
        if at == avoided || !seen.insert(at) {
            continue;
        }
        let Some(i) = in_line.get(&at) else { continue };
        match i.flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
                next.push(i.next_ip());
            }
            FlowControl::ConditionalBranch => {
                next.push(i.next_ip());
                next.extend(target(i));
            }
            FlowControl::UnconditionalBranch => {
                let to = target(i);
                if to.is_none_or(|to| !in_line.contains_key(&to)) {
                    return true;
                }
                next.extend(to);
            }
            FlowControl::Return | FlowControl::IndirectBranch => return true,
            _ => {}
        }
    }
    false
}

impl Ways {
    fn of(decoded: &[(usize, Decoded, &[u8])], entry: u64) -> Ways {
        let by_address: BTreeMap<u64, &Decoded> =
            decoded.iter().map(|(_, i, _)| (i.ip(), i)).collect();
        let mut straight = BTreeSet::new();
        let mut at = Some(entry);
        while let Some(i) = at.and_then(|a| by_address.get(&a)) {
            if i.is_invalid() || !straight.insert(i.ip()) {
                break;
            }
            at = match i.flow_control() {
                FlowControl::Next
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::IndirectCall => Some(i.next_ip()),
                FlowControl::UnconditionalBranch => target(i),
                // A return, a jump through a register or table, ud2.
                _ => None,
            };
        }
        let in_line: BTreeMap<u64, &Decoded> = decoded
            .iter()
            .filter(|(part, i, _)| *part == 0 && !i.is_invalid())
            .map(|(_, i, _)| (i.ip(), i))
            .collect();
        // Without any way out nothing is passed on every one.
        let has_exit = avoidable(&in_line, entry, u64::MAX);
        let always = straight
            .iter()
            .copied()
            .filter(|at| has_exit && in_line.contains_key(at) && !avoidable(&in_line, entry, *at))
            .collect();
        let targets: BTreeSet<u64> = decoded.iter().filter_map(|(_, i, _)| target(i)).collect();
        let mut padding = BTreeSet::new();
        let mut after_end = false;
        for (_, i, _) in decoded {
            let filler = matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
            if after_end && filler && !targets.contains(&i.ip()) {
                padding.insert(i.ip());
                continue;
            }
            after_end = !i.is_invalid()
                && matches!(
                    i.flow_control(),
                    FlowControl::UnconditionalBranch
                        | FlowControl::IndirectBranch
                        | FlowControl::Return
                        | FlowControl::Exception
                );
        }
        Ways {
            straight,
            always,
            padding,
        }
    }

    fn path(&self, address: u64, part: usize) -> Path {
        if self.straight.contains(&address) {
            Path::Straight
        } else if self.padding.contains(&address) {
            Path::Padding
        } else if part > 0 {
            Path::OutOfLine
        } else {
            Path::Branch
        }
    }
}

fn not_armable(elf: &Elf, instruction: &Decoded, path: Path) -> Option<String> {
    let address = instruction.ip();
    let named = |name| elf.symbols().named(name).first().map(|s| s.address);
    if instruction.is_invalid() {
        return Some("it is no instruction".to_owned());
    }
    if let Some((section, _)) = elf.section_of(address)
        && section.starts_with(".init")
    {
        return Some(format!(
            "it lies in {section}, which is gone once Xen has booted"
        ));
    }
    if let (Some(start), Some(end)) = (named("_stextentry"), named("_etextentry"))
        && (start..end).contains(&address)
    {
        return Some(
            "it lies in .text.entry, the code that debug exceptions themselves run through"
                .to_owned(),
        );
    }
    if elf
        .alternative(address)
        .is_some_and(|range| range.start != address)
    {
        return Some(
            "it lies inside code that Xen may rewrite at boot, and may then be no instruction's \
             start"
                .to_owned(),
        );
    }
    (path == Path::Padding).then(|| "it is padding and never runs".to_owned())
}

fn hex(bytes: &[u8]) -> String {
    let words: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    words.join(" ")
}

/// Names of code in operands.
struct Names(Arc<SymbolTable>);

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        instruction: &Decoded,
        _operand: u32,
        instruction_operand: Option<u32>,
        address: u64,
        _size: u32,
    ) -> Option<SymbolResult<'_>> {
        let operand = instruction_operand?;
        let kind = instruction.op_kind(operand);
        let branch = matches!(kind, OpKind::NearBranch64 | OpKind::NearBranch32);
        if !branch && !instruction.is_ip_rel_memory_operand() {
            return None;
        }
        let (symbol, offset) = self.0.at(address)?;
        // Of data only what is known to lie there: strings have no symbols.
        if !(branch || symbol.size.is_some_and(|size| offset < size)) {
            return None;
        }
        Some(SymbolResult::with_str(symbol.address, symbol.name.as_str()))
    }
}
