//! Launch shapes that the kernels of several ops share.

use crate::device::cuda::{Call, Limits, Unsupported, View};
use crate::gmm::ngmg::Kernel;

/// Threads of a block.
pub const THREADS: usize = 256;
/// Most blocks in the second and third direction of a grid.
pub const MOST_BLOCKS: usize = 65_535;

/// Neighbouring channels, 8 at most, that can be accessed at once in all of `views`.
pub fn channels_at_once(views: &[View]) -> usize {
    views.iter().map(|v| v.vector(8)).min().unwrap_or(1)
}

/// Neighbouring elements of a sample, 8 at most, that can be accessed at once in all of `views`: channels,
/// or elements of any rows where all rows lie side by side.
pub fn elements_at_once(views: &[View]) -> usize {
    if views.iter().any(|v| v.ld != v.c()) {
        return channels_at_once(views);
    }
    let flat: Vec<View> = views
        .iter()
        .map(|v| View {
            shape: [v.n(), 1, 1, v.rows() * v.c()],
            ..*v
        })
        .collect();
    channels_at_once(&flat)
}

/// Blocks for `count` things per sample, `each` things a thread, of `n` samples.
pub fn per_sample(count: usize, each: usize, n: usize) -> [usize; 3] {
    [count.div_ceil(each * THREADS), n.min(MOST_BLOCKS), 1]
}

/// Blocks whose threads walk over a map's pixels, each with some channels (`kernels/columns.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Channels of a thread.
    pub vector: usize,
    /// Threads side by side in the direction of channels.
    pub lanes: usize,
    /// Blocks side by side in the direction of channels.
    pub chunks: usize,
    /// Blocks of a sample in the direction of pixels.
    pub blocks: usize,
    /// Pixels of a block.
    pub span: usize,
}

impl Columns {
    /// For `n` samples of `rows` pixels with `c` channels: some blocks for each multiprocessor, and a few
    /// pixels for each thread.
    pub fn new([n, rows, c]: [usize; 3], vector: usize, limits: Limits) -> Self {
        let vectors = c / vector;
        let chunks = vectors.div_ceil(32);
        let lanes = vectors.div_ceil(chunks);
        let height = THREADS / lanes;
        let wanted = (4 * limits.sms).div_ceil(n * chunks);
        let span = rows.div_ceil(wanted).max(4 * height);
        let span = span.next_multiple_of(height).min(rows);
        Self {
            vector,
            lanes,
            chunks,
            blocks: rows.div_ceil(span),
            span,
        }
    }

    /// The grid for `n` samples.
    pub fn grid(&self, n: usize) -> [usize; 3] {
        [n * self.blocks, self.chunks, 1]
    }

    /// Bytes of shared memory for one number of each thread and channel.
    pub fn shared(&self) -> usize {
        4 * self.vector * (THREADS / self.lanes + 1) * self.lanes
    }
}

/// A kernel matrix on a uniform grid (`kernels/window.cuh`).
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Address of the entries at distances 0..=R.
    pub taps: u64,
    /// Address of kappa.
    pub scales: u64,
    /// There is a kappa for each row.
    pub per_row: bool,
    /// R.
    pub radius: usize,
}

impl Window {
    /// Puts `kernel` on the device, as far as its entries are not zero in f32. What is far below one may be
    /// all that a narrow kernel has, so a power of two, which rounds nothing, moves from kappa to the entries.
    ///
    /// # Errors
    /// It is not on a uniform grid.
    pub fn new(call: &mut Call<'_>, kernel: &Kernel) -> Result<Self, Unsupported> {
        let off_grid = || Unsupported("a kernel off a uniform grid has no CUDA form".into());
        let (taps, scales) = kernel.taps().ok_or_else(off_grid)?;
        let largest = taps.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let power = 2_f64.powi(-largest.log2().floor() as i32);
        let mut taps: Vec<f32> = taps.iter().map(|&t| (t * power) as f32).collect();
        while taps.len() > 1 && taps.last() == Some(&0.0) {
            taps.pop();
        }
        Ok(Self {
            taps: call.table(&taps),
            scales: call.table(&scales.iter().map(|s| s / power).collect::<Vec<f64>>()),
            per_row: scales.len() > 1,
            radius: taps.len() - 1,
        })
    }
}

/// Threads that make four outputs each of a row of `n` numbers.
pub fn window_threads(n: usize) -> usize {
    n.div_ceil(4).next_multiple_of(32).clamp(32, THREADS)
}
