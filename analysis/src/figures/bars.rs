//! Shares with their intervals, and where the flips landed.

use super::Figure;
use super::svg::{Anchor, INK, MUTE, RULE, SCALE, Svg, escape};
use crate::analysis::Analysis;
use crate::grid::share_words;
use crate::stats::Share;
use crate::tables::window_words;

const MARK: &str = "class=\"xf-mark\" fill=\"#9b3b08\"";
const RING: &str = "class=\"xf-ring\" fill=\"#fcfcfa\" stroke=\"#5d6872\" stroke-width=\"1.6\"";
const WHISKER: &str =
    "class=\"xf-whisker\" stroke=\"#c9690c\" stroke-width=\"2.4\" stroke-linecap=\"round\"";
const WHISKER2: &str =
    "class=\"xf-whisker2\" stroke=\"#97a1aa\" stroke-width=\"1.4\" stroke-linecap=\"round\"";

/// One share: its interval as a line, its value as a dot, on an axis that ends
/// at `most`.
struct Whisker<'a> {
    share: &'a Share,
    target: bool,
    what: String,
}

impl Whisker<'_> {
    fn draw(&self, svg: &mut Svg, left: f64, y: f64, scale: f64) {
        let share = self.share;
        let Some(value) = share.share else { return };
        let (lo, hi) = (
            left + scale * share.interval.lo,
            left + scale * share.interval.hi,
        );
        let title = escape(&format!(
            "{}: {} of {}, {}",
            self.what,
            share.count,
            share.total,
            share_words(share)
        ));
        let (line, dot, radius) = if self.target {
            (WHISKER, MARK, 4.0)
        } else {
            (WHISKER2, RING, 3.2)
        };
        svg.raw(format_args!("<g><title>{title}</title>"));
        svg.line(lo, y, hi, y, line);
        let x = left + scale * value;
        svg.raw(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" {dot}/></g>"
        ));
    }
}

/// Where an axis for shares up to `most` ends: a round share not below it.
fn axis_end(most: f64) -> f64 {
    [0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 0.6]
        .into_iter()
        .find(|end| *end >= most)
        .unwrap_or(1.0)
}

pub(super) fn outcomes(a: &Analysis) -> Figure {
    let table = &a.outcomes;
    let (left, width, top, row_h) = (136.0, 210.0, 24.0, 30.0);
    let failures: Vec<_> = table.rows.iter().filter(|r| r.mode.is_failure()).collect();
    let most = failures
        .iter()
        .flat_map(|r| [r.target.interval.hi, r.bystander.interval.hi])
        .fold(0.0, f64::max);
    let end = axis_end(most);
    let height = row_h * failures.len() as f64;
    let mut svg = Svg::new(left + width + 86.0, top + height + 64.0);
    svg.percent_axis(left, width, top, height, end);
    // Key, and heads of the counts at the right.
    svg.raw(format_args!(
        "<circle cx=\"{:.1}\" cy=\"9\" r=\"4\" {MARK}/>",
        left + 4.0
    ));
    svg.text(left + 13.0, 13.0, 11.0, Anchor::Start, INK, "target");
    svg.raw(format_args!(
        "<circle cx=\"{:.1}\" cy=\"9\" r=\"3.2\" {RING}/>",
        left + 68.0
    ));
    svg.text(left + 77.0, 13.0, 11.0, Anchor::Start, INK, "bystander");
    svg.text(left + width + 46.0, 13.0, 11.0, Anchor::End, MUTE, "target");
    svg.text(left + width + 84.0, 13.0, 11.0, Anchor::End, MUTE, "byst.");
    let counts = |svg: &mut Svg, y: f64, target: &Share, bystander: &Share| {
        let x = left + width;
        svg.text(
            x + 46.0,
            y,
            12.0,
            Anchor::End,
            INK,
            &target.count.to_string(),
        );
        svg.text(
            x + 84.0,
            y,
            12.0,
            Anchor::End,
            MUTE,
            &bystander.count.to_string(),
        );
    };
    for (i, row) in failures.iter().enumerate() {
        let y = top + row_h * (i as f64 + 0.5);
        svg.code(left - 12.0, y + 4.0, 12.0, Anchor::End, row.mode.label());
        for (share, target, dy) in [(&row.target, true, -5.5), (&row.bystander, false, 5.5)] {
            let who = if target { "target" } else { "bystander" };
            let what = format!("{who}, {}", row.mode);
            Whisker {
                share,
                target,
                what,
            }
            .draw(&mut svg, left, y + dy, width / end);
        }
        counts(&mut svg, y + 4.0, &row.target, &row.bystander);
    }
    // No effect has no place on the failures' axis: it is told in words.
    if let Some(row) = table.rows.iter().find(|r| !r.mode.is_failure()) {
        let y = top + height + 46.0;
        svg.line(0.0, y - 19.0, left + width + 84.0, y - 19.0, RULE);
        svg.code(left - 12.0, y, 12.0, Anchor::End, row.mode.label());
        svg.text(left, y, 12.0, Anchor::Start, INK, &share_words(&row.target));
        counts(&mut svg, y, &row.target, &row.bystander);
    }
    let title = "What the clients saw".to_owned();
    Figure {
        id: "outcomes",
        inline: svg.finish(&title),
        title,
        caption: format!(
            "Share of {} injections that fired, with 95 % interval; no_effect: none within {}.",
            table.total,
            window_words(table.window_ns)
        ),
    }
}

