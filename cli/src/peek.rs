//! `xfi peek`.

use crate::args::{Output, OutputArgs};
use crate::exit::{Exit, coded};
use crate::host::Host;
use crate::memory::{MemoryArgs, hex_word};
use crate::output;
use anyhow::{Result, bail};
use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use std::path::PathBuf;
use xfi_model::{Command, EventBody, Location, MAX_PEEK_WORDS, MemoryWord};
use xfi_symbols::SymbolTable;

/// Read words of Xen's memory, or of a domain's.
///
/// In dom0 of a Xen host this acts on that host; elsewhere on the testbed that
/// is up. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xfi peek --xen-memory do_iret --count 4         the code of a hypercall's handler
  xfi peek --xen-memory 0xffff82d040200000
  xfi peek --guest-memory web1:0x1000000          a guest's memory
  xfi peek --guest-memory Domain-0:0x1000000 --size 4 --output json")]
pub(crate) struct Peek {
    #[command(flatten)]
    place: MemoryArgs,
    /// How many words, from there on.
    #[arg(long, value_name = "N", default_value = "1")]
    count: String,
    /// Xen with its symbols (xen-syms), where it is not the one built here.
    #[arg(long, value_name = "FILE")]
    xen_symbols: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What `xfi peek --output json` prints. The committed schema is
/// `docs/schema/peek.json`.
#[derive(Debug, Serialize, JsonSchema)]
struct PeekView {
    /// The format's version; 1.
    format: u32,
    /// The domain whose memory it is; null for Xen's own.
    domain: Option<String>,
    /// The words' size, bytes.
    size: u32,
    /// The words, in order.
    words: Vec<WordView>,
}

/// One word.
#[derive(Debug, Serialize, JsonSchema)]
struct WordView {
    /// Xen's virtual address, or what the domain takes for the physical one, as
    /// `0x…`.
    address: String,
    /// Its value, as `0x…`.
    value: String,
    /// The address as `symbol+0x…`, where known.
    symbol: Option<String>,
    /// The machine address, as `0x…`; null for an HVM or PVH guest's memory.
    machine_address: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Peek) -> Result<()> {
    let usage = |message: String| coded(Exit::Usage, message);
    let Some(asked) = args.place.asked()? else {
        return Err(usage(
            "which memory? valid: --xen-memory PLACE, --guest-memory DOMAIN:ADDRESS".to_owned(),
        ));
    };
    let count = match args.count.parse() {
        Ok(n) if (1..=MAX_PEEK_WORDS).contains(&n) => n,
        _ => {
            return Err(usage(format!(
                "--count: '{}' is no number of words; valid: 1 to {MAX_PEEK_WORDS}",
                args.count
            )));
        }
    };
    let mut host = Host::find()?;
    let hello = host.hello()?;
    let (location, elf) = asked.locate(&hello, args.xen_symbols.as_deref())?;
    let events = host.ask(Command::Peek {
        location: location.clone(),
        count,
    })?;
    let Some(words) = events.into_iter().find_map(|e| match e.body {
        EventBody::Memory { words } => Some(words),
        _ => None,
    }) else {
        bail!("the agent sent no words");
    };
    let view = view(&location, &words, elf.as_ref().map(|e| e.symbols()));
    match args.output.output {
        Output::Json => output::json(&view),
        Output::Text => {
            output::print(&text(&view));
            Ok(())
        }
    }
}

fn view(location: &Location, words: &[MemoryWord], symbols: Option<&SymbolTable>) -> PeekView {
    let size = match location {
        Location::XenMemory { size, .. } | Location::GuestMemory { size, .. } => *size,
        _ => 8,
    };
    PeekView {
        format: 1,
        domain: location.domain().map(str::to_owned),
        size,
        words: words
            .iter()
            .map(|w| WordView {
                address: w.address.to_string(),
                value: hex_word(w.value.0, size),
                symbol: symbols.and_then(|s| s.lookup(w.address.0)),
                machine_address: w.machine_address.map(|m| m.to_string()),
            })
            .collect(),
    }
}

fn text(view: &PeekView) -> String {
    let what = if view.domain.is_some() {
        "MACHINE ADDRESS"
    } else {
        "SYMBOL"
    };
    let mut table = output::table(&["ADDRESS", "VALUE", what]);
    for w in &view.words {
        let more = if view.domain.is_some() {
            &w.machine_address
        } else {
            &w.symbol
        };
        table.add_row([
            w.address.as_str(),
            w.value.as_str(),
            more.as_deref().unwrap_or_default(),
        ]);
    }
    output::text_of(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xfi_model::Hex64;

    #[test]
    fn the_committed_schema_is_the_one_of_the_code() {
        output::check_schema("peek", &schemars::schema_for!(PeekView));
    }

    #[test]
    fn words_have_the_digits_of_their_size_and_the_symbol() {
        let table = SymbolTable::parse("ffff82d040200000 T do_iret\nffff82d040200100 T next\n");
        let words = [0x1122u64, 0].map(|v| MemoryWord {
            address: Hex64(0xffff_82d0_4020_0010 + 2 * u64::from(v == 0)),
            value: Hex64(v),
            machine_address: Some(Hex64(0x5010)),
        });
        let location = |domain: Option<&str>| match domain {
            None => Location::XenMemory {
                address: words[0].address,
                symbol: None,
                size: 2,
            },
            Some(name) => Location::GuestMemory {
                domain: name.to_owned(),
                address: words[0].address,
                size: 2,
            },
        };
        let printed = text(&view(&location(None), &words, Some(&table)));
        assert!(printed.contains("0xffff82d040200010"), "{printed}");
        assert!(printed.contains("0x1122  "), "{printed}");
        assert!(printed.contains("0x0000  "), "{printed}");
        assert!(printed.contains("do_iret+0x12"), "{printed}");
        let printed = text(&view(&location(Some("web1")), &words, None));
        assert!(printed.contains("0x0000000000005010"), "{printed}");
        assert!(!printed.contains("do_iret"), "{printed}");
    }
}
