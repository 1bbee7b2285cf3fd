//! What a trained denoiser draws, measured against its data: attributes, features, near copies.

pub mod agreement;
pub mod classifier;
pub mod evaluator;
pub mod frechet;
pub mod manifold;
pub mod neighbours;
pub mod probe;
pub mod report;
pub mod statistics;
