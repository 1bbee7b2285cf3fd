//! Symbols that no real driver has: findings and options for test harnesses.

use super::{driver, put, put_string, string};
use crate::driver::{code, init, with};
use std::ffi::c_char;

driver! {
    // The number of the calling thread's findings.
    fn vgpu_findings(count: *mut usize) {
        with(|d| put(count, d.findings().len()))
    }

    // The calling thread's findings, a line each, as far as they fit.
    fn vgpu_findings_text(text: *mut c_char, len: usize) {
        with(|d| {
            let lines: Vec<String> = d.findings().iter().map(ToString::to_string).collect();
            put_string(text, len, &lines.join("\n"))
        })
    }

    // Forgets the calling thread's findings, and errors that kernels have left.
    fn vgpu_clear() {
        with(|d| { d.forget(); Ok(()) })
    }

    // The FLOPs of the next kernel that this thread executes, without padding: a formula of the problem.
    fn vgpu_useful_flop(flop: u64) {
        with(|d| {
            d.useful.insert(std::thread::current().id(), flop);
            Ok(())
        })
    }

    // Sets an option by its name without `VGPU_`, in small letters.
    fn vgpu_set(key: *const c_char, value: *const c_char) {
        init()?;
        let (key, value) = (string(key)?, string(value)?);
        with(|d| d.set(&key, &value).map_err(|e| {
            eprintln!("vgpu: {e}");
            code::INVALID_VALUE
        }))
    }
}
