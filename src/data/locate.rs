//! Where a data set lies when the user did not say, and whether it is there when he did.

use std::path::{Path, PathBuf};

use super::error::listing;
use super::{Celeba, Cifar10, DataError, celeba, cifar10};

/// Data sets that come from files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSet {
    /// The aligned faces of CelebA.
    Celeba,
    /// CIFAR-10, binary version.
    Cifar10,
}

impl DataSet {
    /// Its name on the command line, and that of its folder under `./data` or `$GMMK_DATA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Celeba => "celeba",
            Self::Cifar10 => "cifar10",
        }
    }

    fn is_in(self, folder: &Path) -> bool {
        match self {
            Self::Celeba => Celeba::is_in(folder),
            Self::Cifar10 => Cifar10::is_in(folder),
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Celeba => celeba::HINT,
            Self::Cifar10 => cifar10::HINT,
        }
    }

    fn looked_for(self) -> &'static str {
        match self {
            Self::Celeba => Celeba::LOOKED_FOR,
            Self::Cifar10 => Cifar10::LOOKED_FOR,
        }
    }
}

/// The folder that holds `data_set`: `data` (the `--data` option) where given, else `$GMMK_DATA`,
/// else `./data`; each itself or its sub-folder named after the data set. None when nothing was
/// given and nothing is there.
///
/// A folder that holds only a part counts as found, so that opening it says what is missing.
///
/// # Errors
/// [`DataError::NotFound`] when `data` is given but holds no such data set.
pub fn locate(data: Option<&Path>, data_set: DataSet) -> Result<Option<PathBuf>, DataError> {
    let from_environment = std::env::var_os("GMMK_DATA").map(PathBuf::from);
    let usual: Vec<PathBuf> = from_environment
        .into_iter()
        .chain([PathBuf::from("data")])
        .collect();
    locate_among(data, &usual, data_set)
}

/// [`locate`] with the folders to try when `data` is not given.
///
/// # Errors
/// As [`locate`].
pub fn locate_among(
    data: Option<&Path>,
    usual: &[PathBuf],
    data_set: DataSet,
) -> Result<Option<PathBuf>, DataError> {
    let in_or_below = |folder: &Path| {
        [folder.to_path_buf(), folder.join(data_set.name())]
            .into_iter()
            .find(|folder| data_set.is_in(folder))
    };
    if let Some(file) = data.filter(|path| path.is_file()) {
        // A zip is a data set; opening any other file says what it is.
        return Ok(Some(file.to_path_buf()));
    }
    let Some(folder) = data else {
        return Ok(usual.iter().find_map(|folder| in_or_below(folder)));
    };
    in_or_below(folder)
        .map(Some)
        .ok_or_else(|| DataError::NotFound {
            folder: folder.to_path_buf(),
            data_set: format!("{} data set", data_set.name()),
            looked_for: format!(
                "{}, there and in its sub-folder {}/",
                data_set.looked_for(),
                data_set.name()
            ),
            found: listing(folder),
            hint: data_set.hint(),
        })
}
