//! Hands shuffled batches to the trainer, prepared ahead by a thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{DataError, Packed};
use crate::rng::{Philox, Stream, scale};

/// Batches that exist at once: one with the trainer, one ready, one being filled.
const BUFFERS: usize = 3;

/// The order of the training pictures over a run: sample s (images seen before it) is position
/// s mod n of epoch s / n, and each epoch is a permutation of its own.
///
/// The permutation is a function of (seed, epoch) alone: Fisher-Yates from the last position down,
/// position p drawing lane p mod 4 of Philox block p / 4, stream [`Stream::Shuffle`], index = epoch.
#[derive(Clone, Debug)]
pub struct ShuffledOrder {
    seed: u64,
    epoch: Option<u64>,
    permutation: Vec<u32>,
}

impl ShuffledOrder {
    /// Order of `n` pictures, `n` below 2^32.
    pub fn new(seed: u64, n: usize) -> Self {
        Self {
            seed,
            epoch: None,
            permutation: vec![0; n],
        }
    }

    /// The picture of sample `sample`, in 0..n; None where n is 0. Allocates nothing.
    pub fn at(&mut self, sample: u64) -> Option<u32> {
        let n = self.permutation.len() as u64;
        let epoch = sample.checked_div(n)?;
        if self.epoch != Some(epoch) {
            self.shuffle(epoch);
        }
        Some(self.permutation[(sample % n) as usize])
    }

    fn shuffle(&mut self, epoch: u64) {
        let philox = Philox::new(self.seed, Stream::Shuffle, epoch);
        for (i, picture) in self.permutation.iter_mut().enumerate() {
            *picture = i as u32;
        }
        let mut words = [0; 4];
        let mut block = None;
        for position in (1..self.permutation.len() as u32).rev() {
            if block != Some(position / 4) {
                block = Some(position / 4);
                words = philox.block(position / 4);
            }
            let other = scale(words[position as usize % 4], position + 1);
            self.permutation.swap(position as usize, other as usize);
        }
        self.epoch = Some(epoch);
    }
}

/// What a training step takes in: B pictures with their attributes and row numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Pictures, B x height x width x channels bytes.
    pub images: Vec<u8>,
    /// Attributes, B x K, each 0 or 1.
    pub attributes: Vec<u8>,
    /// Row numbers in the data set as read, B: the indices of the pictures' latents.
    pub rows: Vec<u64>,
    /// Images seen before this batch; its slot i is sample `first_sample + i`.
    pub first_sample: u64,
}

/// Batches of the training pictures of a packed file, in the order of [`ShuffledOrder`].
///
/// Batches run on across the ends of epochs, so none is short and no picture is dropped; a batch may
/// be larger than the data set. A thread fills the next batches meanwhile, in buffers allocated once.
#[derive(Debug)]
pub struct Loader {
    /// None only while dropping.
    channels: Option<(Receiver<Batch>, SyncSender<Batch>)>,
    thread: Option<JoinHandle<()>>,
    current: Batch,
    batch: usize,
    images_seen: u64,
    wait_seconds: f64,
    total_wait_seconds: f64,
}

impl Loader {
    /// Starts loading batches of `batch` pictures, the first beginning at sample `images_seen`
    /// (0 for a new run; a resumed run goes on exactly where the other stopped).
    ///
    /// # Errors
    /// [`DataError::Argument`] for a batch of 0, [`DataError::NoTrainingPictures`],
    /// [`DataError::Io`] when the thread cannot be started.
    pub fn new(
        packed: Arc<Packed>,
        batch: usize,
        seed: u64,
        images_seen: u64,
    ) -> Result<Self, DataError> {
        if batch == 0 {
            return Err(DataError::Argument {
                what: "batch",
                expected: "at least 1 picture",
                found: 0,
            });
        }
        if packed.train_indices().is_empty() {
            return Err(DataError::NoTrainingPictures {
                path: packed.path().to_path_buf(),
                count: packed.len(),
            });
        }
        let (full_in, full_out) = sync_channel(BUFFERS);
        let (empty_in, empty_out) = sync_channel(BUFFERS);
        let buffer = || Batch {
            images: vec![0; batch * (packed.size() * packed.size() * packed.channels()) as usize],
            attributes: vec![0; batch * packed.attribute_names().len()],
            rows: vec![0; batch],
            first_sample: images_seen,
        };
        for _ in 1..BUFFERS {
            // Cannot fail: there is room and the other end is here.
            let _ = empty_in.send(buffer());
        }
        let current = buffer();
        let path = packed.path().to_path_buf();
        let thread = std::thread::Builder::new()
            .name("gmmk-loader".to_owned())
            .spawn(move || fill_batches(&packed, seed, images_seen, &empty_out, &full_in))
            .map_err(DataError::io("start a thread that reads", &path))?;
        Ok(Self {
            channels: Some((full_out, empty_in)),
            thread: Some(thread),
            current,
            batch,
            images_seen,
            wait_seconds: 0.0,
            total_wait_seconds: 0.0,
        })
    }

