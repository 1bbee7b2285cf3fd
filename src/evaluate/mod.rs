//! What a trained denoiser draws, measured against its data: attributes, features, near copies.

pub mod agreement;
pub mod classifier;
pub mod frechet;
pub mod manifold;
pub mod neighbours;
pub mod statistics;
