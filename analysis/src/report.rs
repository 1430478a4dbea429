//! The report as files: one page that needs nothing beside it, and the tables
//! and figures for use elsewhere.

use crate::AnalysisError;
use crate::analysis::Analysis;
use crate::figures::{FIGURE_CSS, Figure};
use crate::grid::{Cell, Digits, Grid, RowKind, percent, share_words};
use crate::rows::{Judged, RunRow};
use crate::stats::Share;
use crate::tables::{mode_word, seconds, window_words};
use minijinja::{Environment, context};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use xfi_model::{Register, RunId};

const TEMPLATE: &str = include_str!("../templates/report.html");
const STYLE: &str = include_str!("../templates/report.css");
const SCRIPT: &str = include_str!("../templates/report.js");

/// Where a run's evidence lies inside the run directory.
pub fn evidence_dir(run: RunId) -> String {
    format!("runs/{run}")
}

/// The page. Links go to `../runs/<id>/`, `tables/` and `figures/`, as
/// [`write_report`] lays them out; without them the page is still whole.
///
/// # Errors
/// [`AnalysisError::Template`].
pub fn render_html(a: &Analysis) -> Result<String, AnalysisError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    // The name ends in .html: everything is escaped unless marked safe.
    environment.add_template("report.html", TEMPLATE)?;
    let figures = a.figures();
    let figure = |id: &str| figures.iter().find(|f| f.id == id).map(FigureView::new);
    let grids = a.grids();
    let grid = |id: &str| grids.iter().find(|g| g.id == id).map(GridView::new);
    let h = &a.headline;
    let digits = Digits::for_total(h.fired);
    let (interval, kind) = h.interval();
    let failed: Vec<_> = a
        .runs
        .iter()
        .filter(|r| r.failed() == Some(true))
        .map(RunView::new)
        .collect();
    let page = environment.get_template("report.html")?.render(context! {
        style => STYLE,
        figure_style => FIGURE_CSS,
        script => SCRIPT,
        manifest => a.manifest,
        headline => h,
        failed_percent => h.failed.share.map(|p| percent(p, digits)),
        failed_interval => format!(
            "{} to {} %", percent(interval.lo, digits), percent(interval.hi, digits)),
        failed_kind => kind,
        robust => h.robust_words(),
        // The number stays with its unit.
        window => window_words(h.window_ns).replace(' ', "\u{a0}"),
        target => ShareView::new(&h.target),
        bystanders => ShareView::new(&h.bystanders),
        host => ShareView::new(&h.host),
        false_failures => ShareView::new(&h.false_failures),
        unjudged => ShareView::new(&a.noise.unjudged_injections),
        unjudged_dummies => ShareView::new(&a.noise.unjudged_dummies),
        threats => a.threats,
        notes => a.notes,
        reasons => a.dispositions.reasons,
        fig_outcomes => figure("outcomes"),
        fig_registers => figure("registers"),
        fig_heatmap => figure("heatmap"),
        fig_rip => figure("rip"),
        outcomes => grid("outcomes"),
        host_table => grid("host"),
        blast => grid("blast-radius"),
        dispositions => grid("dispositions"),
        noise => grid("noise"),
        above_noise => grid("above-noise"),
        registers => grid("registers"),
        strata => grid("strata"),
        rip => grid("rip"),
        thesis => grid("thesis"),
        labels => grid("labels"),
        failed => failed,
        runs => a.runs.iter().map(RunView::new).collect::<Vec<_>>(),
    })?;
    Ok(page)
}

