//! A small SVG writer.

use std::fmt::{Display, Write as _};

/// Colours on light paper; `templates/figure.css` has those on dark.
pub(super) const INK: &str = "class=\"xf-ink\" fill=\"#1d2125\"";
pub(super) const MUTE: &str = "class=\"xf-mute\" fill=\"#687078\"";
pub(super) const RULE: &str = "class=\"xf-rule\" stroke=\"#dcdedb\"";
pub(super) const DOT: &str = "class=\"xf-dot\" fill=\"#cdd0cc\"";

/// The steps of the share scale on light paper, from none to all.
pub(super) const SCALE: [&str; 6] = [
    "#ede8d6", "#e9ca89", "#df9b44", "#c9690c", "#9b3b08", "#5e1b10",
];

/// The step of a share: none, then fifths.
pub(super) fn step(share: f64) -> usize {
    if share <= 0.0 {
        0
    } else {
        ((share * 5.0).ceil() as usize).clamp(1, 5)
    }
}

pub(super) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64) -> Svg {
        Svg {
            body: String::new(),
            width,
            height,
        }
    }

    pub(super) fn raw(&mut self, text: impl Display) {
        let _ = writeln!(self.body, "{text}");
    }

    /// Text at its baseline; `paint` is one of the constants above.
    pub(super) fn text(
        &mut self,
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        paint: &str,
        text: &str,
    ) {
        self.labelled(x, y, size, anchor, paint, text, "");
    }

    /// A name from a program.
    pub(super) fn code(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, text: &str) {
        let paint = "class=\"xf-code xf-ink\" fill=\"#1d2125\"";
        self.labelled(
            x,
            y,
            size,
            anchor,
            paint,
            text,
            " font-family=\"monospace\"",
        );
    }

    #[expect(clippy::too_many_arguments, reason = "the two callers above name them")]
    fn labelled(
        &mut self,
        x: f64,
        y: f64,
        size: f64,
        anchor: Anchor,
        paint: &str,
        text: &str,
        font: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " text-anchor=\"middle\"",
            Anchor::End => " text-anchor=\"end\"",
        };
        let text = escape(text);
        self.raw(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\"{anchor}{font} {paint}>{text}</text>"
        ));
    }

    pub(super) fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, paint: &str) {
        self.raw(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {paint}/>"
        ));
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, w: f64, h: f64, paint: &str, title: &str) {
        let title = escape(title);
        self.raw(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" {paint}>\
             <title>{title}</title></rect>"
        ));
    }

    /// A line of ticks from 0 to `end`, a share, with rules over `height`
    /// above it.
    pub(super) fn percent_axis(&mut self, left: f64, width: f64, top: f64, height: f64, end: f64) {
        for tick in 0..=4_u32 {
            let x = left + width * f64::from(tick) / 4.0;
            self.line(x, top, x, top + height, RULE);
            // Two decimals at most, and none that are not needed.
            let text = ((f64::from(tick) * 25.0 * end * 100.0).round() / 100.0).to_string();
            let text = if tick == 4 { format!("{text} %") } else { text };
            self.text(x, top + height + 14.0, 11.0, Anchor::Middle, MUTE, &text);
        }
    }

    /// Closes the picture. `title` is read out by screen readers.
    pub(super) fn finish(self, title: &str) -> String {
        let (w, h, title, body) = (self.width, self.height, escape(title), self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"xf\" role=\"img\" \
             viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" \
             font-family=\"system-ui, 'Segoe UI', Arial, sans-serif\">\n\
             <title>{title}</title>\n{body}</svg>"
        )
    }
}

/// Text for XML. Control characters, which XML 1.0 lacks, are replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_above_none_is_never_drawn_as_none() {
        assert_eq!(
            (step(0.0), step(0.001), step(0.2), step(0.21), step(1.0)),
            (0, 1, 1, 2, 5)
        );
    }
}
