//! `gmmk verify`.

use super::device::DeviceArgs;
use super::terminal::say;
use anyhow::{Result, bail};
use clap::Args;
use gmmk::device::Device;
use gmmk::device::cuda::Precision;
use gmmk::ops::conv2d::Algorithm;
use gmmk::tape::executable::NodeError;
use gmmk::train::verify::{Reference, verify, verify_nodes};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Options of `gmmk verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// A reference folder [default: the built-in one]
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Compare every node of the step on a GPU with the CPU's op on the same inputs
    #[arg(long)]
    nodes: bool,
    /// Convolutions on a CPU as the sums they are; else by Winograd's algorithm wherever channels allow
    #[arg(long)]
    exact: bool,
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
    let (device, name) = args.device.wish().open()?;
    if args.nodes {
        return nodes(&args, &reference, &device, &name);
    }
    let algorithm = if args.exact {
        Algorithm::Direct
    } else {
        Algorithm::Winograd
    };
    let report = verify(&reference, &device, algorithm)?;
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

/// Relative length of a node's error that one op on the same inputs stays below: some hundred roundoffs
/// of f32; of tf32, with its 11 bits; of bf16, with its 8.
fn limit(device: &Device) -> f64 {
    match device.gpu.as_ref().map(|gpu| gpu.precision) {
        Some(Precision::Bf16) => 2e-2,
        Some(Precision::Tf32) => 3e-3,
        _ => 1e-5,
    }
}

/// Every node beside the CPU's op: a line for each kind of op, and the first node that is off.
fn nodes(args: &VerifyArgs, reference: &Reference, device: &Device, name: &str) -> Result<()> {
    if device.gpu.is_none() {
        bail!("--nodes compares a GPU with the CPU, and this is {name}; choose --device cuda");
    }
    let errors = verify_nodes(reference, device)?;
    let limit = limit(device);
    let off: Vec<&NodeError> = errors
        .iter()
        .filter(|e| e.relative.is_nan() || e.relative > limit)
        .collect();
    let mut ops: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for error in &errors {
        let entry = ops.entry(error.op).or_default();
        *entry = (entry.0 + 1, entry.1.max(error.relative));
    }
    if args.json {
        let ops: BTreeMap<_, _> = ops
            .iter()
            .map(|(op, (count, worst))| (op, json!({ "outputs": count, "worst": worst })))
            .collect();
        let all = json!({ "device": name, "limit": limit, "off": off.len(), "ops": ops });
        say(&serde_json::to_string_pretty(&all)?);
    } else {
        say(&format!("{} nodes' outputs on {name}", errors.len()));
        say(&format!("{:<24} {:>7} {:>12}", "op", "outputs", "worst"));
        for (op, (count, worst)) in &ops {
            say(&format!("{op:<24} {count:>7} {worst:>12.2e}"));
        }
    }
    if let Some(e) = off.first() {
        let (index, want, got) = e.worst;
        bail!(
            "{} of {} outputs are off by more than {limit:.0e}; the first: {}: {}: output {}: relative error {:.2e}; element {index}: expected {want:e}, found {got:e}",
            off.len(),
            errors.len(),
            e.scope,
            e.op,
            e.output,
            e.relative
        );
    }
    Ok(())
}
