//! Errors of checkpoints.

use std::path::PathBuf;

use crate::report::files::FileError;

/// Why a checkpoint could not be written, found or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system failed; a full disk is named with the bytes needed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file could not be opened or mapped.
    #[error("{}: cannot read the checkpoint: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not a checkpoint at all.
    #[error("{}: not a gmmk checkpoint: {found}; expected {expected}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What was expected, and what to do.
        expected: String,
    },
    /// A checkpoint of another format version.
    #[error("{}: checkpoint format version {found}; expected {expected}: use the version of gmmk that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: String,
        /// The version this program reads.
        expected: u32,
    },
    /// A checkpoint that is not what was written.
    #[error("{}: damaged at {place}: found {found}; expected {expected}: use another checkpoint of the run (to resume from the one before it, delete this file)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        place: String,
        /// What was found there.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A sound checkpoint of another network.
    #[error("{}: its tensors are not those of the network: {differences}; expected {expected} tensors, found {found}: use the preset or network configuration it was trained with", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The first differences.
        differences: String,
        /// Tensors of the network.
        expected: usize,
        /// Tensors of the file.
        found: usize,
    },
    /// A tensor that the file does not have.
    #[error("{}: has no tensor `{name}`; expected one of the {known} names of its network (optimizer state exists only in a run's own checkpoints)", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// Tensors in the file.
        known: usize,
    },
    /// The caller's tensors or information cannot be stored.
    #[error("{}: cannot save: {what} is {found}; expected {expected}", path.display())]
    Unsavable {
        /// The file that was to be written.
        path: PathBuf,
        /// Which item.
        what: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The source of a tensor failed.
    #[error("{}: cannot save: reading tensor `{name}` failed: {source}", path.display())]
    Source {
        /// The file that was to be written.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What its source said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing to resume or sample from.
    #[error("{}: no usable checkpoint; expected a file, or a run folder with checkpoints/step-N.safetensors{}", path.display(), refusals(refused))]
    NoneFound {
        /// Where it was looked for.
        path: PathBuf,
        /// What was there but refused.
        refused: Vec<String>,
    },
}

fn refusals(refused: &[String]) -> String {
    refused.iter().map(|r| format!("; refused: {r}")).collect()
}
