//! Training.

pub mod verify;
