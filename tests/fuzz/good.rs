//! Good files, to be changed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::folder;

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// A folder in memory, where there is one: a disk would make every input wait.
pub fn place() -> TempDir {
    let places = ["/dev/shm", env!("CARGO_TARGET_TMPDIR")].into_iter();
    let mut places = places.filter_map(|place| tempfile::tempdir_in(place).ok());
    places.next().unwrap()
}

/// What a result says, in words.
pub fn words<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "good".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A picture of 16x16 pixels.
pub fn picture(i: usize) -> image::RgbImage {
    let colour =
        |x: u32, y: u32| image::Rgb([x, y, x * y].map(|v| (v as usize * 13 + 31 * i) as u8));
    image::RgbImage::from_fn(16, 16, colour)
}

pub fn encoded(i: usize, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(i).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Twelve pictures, `000001.png` and so on, in `folder`.
pub fn pictures(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for i in 1..=12 {
        let bytes = encoded(i, image::ImageFormat::Png);
        fs::write(folder.join(format!("{i:06}.png")), bytes).unwrap();
    }
}

/// The table of their attributes, as a CSV file.
pub fn table() -> String {
    let row = |i: usize| format!("{i:06}.png,{},{}\n", i % 2, i / 2 % 2);
    let rows: String = (1..=12).map(row).collect();
    format!("image_id,Smiling,Young\n{rows}")
}

/// What `gmmk` makes: a run, a classifier, and a model of diffusers.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        pictures(&dir.path().join("pictures"));
        fs::write(dir.path().join("pictures/attributes.csv"), table()).unwrap();
        for command in [
            "train folder --data pictures --preset nano --batch 2 --steps 2 --sample-every 1 --threads 1 --out run",
            "train-classifier folder --data pictures --size 16 --steps 1 --threads 1 --out judge.safetensors",
            "export --checkpoint run --diffusers model",
            "import --diffusers model --out small.safetensors",
        ] {
            let mut gmmk = Command::new(env!("CARGO_BIN_EXE_gmmk"));
            gmmk.args(command.split(' ')).current_dir(dir.path());
            let output = gmmk.env("GMMK_CACHE", dir.path()).output().unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
        }
        dir
    };
    MADE.get_or_init(new).path()
}

/// A good file that `gmmk` made.
pub fn seed(name: &str) -> Vec<u8> {
    fs::read(made().join(name)).unwrap()
}

/// A copy of a folder that `gmmk` made.
pub fn copy_of(name: &str) -> TempDir {
    let dir = place();
    folder::copy(&made().join(name), dir.path());
    dir
}
