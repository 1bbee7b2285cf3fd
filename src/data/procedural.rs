//! The procedural faces as a data set: rendered when packed, for users without CelebA.

use super::attributes::CELEBA;
use super::source::Fingerprint;
use super::{DataError, Record, Source, Split, faces};

/// Changes when the drawing changes, so that old packed files are not reused.
const DRAWING: u64 = 1;

/// `count` procedural faces with CelebA's attributes; the last 2 % are held out.
#[derive(Clone, Debug)]
pub struct ProceduralFaces {
    seed: u64,
    count: usize,
    names: Vec<String>,
}

impl ProceduralFaces {
    /// Pictures of a default set: enough that a small model does not memorise them.
    pub const COUNT: usize = 20_000;

    /// Faces number 0..count of `seed`.
    pub fn new(seed: u64, count: usize) -> Self {
        let names = CELEBA.iter().map(|&name| name.to_owned()).collect();
        Self { seed, count, names }
    }
}

impl Source for ProceduralFaces {
    fn name(&self) -> &str {
        "faces"
    }

    fn attribute_names(&self) -> &[String] {
        &self.names
    }

    fn len(&self) -> usize {
        self.count
    }

    fn record(&self, i: usize) -> Record {
        let held_out = (self.count / 50).clamp(usize::from(self.count > 1), 1000);
        Record {
            row: i as u64,
            attributes: faces::sample_attributes(self.seed, i as u64).to_vec(),
            split: if i + held_out < self.count {
                Split::Train
            } else {
                Split::HeldOut
            },
        }
    }

    fn picture_name(&self, i: usize) -> String {
        format!("face {i}")
    }

    fn fingerprint(&self) -> blake3::Hash {
        let mut hash = Fingerprint::default();
        hash.bytes(b"faces")
            .number(DRAWING)
            .number(self.seed)
            .number(self.count as u64);
        hash.finish()
    }

    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        let attributes = faces::sample_attributes(self.seed, i as u64);
        Ok(faces::render(self.seed, i as u64, &attributes, size))
    }
}
