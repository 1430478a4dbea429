//! The tables and the report of the recorded campaign.

use std::path::Path;
use xfi_analysis::{Analysis, TEXT_WIDTH, analyse, load, render_text};

fn analysis() -> Analysis {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/campaign");
    analyse(&load(&dir).unwrap())
}

#[test]
fn text() {
    let text = render_text(&analysis());
    for line in text.lines() {
        assert!(line.chars().count() <= usize::from(TEXT_WIDTH), "too wide: {line}");
        assert!(!line.contains('\u{1b}'), "coloured: {line}");
    }
    insta::assert_snapshot!("text", text);
}

#[test]
fn markdown_csv_and_latex() {
    let mut out = String::new();
    for grid in analysis().grids() {
        if grid.id == "register-bits" {
            continue;
        }
        out.push_str(&grid.to_markdown());
        out.push('\n');
        if matches!(grid.id, "outcomes" | "host" | "rip") {
            out.push_str(&grid.to_csv().unwrap());
            out.push('\n');
            out.push_str(&grid.to_latex());
            out.push('\n');
        }
    }
    insta::assert_snapshot!("tables", out);
}
