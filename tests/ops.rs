//! Every op on the CPU against a float64 oracle: outputs, gradients (central finite differences of
//! the oracle), equal bits for any number of threads, poisoned memory, every instruction set, and
//! shape errors.
//!
//! `GMMK_TEST_SEED=n` shifts the seeds of the random shapes; a failure names the seed it had.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod oracle;

#[path = "oracle/levels.rs"]
mod levels;

use gmmk::device::Device;

/// What `run` makes on each of the devices whose results must have the same bits: here 1, 2, 3 and 5
/// worker threads.
fn on_devices<T>(run: impl FnMut(Device) -> T) -> Vec<(String, T)> {
    let counts = [1, 2, 3, 5].map(|threads| format!("{threads} threads"));
    let devices = [1, 2, 3, 5].map(|threads| oracle::pool(threads).into());
    counts.into_iter().zip(devices.map(run)).collect()
}

/// One of the devices, another for every `case`.
fn device(case: usize) -> Device {
    oracle::pool(1 + case % 3).into()
}

/// What `run` makes on devices with rougher number formats than f32, with their unit roundoffs: none.
fn on_rough_devices<T>(_run: impl FnMut(Device) -> T) -> Vec<(String, f64, T)> {
    Vec::new()
}

/// Whether this test's next program is one to run: all of them.
fn takes() -> bool {
    true
}
