//! A table as rows of typed cells, and its renderings: text, Markdown, CSV,
//! LaTeX. Typed tables (`crate::tables`) make one of these; JSON is made from
//! the typed table itself.

mod render;

pub(crate) use render::wrap;

use crate::stats::{Interval, Share};
use serde::Serialize;

/// A table ready to be rendered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// File name without extension.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// Columns.
    pub columns: Vec<Column>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Row>,
    /// What a reader must know: denominators, conditions.
    pub notes: Vec<String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name in CSV.
    pub key: String,
    /// The head that it shares with its neighbours.
    pub group: Option<&'static str>,
    /// Its own head.
    pub head: String,
    /// Numbers are set to the right.
    pub numeric: bool,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The cells.
    pub cells: Vec<Cell>,
    /// Body or sum.
    pub kind: RowKind,
}

/// Whether a row belongs to the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// One of the things listed.
    Body,
    /// A sum of others.
    Total,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A name from a program: a register, a symbol, a label.
    Code(String),
    /// A count.
    Count(u64),
    /// A share, printed in per cent.
    Percent(Option<f64>, Digits),
    /// An interval on a share, printed in per cent.
    Interval(Interval, Digits),
    /// Nothing.
    Empty,
}

/// Decimals of a percentage: one below a thousand runs, two from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Digits(pub usize);

impl Digits {
    /// As many as `total` runs justify.
    pub fn for_total(total: u64) -> Digits {
        Digits(if total < 1000 { 1 } else { 2 })
    }
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// A name from a program.
    pub fn code(text: impl Into<String>) -> Cell {
        Cell::Code(text.into())
    }

    /// As people read it.
    pub fn show(&self) -> String {
        match self {
            Cell::Text(t) | Cell::Code(t) => t.clone(),
            Cell::Count(n) => n.to_string(),
            Cell::Percent(None, _) => "-".to_owned(),
            Cell::Percent(Some(p), d) => percent(*p, *d),
            Cell::Interval(i, d) => format!("[{}; {}]", percent(i.lo, *d), percent(i.hi, *d)),
            Cell::Empty => String::new(),
        }
    }

    /// What an interactive table sorts by.
    pub fn sort_key(&self) -> Option<f64> {
        match self {
            Cell::Count(n) => Some(*n as f64),
            Cell::Percent(p, _) => Some(p.unwrap_or(-1.0)),
            Cell::Interval(i, _) => Some(i.lo),
            Cell::Text(_) | Cell::Code(_) | Cell::Empty => None,
        }
    }
}

/// A share as a percentage without its sign.
pub fn percent(p: f64, digits: Digits) -> String {
    format!("{:.*}", digits.0, p * 100.0)
}

/// `1 run`, `2 runs`.
pub fn runs(n: u64) -> String {
    if n == 1 {
        "1 run".to_owned()
    } else {
        format!("{n} runs")
    }
}

/// A share with its interval, in words: `12.5 % [4.2; 26.8]`.
pub fn share_words(share: &Share) -> String {
    let digits = Digits::for_total(share.total);
    match share.share {
        None => "unknown, no run".to_owned(),
        Some(p) => {
            let (lo, hi) = (share.interval.lo, share.interval.hi);
            format!(
                "{} % [{}; {}]",
                percent(p, digits),
                percent(lo, digits),
                percent(hi, digits)
            )
        }
    }
}

impl Column {
    /// A column of words.
    pub fn words(key: &str, head: &str) -> Column {
        Column {
            key: key.to_owned(),
            group: None,
            head: head.to_owned(),
            numeric: false,
        }
    }

    /// A column of numbers.
    pub fn numbers(key: &str, head: &str) -> Column {
        Column {
            key: key.to_owned(),
            group: None,
            head: head.to_owned(),
            numeric: true,
        }
    }

    /// A column of numbers under a head shared with its neighbours.
    pub fn grouped(key: &str, group: &'static str, head: &str) -> Column {
        Column {
            key: key.to_owned(),
            group: Some(group),
            head: head.to_owned(),
            numeric: true,
        }
    }

    /// The three columns of a share: runs, per cent, interval.
    pub fn share(group: Option<&'static str>) -> [Column; 3] {
        let key = |k: &str| group.map_or_else(|| k.to_owned(), |g| format!("{g}_{k}"));
        let one = |k: &str, head: &str| Column {
            key: key(k),
            group,
            head: head.to_owned(),
            numeric: true,
        };
        [
            one("runs", "runs"),
            one("share", "%"),
            one("interval", "95 % interval"),
        ]
    }
}

/// The three cells of a share.
pub fn share_cells(share: &Share) -> [Cell; 3] {
    let digits = Digits::for_total(share.total);
    [
        Cell::Count(share.count),
        Cell::Percent(share.share, digits),
        Cell::Interval(share.interval, digits),
    ]
}

impl Row {
    /// A body row.
    pub fn body(cells: impl IntoIterator<Item = Cell>) -> Row {
        Row {
            cells: cells.into_iter().collect(),
            kind: RowKind::Body,
        }
    }

    /// A sum.
    pub fn total(cells: impl IntoIterator<Item = Cell>) -> Row {
        Row {
            cells: cells.into_iter().collect(),
            kind: RowKind::Total,
        }
    }
}
