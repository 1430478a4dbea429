//! The tables and the report of the recorded campaign.

use std::path::Path;
use xfi_analysis::{Analysis, TEXT_WIDTH, analyse, load, render_html, render_text, write_report};

fn analysis() -> Analysis {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/campaign");
    analyse(&load(&dir).unwrap())
}

#[test]
fn text() {
    let text = render_text(&analysis());
    for line in text.lines() {
        assert!(
            line.chars().count() <= usize::from(TEXT_WIDTH),
            "too wide: {line}"
        );
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

#[test]
fn the_page_is_whole_and_needs_no_network() {
    let analysis = analysis();
    let page = render_html(&analysis).unwrap();
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for what in ["http://", "https://", "url(", "@import", "<link", "src="] {
        assert!(!outside.contains(what), "{what}");
    }
    let failed: Vec<_> = analysis
        .runs
        .iter()
        .filter(|r| r.failed() == Some(true))
        .collect();
    assert!(failed.len() >= 5);
    for run in &analysis.runs {
        let link = format!("href=\"../runs/{}/\"", run.id);
        let times = page.matches(&link).count();
        let want = if run.failed() == Some(true) { 2 } else { 1 };
        assert_eq!(times, want, "run {}", run.id);
    }
    for threat in &analysis.threats {
        assert!(page.contains(&threat.title), "{}", threat.title);
    }
    assert_eq!(page, render_html(&analysis).unwrap(), "not deterministic");
}

#[test]
fn what_a_broken_server_answered_cannot_break_the_page() {
    let mut analysis = analysis();
    let hostile = "</pre><script>alert(1)</script>\u{0}&\"'";
    let run = analysis
        .runs
        .iter_mut()
        .find(|r| r.first_wrong.is_some())
        .unwrap();
    run.rip_symbol = Some(hostile.to_owned());
    let wrong = run.first_wrong.as_mut().unwrap();
    wrong.excerpt = Some(hostile.to_owned());
    wrong.detail = Some(hostile.to_owned());
    for row in &mut analysis.rip.rows {
        row.symbol = Some(hostile.to_owned());
    }
    let page = render_html(&analysis).unwrap();
    assert!(!page.contains("<script>alert"));
    assert_eq!(page.matches("<script>").count(), 1);
    for figure in analysis.figures() {
        assert!(!figure.standalone().contains("<script"), "{}", figure.id);
        assert!(!figure.standalone().contains('\u{0}'), "{}", figure.id);
    }
}

#[test]
fn the_heatmap_draws_each_cell_once() {
    let analysis = analysis();
    let figures = analysis.figures();
    let heatmap = figures.iter().find(|f| f.id == "heatmap").unwrap();
    for cell in &analysis.registers.cells {
        let title = format!("<title>{} bit {}: ", cell.register, cell.bit);
        assert_eq!(heatmap.inline.matches(&title).count(), 1, "{title}");
    }
}

#[test]
fn a_campaign_without_any_result_still_has_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/campaign");
    for name in ["manifest.json", "plan.json"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("journal.jsonl"), "").unwrap();
    let analysis = analyse(&load(dir.path()).unwrap());
    assert_eq!(analysis.headline.fired, 0);
    assert!(render_text(&analysis).contains("not_run"));
    let written = write_report(&analysis, &dir.path().join("report")).unwrap();
    assert!(written[0].ends_with("report/index.html"));
    assert!(written.iter().all(|p| p.is_file()));
}

#[test]
fn all_files_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_report(&analysis(), dir.path()).unwrap();
    for name in [
        "index.html",
        "report.txt",
        "analysis.json",
        "tables/outcomes.csv",
        "tables/outcomes.md",
        "tables/outcomes.tex",
        "tables/outcomes.json",
        "tables/runs.csv",
        "figures/heatmap.svg",
        "figures/outcomes.svg",
        "figures/registers.svg",
        "figures/rip.svg",
    ] {
        assert!(written.contains(&dir.path().join(name)), "{name}");
    }
    let json = std::fs::read_to_string(dir.path().join("analysis.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["format"], 1);
    assert_eq!(value["headline"]["planned"], 74);
}
