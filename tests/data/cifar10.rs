//! CIFAR-10 in its binary files, right and wrong.

use gmmk::data::Cifar10;

use super::*;

#[test]
fn cifar_counts_records_by_size_and_turns_planes_into_pixels() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("cifar-10-batches-bin");
    fs::create_dir(&folder).unwrap();
    cifar(&folder, [3, 1, 2, 12, 1, 4]);
    assert!(Cifar10::is_in(parent.path()) && Cifar10::is_in(&folder));
    let source = Cifar10::open(parent.path()).unwrap();
    assert_eq!((source.len(), source.one_hot()), (23, true));
    assert_eq!(source.attribute_names()[3], "cat");
    let record = source.record(6 + 9);
    assert_eq!((record.row, record.split), (15, Split::Train));
    assert_eq!(record.attributes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(source.record(19).split, Split::HeldOut);
    let picture = source.read(15, 32).unwrap();
    assert_eq!(picture[..6], [9, 10, 11, 9, 10, 11]);
    assert_eq!(picture[3 * 32..3 * 32 + 3], [10, 11, 12]);
    assert_eq!(source.read(0, 48).unwrap().len(), 48 * 48 * 3);
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(&source, 32, cache.path());
    assert_eq!(
        (
            packed.train_indices().len(),
            packed.held_out_indices().len()
        ),
        (19, 4)
    );
    assert!(packed.one_hot());
}

#[test]
fn cifar_with_bad_sizes_labels_names_or_missing_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fresh = || cifar(folder.path(), [2; 6]);
    let open = || message(Cifar10::open(folder.path()));
    fresh();
    let good = fs::read(at("data_batch_2.bin")).unwrap();
    fs::write(at("data_batch_2.bin"), &good[..good.len() - 3]).unwrap();
    contains(
        &open(),
        &[
            "data_batch_2.bin",
            "offset 3073",
            "records of 3073 bytes",
            "6143 bytes, 3070 too many for 1 records",
        ],
    );
    fs::write(at("data_batch_2.bin"), b"").unwrap();
    contains(&open(), &["data_batch_2.bin", "offset 0", "0 bytes"]);
    let mut label = good.clone();
    label[3073] = 10;
    fs::write(at("data_batch_2.bin"), label).unwrap();
    contains(
        &open(),
        &[
            "data_batch_2.bin",
            "offset 3073",
            "a label from 0 to 9 for record 1",
            "label 10",
        ],
    );
    fresh();
    fs::write(at("batches.meta.txt"), "cat\ndog\n").unwrap();
    contains(
        &open(),
        &["batches.meta.txt:2: ", "10 class names", "2 names"],
    );
    fresh();
    fs::remove_file(at("test_batch.bin")).unwrap();
    contains(
        &open(),
        &[
            "holds no test_batch.bin",
            "found batches.meta.txt, data_batch_1.bin",
            "binary version",
        ],
    );
}
