//! `xfi locations`.

use crate::args::{Locations as Args, Output};
use crate::exit::{Exit, coded};
use crate::inject::open_xen;
use crate::output;
use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;
use xfi_symbols::{CodePath, Elf, HYPERCALLS, Locations, SourceLines, find_hypercall};

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Mistakes first: they need no Xen.
    let hypercall = args
        .hypercall
        .as_ref()
        .map(|name| find_hypercall(name).map_err(|e| coded(Exit::Usage, e)))
        .transpose()?;
    let elf = open_xen(args.xen_symbols.as_deref())?;
    let Some(hypercall) = hypercall else {
        return list(&elf, args.output.output);
    };
    let usage = |e| coded(Exit::Usage, e);
    let handler = hypercall.handler(&elf).map_err(usage)?;
    let lines = SourceLines::of(&elf);
    let locations = Locations::of(&handler, &elf, Some(&lines)).map_err(usage)?;
    match args.output.output {
        Output::Json => output::json(&locations),
        Output::Text => {
            output::print(&text(&locations));
            Ok(())
        }
    }
}

/// What `xfi locations --output json` prints without a hypercall. The committed
/// schema is `docs/schema/hypercalls.json`; with one, `docs/schema/locations.json`.
#[derive(Debug, Serialize, JsonSchema)]
struct HypercallsView {
    /// The format's version; 1.
    format: u32,
    /// The build id of the Xen they are of, where known.
    build_id: Option<String>,
    /// All hypercalls that `public/xen.h` numbers.
    hypercalls: Vec<HypercallView>,
}

/// One hypercall.
#[derive(Debug, Serialize, JsonSchema)]
struct HypercallView {
    /// Its number.
    number: u32,
    /// Its name.
    hypercall: String,
    /// The symbol of its handler; null when this Xen has none.
    handler: Option<String>,
    /// Where the handler starts, as `0x…`.
    address: Option<String>,
    /// The handler's instructions, those out of line included.
    instructions: usize,
    /// Of these, those on the straight path.
    straight: usize,
    /// Why there is no handler.
    note: Option<String>,
}

fn list(elf: &Elf, format: Output) -> Result<()> {
    let hypercalls: Vec<HypercallView> = HYPERCALLS
        .iter()
        .map(|h| {
            let locations = h
                .handler(elf)
                .and_then(|handler| Locations::of(&handler, elf, None));
            let straight = |l: &Locations| {
                l.instructions
                    .iter()
                    .filter(|i| i.path == CodePath::Straight)
                    .count()
            };
            HypercallView {
                number: h.number,
                hypercall: h.name.to_owned(),
                handler: locations.as_ref().ok().map(|l| l.handler.clone()),
                address: locations
                    .as_ref()
                    .ok()
                    .and_then(|l| l.parts.first())
                    .map(|p| p.address.to_string()),
                instructions: locations.as_ref().map_or(0, |l| l.instructions.len()),
                straight: locations.as_ref().map_or(0, straight),
                note: locations.as_ref().err().map(ToString::to_string),
            }
        })
        .collect();
    if format == Output::Json {
        return output::json(&HypercallsView {
            format: 1,
            build_id: elf.build_id().map(str::to_owned),
            hypercalls,
        });
    }
    let mut table = output::table(&[
        "NUMBER",
        "HYPERCALL",
        "HANDLER",
        "ADDRESS",
        "INSTRUCTIONS",
        "STRAIGHT",
    ]);
    for h in hypercalls {
        table.add_row([
            h.number.to_string(),
            h.hypercall,
            h.handler.unwrap_or_else(|| "not in this Xen".to_owned()),
            h.address.unwrap_or_default(),
            h.instructions.to_string(),
            h.straight.to_string(),
        ]);
    }
    output::print(&output::text_of(&table));
    output::print("the instructions of one: xfi locations HYPERCALL");
    Ok(())
}

fn text(l: &Locations) -> String {
    let parts: Vec<_> = l
        .parts
        .iter()
        .map(|p| format!("{} ({} bytes at {})", p.symbol, p.size, p.address))
        .collect();
    let mut text = format!(
        "hypercall  {} ({})\nhandler    {}\n",
        l.hypercall,
        l.number,
        parts.join(", ")
    );
    if !l.others.is_empty() {
        text += &format!(
            "others     {}: calls of 32-bit or HVM guests go there first; not listed\n",
            l.others.join(" ")
        );
    }
    if let Some(id) = &l.build_id {
        text += &format!("xen        build id {id}\n");
    }
    let mut table = output::table(&[
        "AT",
        "PATH",
        "ADDRESS",
        "SYMBOL",
        "BYTES",
        "INSTRUCTION",
        "SOURCE",
    ]);
    let mut notes: Vec<(&str, Vec<usize>)> = Vec::new();
    for i in &l.instructions {
        if let Some(why) = &i.not_armable {
            match notes.iter_mut().find(|(w, _)| w == why) {
                Some((_, numbers)) => numbers.push(i.number),
                None => notes.push((why, vec![i.number])),
            }
        }
        let mark = match (&i.not_armable, i.path) {
            (Some(_), _) => "x",
            (None, CodePath::Straight) if i.always => "*",
            (None, CodePath::Straight) => "+",
            (None, CodePath::OutOfLine) => "o",
            (None, _) => "",
        };
        table.add_row([
            i.number.to_string(),
            mark.to_owned(),
            i.address.to_string(),
            i.symbol.clone(),
            i.bytes.clone(),
            if i.rewritten_at_boot {
                format!("{} [rewritten at boot]", i.text)
            } else {
                i.text.clone()
            },
            i.source.clone().unwrap_or_default(),
        ]);
    }
    text += &output::text_of(&table);
    text += "\n* every call that is handled passes here; + the straight path: no conditional jump \
             taken; o out of line; x cannot be armed\n";
    for (why, numbers) in notes {
        let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
        text += &format!("x {}: {why}\n", numbers.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schemas_are_those_of_the_code() {
        for (name, schema) in [
            ("hypercalls", schemars::schema_for!(HypercallsView)),
            ("locations", schemars::schema_for!(Locations)),
        ] {
            let schema = serde_json::to_string_pretty(&schema).unwrap();
            let path = format!("{}/../docs/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("XFI_BLESS").is_some() {
                std::fs::write(&path, format!("{schema}\n")).unwrap();
            }
            let committed = std::fs::read_to_string(path).unwrap_or_default();
            assert_eq!(
                committed.trim(),
                schema,
                "docs/schema/{name}.json is out of date; XFI_BLESS=1 writes it anew"
            );
        }
    }
}
