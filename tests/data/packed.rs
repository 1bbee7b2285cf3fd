//! The packed file: contents, reuse, damage, crashes.

use std::sync::Arc;

use gmmk::data::{Celeba, LeftOut, Loader, Origin, Progress, cache_file};
use proptest::prelude::*;

use super::*;

#[test]
fn a_packed_file_holds_what_the_source_gives_and_is_reused() {
    let cache = tempfile::tempdir().unwrap();
    let mut source = Rendered::new(2500);
    source.held_out = 100;
    let mut seen = Vec::new();
    let packed = open_or_pack(&source, 4, cache.path(), &mut |progress| {
        seen.push(progress)
    })
    .unwrap();
    assert_eq!((packed.origin(), source.reads()), (&Origin::Packed, 2500));
    assert_eq!(seen.last(), Some(&Progress::Verifying));
    let done = Progress::Packing {
        done: 2500,
        total: 2500,
        left_out: 0,
    };
    assert!(seen.contains(&done) && seen.len() > 3, "{seen:?}");
    for i in (0..2500).step_by(97) {
        let record = source.record(i);
        assert_eq!(packed.image(i), source.read(i, 4).unwrap());
        assert_eq!(
            (packed.attributes(i), packed.row(i)),
            (&record.attributes[..], record.row)
        );
    }
    assert_eq!(
        (
            packed.train_indices().len(),
            packed.held_out_indices().first()
        ),
        (2400, Some(&2400))
    );
    assert_eq!(
        (
            packed.size(),
            packed.channels(),
            packed.data_set(),
            packed.one_hot()
        ),
        (4, 3, "rendered", false)
    );

    let before = source.reads();
    let again = pack(&source, 4, cache.path());
    assert_eq!((again.origin(), source.reads()), (&Origin::Reused, before));
    source.version = 1;
    assert_eq!(pack(&source, 4, cache.path()).origin(), &Origin::Packed);
    assert_eq!(source.reads(), before + 2500);
    assert_eq!(pack(&source, 5, cache.path()).size(), 5);
    assert_eq!(files_in(cache.path()).len(), 3);
    contains(
        &message(open_or_pack(&source, 0, cache.path(), &mut |_| {})),
        &["picture size", "1 to 8192", "found 0"],
    );
}

#[test]
fn a_changed_source_is_packed_again() {
    let folder = celeba(10);
    let cache = tempfile::tempdir().unwrap();
    let open = || Celeba::open(folder.path()).unwrap();
    assert_eq!(pack(&open(), 8, cache.path()).origin(), &Origin::Packed);
    assert_eq!(pack(&open(), 8, cache.path()).origin(), &Origin::Reused);
    let list = folder.path().join("list_attr_celeba.txt");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(&list, text.replace("000002.jpg -1 -1", "000002.jpg  1 -1")).unwrap();
    let packed = pack(&open(), 8, cache.path());
    assert_eq!(
        (packed.origin(), packed.attributes(1)[0]),
        (&Origin::Packed, 1)
    );
    write_picture(
        &folder.path().join("img_align_celeba/000005.jpg"),
        77,
        40,
        44,
    );
    assert_eq!(pack(&open(), 8, cache.path()).origin(), &Origin::Packed);
    fs::write(
        folder.path().join("list_eval_partition.txt"),
        (0..10)
            .map(|i| format!("{} 1\n", file_name(i)))
            .collect::<String>(),
    )
    .unwrap();
    let packed = pack(&open(), 8, cache.path());
    assert_eq!(
        (packed.origin(), packed.held_out_indices().len()),
        (&Origin::Packed, 10)
    );
    contains(
        &message(Loader::new(Arc::new(packed), 4, 1, 0)),
        &["none of its 10 pictures"],
    );
}

#[test]
fn leftovers_of_a_crashed_pack_are_removed_and_foreign_files_stay() {
    let cache = tempfile::tempdir().unwrap();
    let source = Rendered::new(5);
    let path = cache_file(&source, 4, cache.path());
    let leftover = path.with_extension("gmmkdata.12345.tmp");
    fs::write(&leftover, "half").unwrap();
    fs::write(cache.path().join("notes.tmp"), "mine").unwrap();
    pack(&source, 4, cache.path());
    assert!(!leftover.exists() && cache.path().join("notes.tmp").exists() && path.exists());
}

