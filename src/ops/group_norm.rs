//! Statistics of group norm: mean and inverse deviation per sample and group.
//!
//! The normalisation itself is the prologue of the op that reads the tensor ([`super::prologue`]);
//! that op's gradient rule accounts for the statistics' dependence on the tensor too.

use super::launch::{Columns, THREADS, channels_at_once};
use super::prologue::NormVars;
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Kernel, Limits, View};
use crate::device::simd::multiversion;
use crate::device::vector;
use crate::device::view::{Rows, RowsMut};
use crate::tape::{Mismatch, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Statistics of `x` (`[n, .., c]`) over `groups` groups of consecutive channels: `[n, 2 groups]`, the
/// means and then 1 / sqrt(biased variance + eps).
#[derive(Debug)]
pub struct GroupNormStats {
    groups: usize,
    eps: f64,
}

/// Records the statistics of `x` and bundles them with the norm's other operands.
///
/// # Errors
/// Channels that do not divide into the groups.
pub fn group_norm(
    tape: &mut Tape,
    x: Var,
    (groups, eps): (usize, f64),
    [gamma, beta]: [Var; 2],
    scale_shift: Option<Var>,
) -> Result<NormVars, TapeError> {
    let stats = tape.push_one(GroupNormStats { groups, eps }, &[x])?;
    Ok(NormVars {
        groups,
        stats,
        gamma,
        beta,
        scale_shift,
    })
}

impl Op for GroupNormStats {
    fn name(&self) -> &'static str {
        "group_norm_stats"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let c = inputs[0].channels();
        if self.groups == 0 || !c.is_multiple_of(self.groups) {
            let want = format!("a multiple of {} groups", self.groups);
            return Err(Mismatch::new("channels of the norm", want, c));
        }
        Ok(vec![TensorType::f32(&[
            inputs[0].samples(),
            2 * self.groups,
        ])])
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        Workspace {
            shared: 0,
            per_thread: 3 * inputs[0].channels(),
        }
    }

    fn cpu(&self, call: &Call<'_>) {
        let x = call.input(0);
        let stats: RowsMut<'_> = call.output(0);
        call.pool()
            .run(&[stats.split(1)], call.scratch(), |n, parts, scratch| {
                self.sample(x, n, parts.get(0).row(0, 0), scratch);
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (x, stats) = (call.input(0), call.output(0));
        let form = Form::new(x, self.groups, call.device());
        let columns = form.columns;
        let (parts, tickets) = if form.split {
            let parts = 8 * columns.blocks * columns.chunks * form.most;
            // Kernels leave the tickets as they find them.
            let tickets = call.table(&vec![0_u32; x.n()]);
            (call.scratch(x.n() * parts), tickets)
        } else {
            (0, 0)
        };
        let kernel = Kernel::new("group_norm", "group_norm")
            .define("TX", x.elem)
            .define("VX", columns.vector)
            .flag("SPLIT", form.split);
        let args = Args::new().view(x).view(stats).ptr(parts).ptr(tickets);
        let args = args.int(x.rows()).int(x.c()).int(columns.lanes);
        let args = args.int(columns.blocks).int(columns.span).int(self.groups);
        let shared = 4 * (columns.vector * columns.lanes * form.pitch + 2 * form.most);
        call.launch(
            kernel,
            columns.grid(x.n()),
            THREADS,
            shared,
            args.int(form.pitch).int(form.most).f32(self.eps as f32),
        );
        Ok(())
    }
}

/// How `kernels/group_norm.cu` is launched.
#[derive(Clone, Copy, Debug)]
struct Form {
    columns: Columns,
    /// Several blocks see a group.
    split: bool,
    /// Distance of a channel's column in shared memory.
    pitch: usize,
    /// Most groups that a block sees.
    most: usize,
}

impl Form {
    fn new(x: View, groups: usize, limits: Limits) -> Self {
        let vector = channels_at_once(&[x]);
        let (width, vectors) = (x.c() / groups, x.c() / vector);
        // Lanes that end with a group.
        let whole = (1..=width.min(WIDE)).find(|l| (l * vector).is_multiple_of(width));
        let chunks = |lanes: usize| vectors.div_ceil(lanes);
        let widest = match whole {
            Some(group) => (group * (WIDE / group)).min(vectors),
            None => WIDE.min(vectors),
        };
        // Fewer channels a block until the device is full; four lanes or more fill whole sectors.
        let narrower = |lanes: usize| {
            let half = lanes / 2;
            let fits = whole.is_some_and(|group| half.is_multiple_of(group));
            (fits && half >= 4 && x.rows() >= 2 * THREADS / half).then_some(half)
        };
        let mut lanes = widest;
        while x.n() * chunks(lanes) < 2 * limits.sms
            && let Some(half) = narrower(lanes)
        {
            lanes = half;
        }
        // A block that is alone with a group saves the merging: worth some idle multiprocessors, not long sums.
        let most = if 2 * x.n() * chunks(lanes) >= limits.sms {
            32
        } else {
            16
        };
        let alone = x.rows() <= most * (THREADS / lanes);
        let full = x.n() * chunks(lanes) >= 3 * limits.sms;
        let span = if whole.is_some() && (alone || full) {
            x.rows()
        } else {
            lanes = widest;
            // Three blocks of a multiprocessor, all at once.
            let blocks = (3 * limits.sms / (x.n() * chunks(lanes))).max(1);
            // Whole sets of the kernel's ROWS for each thread.
            let set = 4 * (THREADS / lanes);
            let share = x.rows().div_ceil(blocks).next_multiple_of(set);
            share.min(x.rows())
        };
        let height = THREADS / lanes;
        let columns = Columns {
            vector,
            lanes,
            chunks: chunks(lanes),
            blocks: x.rows().div_ceil(span),
            span,
        };
        Self {
            columns,
            split: whole.is_none() || columns.blocks > 1,
            pitch: pitch(lanes, height),
            most: groups.min(lanes * vector / width + 2),
        }
    }
}

/// Most lanes of a block.
const WIDE: usize = 32;

/// The smallest pitch of columns of `height` numbers for which a warp's lanes, 32 / `lanes` rows of them, write to
/// different banks.
fn pitch(lanes: usize, height: usize) -> usize {
    let rows = (32 / lanes).max(1);
    (height..)
        .find(|p| p % (2 * rows) == rows)
        .unwrap_or(height)
}

impl GroupNormStats {
    /// Two passes: the mean first, then squared deviations from it, so that nothing cancels.
    fn sample(&self, x: Rows<'_>, n: usize, stats: &mut [f32], scratch: &mut [f32]) {
        let c = x.cols();
        let width = c / self.groups;
        let count = (x.rows() * width) as f64;
        let (sums, rest) = scratch.split_at_mut(c);
        let (block, mean) = rest[..2 * c].split_at_mut(c);
        mean.fill(0.0);
        column_sums(x, n, block, sums);
        let total = |sums: &[f32], g: usize| -> f64 {
            sums[g * width..(g + 1) * width]
                .iter()
                .map(|&s| f64::from(s))
                .sum()
        };
        for g in 0..self.groups {
            stats[g] = (total(sums, g) / count) as f32;
            mean[g * width..(g + 1) * width].fill(stats[g]);
        }
        column_deviations(x, n, mean, block, sums);
        for g in 0..self.groups {
            let variance = total(sums, g) / count;
            stats[self.groups + g] = (1.0 / (variance + self.eps).sqrt()) as f32;
        }
    }
}

/// Rows that are added in one set of f32 accumulators before they join the total.
const BLOCK: usize = 64;

multiversion! {
    /// `sums[c]` = sum over rows of sample n of `x[c]`.
    pub fn column_sums(x: Rows<'_>, n: usize, block: &mut [f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for first in (0..x.rows()).step_by(BLOCK) {
            block.fill(0.0);
            for r in first..x.rows().min(first + BLOCK) {
                for (b, &x) in block.iter_mut().zip(x.row(n, r)) {
                    *b += x;
                }
            }
            for (s, &b) in sums.iter_mut().zip(block.iter()) {
                *s += b;
            }
        }
    }
}

/// `sums[c]` = sum over rows of sample n of (`x[c]` - `mean[c]`)^2.
fn column_deviations(x: Rows<'_>, n: usize, mean: &[f32], block: &mut [f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for first in (0..x.rows()).step_by(BLOCK) {
        block.fill(0.0);
        for r in first..x.rows().min(first + BLOCK) {
            vector::add_square_deviation(x.row(n, r), mean, block);
        }
        vector::add(block, sums);
    }
}
