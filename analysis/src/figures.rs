//! Figures as SVG, drawn here: no plotting library, no fonts to find, no
//! script.
//!
//! Colours are presentation attributes for light paper; a style sheet changes
//! them where the reader's system is dark. So the files also show right in
//! programs that know no CSS. The scale of shares grows monotonically in
//! lightness (OKLCH, 0.93 to 0.33 on light paper, 0.31 to 0.92 on dark), which
//! keeps it readable in greyscale and with any colour vision.

mod bars;
mod heatmap;
mod svg;

use crate::analysis::Analysis;

/// A figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// File name without extension.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub caption: String,
    /// The `<svg>` element for a page that has [`FIGURE_CSS`].
    pub inline: String,
}

/// The style sheet of all figures.
pub const FIGURE_CSS: &str = include_str!("../templates/figure.css");

impl Figure {
    /// The figure as a file of its own.
    pub fn standalone(&self) -> String {
        let style = format!("<style>{FIGURE_CSS}</style>");
        let open = self.inline.find('>').map_or(0, |i| i + 1);
        let (head, body) = self.inline.split_at(open);
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{head}{style}{body}\n")
    }
}

impl Analysis {
    /// Every figure that its data allow.
    pub fn figures(&self) -> Vec<Figure> {
        if self.headline.fired == 0 {
            return Vec::new();
        }
        let mut figures = vec![
            bars::outcomes(self),
            bars::registers(self),
            heatmap::heatmap(self),
        ];
        if !self.rip.rows.is_empty() {
            figures.push(bars::rip(self));
        }
        figures
    }
}
