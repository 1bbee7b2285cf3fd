//! Gaussian mixtures: the paper's mathematics in plain f64.

pub mod algorithm1;
mod basis;
pub mod distance;
pub mod entropy;
pub mod expansion;
pub mod inverse;
pub mod latent;
pub mod mixture;
pub mod ngmg;
pub mod normal;
mod vector;
pub mod wasserstein;
