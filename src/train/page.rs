//! The page of samples that a run draws again and again: the same noise, the same attributes, so
//! that pages can be compared.

use crate::data::{Candidates, RequestError, parse_request};
use crate::diffusion::generate::Request;
use crate::report::grid::Sheet;
use crate::report::picture::{Picture, PictureError};

/// What each row of the page asks for.
#[derive(Clone, Debug)]
pub struct Page {
    /// One request per picture, row by row.
    pub requests: Vec<Request>,
    captions: Vec<String>,
    columns: usize,
}

/// Rows of a page for CelebA's attributes.
const FACES: [&str; 4] = [
    "Smiling,Blond_Hair,-Male,-Wearing_Hat,-Eyeglasses",
    "Male,Eyeglasses,-Smiling,-Wearing_Hat",
    "Male,-No_Beard,Black_Hair,-Eyeglasses,-Wearing_Hat",
    "Wearing_Hat,Smiling",
];
/// Rows of a page for classes: all ten of CIFAR-10, some of many.
const CLASSES: usize = 10;
/// Pictures per row.
const COLUMNS: usize = 6;

impl Page {
    /// A page for a data set: rows of requests it understands, completed from training rows
    /// (`rows`, K values each) by seed; a row per class, ten at most, where attributes are classes.
    ///
    /// # Errors
    /// There are no training rows.
    pub fn new(
        names: &[String],
        one_hot: bool,
        rows: &[u8],
        seed: u64,
    ) -> Result<Self, RequestError> {
        let wanted: Vec<String> = if one_hot {
            let rows = names.len().min(CLASSES);
            let spread = |row: usize| names[row * names.len() / rows].clone();
            (0..rows).map(spread).collect()
        } else {
            FACES
                .iter()
                .filter(|r| parse_request(r, names, false).is_ok())
                .map(|r| r.to_string())
                .collect()
        };
        let texts = if wanted.is_empty() {
            vec![String::new(); FACES.len()]
        } else {
            wanted
        };
        let columns = if one_hot { COLUMNS / 2 } else { COLUMNS };
        let mut page = Self {
            requests: Vec::new(),
            captions: Vec::new(),
            columns,
        };
        for text in &texts {
            let request = if text.is_empty() {
                vec![None; names.len()]
            } else {
                parse_request(text, names, one_hot)?
            };
            let candidates = Candidates::new(&request, rows)?;
            for _ in 0..columns {
                let sample = page.requests.len() as u64;
                let attributes = candidates.pick(seed, sample).attributes;
                page.requests.push(Request::new(&attributes, sample));
            }
            page.captions.push(text.replace([',', '_'], " "));
        }
        Ok(page)
    }

    /// The page as a picture; `pictures` are in `[-1, 1]`, `[requests, size, size, 3]` flattened.
    ///
    /// # Errors
    /// The pictures are not of that shape.
    pub fn render(
        &self,
        pictures: &[f32],
        size: usize,
        title: String,
    ) -> Result<Picture, PictureError> {
        let pictures = Picture::from_batch(pictures, [self.requests.len(), size, size, 3])?;
        let mut sheet = Sheet::new(self.columns, size);
        sheet.title = Some(title);
        sheet.row_captions = self.captions.clone();
        sheet.render(&pictures)
    }
}
