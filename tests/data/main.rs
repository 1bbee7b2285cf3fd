//! Data sets on disk, packed and loaded: generated pictures, every quirk of the formats, damage.
#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod celeba;
mod cifar10;
mod forms;
mod loader;
mod packed;
mod real;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use gmmk::data::{
    DataError, DataSet, Packed, Record, Source, Split, locate, locate_among, open_or_pack,
};
use tempfile::TempDir;

const NAMES: [&str; 3] = ["Bald", "Smiling", "Young"];

fn file_name(i: usize) -> String {
    format!("{:06}.jpg", i + 1)
}

/// Three attributes of picture `i`.
fn attributes(i: usize) -> [u8; 3] {
    [
        u8::from(i.is_multiple_of(5)),
        u8::from(i.is_multiple_of(2)),
        u8::from(!i.is_multiple_of(3)),
    ]
}

/// A flat picture whose red and blue tell its number.
fn write_picture(path: &Path, i: usize, width: u32, height: u32) {
    let colour = image::Rgb([(i % 16 * 16) as u8, 90, (i / 16 * 16) as u8]);
    image::RgbImage::from_pixel(width, height, colour)
        .save(path)
        .unwrap();
}

/// The rows of an official attribute list, numbers padded to two characters.
fn attribute_rows(count: usize) -> Vec<String> {
    let value = |value: &u8| if *value == 1 { " 1" } else { "-1" };
    (0..count)
        .map(|i| {
            format!(
                "{} {}",
                file_name(i),
                attributes(i)
                    .iter()
                    .map(value)
                    .collect::<Vec<_>>()
                    .join(" ")
            )
        })
        .collect()
}

fn write_list(folder: &Path, count: usize, end: &str) {
    let rows = attribute_rows(count).join(end);
    fs::write(
        folder.join("list_attr_celeba.txt"),
        format!("{count}{end}{} {end}{rows}{end}", NAMES.join(" ")),
    )
    .unwrap();
}

/// A data set of `count` pictures of 36x44 pixels without a split file.
fn celeba(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("img_align_celeba");
    fs::create_dir(&pictures).unwrap();
    for i in 0..count {
        write_picture(&pictures.join(file_name(i)), i, 36, 44);
    }
    write_list(folder.path(), count, "\r\n");
    folder
}

fn pack(source: &dyn Source, size: u32, cache: &Path) -> Packed {
    open_or_pack(source, size, cache, &mut |_| {}).unwrap()
}

fn message<T>(result: Result<T, DataError>) -> String {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// Files in a folder, without the lock.
fn files_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

fn splits(source: &dyn Source) -> Vec<Split> {
    (0..source.len()).map(|i| source.record(i).split).collect()
}

/// A source that renders its pictures, and counts how often it was asked.
struct Rendered {
    names: Vec<String>,
    len: usize,
    version: u8,
    held_out: usize,
    reads: AtomicUsize,
}

impl Rendered {
    fn new(len: usize) -> Self {
        Self {
            names: vec!["odd".to_owned(), "late".to_owned()],
            len,
            version: 0,
            held_out: 0,
            reads: AtomicUsize::new(0),
        }
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Source for Rendered {
    fn name(&self) -> &str {
        "rendered"
    }
    fn attribute_names(&self) -> &[String] {
        &self.names
    }
    fn len(&self) -> usize {
        self.len
    }
    fn record(&self, i: usize) -> Record {
        Record {
            row: 10 * i as u64,
            attributes: vec![(i % 2) as u8, u8::from(i > self.len / 2)],
            split: if i >= self.len - self.held_out {
                Split::HeldOut
            } else {
                Split::Train
            },
        }
    }
    fn picture_name(&self, i: usize) -> String {
        format!("rendered {i}")
    }
    fn fingerprint(&self) -> blake3::Hash {
        blake3::hash(&[self.version])
    }
    fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok((0..size * size)
            .flat_map(|pixel| [i as u8, (i >> 8) as u8, pixel as u8])
            .collect())
    }
}

/// CIFAR-10 with `counts` records per file; the pixel planes of record r hold r, r + 1 and r + 2.
fn cifar(folder: &Path, counts: [usize; 6]) {
    let names = [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ];
    for (name, count) in names.iter().zip(counts) {
        let mut bytes = Vec::new();
        for record in 0..count {
            bytes.push((record % 10) as u8);
            for plane in 0..3 {
                bytes.extend((0..1024).map(|pixel| (record + plane + pixel / 32) as u8));
            }
        }
        fs::write(folder.join(format!("{name}.bin")), bytes).unwrap();
    }
    let classes = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    fs::write(folder.join("batches.meta.txt"), classes).unwrap();
}

#[test]
fn data_sets_are_located_in_the_given_or_the_usual_folders() {
    let root = tempfile::tempdir().unwrap();
    let (faces, classes) = (root.path().join("celeba"), root.path().join("cifar10"));
    fs::rename(celeba(2).keep(), &faces).unwrap();
    fs::create_dir(&classes).unwrap();
    cifar(&classes, [1; 6]);
    let empty = tempfile::tempdir().unwrap();
    let usual: Vec<PathBuf> = vec![
        empty.path().join("absent"),
        empty.path().into(),
        root.path().into(),
    ];
    for (data_set, folder) in [(DataSet::Celeba, &faces), (DataSet::Cifar10, &classes)] {
        let found = |data: Option<&Path>, usual: &[PathBuf]| locate_among(data, usual, data_set);
        assert_eq!(found(None, &usual).unwrap().as_ref(), Some(folder));
        assert_eq!(found(None, &usual[..2]).unwrap(), None);
        assert_eq!(
            locate(Some(folder), data_set).unwrap().as_ref(),
            Some(folder)
        );
        assert_eq!(
            locate(Some(root.path()), data_set).unwrap().as_ref(),
            Some(folder)
        );
        let text = message(found(Some(empty.path()), &usual));
        contains(
            &text,
            &[
                empty.path().to_str().unwrap(),
                data_set.name(),
                "the folder is empty",
                "--data",
            ],
        );
    }
    let text = message(locate(Some(&classes), DataSet::Celeba));
    contains(
        &text,
        &[
            "looked for img_align_celeba/",
            "list_attr_celeba.txt",
            "found batches.meta.txt, data_batch_1.bin",
        ],
    );
    contains(
        &message(locate(Some(Path::new("/absent/folder")), DataSet::Cifar10)),
        &["/absent/folder", "found nothing"],
    );
}
