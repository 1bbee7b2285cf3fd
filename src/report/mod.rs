//! Pictures and plots as PNG files, pages of HTML, and the atomic replacement of files.

pub mod figure;
pub mod files;
pub mod grid;
pub mod html;
pub mod picture;
pub mod text;
