//! The layouts and lists of CelebA, right and wrong, and its pictures.

use gmmk::data::Celeba;

use super::*;

#[test]
fn celeba_text_with_crlf_padding_and_no_last_line_end() {
    let folder = celeba(7);
    let list = folder.path().join("list_attr_celeba.txt");
    let crlf = fs::read_to_string(&list).unwrap();
    assert!(crlf.contains("Young \r\n000001.jpg  1  1 -1\r\n"));
    let lf = crlf.replace("\r\n", "\n");
    for text in [
        &crlf,
        crlf.trim_end(),
        &lf,
        lf.trim_end(),
        &format!("\u{feff}{lf}\n\n"),
        &lf.replace(' ', "\t  "),
    ] {
        fs::write(&list, text).unwrap();
        let source = Celeba::open(folder.path()).unwrap();
        assert_eq!(source.attribute_names(), NAMES);
        assert_eq!(source.len(), 7);
        for i in 0..7 {
            let record = source.record(i);
            assert_eq!(
                (record.row, record.attributes),
                (i as u64, attributes(i).to_vec())
            );
        }
    }
}

#[test]
fn celeba_csv_with_minus_one_or_zero() {
    let folder = celeba(5);
    fs::remove_file(folder.path().join("list_attr_celeba.txt")).unwrap();
    for (no, end) in [("-1", "\n"), ("0", "\r\n")] {
        let mut text = format!("image_id,{}{end}", NAMES.join(","));
        for i in 0..5 {
            let values = attributes(i).map(|value| if value == 1 { "1" } else { no });
            text += &format!("{}, {}{end}", file_name(i), values.join(","));
        }
        fs::write(folder.path().join("list_attr_celeba.csv"), text.trim_end()).unwrap();
        fs::write(
            folder.path().join("list_eval_partition.csv"),
            "image_id,partition\n000001.jpg,0\n000002.jpg,0\n000003.jpg,1\n000004.jpg,2\n000005.jpg,0",
        )
        .unwrap();
        let source = Celeba::open(folder.path()).unwrap();
        assert_eq!(source.attribute_names(), NAMES);
        assert!((0..5).all(|i| source.record(i).attributes == attributes(i)));
        use Split::*;
        assert_eq!(splits(&source), [Train, Train, HeldOut, Test, Train]);
    }
}

