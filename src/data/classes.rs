//! A data set whose attributes are replaced by disjoint classes: one number per picture.

use super::source::Fingerprint;
use super::{DataError, LeftOut, Record, Source};

/// The pictures of another data set, each in exactly one class.
pub struct Classes<'a> {
    pictures: &'a dyn Source,
    names: Vec<String>,
    classes: Vec<u32>,
}

impl<'a> Classes<'a> {
    /// `pictures` with one class each: `classes` holds a place in `names` for every picture.
    ///
    /// # Errors
    /// [`DataError::Argument`] where there are not as many classes as pictures, or a class has no name.
    pub fn new(
        pictures: &'a dyn Source,
        names: Vec<String>,
        classes: Vec<u32>,
    ) -> Result<Self, DataError> {
        if classes.len() != pictures.len() {
            return Err(DataError::Argument {
                what: "classes of the pictures",
                expected: "one per picture",
                found: classes.len() as u64,
            });
        }
        if let Some(&found) = classes.iter().find(|&&class| class as usize >= names.len()) {
            return Err(DataError::Argument {
                what: "class of a picture",
                expected: "the place of a name",
                found: found.into(),
            });
        }
        Ok(Self {
            pictures,
            names,
            classes,
        })
    }
}

impl Source for Classes<'_> {
    fn name(&self) -> &str {
        self.pictures.name()
    }

    fn attribute_names(&self) -> &[String] {
        &self.names
    }

    fn one_hot(&self) -> bool {
        true
    }

    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn record(&self, i: usize) -> Record {
        let mut record = self.pictures.record(i);
        record.attributes = vec![0; self.names.len()];
        record.attributes[self.classes[i] as usize] = 1;
        record
    }

    fn picture_name(&self, i: usize) -> String {
        self.pictures.picture_name(i)
    }

    fn left_out(&self) -> &[LeftOut] {
        self.pictures.left_out()
    }

    fn fingerprint(&self) -> blake3::Hash {
        let mut hash = Fingerprint::default();
        hash.bytes(b"classes")
            .bytes(self.pictures.fingerprint().as_bytes());
        for name in &self.names {
            hash.bytes(name.as_bytes());
        }
        for &class in &self.classes {
            hash.number(class.into());
        }
        hash.finish()
    }

    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        self.pictures.read(i, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ProceduralFaces;

    #[test]
    fn pictures_stay_and_attributes_become_one_class() {
        let faces = ProceduralFaces::new(3, 60);
        let names = || vec!["even".to_owned(), "odd".to_owned()];
        let parity: Vec<u32> = (0..60).map(|i| i % 2).collect();
        let classes = Classes::new(&faces, names(), parity.clone()).unwrap();
        assert!(classes.one_hot());
        for i in [0, 7, 59] {
            let (own, original) = (classes.record(i), faces.record(i));
            assert_eq!((own.row, own.split), (original.row, original.split));
            assert_eq!(own.attributes, [[1, 0], [0, 1]][i % 2]);
            assert_eq!(classes.read(i, 8).unwrap(), faces.read(i, 8).unwrap());
        }
        let mut other = parity.clone();
        other[4] = 1;
        let other = Classes::new(&faces, names(), other).unwrap();
        assert_ne!(classes.fingerprint(), other.fingerprint());
        assert_ne!(classes.fingerprint(), faces.fingerprint());
        assert!(Classes::new(&faces, names(), vec![0; 59]).is_err());
        assert!(Classes::new(&faces, names(), vec![2; 60]).is_err());
    }
}
