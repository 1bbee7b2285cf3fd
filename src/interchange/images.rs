//! A folder of pictures with their attributes, for programs that measure sets of pictures.
//!
//! ```text
//! export.json       how they were drawn; the mark of such a folder
//! attributes.csv    image_id and the attributes, 0 or 1: CelebA's list_attr_celeba.csv in form
//! 000000.png ...    the pictures
//! ```

use super::InterchangeError;
use super::folder::{claim, pretty, remove};
use crate::diffusion::generate::Request;
use crate::report::files::{io_error, replace_file, replace_with_bytes};
use crate::report::picture::Picture;
use serde::Serialize;
use std::path::{Path, PathBuf};

const FORMAT: &str = "gmmk-images";
const MARK: &str = "export.json";
const LIST: &str = "attributes.csv";

/// How the pictures are drawn.
#[derive(Debug, Clone, Serialize)]
pub struct ImageFacts {
    /// Steps that the model was trained.
    pub step: u64,
    /// Images that it was trained on.
    pub images_seen: u64,
    /// `ema` or `raw`.
    pub weights: &'static str,
    /// The attributes asked for; empty for those of training pictures.
    pub attributes: String,
    /// The sampler.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// Seed of the noise, the latents and the rows.
    pub seed: u64,
    /// Number of pictures.
    pub count: usize,
}

/// An open folder of pictures.
#[derive(Debug)]
pub struct ImageFolder(PathBuf);

impl ImageFolder {
    /// Claims `folder`, removes the pictures of an older export into it, and writes how the new ones are
    /// drawn and their attributes; with `force` whatever else lies there.
    ///
    /// # Errors
    /// A folder that somebody else filled, the file system's.
    pub fn create(
        folder: &Path,
        names: &[String],
        requests: &[Request],
        facts: &ImageFacts,
        force: bool,
    ) -> Result<Self, InterchangeError> {
        let before = claim(folder, MARK, FORMAT, "--images", force)?;
        let old = before.and_then(|mark| mark["drawn"]["count"].as_u64());
        for number in 0..old.unwrap_or(0).min(MOST_PICTURES) {
            remove(&folder.join(picture_name(number as usize)))?;
        }
        let mark = serde_json::json!({"format": FORMAT, "version": 1, "drawn": facts});
        replace_with_bytes(&folder.join(MARK), pretty(&mark).as_bytes())?;
        write_list(&folder.join(LIST), names, requests)?;
        Ok(Self(folder.to_path_buf()))
    }

    /// Writes picture `number`.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, number: usize, picture: &Picture) -> Result<(), InterchangeError> {
        picture.save_png(&self.0.join(picture_name(number)))?;
        Ok(())
    }
}

/// Most pictures of a folder: their names have six digits.
pub const MOST_PICTURES: u64 = 1_000_000;

fn picture_name(number: usize) -> String {
    format!("{number:06}.png")
}

/// Writes [`LIST`].
fn write_list(path: &Path, names: &[String], requests: &[Request]) -> Result<(), InterchangeError> {
    let fail = |source| InterchangeError::List {
        path: path.to_path_buf(),
        source,
    };
    replace_file(path, 0, |file| {
        let mut list = csv::Writer::from_writer(file);
        let header = std::iter::once("image_id").chain(names.iter().map(String::as_str));
        list.write_record(header).map_err(fail)?;
        for (number, request) in requests.iter().enumerate() {
            let digits = request.attributes().map(|a| a.to_string());
            let row = std::iter::once(picture_name(number)).chain(digits);
            list.write_record(row).map_err(fail)?;
        }
        Ok(list.flush().map_err(io_error(path, 0, "write the list"))?)
    })
}
