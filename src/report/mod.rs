//! Pictures and plots as PNG files, and the atomic replacement of files.

pub mod figure;
pub mod files;
pub mod grid;
pub mod picture;
pub mod text;
