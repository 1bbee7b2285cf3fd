//! Data as people have it: zips, own folders, and downloads that went wrong.

use std::io::Write;

use gmmk::data::{Celeba, Cifar10, PictureFolder};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// A zip of the given files, stored and deflated by turns.
fn write_zip(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    for (i, (name, bytes)) in files.iter().enumerate() {
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][i % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// The pictures of a CelebA folder under `below` in a zip.
fn zipped(folder: &Path, below: &str, count: usize) -> Vec<(String, Vec<u8>)> {
    let bytes = |i| fs::read(folder.join("img_align_celeba").join(file_name(i))).unwrap();
    (0..count)
        .map(|i| (format!("{below}{}", file_name(i)), bytes(i)))
        .collect()
}

#[test]
fn celeba_is_read_from_a_zip_as_from_its_folder() {
    let folder = celeba(40);
    let cache = tempfile::tempdir().unwrap();
    let plain = pack(&Celeba::open(folder.path()).unwrap(), 8, cache.path());
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("img_align_celeba.zip");
    let mut files = zipped(folder.path(), "img_align_celeba/", 40);
    files.push(("__MACOSX/img_align_celeba/._000001.jpg".into(), vec![1]));
    write_zip(&path, &files);
    write_list(own.path(), 40, "\n");
    for place in [own.path(), &path] {
        assert!(Celeba::is_in(own.path()));
        assert_eq!(
            locate(Some(place), DataSet::Celeba).unwrap().as_deref(),
            Some(place)
        );
        let packed = pack(&Celeba::open(place).unwrap(), 8, cache.path());
        assert_eq!((packed.len(), packed.left_out().0), (40, 0));
        for i in 0..40 {
            assert_eq!(packed.image(i), plain.image(i));
            assert_eq!(packed.attributes(i), plain.attributes(i));
        }
    }
    // Too few pictures for the list.
    write_zip(&path, &zipped(folder.path(), "", 30));
    let text = message(Celeba::open(&path));
    contains(&text, &["10 of the 40 pictures", "img_align_celeba.zip"]);
}

#[test]
fn kaggles_zip_holds_the_lists_too() {
    let folder = celeba(4);
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("archive.zip");
    let mut files = zipped(folder.path(), "img_align_celeba/img_align_celeba/", 4);
    let rows: String = (0..4)
        .map(|i| format!("{},1,-1,{}\n", file_name(i), i % 2))
        .collect();
    let list = format!("image_id,{}\n{rows}", NAMES.join(","));
    files.push(("list_attr_celeba.csv".into(), list.into_bytes()));
    write_zip(&path, &files);
    let source = Celeba::open(own.path()).unwrap();
    assert_eq!(source.record(1).attributes, [1, 0, 1]);
    assert_eq!(source.read(3, 8).unwrap().len(), 192);
}

#[test]
fn wrong_downloads_are_recognised() {
    let folder = celeba(4);
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("img_align_celeba.zip");
    write_list(own.path(), 4, "\n");
    write_zip(&path, &zipped(folder.path(), "", 4));
    let whole = fs::read(&path).unwrap();
    let page = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>".to_vec();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec();
    for (bytes, part) in [
        (page.clone(), "quota exceeded"),
        (pointer.clone(), "Git LFS pointer"),
        (whole[..whole.len() / 2].to_vec(), "cut short"),
        (vec![], "an empty file"),
        (vec![0; 500], "zeros"),
        (b"\x1f\x8b\x08".to_vec(), "a gzip"),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = message(Celeba::open(own.path()));
        contains(
            &text,
            &["img_align_celeba.zip: expected", part, "mmlab.ie.cuhk"],
        );
    }
    write_zip(&path, &[("a/img_align_celeba.zip".into(), whole.clone())]);
    contains(
        &message(Celeba::open(&path)),
        &["a zip of zips", "a/img_align_celeba.zip"],
    );
    write_zip(&path, &[("readme.txt".into(), vec![65])]);
    contains(
        &message(Celeba::open(&path)),
        &["1 files without a picture: readme.txt"],
    );
    fs::write(&path, &whole).unwrap();
    fs::write(own.path().join("list_attr_celeba.txt"), &page).unwrap();
    contains(
        &message(Celeba::open(&path)),
        &["list_attr_celeba.txt: ", "a web page"],
    );
    // CIFAR-10's archive that is a page, and one that is not unpacked.
    let archive = own.path().join("cifar-10-binary.tar.gz");
    for (bytes, part) in [(&page[..], "a web page"), (b"\x1f\x8b", "a gzip archive")] {
        fs::write(&archive, bytes).unwrap();
        contains(&message(Cifar10::open(&archive)), &[part, "cs.toronto.edu"]);
    }
    fs::write(&archive, &page).unwrap();
    let text = message(locate(Some(own.path()), DataSet::Cifar10));
    contains(
        &text,
        &["cifar-10-binary.tar.gz (a web page", "cs.toronto.edu"],
    );
    // A page in the place of one picture.
    fs::write(folder.path().join("img_align_celeba/000002.jpg"), &page).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(&Celeba::open(folder.path()).unwrap(), 8, cache.path());
    contains(&packed.left_out().1[0].reason, &["is a web page titled"]);
}

#[test]
fn no_change_of_a_zip_makes_it_panic() {
    let folder = celeba(3);
    let own = tempfile::tempdir().unwrap();
    let path = own.path().join("img_align_celeba.zip");
    write_list(own.path(), 3, "\n");
    write_zip(&path, &zipped(folder.path(), "", 3));
    let whole = fs::read(&path).unwrap();
    // The table of contents and its end are the last bytes; every one of them is changed.
    for at in (0..200).chain(whole.len() - 250..whole.len()) {
        for change in [0xFF, 0x80, 0x01] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            fs::write(&path, bytes).unwrap();
            if let Ok(source) = Celeba::open(&path) {
                for i in 0..source.len() {
                    let _ = source.read(i, 4);
                }
            }
        }
    }
}

/// Five pictures in sub-folders of a folder of their own.
fn own_pictures() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (i, name) in ["a.jpg", "b.png", "x/c.jpg", "x/y/d.jpg", "x/a.jpg"]
        .iter()
        .enumerate()
    {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_picture(&path, i, 20 + i as u32, 30);
    }
    folder
}

