//! Errors of models and pictures for other programs.

use crate::diffusion::schedule::ScheduleError;
use crate::gmm::latent::LatentError;
use crate::model::ConfigError;
use crate::report::files::FileError;
use crate::report::picture::PictureError;
use crate::tape::TapeError;
use crate::tape::executable::DeviceError;
use crate::train::checkpoint::CheckpointError;
use crate::train::config;
use crate::train::setup::SetupError;
use std::path::{Path, PathBuf};

/// A model cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum InterchangeError {
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A picture cannot be written.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The list of pictures cannot be written.
    #[error("{}: cannot write the list of pictures: {source}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The run's configuration.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The run cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The tokens.
    #[error(transparent)]
    Latent(#[from] LatentError),
    /// The network does not take these inputs.
    #[error(transparent)]
    Tape(#[from] TapeError),
    /// Not enough memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// The network's configuration is not one of this family.
    #[error("{}: {source}; expected a UNet2DConditionModel of gmmk's family", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A file cannot be read.
    #[error("{}: cannot read it: {source}; expected {expected}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What it should be.
        expected: String,
    },
    /// A file says something else than it should.
    #[error("{}: {place}: expected {expected}, found {found}", path.display())]
    Wrong {
        /// The file or folder.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The weights are not those of the network.
    #[error("{}: its tensors are not those of {}: {differences}", path.display(), config.display())]
    Tensors {
        /// The file of the weights.
        path: PathBuf,
        /// The file of the network's configuration.
        config: PathBuf,
        /// The first differences.
        differences: String,
    },
    /// A folder that somebody else filled.
    #[error("{}: expected an empty folder, or one that `gmmk export {option}` wrote, found {found} in it; choose another folder, or write into it with --force", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// The option that writes such a folder.
        option: &'static str,
        /// What lies there.
        found: String,
    },
}

/// An [`InterchangeError::Wrong`].
pub(super) fn wrong(
    path: &Path,
    place: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> InterchangeError {
    InterchangeError::Wrong {
        path: path.to_path_buf(),
        place: place.into(),
        expected: expected.into(),
        found: found.into(),
    }
}
