//! `gmmk verify`.

use super::device::{Choice, PrecisionName, Wish};
use super::terminal::say;
use anyhow::{Result, bail};
use clap::Args;
use gmmk::train::verify::{Reference, verify};
use std::path::PathBuf;

/// Options of `gmmk verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// A reference folder [default: the built-in one]
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value_t = Choice::Auto)]
    device: Choice,
    /// Number formats of a GPU [default: bf16, where there are tensor cores]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Launch a GPU's kernels one by one, not as a graph
    #[arg(long)]
    no_graph: bool,
    /// CPU threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `gmmk verify`.
pub fn run(args: VerifyArgs) -> Result<()> {
    let reference = match &args.reference {
        Some(dir) => Reference::load(dir)?,
        None => Reference::builtin(),
    };
    let (device, name) = Wish {
        device: args.device,
        precision: args.precision.map(Into::into),
        no_graph: args.no_graph,
        threads: args.threads,
    }
    .open()?;
    let report = verify(&reference, &device)?;
    let failed = report.checks.iter().filter(|c| !c.passed()).count();
    if args.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        say(&format!(
            "{}: {} parameters, on {name}",
            report.reference, report.parameters
        ));
        say(&format!(
            "{:<58} {:>10} {:>10}  measure",
            "", "error", "limit"
        ));
        for check in &report.checks {
            let mark = if check.passed() { "" } else { "  FAILED" };
            say(&format!(
                "{:<58} {:>10.2e} {:>10.1e}  {}{mark}",
                check.name, check.error, check.limit, check.measure
            ));
        }
        say(&format!(
            "{} of {} comparisons passed",
            report.checks.len() - failed,
            report.checks.len()
        ));
    }
    if failed > 0 {
        bail!(
            "{failed} of {} comparisons with {} failed",
            report.checks.len(),
            report.reference
        );
    }
    Ok(())
}