#[test]
fn packs_of_several_threads_into_one_folder_agree() {
    let cache = tempfile::tempdir().unwrap();
    let source = Rendered::new(600);
    let origins: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| pack(&source, 8, cache.path()).origin().clone()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(
        origins
            .iter()
            .filter(|&origin| *origin == Origin::Packed)
            .count(),
        1
    );
    assert_eq!(source.reads(), 600);
}

#[test]
fn foreign_and_cut_files_are_refused_and_rebuilt() {
    let cache = tempfile::tempdir().unwrap();
    let source = Rendered::new(20);
    let path = pack(&source, 8, cache.path()).path().to_path_buf();
    let good = fs::read(&path).unwrap();
    let mut newer = good.clone();
    newer[8] = 9;
    for (bytes, parts) in [
        (
            &good[..good.len() - 1],
            [
                "offset 24",
                &format!("a file of {} bytes", good.len()),
                "Delete it",
            ],
        ),
        (
            &good[..50],
            ["offset 50", "at least 96 bytes", "found 50 bytes"],
        ),
        (&[], ["offset 0", "at least 96 bytes", "found 0 bytes"]),
        (
            &[b'x'; 200],
            ["offset 0", "the mark `GMMKDATA`", "xxxxxxxx"],
        ),
        (&newer, ["offset 8", "format version 1", "version 9"]),
    ] {
        fs::write(&path, bytes).unwrap();
        let text = message(Packed::open(&path));
        contains(&text, &parts);
        contains(&text, &[path.to_str().unwrap()]);
        let rebuilt = pack(&source, 8, cache.path());
        assert_eq!(rebuilt.origin(), &Origin::Rebuilt { reason: text });
        assert!(fs::read(&path).unwrap() == good);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_changed_byte_is_noticed(at: prop::sample::Index, change in 1_u8..) {
        let folder = tempfile::tempdir().unwrap();
        let source = Rendered::new(3);
        let path = pack(&source, 4, folder.path()).path().to_path_buf();
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        fs::write(&path, bytes).unwrap();
        prop_assert!(matches!(Packed::open(&path), Err(DataError::Damaged { .. })), "byte {}", at);
    }
}

#[test]
fn many_long_names_of_bad_pictures_fit_the_header() {
    struct Bad(Rendered, Vec<LeftOut>);
    impl Source for Bad {
        fn name(&self) -> &str {
            "bad"
        }
        fn attribute_names(&self) -> &[String] {
            self.0.attribute_names()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
        fn record(&self, i: usize) -> Record {
            self.0.record(i)
        }
        fn picture_name(&self, _: usize) -> String {
            "\u{1}".repeat(4000)
        }
        fn left_out(&self) -> &[LeftOut] {
            &self.1
        }
        fn fingerprint(&self) -> blake3::Hash {
            self.0.fingerprint()
        }
        fn read(&self, i: usize, size: u32) -> Result<Vec<u8>, DataError> {
            if i < 30 {
                Ok(vec![])
            } else {
                self.0.read(i, size)
            }
        }
    }
    let first = LeftOut {
        name: "first".to_owned(),
        row: 0,
        reason: "gone".to_owned(),
    };
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(
        &Bad(Rendered::new(40), vec![first.clone()]),
        4,
        cache.path(),
    );
    let (count, named) = packed.left_out();
    assert_eq!((packed.len(), count, &named[0]), (10, 31, &first));
}

#[test]
fn info_counts_attributes_and_channels() {
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(&Rendered::new(10), 2, cache.path());
    let info = packed.info();
    assert_eq!(
        info.attribute_counts,
        [("odd".to_owned(), 5), ("late".to_owned(), 4)]
    );
    assert_eq!(
        (info.count, info.train, info.held_out, info.bytes),
        (10, 10, 0, fs::metadata(packed.path()).unwrap().len())
    );
    let expected = [4.5, 0.0, 1.5].map(|mean| mean / 255.0);
    let std = [8.25_f64.sqrt(), 0.0, 1.25_f64.sqrt()].map(|std| std / 255.0);
    for c in 0..3 {
        assert!(
            (info.mean[c] - expected[c]).abs() < 1e-12 && (info.std[c] - std[c]).abs() < 1e-9,
            "{info:?}"
        );
    }
}
