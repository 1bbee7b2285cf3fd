//! Statistics of group norm: mean and inverse deviation per sample and group.
//!
//! The normalisation itself is the prologue of the op that reads the tensor ([`super::prologue`]);
//! that op's gradient rule accounts for the statistics' dependence on the tensor too.

use super::launch::{Columns, THREADS, channels_at_once};
use super::prologue::NormVars;
use crate::device::call::Call;
use crate::device::cuda::{self, Args, Elem, Kernel, Limits, View};
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
        let x = call.input(0);
        let vector = channels_at_once(&[x]);
        match self.whole(x, vector, call.device()) {
            Some(columns) => self.launch_whole(call, columns),
            None => self.launch_split(call, vector),
        }
        Ok(())
    }
}

impl GroupNormStats {
    /// Blocks that see all pixels of a few groups each; `None` if that leaves the device idle.
    fn whole(&self, x: View, vector: usize, limits: Limits) -> Option<Columns> {
        let (width, vectors) = (x.c() / self.groups, x.c() / vector);
        // Lanes that end with a group, four of them or more, so that reads fill whole sectors.
        let group = (1..=width).find(|l| (l * vector).is_multiple_of(width))?;
        let lanes = (group * 4_usize.div_ceil(group)).min(vectors);
        if lanes > THREADS {
            return None;
        }
        let chunks = vectors.div_ceil(lanes);
        let few = x.rows() <= 16 * (THREADS / lanes);
        (few || x.n() * chunks >= 4 * limits.sms).then_some(Columns {
            vector,
            lanes,
            chunks,
            blocks: 1,
            span: x.rows(),
        })
    }

    fn launch_whole(&self, call: &mut cuda::Call<'_>, columns: Columns) {
        let (x, stats) = (call.input(0), call.output(0));
        let args = Args::new().view(x).view(stats).int(x.rows()).int(x.c());
        let args = args.int(columns.lanes).int(self.groups);
        call.launch(
            kernel("group_norm", x.elem, columns.vector),
            columns.grid(x.n()),
            THREADS,
            2 * columns.shared(),
            args.f32(self.eps as f32),
        );
    }

    fn launch_split(&self, call: &mut cuda::Call<'_>, vector: usize) {
        let (x, stats) = (call.input(0), call.output(0));
        let (n, rows, c) = (x.n(), x.rows(), x.c());
        let columns = Columns::new([n, rows, c], vector, call.device());
        let (blocks, span) = (columns.blocks, columns.span);
        let part = call.scratch(8 * n * blocks * c);
        let args = Args::new().view(x).ptr(part).int(rows).int(c);
        call.launch(
            kernel("group_norm_partials", x.elem, vector),
            columns.grid(n),
            THREADS,
            2 * columns.shared(),
            args.int(columns.lanes).int(blocks).int(span),
        );
        let args = Args::new().ptr(part).view(stats).int(n).int(rows).int(c);
        let args = args.int(self.groups).int(blocks).int(span);
        call.launch(
            kernel("group_norm_merge", Elem::F32, 1),
            [(n * self.groups).div_ceil(THREADS / 32), 1, 1],
            THREADS,
            0,
            args.f32(self.eps as f32),
        );
    }

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

fn kernel(entry: &'static str, elem: Elem, vector: usize) -> Kernel {
    Kernel::new("group_norm", entry)
        .define("TX", elem)
        .define("VX", vector)
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
