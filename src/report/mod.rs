//! Pictures and plots as PNG files, and the atomic replacement of files.
