//! Batches: order, resuming, contents.

use std::sync::Arc;

use gmmk::data::Loader;

use super::*;

/// Row numbers of `batches` batches from sample `from` on.
fn rows(packed: &Arc<Packed>, batch: usize, seed: u64, from: u64, batches: usize) -> Vec<u64> {
    let mut loader = Loader::new(packed.clone(), batch, seed, from).unwrap();
    let mut rows = Vec::new();
    for number in 0..batches {
        let batch = loader.next().unwrap();
        assert_eq!(
            batch.first_sample,
            from + (number * batch.rows.len()) as u64
        );
        rows.extend_from_slice(&batch.rows);
    }
    assert_eq!(loader.images_seen(), from + (batch * batches) as u64);
    rows
}

#[test]
fn loader_batches_run_on_across_epochs_and_resume_exactly() {
    let cache = tempfile::tempdir().unwrap();
    let mut source = Rendered::new(50);
    source.held_out = 7;
    let packed = Arc::new(pack(&source, 4, cache.path()));
    let run = rows(&packed, 8, 3, 0, 60);
    for epoch in run.chunks_exact(43) {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, (0..43).map(|i| 10 * i).collect::<Vec<u64>>());
    }
    assert_ne!(run[..43], run[43..86]);
    for (batch, from) in [
        (8, 8),
        (8, 40),
        (5, 43),
        (1, 85),
        (43, 86),
        (100, 7),
        (130, 300),
    ] {
        let resumed = rows(&packed, batch, 3, from, 1);
        assert_eq!(
            resumed,
            run[from as usize..from as usize + batch],
            "{batch} {from}"
        );
    }
    assert_ne!(rows(&packed, 8, 4, 0, 5), run[..40]);
    contains(
        &message(Loader::new(packed, 0, 1, 0)),
        &["batch", "at least 1"],
    );
}

#[test]
fn loader_hands_out_pictures_attributes_and_rows_that_belong_together() {
    let cache = tempfile::tempdir().unwrap();
    let source = Rendered::new(300);
    let packed = Arc::new(pack(&source, 4, cache.path()));
    let mut loader = Loader::new(packed, 7, 1, 0).unwrap();
    let mut places = std::collections::HashSet::new();
    for _ in 0..100 {
        let batch = loader.next().unwrap();
        places.insert(batch.images.as_ptr() as usize);
        for (slot, &row) in batch.rows.iter().enumerate() {
            let i = row as usize / 10;
            assert_eq!(
                batch.images[slot * 48..(slot + 1) * 48],
                source.read(i, 4).unwrap()
            );
            assert_eq!(
                batch.attributes[slot * 2..(slot + 1) * 2],
                source.record(i).attributes
            );
        }
        assert!(loader.wait_seconds() >= 0.0);
    }
    assert_eq!(places.len(), 3, "buffers are recycled");
    assert!(loader.total_wait_seconds() > 0.0);
}