/// Writes the report into `out_dir` (a run directory's `report/`): `index.html`,
/// `analysis.json`, `report.txt`, `tables/*.{csv,md,tex,json}` and
/// `figures/*.svg`. Returns what was written, the page first.
///
/// # Errors
/// [`AnalysisError::Write`] naming the file, or a template's failure.
pub fn write_report(a: &Analysis, out_dir: &Path) -> Result<Vec<PathBuf>, AnalysisError> {
    let mut files: Vec<(PathBuf, String)> = vec![
        ("index.html".into(), render_html(a)?),
        ("report.txt".into(), crate::render_text(a)),
        ("analysis.json".into(), json("the analysis", a)?),
    ];
    for grid in a.grids() {
        let path = |extension: &str| PathBuf::from(format!("tables/{}.{extension}", grid.id));
        files.push((path("csv"), grid.to_csv()?));
        files.push((path("md"), grid.to_markdown()));
        files.push((path("tex"), grid.to_latex()));
        files.push((path("json"), json(grid.id, &grid)?));
    }
    files.push(("tables/runs.csv".into(), runs_grid(a).to_csv()?));
    for figure in a.figures() {
        files.push((
            format!("figures/{}.svg", figure.id).into(),
            figure.standalone(),
        ));
    }
    let write = |path: &Path, text: &str| {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text)
    };
    let mut written = Vec::new();
    for (name, text) in files {
        let path = out_dir.join(name);
        write(&path, &text).map_err(|source| AnalysisError::Write {
            path: path.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

fn json(what: &str, value: &impl Serialize) -> Result<String, AnalysisError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| AnalysisError::Serialise {
            what: what.to_owned(),
            reason: e.to_string(),
        })
}

/// One row a planned run.
fn runs_grid(a: &Analysis) -> Grid {
    use crate::grid::{Column, Row};
    let words = |key: &str| Column::words(key, key);
    let opt = |t: Option<String>| t.map_or(Cell::Empty, Cell::Text);
    let rows = a.runs.iter().map(|r| {
        let view = RunView::new(r);
        Row::body([
            Cell::Count(u64::from(r.id.0)),
            Cell::code(view.kind),
            Cell::Count(u64::from(r.snapshot)),
            Cell::text(r.weight.to_string()),
            Cell::code(r.disposition),
            opt(r.reason.clone()),
            opt(r.domain.clone()),
            opt(r.register.map(|x| x.to_string())),
            r.bit.map_or(Cell::Empty, |b| Cell::Count(u64::from(b))),
            Cell::text(mode_word(r.mode)),
            opt(r.rip.map(|x| x.to_string())),
            opt(r.rip_symbol.clone()),
            Cell::text(view.target),
            Cell::text(view.bystander),
            Cell::text(view.host),
            opt(r.first_failure_after_ns.map(|n| n.to_string())),
            Cell::Count(u64::from(r.attempts)),
        ])
    });
    Grid {
        id: "runs",
        title: "Runs".to_owned(),
        columns: [
            "run",
            "kind",
            "snapshot",
            "weight",
            "disposition",
            "reason",
            "domain",
            "register",
            "bit",
            "mode",
            "rip",
            "symbol",
            "target",
            "bystander",
            "host",
            "first_failure_after_ns",
            "attempts",
        ]
        .iter()
        .map(|k| words(k))
        .collect(),
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

#[derive(Serialize)]
struct FigureView {
    id: &'static str,
    title: String,
    caption: String,
    svg: String,
}

impl FigureView {
    fn new(figure: &Figure) -> FigureView {
        FigureView {
            id: figure.id,
            title: figure.title.clone(),
            caption: figure.caption.replace(" %", "\u{a0}%"),
            svg: figure.inline.clone(),
        }
    }
}

#[derive(Serialize)]
struct ShareView {
    count: u64,
    total: u64,
    words: String,
    upper: String,
}

impl ShareView {
    fn new(share: &Share) -> ShareView {
        ShareView {
            count: share.count,
            total: share.total,
            words: share_words(share),
            upper: percent(share.interval.hi, Digits::for_total(share.total)),
        }
    }
}

#[derive(Serialize)]
struct GridView {
    id: &'static str,
    title: String,
    /// Heads over several columns; empty when there is none.
    groups: Vec<(Option<&'static str>, usize)>,
    heads: Vec<(String, bool)>,
    rows: Vec<(bool, Vec<CellView>)>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct CellView {
    text: String,
    code: bool,
    numeric: bool,
    sort: Option<f64>,
}

impl GridView {
    fn new(grid: &Grid) -> GridView {
        let mut groups: Vec<(Option<&'static str>, usize)> = Vec::new();
        for column in &grid.columns {
            match groups.last_mut() {
                Some((name, span)) if *name == column.group => *span += 1,
                _ => groups.push((column.group, 1)),
            }
        }
        if groups.iter().all(|(name, _)| name.is_none()) {
            groups.clear();
        }
        let row = |r: &crate::grid::Row| {
            let cells = r
                .cells
                .iter()
                .zip(&grid.columns)
                .map(|(cell, column)| CellView {
                    text: cell.show(),
                    code: matches!(cell, Cell::Code(_)),
                    numeric: column.numeric,
                    sort: cell.sort_key(),
                });
            (r.kind == RowKind::Total, cells.collect())
        };
        GridView {
            id: grid.id,
            title: grid.title.clone(),
            groups,
            heads: grid
                .columns
                .iter()
                .map(|c| (c.head.clone(), c.numeric))
                .collect(),
            rows: grid.rows.iter().map(row).collect(),
            notes: grid.notes.clone(),
        }
    }
}

#[derive(Serialize)]
struct RunView {
    id: u32,
    evidence: String,
    kind: &'static str,
    disposition: &'static str,
    reason: String,
    fault: String,
    place: String,
    rip: String,
    mode: &'static str,
    target: String,
    bystander: String,
    host: &'static str,
    failed: bool,
    after: String,
    wrong: Option<(String, String)>,
    excerpt: Option<String>,
    panic: Option<String>,
}

impl RunView {
    fn new(r: &RunRow) -> RunView {
        let register = r.register.map_or("", Register::name);
        let fault = match r.bit {
            Some(bit) => format!("{register} bit {bit}"),
            None => register.to_owned(),
        };
        let wrong = r.first_wrong.as_ref().map(|w| {
            let verdict = serde_json::to_value(w.verdict)
                .ok()
                .and_then(|v| v.as_str().map(str::to_owned))
                .unwrap_or_default();
            let detail = w.detail.clone().or(w.status.map(|s| format!("status {s}")));
            (
                format!("{}: {verdict}", w.guest),
                detail.unwrap_or_default(),
            )
        });
        RunView {
            id: r.id.0,
            evidence: format!("../{}/", evidence_dir(r.id)),
            kind: match r.kind {
                xfi_model::RunKind::Injection => "injection",
                xfi_model::RunKind::Golden => "golden",
                xfi_model::RunKind::Dummy => "dummy",
            },
            disposition: r.disposition,
            reason: r.reason.clone().unwrap_or_default(),
            fault,
            place: r
                .rip_symbol
                .clone()
                .or(r.rip.map(|x| x.to_string()))
                .unwrap_or_default(),
            rip: r.rip.map(|x| x.to_string()).unwrap_or_default(),
            mode: mode_word(r.mode),
            target: r.target.as_ref().map(judged_words).unwrap_or_default(),
            bystander: r.bystander.as_ref().map(judged_words).unwrap_or_default(),
            host: r.host.map_or("", |h| h.label()),
            failed: r.failed() == Some(true),
            after: r
                .first_failure_after_ns
                .map(|n| format!("{} s", seconds(n)))
                .unwrap_or_default(),
            wrong,
            excerpt: r.first_wrong.as_ref().and_then(|w| w.excerpt.clone()),
            panic: r.panic_line.clone(),
        }
    }
}

/// `hang (host_crashed) + incorrect_content`: the gravest label first.
fn judged_words(judged: &Judged) -> String {
    let mut words = judged.primary.label().to_owned();
    for label in judged.labels.iter().filter(|l| **l != judged.primary) {
        words.push_str(" + ");
        words.push_str(label.label());
    }
    if !judged.sub_labels.is_empty() {
        let subs: Vec<_> = judged.sub_labels.iter().map(String::as_str).collect();
        words.push_str(&format!(" ({})", subs.join(", ")));
    }
    words
}
