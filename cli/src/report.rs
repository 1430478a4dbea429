//! `xfi report`.

use crate::args::Output;
use crate::output;
use anyhow::Result;
use std::path::Path;

/// Classifies the journal in `dir` anew, writes the report and prints its
/// tables.
pub(crate) fn run(dir: &Path, out: Option<&Path>, output: Output) -> Result<()> {
    let data = xfi_analysis::load(dir)?;
    let analysis = xfi_analysis::analyse(&data);
    let out = out.map_or_else(|| dir.join("report"), Path::to_owned);
    let written = xfi_analysis::write_report(&analysis, &out)?;
    match output {
        Output::Json => output::json(&analysis),
        Output::Text => {
            output::print(&xfi_analysis::render_text(&analysis));
            if let Some(page) = written.first() {
                output::print(&format!("report: {}", page.display()));
            }
            Ok(())
        }
    }
}
