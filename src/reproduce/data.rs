//! The pictures of a figure: the data set that was found, or the built-in faces.

use super::groups::{self, Groups};
use super::{Context, ReproduceError};
use crate::data::{
    self, Celeba, Cifar10, Classes, DataSet, Packed, PictureFolder, ProceduralFaces, Source,
    default_cache_dir, open_or_pack,
};
use crate::train::config::DataKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Hair and sex: the attributes whose combinations stand in for classes.
const HAIR_AND_SEX: [&str; 5] = [
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Gray_Hair",
    "Male",
];

/// A data set, packed.
pub struct Data {
    /// Which.
    pub kind: DataKind,
    /// Its folder, where one was given.
    pub path: Option<PathBuf>,
    /// The attributes of own pictures, where their file was named.
    pub attributes: Option<PathBuf>,
    /// The pictures.
    pub packed: Arc<Packed>,
    /// In words.
    pub about: String,
}

impl Data {
    /// CelebA where it is found, otherwise the built-in faces, at this size.
    ///
    /// # Errors
    /// A folder was given and holds no CelebA; the pictures cannot be read.
    pub fn faces(context: &mut Context<'_>, size: usize) -> Result<Self, ReproduceError> {
        let path = context.data.clone();
        let kind = match data::locate(path.as_deref(), DataSet::Celeba)? {
            Some(_) => DataKind::Celeba,
            None => {
                context.progress.say("note: no CelebA in $GMMK_DATA or ./data, so these are the built-in procedural faces; give the real ones with --data DIR");
                DataKind::Faces
            }
        };
        Self::open(kind, path, None, size, context)
    }

    /// The data set of a run, from its folder or the one given now.
    ///
    /// # Errors
    /// It is not there, or its pictures cannot be read.
    pub fn open(
        kind: DataKind,
        path: Option<PathBuf>,
        attributes: Option<PathBuf>,
        size: usize,
        context: &mut Context<'_>,
    ) -> Result<Self, ReproduceError> {
        let source = source(kind, path.as_deref(), attributes.as_deref())?;
        Ok(Self {
            kind,
            path,
            attributes,
            packed: Arc::new(pack(source.as_ref(), size, context)?),
            about: kind.to_string(),
        })
    }

    /// Pictures in disjoint classes: CIFAR-10 where it is found, otherwise the faces with one class for
    /// each combination of hair colour and sex.
    ///
    /// # Errors
    /// The pictures cannot be read.
    pub fn classes(context: &mut Context<'_>, size: usize) -> Result<Self, ReproduceError> {
        let given = context.data.clone();
        // A folder of faces was given for the faces: CIFAR-10 may still lie in the usual places.
        for path in [given, None] {
            if let Ok(Some(_)) = data::locate(path.as_deref(), DataSet::Cifar10) {
                return Self::open(DataKind::Cifar10, path, None, size, context);
            }
        }
        context.progress.say("note: no CIFAR-10 was found, so the disjoint classes are faces, one class for each combination of hair colour and sex");
        Self::regrouped(context, size, "hair colour and sex", |rows, names| {
            let named = HAIR_AND_SEX.iter();
            let chosen: Vec<usize> = named
                .filter_map(|wanted| names.iter().position(|n| n == wanted))
                .collect();
            groups::combinations(rows, names, &chosen)
        })
    }

    /// The faces with the disjoint classes that `group` makes of their attribute rows and names.
    ///
    /// # Errors
    /// The pictures cannot be read.
    pub fn regrouped(
        context: &mut Context<'_>,
        size: usize,
        about: &str,
        group: impl FnOnce(&[u8], &[String]) -> Groups,
    ) -> Result<Self, ReproduceError> {
        let path = context.data.clone();
        let kind = match data::locate(path.as_deref(), DataSet::Celeba)? {
            Some(_) => DataKind::Celeba,
            None => DataKind::Faces,
        };
        let source = source(kind, path.as_deref(), None)?;
        let rows: Vec<u8> = (0..source.len())
            .flat_map(|i| source.record(i).attributes)
            .collect();
        let Groups { names, classes } = group(&rows, source.attribute_names());
        let about = format!("{kind}, {} classes by {about}", names.len());
        let classes = Classes::new(source.as_ref(), names, classes)?;
        Ok(Self {
            kind,
            path,
            attributes: None,
            packed: Arc::new(pack(&classes, size, context)?),
            about,
        })
    }
}

/// The source of a data set.
fn source(
    kind: DataKind,
    path: Option<&Path>,
    attributes: Option<&Path>,
) -> Result<Box<dyn Source>, ReproduceError> {
    let place = |set: DataSet| -> Result<PathBuf, ReproduceError> {
        data::locate(path, set)?.ok_or_else(|| ReproduceError::NoData { set: set.name() })
    };
    Ok(match kind {
        DataKind::Celeba => Box::new(Celeba::open(&place(DataSet::Celeba)?)?),
        DataKind::Cifar10 => Box::new(Cifar10::open(&place(DataSet::Cifar10)?)?),
        DataKind::Folder => {
            let folder = path.ok_or(ReproduceError::NoData { set: "folder" })?;
            Box::new(PictureFolder::open(folder, attributes)?)
        }
        DataKind::Faces => Box::new(ProceduralFaces::new(0, ProceduralFaces::COUNT)),
    })
}

fn pack(
    source: &dyn Source,
    size: usize,
    context: &mut Context<'_>,
) -> Result<Packed, ReproduceError> {
    let mut watch = |progress: data::Progress| {
        if let data::Progress::Packing { done, total, .. } = progress {
            context
                .progress
                .at(done as u64, total as u64, "packing pictures");
        }
    };
    Ok(open_or_pack(
        source,
        size as u32,
        &default_cache_dir()?,
        &mut watch,
    )?)
}
