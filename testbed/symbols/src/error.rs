//! What can be wrong with a name, a file or an expression.

use std::path::PathBuf;

/// What can be wrong with a name, a file or an expression.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SymbolsError {
    /// A file that cannot be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {what}; wanted: {wanted}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// No symbols are at hand.
    #[error("'{name}' cannot be looked up: there are no symbols of {owner}; {hint}")]
    NoSymbols {
        /// The name asked for.
        name: String,
        /// Whose symbols.
        owner: String,
        /// How to get them.
        hint: &'static str,
    },
    /// No such symbol.
    #[error("{owner} has no symbol '{name}'{near}")]
    UnknownSymbol {
        /// The name asked for.
        name: String,
        /// Whose symbol it should have been.
        owner: String,
        /// `; near: …`, or where else the name is, or nothing.
        near: String,
    },
    /// A name that several places have.
    #[error(
        "{owner} has {} symbols '{name}', at {}; give the addresses instead",
        addresses.len(), hex_list(addresses)
    )]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// Whose symbol.
        owner: String,
        /// Where each of them is.
        addresses: Vec<u64>,
    },
    /// A symbol that names data.
    #[error("'{name}' of {owner} is data; a RIP range needs code")]
    NotCode {
        /// The name asked for.
        name: String,
        /// Whose symbol.
        owner: String,
    },
    /// An offset past a symbol's end.
    #[error("offset {offset:#x} is outside '{name}', which has {size:#x} bytes")]
    OutsideSymbol {
        /// The symbol.
        name: String,
        /// The offset asked for.
        offset: u64,
        /// The symbol's size, bytes.
        size: u64,
    },
    /// A RIP expression that cannot be parsed, or that names no address.
    #[error("'{text}' {why}; valid: {}", crate::rip::SYNTAX)]
    BadRip {
        /// The text.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A place in memory that cannot be parsed.
    #[error("'{text}' is no place in Xen's memory; valid: an address 0x…, SYMBOL or SYMBOL+OFFSET")]
    BadPlace {
        /// The text.
        text: String,
    },
    /// Alternatives that one injection cannot have.
    #[error("'{text}' asks for {what}, and Xen's hypercall takes one RIP range and one mode")]
    TooMany {
        /// The text.
        text: String,
        /// What it asks for.
        what: String,
    },
    /// Code that a vCPU never executes.
    #[error("'{text}' could never match: {why}")]
    NeverMatches {
        /// The text.
        text: String,
        /// Why.
        why: String,
    },
    /// No hypercall has this name or number.
    #[error("unknown hypercall '{name}'{near}; `xfi locations` lists them")]
    UnknownHypercall {
        /// The name asked for.
        name: String,
        /// `; near: …`, or nothing.
        near: String,
    },
    /// A hypercall whose handler this Xen does not have.
    #[error(
        "this Xen has no handler {handler} for hypercall {hypercall}; candidates: {candidates}"
    )]
    NoHandler {
        /// The hypercall's name.
        hypercall: &'static str,
        /// The symbol looked for.
        handler: String,
        /// Symbols that look like it, or `none`.
        candidates: String,
    },
    /// A location that the handler does not have.
    #[error("'{at}' is no instruction of {handler}; valid: {valid}")]
    NoLocation {
        /// What was asked for.
        at: String,
        /// The handler.
        handler: String,
        /// What is valid.
        valid: String,
    },
    /// An instruction that no debug register can be set on, or that never runs.
    #[error("instruction {number} of {handler} ({symbol}) cannot be armed: {why}")]
    NotArmable {
        /// Its number.
        number: usize,
        /// The handler.
        handler: String,
        /// The instruction as `symbol+0x…`.
        symbol: String,
        /// Why.
        why: String,
    },
}

fn hex_list(addresses: &[u64]) -> String {
    let mut words: Vec<_> = addresses
        .iter()
        .take(4)
        .map(|a| format!("{a:#x}"))
        .collect();
    if addresses.len() > words.len() {
        words.push("…".to_owned());
    }
    words.join(" ")
}
