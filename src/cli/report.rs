//! `gmmk report`.

use super::terminal::say;
use anyhow::Result;
use clap::Args;
use gmmk::train::report;
use std::path::PathBuf;

/// Options of `gmmk report`.
#[derive(Args)]
pub struct ReportArgs {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Runs `gmmk report`.
pub fn run(args: ReportArgs) -> Result<()> {
    let path = report::write(&args.run)?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}
