//! Register × bit: the failure share of each cell.

use super::Figure;
use super::svg::{Anchor, DOT, INK, MUTE, RULE, SCALE, Svg, step};
use crate::analysis::Analysis;
use crate::tables::BitCell;
use std::collections::{BTreeMap, BTreeSet};
use xfi_model::Register;

const CELL_W: f64 = 14.0;
const CELL_H: f64 = 17.0;
const LEFT: f64 = 54.0;
const TOP: f64 = 26.0;
const BITS: u32 = 64;

pub(super) fn heatmap(a: &Analysis) -> Figure {
    let cells: BTreeMap<(Register, u32), BitCell> = a
        .registers
        .cells
        .iter()
        .map(|c| ((c.register, c.bit), *c))
        .collect();
    // Registers that were planned appear even when nothing fired in them.
    let registers: BTreeSet<Register> = a.runs.iter().filter_map(|r| r.register).collect();
    let grid_w = CELL_W * f64::from(BITS);
    let grid_h = CELL_H * registers.len() as f64;
    let mut svg = Svg::new(LEFT + grid_w + 66.0, TOP + grid_h + 46.0);

    for bit in (0..BITS).step_by(8) {
        let x = LEFT + CELL_W * f64::from(bit);
        svg.text(
            x + CELL_W / 2.0,
            TOP - 8.0,
            11.0,
            Anchor::Middle,
            MUTE,
            &bit.to_string(),
        );
        svg.line(x - 0.5, TOP - 3.0, x - 0.5, TOP + grid_h, RULE);
    }
    svg.text(LEFT - 8.0, TOP - 8.0, 11.0, Anchor::End, MUTE, "bit");
    svg.text(
        LEFT + grid_w + 60.0,
        TOP - 8.0,
        11.0,
        Anchor::End,
        MUTE,
        "failed/fired",
    );

    for (row, register) in registers.iter().enumerate() {
        let y = TOP + CELL_H * row as f64;
        svg.code(LEFT - 8.0, y + 12.5, 12.0, Anchor::End, register.name());
        let mut quiet = String::new();
        for bit in 0..BITS {
            if register.check_bit(bit).is_err() {
                continue;
            }
            let x = LEFT + CELL_W * f64::from(bit);
            match cells.get(&(*register, bit)) {
                Some(cell) => draw_cell(&mut svg, x, y, cell),
                // Not run: a dot, one path for the whole row to keep files small.
                None => {
                    let (cx, cy) = (x + CELL_W / 2.0 - 1.0, y + CELL_H / 2.0 - 1.0);
                    quiet.push_str(&format!("M{cx:.1} {cy:.1}h2v2h-2z"));
                }
            }
        }
        if !quiet.is_empty() {
            svg.raw(format_args!("<path {DOT} d=\"{quiet}\"/>"));
        }
        if let Some(r) = a.registers.rows.iter().find(|r| r.register == *register) {
            let total = format!("{}/{}", r.failed.count, r.failed.total);
            svg.text(
                LEFT + grid_w + 60.0,
                y + 12.5,
                11.0,
                Anchor::End,
                INK,
                &total,
            );
        }
    }
    legend(&mut svg, TOP + grid_h + 24.0);
    let title = "Failure share by register and bit".to_owned();
    Figure {
        id: "heatmap",
        inline: svg.finish(&title),
        title,
        caption: "Colour: share of the runs in a cell in which target, bystander or host failed. \
                  Number: runs, where more than one. Dot: no run; blank: not a bit that can be \
                  flipped; ?: not judged. Most cells have few runs: read rows before cells."
            .to_owned(),
    }
}

fn draw_cell(svg: &mut Svg, x: f64, y: f64, cell: &BitCell) {
    let judged = cell.runs - cell.unjudged;
    let what = format!(
        "{} bit {}: {} of {} failed{}",
        cell.register,
        cell.bit,
        cell.failed,
        cell.runs,
        if cell.unjudged > 0 {
            format!(", {} unjudged", cell.unjudged)
        } else {
            String::new()
        }
    );
    let (w, h) = (CELL_W - 1.0, CELL_H - 1.0);
    let (tx, ty) = (x + w / 2.0, y + 11.5);
    if judged == 0 {
        svg.rect(x, y, w, h, &format!("fill=\"none\" {RULE}"), &what);
        svg.text(tx, ty, 9.0, Anchor::Middle, MUTE, "?");
        return;
    }
    let level = step(cell.failed as f64 / judged as f64);
    svg.rect(
        x,
        y,
        w,
        h,
        &format!("class=\"xf-s{level}\" fill=\"{}\"", SCALE[level]),
        &what,
    );
    if cell.runs > 1 {
        let ink = if level >= 3 { "#ffffff" } else { "#1d2125" };
        let paint = format!("class=\"xf-n{level}\" fill=\"{ink}\" pointer-events=\"none\"");
        let size = if cell.runs < 10 { 9.0 } else { 7.5 };
        svg.text(tx, ty, size, Anchor::Middle, &paint, &cell.runs.to_string());
    }
}

fn legend(svg: &mut Svg, y: f64) {
    let mut x = LEFT;
    let words = [
        "none failed",
        "to 20 %",
        "to 40 %",
        "to 60 %",
        "to 80 %",
        "to all failed",
    ];
    for (level, words) in words.iter().enumerate() {
        let paint = format!("class=\"xf-s{level}\" fill=\"{}\"", SCALE[level]);
        svg.rect(x, y - 10.0, 13.0, 13.0, &paint, words);
        svg.text(x + 18.0, y, 11.0, Anchor::Start, MUTE, words);
        x += if level == 0 { 92.0 } else { 74.0 };
    }
    x += 24.0;
    svg.raw(format_args!(
        "<path {DOT} d=\"M{x:.1} {:.1}h2v2h-2z\"/>",
        y - 5.0
    ));
    svg.text(x + 10.0, y, 11.0, Anchor::Start, MUTE, "no run");
    x += 66.0;
    svg.rect(
        x,
        y - 10.0,
        13.0,
        13.0,
        &format!("fill=\"none\" {RULE}"),
        "not judged",
    );
    svg.text(x + 6.5, y, 9.0, Anchor::Middle, MUTE, "?");
    svg.text(x + 18.0, y, 11.0, Anchor::Start, MUTE, "not judged");
}
