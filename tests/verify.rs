//! The whole network against reference folders made with PyTorch in f64.
#![allow(clippy::unwrap_used)]

use gmmk::device::pool::Pool;
use gmmk::ops::conv2d::Algorithm;
use gmmk::train::verify::{Reference, verify};
use std::path::Path;
use std::sync::Arc;

fn run(dir: &Path, algorithm: Algorithm) {
    let pool = Arc::new(Pool::new(2).unwrap());
    let report = verify(&Reference::load(dir).unwrap(), &pool.into(), algorithm).unwrap();
    let mut bad: Vec<_> = report.checks.iter().filter(|c| !c.passed()).collect();
    bad.sort_by(|a, b| (b.error / b.limit).total_cmp(&(a.error / a.limit)));
    let worst = report
        .checks
        .iter()
        .map(|c| c.error / c.limit)
        .fold(0.0, f64::max);
    println!(
        "{}, {algorithm:?}: {} checks, worst at {worst:.2} of its limit",
        dir.display(),
        report.checks.len()
    );
    assert!(
        bad.is_empty(),
        "{}, {algorithm:?}: {} of {} checks failed, {:#?}",
        dir.display(),
        bad.len(),
        report.checks.len(),
        &bad[..bad.len().min(8)]
    );
    assert!(report.checks.len() > 100);
}

#[test]
fn references_are_met() {
    let mut count = 0;
    let folders = [
        Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference").to_string()),
        std::env::var("GMMK_REFERENCES").ok(),
    ];
    for folder in folders.into_iter().flatten() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().join("config.json").exists() {
                for algorithm in [Algorithm::Direct, Algorithm::Winograd] {
                    run(&entry.path(), algorithm);
                }
                count += 1;
            }
        }
    }
    assert!(count >= 5, "only {count} references found");
}