    /// The next batch. Its buffers are recycled by the next call.
    ///
    /// # Errors
    /// [`DataError::LoaderStopped`] when the thread has died; the loader is of no more use then.
    #[allow(clippy::should_implement_trait)] // Lends the batch, which an Iterator cannot.
    pub fn next(&mut self) -> Result<&Batch, DataError> {
        let start = Instant::now();
        let received = self
            .channels
            .as_ref()
            .and_then(|(full, _)| full.recv().ok());
        let Some(batch) = received else {
            return Err(self.stopped());
        };
        let used = std::mem::replace(&mut self.current, batch);
        // The first buffer swapped out has not been a batch yet, but it is as good as any. A dead
        // thread is told of by the next receive.
        if let Some((_, empty)) = &self.channels {
            let _ = empty.send(used);
        }
        self.wait_seconds = start.elapsed().as_secs_f64();
        self.total_wait_seconds += self.wait_seconds;
        self.images_seen += self.batch as u64;
        Ok(&self.current)
    }

    /// The batch that [`Loader::next`] lent last.
    pub fn current(&self) -> &Batch {
        &self.current
    }

    /// Seconds that the last [`Loader::next`] waited for its batch.
    pub fn wait_seconds(&self) -> f64 {
        self.wait_seconds
    }

    /// Seconds that all calls of [`Loader::next`] waited.
    pub fn total_wait_seconds(&self) -> f64 {
        self.total_wait_seconds
    }

    /// Images seen once the current batch has been used: where a resumed run starts.
    pub fn images_seen(&self) -> u64 {
        self.images_seen
    }

    fn stopped(&mut self) -> DataError {
        self.channels = None;
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let text = panic.as_ref().and_then(|panic| {
            panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
        });
        DataError::LoaderStopped {
            images_seen: self.images_seen,
            reason: text.unwrap_or("it ended without a message").to_owned(),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing both channels ends the thread wherever it waits.
        self.channels = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Fills empty batches until the loader is dropped.
fn fill_batches(
    packed: &Packed,
    seed: u64,
    images_seen: u64,
    empty: &Receiver<Batch>,
    full: &SyncSender<Batch>,
) {
    let mut order = ShuffledOrder::new(seed, packed.train_indices().len());
    let mut sample = images_seen;
    while let Ok(mut batch) = empty.recv() {
        fill(packed, &mut order, sample, &mut batch);
        sample += batch.rows.len() as u64;
        if full.send(batch).is_err() {
            return;
        }
    }
}

fn fill(packed: &Packed, order: &mut ShuffledOrder, first_sample: u64, batch: &mut Batch) {
    let count = batch.rows.len();
    let (picture, k) = (batch.images.len() / count, batch.attributes.len() / count);
    batch.first_sample = first_sample;
    for slot in 0..count {
        let Some(position) = order.at(first_sample + slot as u64) else {
            return;
        };
        let i = packed.train_indices()[position as usize] as usize;
        batch.images[slot * picture..(slot + 1) * picture].copy_from_slice(packed.image(i));
        batch.attributes[slot * k..(slot + 1) * k].copy_from_slice(packed.attributes(i));
        batch.rows[slot] = packed.row(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch(order: &mut ShuffledOrder, epoch: u64, n: u64) -> Vec<u32> {
        (epoch * n..(epoch + 1) * n)
            .map(|sample| order.at(sample).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(seed: u64, n in 1_usize..200, number in 0_u64..1 << 40) {
            let mut order = ShuffledOrder::new(seed, n);
            let mut pictures = epoch(&mut order, number, n as u64);
            pictures.sort_unstable();
            prop_assert_eq!(pictures, (0..n as u32).collect::<Vec<_>>());
        }

        #[test]
        fn order_does_not_depend_on_what_was_asked_before(seed: u64, n in 1_usize..50, samples: Vec<u32>) {
            let mut kept = ShuffledOrder::new(seed, n);
            for sample in samples {
                let fresh = ShuffledOrder::new(seed, n).at(sample.into());
                prop_assert_eq!(kept.at(sample.into()), fresh);
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let mut order = ShuffledOrder::new(1, 100);
        let (first, second) = (epoch(&mut order, 0, 100), epoch(&mut order, 1, 100));
        assert_ne!(first, second);
        assert_ne!(first, epoch(&mut ShuffledOrder::new(2, 100), 0, 100));
        assert_eq!(ShuffledOrder::new(1, 0).at(5), None);
    }

    #[test]
    fn every_picture_comes_first_about_equally_often() {
        let mut order = ShuffledOrder::new(9, 8);
        let mut first = [0_u32; 8];
        for epoch in 0..8000 {
            first[order.at(8 * epoch).unwrap() as usize] += 1;
        }
        assert!(
            first.iter().all(|&count| (880..1120).contains(&count)),
            "{first:?}"
        );
    }
}
