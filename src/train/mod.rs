//! Training: configuration, the step, the loop, and what a run keeps.

pub mod checkpoint;
pub mod config;
pub mod length;
pub mod metrics;
pub mod run_dir;
pub mod tensorboard;
pub mod verify;
