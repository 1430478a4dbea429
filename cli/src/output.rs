//! Printing.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Prints a result. A reader that went away (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
}

/// Prints a value as one JSON document.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints one error line.
pub(crate) fn error(message: &str) {
    let _ = writeln!(io::stderr().lock(), "xfi: {message}");
}

/// A borderless table.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut t = Table::new();
    t.load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    t
}

/// A table's text without trailing blanks.
pub(crate) fn text_of(table: &Table) -> String {
    table
        .lines()
        .map(|l| l.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// `12.3 ms`, `4.56 s`: three significant digits.
pub(crate) fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => (ns as f64, "ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

/// A moment, nanoseconds since 1970, as `2026-01-31T12:00:00.000000Z`.
pub(crate) fn time(unix_ns: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_nanos(unix_ns);
    humantime::format_rfc3339_micros(at).to_string()
}

/// A data value's word as in files, such as `pvh` or `fired`.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        Ok(other) => other.to_string(),
        Err(_) => "?".into(),
    }
}

/// Compares a schema with the committed one, or writes it anew.
#[cfg(test)]
pub(crate) fn check_schema(name: &str, schema: &impl Serialize) {
    let schema = serde_json::to_string_pretty(schema).unwrap();
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

#[cfg(test)]
mod tests {
    #[test]
    fn durations_have_three_digits_and_a_unit() {
        assert_eq!(super::duration(12_345_678), "12.3 ms");
        assert_eq!(super::duration(4_560_000_000), "4.56 s");
        assert_eq!(super::duration(950), "950 ns");
    }
}
