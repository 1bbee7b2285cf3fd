//! Training: configuration, the step, the loop, and what a run keeps.

pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod dump;
pub mod held_out;
pub mod history;
pub mod length;
pub mod levels;
pub mod machine;
pub mod metrics;
pub mod page;
pub mod rate;
pub mod report;
pub mod run_dir;
pub mod runs;
pub mod setup;
pub mod space;
pub mod step;
pub mod tensorboard;
pub mod tensors;
pub mod trainer;
pub mod trial;
pub mod verify;
