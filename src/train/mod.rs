//! What a training run keeps: configuration, checkpoints, metrics, its folder.

pub mod checkpoint;
pub mod config;
pub mod length;
pub mod metrics;
pub mod run_dir;
pub mod tensorboard;
