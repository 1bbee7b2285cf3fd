//! Noise schedules, samplers (on plain slices), and the loop that draws pictures with a network.

pub mod generate;
pub mod request;
pub mod sampler;
pub mod schedule;

use std::ops::{Add, Mul};

/// f32 or f64: what the formulas of this folder are written for. The program runs in f32; f64 is
/// the oracle of the tests. Coefficients are computed in f64 either way.
pub trait Real: Copy + PartialOrd + Add<Output = Self> + Mul<Output = Self> {
    /// The nearest value of this type.
    fn from_f64(x: f64) -> Self;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
}