pub(super) fn registers(a: &Analysis) -> Figure {
    let mut rows: Vec<_> = a.registers.rows.iter().collect();
    rows.sort_by(|x, y| {
        let share = |s: &Share| s.share.unwrap_or(0.0);
        share(&y.failed)
            .total_cmp(&share(&x.failed))
            .then_with(|| y.failed.total.cmp(&x.failed.total))
            .then_with(|| x.register.cmp(&y.register))
    });
    let (left, width, top, row_h) = (58.0, 280.0, 8.0, 20.0);
    let height = row_h * rows.len() as f64;
    let mut svg = Svg::new(left + width + 56.0, top + height + 24.0);
    svg.percent_axis(left, width, top, height, 1.0);
    for (i, row) in rows.iter().enumerate() {
        let y = top + row_h * (i as f64 + 0.5);
        svg.code(left - 10.0, y + 4.0, 12.0, Anchor::End, row.register.name());
        if let Some(share) = row.failed.share.filter(|s| *s > 0.0) {
            let paint = format!("class=\"xf-s2\" fill=\"{}\"", SCALE[2]);
            svg.rect(
                left,
                y - 6.0,
                width * share,
                12.0,
                &paint,
                &share_words(&row.failed),
            );
        }
        let i = row.failed.interval;
        let ink = "class=\"xf-line\" stroke=\"#5d6872\" stroke-width=\"1.2\"";
        let (lo, hi) = (left + width * i.lo, left + width * i.hi);
        svg.line(lo, y, hi, y, ink);
        svg.line(lo, y - 3.5, lo, y + 3.5, ink);
        svg.line(hi, y - 3.5, hi, y + 3.5, ink);
        let total = format!("{}/{}", row.failed.count, row.failed.total);
        svg.text(left + width + 54.0, y + 4.0, 11.0, Anchor::End, INK, &total);
    }
    let title = "Failure share by register".to_owned();
    Figure {
        id: "registers",
        inline: svg.finish(&title),
        title,
        caption: "Share of the injections that fired in which target, bystander or host failed, \
                  with 95 % interval; failed/fired at the right."
            .to_owned(),
    }
}

pub(super) fn rip(a: &Analysis) -> Figure {
    let rows = a.rip.shown();
    let (left, width, top, row_h) = (300.0, 240.0, 4.0, 20.0);
    let height = row_h * rows.len() as f64;
    let mut svg = Svg::new(left + width + 110.0, top + height + 8.0);
    let most = rows.first().map_or(1, |r| r.runs).max(1) as f64;
    svg.line(left, top, left, top + height, RULE);
    for (i, row) in rows.iter().enumerate() {
        let y = top + row_h * (i as f64 + 0.5);
        let name = row.symbol.clone().unwrap_or_else(|| row.rip.to_string());
        svg.code(left - 10.0, y + 4.0, 11.5, Anchor::End, &shorten(&name));
        let w = width * row.runs as f64 / most;
        let what = format!(
            "{} ({}): {} flips, {} failed",
            name, row.rip, row.runs, row.failed
        );
        svg.rect(
            left,
            y - 6.0,
            w,
            12.0,
            "class=\"xf-bar\" fill=\"#b9c0c6\"",
            &what,
        );
        let failed = width * row.failed as f64 / most;
        if row.failed > 0 {
            let paint = format!("class=\"xf-s3\" fill=\"{}\"", SCALE[3]);
            svg.rect(left, y - 6.0, failed, 12.0, &paint, &what);
        }
        let percent = 100.0 * row.runs as f64 / a.rip.total.max(1) as f64;
        let text = format!("{} ({percent:.0} %)", row.runs);
        svg.text(left + w + 6.0, y + 4.0, 11.0, Anchor::Start, INK, &text);
    }
    let title = "Where the flips landed".to_owned();
    Figure {
        id: "rip",
        inline: svg.finish(&title),
        title,
        caption: format!(
            "The commonest instructions among {} flips at {} different ones; the dark part of a \
             bar failed.",
            a.rip.total, a.rip.distinct
        ),
    }
}

/// Keeps the beginning and the offset of a long symbol.
fn shorten(name: &str) -> String {
    const MOST: usize = 40;
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= MOST {
        return name.to_owned();
    }
    let tail = chars.len() - 14;
    let head: String = chars[..MOST - 15].iter().collect();
    let tail: String = chars[tail..].iter().collect();
    format!("{head}…{tail}")
}
