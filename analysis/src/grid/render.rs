//! Text, Markdown, CSV and LaTeX.

use super::{Cell, Column, Grid, RowKind};
use crate::AnalysisError;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use std::fmt::Write as _;

impl Grid {
    /// For a terminal, at most `width` columns wide, without colour.
    pub fn to_text(&self, width: u16) -> String {
        let mut table = Table::new();
        table
            .force_no_tty()
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
        let mut last_group = None;
        let two_lines = self.columns.iter().any(|c| c.group.is_some());
        table.set_header(self.columns.iter().map(|c| {
            // A group's name stands over its first column only.
            let group = if c.group == last_group { None } else { c.group };
            last_group = c.group;
            let text = if two_lines {
                format!("{}\n{}", group.unwrap_or_default(), c.head)
            } else {
                c.head.clone()
            };
            comfy_table::Cell::new(text).set_alignment(alignment(c))
        }));
        for row in &self.rows {
            table.add_row(row.cells.iter().zip(&self.columns).map(|(cell, column)| {
                comfy_table::Cell::new(cell.show()).set_alignment(alignment(column))
            }));
        }
        // Names are not broken; words are.
        for (i, column) in self.columns.iter().enumerate() {
            let code = self
                .rows
                .iter()
                .any(|r| matches!(r.cells.get(i), Some(Cell::Code(_))));
            if (code || column.numeric)
                && let Some(column) = table.column_mut(i)
            {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        // Lines between rows would double the height.
        table.remove_style(comfy_table::TableComponent::HorizontalLines);
        table.remove_style(comfy_table::TableComponent::MiddleIntersections);
        let body: Vec<_> = table.lines().map(|l| l.trim_end().to_owned()).collect();
        let mut out = format!("{}\n{}\n", self.title, body.join("\n"));
        for note in &self.notes {
            for line in wrap(note, usize::from(width).saturating_sub(2)) {
                let _ = writeln!(out, "  {line}");
            }
        }
        out
    }

    /// GitHub-flavoured Markdown.
    pub fn to_markdown(&self) -> String {
        let escape = |t: &str| t.replace('\\', "\\\\").replace('|', "\\|");
        let heads: Vec<_> = self.columns.iter().map(|c| escape(&full_head(c))).collect();
        let rules: Vec<_> = self
            .columns
            .iter()
            .map(|c| if c.numeric { "---:" } else { "---" })
            .collect();
        let mut out = format!(
            "**{}**\n\n| {} |\n| {} |\n",
            self.title,
            heads.join(" | "),
            rules.join(" | ")
        );
        for row in &self.rows {
            let cells: Vec<_> = row
                .cells
                .iter()
                .map(|cell| {
                    let text = match cell {
                        Cell::Code(t) if !t.is_empty() => format!("`{}`", escape(t)),
                        other => escape(&other.show()),
                    };
                    match row.kind {
                        RowKind::Total if !text.is_empty() => format!("**{text}**"),
                        _ => text,
                    }
                })
                .collect();
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
        for note in &self.notes {
            let _ = write!(out, "\n{note}\n");
        }
        out
    }

    /// RFC 4180, for machines: shares as fractions, an interval as two columns.
    ///
    /// # Errors
    /// [`AnalysisError::Serialise`].
    pub fn to_csv(&self) -> Result<String, AnalysisError> {
        let failed = |reason: String| AnalysisError::Serialise {
            what: self.id.to_owned(),
            reason,
        };
        let mut writer = csv::Writer::from_writer(Vec::new());
        let spans: Vec<bool> = (0..self.columns.len())
            .map(|i| {
                self.rows
                    .iter()
                    .any(|r| matches!(r.cells.get(i), Some(Cell::Interval(..))))
            })
            .collect();
        let mut head = Vec::new();
        for (column, span) in self.columns.iter().zip(&spans) {
            if *span {
                head.push(format!("{}_lo", column.key));
                head.push(format!("{}_hi", column.key));
            } else {
                head.push(column.key.clone());
            }
        }
        writer
            .write_record(&head)
            .map_err(|e| failed(e.to_string()))?;
        for row in &self.rows {
            let mut record = Vec::new();
            for (cell, span) in row.cells.iter().zip(&spans) {
                match cell {
                    Cell::Interval(i, _) => {
                        record.push(i.lo.to_string());
                        record.push(i.hi.to_string());
                    }
                    Cell::Percent(p, _) => {
                        record.push(p.map(|p| p.to_string()).unwrap_or_default());
                    }
                    other => {
                        record.push(other.show());
                        if *span {
                            record.push(String::new());
                        }
                    }
                }
            }
            writer
                .write_record(&record)
                .map_err(|e| failed(e.to_string()))?;
        }
        let bytes = writer.into_inner().map_err(|e| failed(e.to_string()))?;
        String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
    }

    /// LaTeX for the `booktabs` package.
    pub fn to_latex(&self) -> String {
        let spec: String = self
            .columns
            .iter()
            .map(|c| if c.numeric { 'r' } else { 'l' })
            .collect();
        let mut out = format!(
            "% {}; needs \\usepackage{{booktabs}}\n\\begin{{table}}\n  \\centering\n  \
             \\caption{{{}}}\n  \\label{{tab:xfi-{}}}\n  \\begin{{tabular}}{{{spec}}}\n    \
             \\toprule\n",
            self.id,
            latex(&self.title),
            self.id
        );
        self.latex_groups(&mut out);
        let heads: Vec<_> = self.columns.iter().map(|c| latex(&c.head)).collect();
        let _ = writeln!(out, "    {} \\\\\n    \\midrule", heads.join(" & "));
        let mut body = true;
        for row in &self.rows {
            if body && row.kind == RowKind::Total {
                out.push_str("    \\midrule\n");
            }
            body = row.kind == RowKind::Body;
            let cells: Vec<_> = row
                .cells
                .iter()
                .map(|cell| match cell {
                    Cell::Code(t) if !t.is_empty() => format!("\\texttt{{{}}}", latex(t)),
                    other => latex(&other.show()),
                })
                .collect();
            // A line that begins with "[" would be read as \\'s argument.
            let line = cells.join(" & ");
            let guard = if line.starts_with('[') { "{}" } else { "" };
            let _ = writeln!(out, "    {guard}{line} \\\\");
        }
        out.push_str("    \\bottomrule\n  \\end{tabular}\n");
        for note in &self.notes {
            let _ = writeln!(out, "  \\par\\footnotesize {}", latex(note));
        }
        out.push_str("\\end{table}\n");
        out
    }

    fn latex_groups(&self, out: &mut String) {
        if self.columns.iter().all(|c| c.group.is_none()) {
            return;
        }
        let mut cells = Vec::new();
        let mut rules = String::new();
        let mut start = 0;
        while start < self.columns.len() {
            let group = self.columns[start].group;
            let length = match group {
                None => 1,
                Some(_) => self.columns[start..]
                    .iter()
                    .take_while(|c| c.group == group)
                    .count(),
            };
            match group {
                None => cells.push(String::new()),
                Some(name) => {
                    cells.push(format!("\\multicolumn{{{length}}}{{c}}{{{}}}", latex(name)));
                    let _ = write!(rules, " \\cmidrule(lr){{{}-{}}}", start + 1, start + length);
                }
            }
            start += length;
        }
        let _ = writeln!(out, "    {} \\\\\n   {rules}", cells.join(" & "));
    }
}

fn alignment(column: &Column) -> CellAlignment {
    if column.numeric {
        CellAlignment::Right
    } else {
        CellAlignment::Left
    }
}

fn full_head(column: &Column) -> String {
    match column.group {
        Some(group) => format!("{group} {}", column.head),
        None => column.head.clone(),
    }
}

fn latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '\\' => out.push_str("\\textbackslash{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '×' => out.push_str("$\\times$"),
            '…' => out.push_str("\\ldots{}"),
            c => out.push(c),
        }
    }
    out
}

/// Breaks `text` at spaces into lines of at most `width` characters.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latex_escapes_what_tex_would_read() {
        assert_eq!(
            latex(r"50 % of a_b & {c} \d"),
            r"50 \% of a\_b \& \{c\} \textbackslash{}d"
        );
    }

    #[test]
    fn wrapping_keeps_every_word() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("overlongword x", 4), ["overlongword", "x"]);
        assert!(wrap("", 4).is_empty());
    }
}
