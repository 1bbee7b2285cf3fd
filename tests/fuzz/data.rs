//! Readers of data: lists, pictures, zips, packed files, columns of numbers.

use std::fs;

use gmmk::data::picture::decode_picture;
use gmmk::data::{Celeba, Cifar10, DataError, Packed, PictureFolder, Source, open_or_pack};

use super::change::change;
use super::good::{KIB, MIB, encoded, picture, pictures, place, table, words};
use super::outside::numbers::read_numbers;
use super::{Reader, formats, fuzz};

/// Every picture of an opened data set, decoded.
fn look<S: Source>(source: Result<S, DataError>) -> String {
    let source = match source {
        Ok(source) => source,
        Err(error) => return error.to_string(),
    };
    let mut told = "good".to_owned();
    for i in 0..source.len().min(20) {
        let record = source.record(i);
        assert_eq!(record.attributes.len(), source.attribute_names().len());
        if let Err(error) = source.read(i, 8) {
            told = format!("{}: {error}", source.picture_name(i));
        }
    }
    told
}

#[test]
fn lists_of_celeba() {
    let dir = place();
    pictures(&dir.path().join("img_align_celeba"));
    let row = |i: usize| format!("{i:06}.jpg {} {}\n", 1 - 2 * (i as i32 % 2), "-1");
    let rows: String = (1..=12).map(row).collect();
    let text = format!("12\nSmiling Young\n{rows}");
    let split = |i: usize| format!("{i:06}.jpg {}\n", i % 3);
    let split: String = (1..=12).map(split).collect();
    let files = [
        "list_attr_celeba.txt",
        "list_attr_celeba.csv",
        "list_eval_partition.txt",
    ];
    let files = files.map(|name| dir.path().join(name));
    fs::write(&files[0], &text).unwrap();
    let good = [text.clone(), table(), split.clone()].map(String::into_bytes);
    let mut turn = 0;
    fuzz(Reader {
        name: "celeba-lists",
        seeds: good.to_vec(),
        words: &[".jpg", "-1", "image_id", ",", "\r\n", "\t", "\u{feff}"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            // In the place of each of the three in turn; the others are good, or not there.
            turn += 1;
            let (own, at) = (&files[turn % 3], turn % 3);
            for (file, text) in files.iter().zip([&text, "", &split]) {
                let _ = fs::remove_file(file);
                if file != own
                    && !text.is_empty()
                    && (at != 1 || !file.ends_with("list_attr_celeba.txt"))
                {
                    fs::write(file, text).unwrap();
                }
            }
            fs::write(own, input).unwrap();
            look(Celeba::open(dir.path()))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn tables_of_own_pictures() {
    let dir = place();
    pictures(dir.path());
    let file = dir.path().join("attributes.csv");
    fuzz(Reader {
        name: "csv-table",
        seeds: vec![
            table().into(),
            table().replace(',', ";").into(),
            table().replace(",1", ",-1").into(),
        ],
        words: &[".png", "split", "train", "test", "\"", ",", ";", "\u{feff}"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            look(PictureFolder::open(dir.path(), None))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn batches_of_cifar10() {
    let dir = place();
    let record = |i: usize| [vec![i as u8 % 10], vec![i as u8; 3072]].concat();
    let batch: Vec<u8> = (0..3).flat_map(record).collect();
    let training = (1..=5).map(|i| format!("data_batch_{i}.bin"));
    for name in training.chain(["test_batch.bin".to_owned()]) {
        fs::write(dir.path().join(name), &batch).unwrap();
    }
    let classes = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let files = ["data_batch_2.bin", "batches.meta.txt"].map(|name| dir.path().join(name));
    let mut turn = 0;
    fuzz(Reader {
        name: "cifar10",
        seeds: vec![batch.clone(), classes.into()],
        words: &["airplane", "\n"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            turn += 1;
            fs::write(&files[0], &batch).unwrap();
            fs::write(&files[1], classes).unwrap();
            fs::write(&files[turn % 2], input).unwrap();
            look(Cifar10::open(dir.path()))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn packed_files() {
    let dir = place();
    pictures(dir.path());
    fs::write(dir.path().join("attributes.csv"), table()).unwrap();
    let source = PictureFolder::open(dir.path(), None).unwrap();
    let cache = place();
    let good = open_or_pack(&source, 8, cache.path(), &mut |_| {}).unwrap();
    let good = fs::read(good.path()).unwrap();
    let file = dir.path().join("packed");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    fuzz(Reader {
        name: "packed",
        seeds: vec![good],
        words: &[
            "count\":",
            "height\":",
            "width\":",
            "channels\":",
            "one_hot\":",
            "attribute_names\":[",
            "splits\":[",
        ],
        change,
        seal: |bytes| formats::packed(bytes),
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            let packed = match Packed::open(&file) {
                Ok(packed) => packed,
                Err(error) => return error.to_string(),
            };
            let info = pool.install(|| packed.info());
            assert_eq!(info.train + info.held_out + info.test, packed.len());
            for i in [0, packed.len() - 1] {
                assert!(packed.attributes(i).iter().all(|&value| value <= 1));
                assert_eq!(packed.image(i).len() % packed.channels() as usize, 0);
                packed.row(i);
            }
            "good".to_owned()
        }),
        memory: [4 * MIB, 64],
        inputs: 6000,
    });
}

#[test]
fn columns_of_numbers() {
    let dir = place();
    let file = dir.path().join("x");
    let npy = |head: &str, data: &[u8]| {
        let head = format!("{head:<118}");
        [
            b"\x93NUMPY\x01\x00",
            &118_u16.to_le_bytes()[..],
            head.as_bytes(),
            data,
        ]
        .concat()
    };
    let f8 = npy(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        &[0; 24],
    );
    let i4 = npy(
        "{'descr': '>i4', 'fortran_order': False, 'shape': (2,), }",
        &[1; 8],
    );
    fuzz(Reader {
        name: "numbers",
        seeds: vec![f8, i4, b"x\n1\n2.5e3 # more\n-0.25,\n".to_vec()],
        words: &["'shape': (", "'descr': '", "f4", "i8", "\u{feff}", "#"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(read_numbers(&file).map_err(|error| format!("{error:#}")))
        }),
        memory: [MIB, 64],
        inputs: 5000,
    });
}

#[test]
fn picture_files() {
    let png = encoded(1, image::ImageFormat::Png);
    let grey = image::DynamicImage::from(picture(2)).into_luma16();
    let mut wide = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut wide, image::ImageFormat::Png).unwrap();
    fuzz(Reader {
        name: "pictures",
        seeds: vec![png, encoded(3, image::ImageFormat::Jpeg), wide.into_inner()],
        words: &[
            "IHDR",
            "IDAT",
            "PLTE",
            "tRNS",
            "iCCP",
            "eXIf",
            "IEND",
            "\u{0}\u{0}",
        ],
        change,
        seal: |bytes| formats::png(bytes),
        read: Box::new(|input| words(decode_picture(input, 8, false))),
        memory: [32 * MIB, 128 * KIB],
        inputs: 6000,
    });
}

#[test]
fn zips_of_pictures() {
    use std::io::Write;
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for i in 1..=4 {
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][i % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("a/{i:06}.png"), options).unwrap();
        zip.write_all(&encoded(i, image::ImageFormat::Png)).unwrap();
    }
    let good = zip.finish().unwrap().into_inner();
    let dir = place();
    let (file, list) = (dir.path().join("a.zip"), dir.path().join("a.csv"));
    let rows: String = (1..=4).map(|i| format!("{i:06}.png,{}\n", i % 2)).collect();
    fs::write(&list, format!("image_id,Smiling\n{rows}")).unwrap();
    fuzz(Reader {
        name: "zip",
        seeds: vec![good],
        words: &[
            "PK\u{1}\u{2}",
            "PK\u{3}\u{4}",
            "PK\u{5}\u{6}",
            "PK\u{6}\u{6}",
            ".png",
            "../",
            "/",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            look(PictureFolder::open(&file, Some(&list)))
        }),
        memory: [32 * MIB, 128 * KIB],
        inputs: 4000,
    });
}
