//! Readers that the library does not hand out, compiled from their own files.
#![allow(dead_code)]

/// Where `numbers.rs` looks for it.
pub mod terminal {
    /// Says nothing.
    pub fn warn(_: &str) {}
}

#[path = "../../src/cli/numbers.rs"]
pub mod numbers;

/// Where `cache.rs` looks for it.
pub mod nvrtc {
    /// One compilation's results.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Image {
        /// Machine code.
        pub cubin: Vec<u8>,
        /// Intermediate code.
        pub ptx: Vec<u8>,
    }
}

#[path = "../../src/device/cuda/cache.rs"]
pub mod cache;
