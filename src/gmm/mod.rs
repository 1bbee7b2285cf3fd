//! Gaussian mixtures: the paper's mathematics in plain f64.

pub mod latent;
