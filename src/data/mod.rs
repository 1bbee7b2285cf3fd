//! Pictures and their attributes: where they come from, how they are packed, how a step gets them.
//!
//! A [`Source`] reads one data set as its makers publish it. [`open_or_pack`] decodes a source once
//! into a memory-mapped [`Packed`] file; a [`Loader`] hands shuffled batches of it to the trainer.

pub mod attributes;
mod celeba;
mod celeba_lists;
mod cifar10;
mod classes;
mod error;
pub mod faces;
mod folder;
mod folder_table;
mod foreign;
mod loader;
mod locate;
mod pack;
mod packed;
pub mod picture;
mod procedural;
mod request;
mod source;
mod store;

pub use celeba::Celeba;
pub use cifar10::Cifar10;
pub use classes::Classes;
pub use error::DataError;
pub use folder::PictureFolder;
pub use loader::{Batch, Loader, ShuffledOrder};
pub use locate::{DataSet, locate, locate_among};
pub use pack::{Progress, cache_file, default_cache_dir, open_or_pack};
pub use packed::{Origin, Packed, PackedInfo};
pub use procedural::ProceduralFaces;
pub use request::{Candidates, Picked, RequestError, parse_request};
pub use source::{LeftOut, Record, Source, Split};