fn open_with(folder: &Path, table: &str) -> Result<PictureFolder, DataError> {
    let path = folder.join("own.csv");
    fs::write(&path, table).unwrap();
    PictureFolder::open(folder, Some(&path))
}

#[test]
fn own_pictures_with_any_attributes() {
    let folder = own_pictures();
    for table in [
        "file,Hat,Glasses\na.jpg,1,-1\nb,yes,no\nc.jpg,False,TRUE\nx\\y\\d.jpg,-1,1\ngone.jpg,1,1\n",
        "Hat;Glasses\r\n./a.jpg;1.0;0\r\nb.jpg;1;0\r\nx/c.jpg;0;1\r\nd;0.0;1.0\r\ngone.jpg;1;1",
        "\u{feff}file\tHat\tGlasses\na.jpg\t1\t0\nb.png\t1\t0\nc\t0\t1\nd\t0\t1\ngone\ttrue\ttrue\n",
    ] {
        let source = open_with(folder.path(), table).unwrap();
        assert_eq!(source.attribute_names(), ["Hat", "Glasses"]);
        let rows: Vec<Vec<u8>> = (0..4).map(|i| source.record(i).attributes).collect();
        assert_eq!(rows, [[1, 0], [1, 0], [0, 1], [0, 1]]);
        assert_eq!((source.left_out().len(), source.left_out()[0].row), (1, 4));
        assert_eq!(source.unlisted(), ["x/a.jpg"]);
        assert_eq!(splits(&source)[3], Split::HeldOut);
        assert_eq!(source.read(2, 8).unwrap().len(), 192);
    }
    // The only table is found; the same pictures in a zip.
    assert!(PictureFolder::open(folder.path(), None).is_ok());
    let path = folder.path().join("own.zip");
    let bytes = fs::read(folder.path().join("a.jpg")).unwrap();
    write_zip(&path, &[("p/a.jpg".into(), bytes)]);
    let table = folder.path().join("own.csv");
    fs::write(&table, "f,Hat\na.jpg,1\n").unwrap();
    assert_eq!(PictureFolder::open(&path, Some(&table)).unwrap().len(), 1);
}

#[test]
fn tables_that_are_wrong_say_where() {
    let folder = own_pictures();
    for (table, parts) in [
        (
            "f,Hat\na.jpg,0.37\n",
            ["own.csv:2: ", "`0.37`, a real number", "threshold"],
        ),
        (
            "f,Hat\na.jpg,maybe\n",
            ["own.csv:2: ", "for Hat of a.jpg", "`maybe`"],
        ),
        (
            "f,Hat\nb.png,0\na.jpg,-1\n",
            ["own.csv:3: ", "0 for no, as on line 2", "`-1`"],
        ),
        ("f,Hat\na.jpg,\n", ["own.csv:2: ", "for Hat", "``"]),
        (
            "f,Hat\na.jpg,1,0\nb.png,1\n",
            ["own.csv:3: ", "2 values", "1 values"],
        ),
        (
            "a.jpg,1\nb.png,0\n",
            ["own.csv:1: ", "a header", "`a.jpg,1`"],
        ),
        (
            "f,Hat,hat\na.jpg,1,0\n",
            ["own.csv:1: ", "capitals", "`hat`"],
        ),
        (
            "f,Hat\nd.jpg,1\nx/y/d.jpg,0\n",
            ["own.csv:3: ", "one row per picture", "line 2"],
        ),
        (
            "f,Hat\nq.jpg,1\nr.jpg,0\n",
            ["only 0 are there", "`q.jpg`", "`a.jpg`"],
        ),
        (
            "f,Hat\n",
            ["own.csv:1: ", "rows of pictures", "only a header"],
        ),
        ("", ["own.csv:1: ", "rows of pictures", "only a header"]),
        ("<html>no</html>", ["own.csv: ", "a web page", "a list"]),
    ] {
        contains(&message(open_with(folder.path(), table)), &parts);
    }
    let twice = own_pictures();
    fs::rename(twice.path().join("a.jpg"), twice.path().join("x/y/a.jpg")).unwrap();
    let text = message(open_with(twice.path(), "f,Hat\na.jpg,1\n"));
    contains(&text, &["own.csv:2: ", "may be x/a.jpg or x/y/a.jpg"]);
    let empty = tempfile::tempdir().unwrap();
    let text = message(PictureFolder::open(empty.path(), None));
    contains(&text, &["one CSV file", "found none", "--attributes FILE"]);
    let text = message(open_with(empty.path(), "f,Hat\na.jpg,1\n"));
    contains(&text, &["holds no picture", "jpg or png"]);
}
