//! Pictures and plots as PNG files, and the atomic replacement of files.

pub mod curve;
pub mod files;
pub mod grid;
pub mod picture;
