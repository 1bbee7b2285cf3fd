//! Statistics of group norm: mean and inverse deviation per sample and group.
//!
//! The normalisation itself is the prologue of the op that reads the tensor ([`super::prologue`]);
//! that op's gradient rule accounts for the statistics' dependence on the tensor too.

use super::prologue::NormVars;
use crate::device::call::Call;
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
