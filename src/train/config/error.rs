//! Errors of the configuration.

use std::path::PathBuf;

use crate::report::files::FileError;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {source}; expected a config.toml of a run", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// Not TOML.
    #[error("{}:{line}: not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A key that does not exist.
    #[error("{}:{line}: unknown key `{key}`; {hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key found.
        key: String,
        /// The nearest key, or all of them.
        hint: String,
    },
    /// A value that cannot be.
    #[error("{}:{line}: `{key}`: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What was expected and found.
        message: String,
    },
    /// A key without which nothing can be started.
    #[error("{}: key `{key}` is missing; expected {expected}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What to write.
        expected: &'static str,
    },
    /// A value that cannot be, outside a file.
    #[error("`{key}` is {found}; expected {expected}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A configuration that has no TOML form.
    #[error("the configuration cannot be written as TOML: {0}")]
    Encode(String),
    /// A resumed run that would not be the same run.
    #[error("the run cannot be resumed with another configuration: {}; leave these options out, or start a new run (only steps, device, threads, sample_every and save_every may change)", list(.0))]
    ResumeDiffers(Vec<Difference>),
}

/// One key that differs between a saved and a wanted configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// Its saved value, as TOML; `(none)` if absent.
    pub saved: String,
    /// Its wanted value.
    pub wanted: String,
}

fn list(differences: &[Difference]) -> String {
    let each = differences
        .iter()
        .map(|d| format!("{} was {}, now {}", d.key, d.saved, d.wanted));
    each.collect::<Vec<_>>().join("; ")
}

/// A parser's message without the names that Rust has for numbers.
pub(super) fn plain(message: &str) -> String {
    let whole = "expected a whole number, 0 or above";
    message
        .trim()
        .replace("expected u64", whole)
        .replace("expected u32", whole)
        .replace("expected f64", "expected a number")
        .replace("expected a boolean", "expected true or false")
}
