//! Diffusion models conditioned on Gaussian mixtures: training and sampling.
//!
//! A training step is *recorded once* on a tape, *planned once* (memory), and *replayed* as often
//! as needed on a device. The folders are floors of a house; each uses only the floors below it:
//! `cli` > `reproduce`, `interchange` > `evaluate` > `train` > `diffusion` > `model` > `ops` > `tape`, `gmm`, `data` > `device`, `report`, `rng`.

pub mod data;
pub mod device;
pub mod diffusion;
pub mod evaluate;
pub mod gmm;
pub mod interchange;
pub mod model;
pub mod ops;
pub mod report;
pub mod reproduce;
pub mod rng;
pub mod tape;
pub mod train;
