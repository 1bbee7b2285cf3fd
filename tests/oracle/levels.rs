//! The same tests on the lower instruction sets. A process has one level for its life, so this test
//! runs others of its binary again as a child.

use gmmk::device::simd::{Level, level};
use std::process::Command;

const VARIABLE: &str = "GMMK_SIMD";

#[test]
fn the_level_is_the_one_asked_for() {
    match std::env::var(VARIABLE).as_deref() {
        Ok("portable") => assert_eq!(level(), Level::Portable),
        Ok("avx2") => assert!(level() <= Level::Avx2),
        _ => {}
    }
}

/// What uses the micro-kernels and the vector loops.
const SUBSET: [&str; 9] = [
    "conv2d_every_combination",
    "conv2d_around_the_tiles",
    "conv2d_strips",
    "linear_",
    "attention_",
    "norm_",
    "slices",
    "adamw_follows",
    "the_level",
];

fn passes_on(name: &str) {
    if std::env::var_os(VARIABLE).is_some() {
        // This is a child, or a person who asked for one level.
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .env(VARIABLE, name)
        .args(SUBSET)
        .args(["--skip", "refuse", "--skip", "passes_on"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{name}: {text}");
    let ran = text.lines().filter(|l| l.ends_with("... ok")).count();
    assert!(ran >= 20, "{name}: only {ran} tests ran: {text}");
}

#[test]
fn passes_on_avx2() {
    passes_on("avx2");
}

#[test]
fn passes_on_portable() {
    passes_on("portable");
}
