//! What can go wrong on the way to a GPU and on it.

use cudarc::driver::DriverError;

/// A GPU cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// No driver library, or no device behind it.
    #[error("no NVIDIA GPU: {0}")]
    NoDevice(String),
    /// The kernel compiler is missing.
    #[error("{0}")]
    NoCompiler(String),
    /// The driver refused something.
    #[error("{device}: {what}: {code}")]
    Driver {
        /// Name of the device.
        device: String,
        /// What was asked for.
        what: String,
        /// The driver's name of the error, and its text.
        code: String,
    },
    /// A kernel does not compile.
    #[error("kernel {kernel} for {arch}: {log}")]
    Compile {
        /// File, entry and definitions.
        kernel: String,
        /// Architecture, such as sm_89.
        arch: String,
        /// What the compiler said, with source lines.
        log: String,
    },
    /// An op has no form for this device or precision.
    #[error("{scope}: {op}: {what}")]
    Unsupported {
        /// Where in the network.
        scope: String,
        /// Name of the op.
        op: String,
        /// What is missing.
        what: String,
    },
    /// The device's memory is too small.
    #[error(
        "{device}: out of memory: {what} needs {bytes} bytes, {free} are free; use a smaller batch or preset"
    )]
    Memory {
        /// Name of the device.
        device: String,
        /// What the memory is for.
        what: &'static str,
        /// How much.
        bytes: usize,
        /// How much there is.
        free: usize,
    },
}

/// The driver's name of an error, and its text.
pub(super) fn describe(error: DriverError) -> String {
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned());
    let text = error
        .error_string()
        .map(|n| n.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{name} ({text})"),
        _ => format!("error {}", error.0 as i32),
    }
}
