//! Makes the report of a run directory: `cargo run -p xfi-analysis --example
//! report -- DIR`. The command `xfi report` does this and more.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: report DIR")?;
    let dir = Path::new(&dir);
    let analysis = xfi_analysis::analyse(&xfi_analysis::load(dir)?);
    println!("{}", xfi_analysis::render_text(&analysis));
    let written = xfi_analysis::write_report(&analysis, &dir.join("report"))?;
    println!("{} files, first {}", written.len(), written[0].display());
    Ok(())
}