#[test]
fn celeba_in_official_nested_and_png_folders() {
    let flat = celeba(3);
    for (to, lists) in [
        ("Img/img_align_celeba", "Anno"),
        ("img_align_celeba/img_align_celeba", "."),
        ("Img/img_align_celeba_png", "Anno"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (pictures, lists) = (folder.path().join(to), folder.path().join(lists));
        fs::create_dir_all(&pictures).unwrap();
        fs::create_dir_all(&lists).unwrap();
        for i in 0..3 {
            // The list says .jpg in the png edition too.
            let name = if to.ends_with("png") {
                file_name(i).replace("jpg", "png")
            } else {
                file_name(i)
            };
            write_picture(&pictures.join(name), i, 36, 44);
        }
        fs::copy(
            flat.path().join("list_attr_celeba.txt"),
            lists.join("list_attr_celeba.txt"),
        )
        .unwrap();
        assert!(Celeba::is_in(folder.path()));
        let source = Celeba::open(folder.path()).unwrap();
        assert_eq!(source.read(2, 8).unwrap().len(), 8 * 8 * 3);
    }
}

/// What is replaced in a good list | by what | parts of the message.
const BAD_LISTS: [&str; 9] = [
    "4\n|5\n|list_attr_celeba.txt:1: |rows that follow (4)|count 5",
    "4\n||list_attr_celeba.txt:1: |the number of pictures|`Bald Smiling",
    "Young||txt:3: |2 values|3 values",
    "3.jpg -1  1  1|3.jpg -1  1|txt:5: |3 values|`000003.jpg` and 2 values",
    "3.jpg -1  1  1|3.jpg -1  1  1 1|txt:5: |3 values|4 values",
    "3.jpg -1  1|3.jpg -1  2|txt:5: |1 or -1 for Smiling of 000003.jpg|`2`",
    "3.jpg -1  1|3.jpg  0  1|txt:5: |1 or -1 for Bald|`0`",
    "3.jpg|2.jpg|txt:5: |one row per picture|first on line 4",
    "Young|Bald|txt:2: |different names|`Bald` as name 3",
];

#[test]
fn celeba_list_errors_name_line_expected_and_found() {
    let folder = celeba(4);
    let list = folder.path().join("list_attr_celeba.txt");
    let good = fs::read_to_string(&list).unwrap().replace("\r\n", "\n");
    for case in BAD_LISTS {
        let fields: Vec<&str> = case.split('|').collect();
        assert!(good.contains(fields[0]), "{case}");
        fs::write(&list, good.replacen(fields[0], fields[1], 1)).unwrap();
        contains(&message(Celeba::open(folder.path())), &fields[2..]);
    }
}

#[test]
fn celeba_lists_that_are_empty_binary_absent_or_without_header() {
    let folder = celeba(4);
    let [text, csv] =
        ["txt", "csv"].map(|end| folder.path().join("list_attr_celeba").with_extension(end));
    let open = || message(Celeba::open(folder.path()));
    fs::write(&text, "0\nBald\n").unwrap();
    contains(&open(), &["txt:2: ", "rows of pictures"]);
    fs::write(&text, b"1\nBald\n\xff.jpg 1\n").unwrap();
    contains(&open(), &["txt:3: ", "UTF-8", "0xff"]);
    fs::remove_file(&text).unwrap();
    contains(&open(), &["no attribute list", "found img_align_celeba"]);
    fs::write(&csv, "000001.jpg,1,-1\n").unwrap();
    contains(&open(), &["csv:1: ", "a header", "`000001.jpg`"]);
    fs::write(&csv, "image_id,Bald,Young\n000001.jpg,1\n").unwrap();
    contains(&open(), &["csv:2: ", "2 values", "1 values"]);
}

#[test]
fn celeba_split_file_rules() {
    let folder = celeba(200);
    // No split file: the last 2 % are held out.
    let source = Celeba::open(folder.path()).unwrap();
    assert!((0..200).all(|i| (source.record(i).split == Split::HeldOut) == (i >= 196)));
    // A split file without valid rows: the last 2 % of the training rows; test rows stay apart.
    let list = folder.path().join("list_eval_partition.txt");
    let rows = |code: fn(usize) -> u8| {
        (0..200)
            .map(|i| format!("{} {}\r\n", file_name(i), code(i)))
            .collect::<String>()
    };
    fs::write(&list, rows(|i| if i >= 150 { 2 } else { 0 })).unwrap();
    let source = Celeba::open(folder.path()).unwrap();
    let count = |split| splits(&source).iter().filter(|&&s| s == split).count();
    assert_eq!(
        [
            count(Split::Train),
            count(Split::HeldOut),
            count(Split::Test)
        ],
        [147, 3, 50]
    );
    assert_eq!(splits(&source)[147..150], [Split::HeldOut; 3]);
    for (from, to, parts) in [
        (
            "000007.jpg 0",
            "000007.jpg 3",
            ["list_eval_partition.txt:7: ", "0 (train)", "`000007.jpg 3`"],
        ),
        (
            "000007.jpg 0",
            "000006.jpg 0",
            [
                "list_eval_partition.txt:7: ",
                "one row per picture",
                "`000006.jpg`",
            ],
        ),
        (
            "000007.jpg 0\r\n",
            "",
            [
                "list_attr_celeba.txt:9: ",
                "list_eval_partition.txt has too",
                "`000007.jpg`",
            ],
        ),
    ] {
        fs::write(&list, rows(|_| 0).replace(from, to)).unwrap();
        contains(&message(Celeba::open(folder.path())), &parts);
    }
}

#[test]
fn few_missing_pictures_are_left_out_and_many_are_an_error() {
    let folder = celeba(200);
    let pictures = folder.path().join("img_align_celeba");
    for i in [3, 50] {
        fs::remove_file(pictures.join(file_name(i))).unwrap();
    }
    let cache = tempfile::tempdir().unwrap();
    let source = Celeba::open(folder.path()).unwrap();
    let packed = pack(&source, 8, cache.path());
    let (count, left_out) = packed.left_out();
    assert_eq!((packed.len(), count, left_out.len()), (198, 2, 2));
    assert_eq!(
        (left_out[0].name.as_str(), left_out[0].row),
        ("000004.jpg", 3)
    );
    // Rows keep their numbers.
    assert_eq!([packed.row(2), packed.row(3), packed.row(197)], [2, 4, 199]);
    assert_eq!(packed.attributes(3), attributes(4));
    fs::remove_file(pictures.join(file_name(60))).unwrap();
    contains(
        &message(Celeba::open(folder.path())),
        &[
            "3 of the 200 pictures",
            "first is 000004.jpg (line 6)",
            "img_align_celeba.zip",
        ],
    );
}

#[test]
fn bad_pictures_are_named_counted_and_left_out() {
    let folder = celeba(40);
    let pictures = folder.path().join("img_align_celeba");
    let whole = fs::read(pictures.join(file_name(0))).unwrap();
    fs::write(pictures.join(file_name(10)), &whole[..whole.len() - 30]).unwrap();
    fs::write(pictures.join(file_name(11)), b"<html>not found</html>").unwrap();
    fs::write(pictures.join(file_name(12)), b"").unwrap();
    let mut png = std::io::Cursor::new(Vec::new());
    let noise = image::RgbImage::from_fn(36, 44, |x, y| {
        image::Rgb([(x * y) as u8, (x * 7) as u8, (x ^ y) as u8])
    });
    noise.write_to(&mut png, image::ImageFormat::Png).unwrap();
    fs::write(
        pictures.join(file_name(13)),
        &png.get_ref()[..png.get_ref().len() / 2],
    )
    .unwrap();
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(&Celeba::open(folder.path()).unwrap(), 8, cache.path());
    let (count, left_out) = packed.left_out();
    assert_eq!((packed.len(), count), (36, 4));
    assert_eq!(
        left_out.iter().map(|l| l.row).collect::<Vec<_>>(),
        [10, 11, 12, 13]
    );
    contains(&left_out[0].reason, &["truncated", "end-of-image"]);
    assert_eq!([packed.row(9), packed.row(10)], [9, 14]);
    for i in 0..40 {
        fs::write(pictures.join(file_name(i)), b"\xff\xd8").unwrap();
    }
    let source = Celeba::open(folder.path()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let text = message(open_or_pack(&source, 8, cache.path(), &mut |_| {}));
    contains(
        &text,
        &["celeba: none of the 40 pictures", "000001.jpg", "truncated"],
    );
    assert!(files_in(cache.path()).is_empty());
}

#[test]
fn pictures_keep_their_colours_and_are_cropped_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("img_align_celeba");
    fs::create_dir(&pictures).unwrap();
    // Inside the crop of an official picture red grows to the right, green downwards; outside is blue.
    let picture = image::RgbImage::from_fn(178, 218, |x, y| {
        if (15..163).contains(&x) && (35..183).contains(&y) {
            image::Rgb([(x - 15) as u8, (y - 35) as u8, 0])
        } else {
            image::Rgb([0, 0, 255])
        }
    });
    picture.save(pictures.join("000001.png")).unwrap();
    write_list(folder.path(), 1, "\n");
    let source = Celeba::open(folder.path()).unwrap();
    let exact = source.read(0, 148).unwrap();
    let half = source.read(0, 74).unwrap();
    let double = source.read(0, 296).unwrap();
    for y in 0..148_usize {
        for x in 0..148_usize {
            assert_eq!(exact[3 * (148 * y + x)..][..3], [x as u8, y as u8, 0]);
        }
    }
    for (picture, side, scale) in [(half, 74_usize, 2.0), (double, 296, 0.5)] {
        for (i, pixel) in picture.chunks(3).enumerate() {
            let at = |i: usize| (i as f64 + 0.5) * scale - 0.5;
            assert!(
                (f64::from(pixel[0]) - at(i % side)).abs() <= 1.5,
                "{side} {i} {pixel:?}"
            );
            assert!(
                (f64::from(pixel[1]) - at(i / side)).abs() <= 1.5,
                "{side} {i} {pixel:?}"
            );
            assert_eq!(pixel[2], 0);
        }
    }
}
