//! Input gradient of a 3x3 convolution:
//! `dact[n,h,w,c]` = sum_{r,s,k} `dy[n,h+1-r,w+1-s,k]` `w[k,r,s,c]`; behind a doubling, summed over 2x2.

use super::plan::{Added, Conv, Source};
use super::tile::Tiles;
use super::wgmma;
use super::winograd::{self, Algorithm, Forward, Output, Use, Weight};
use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, Term};
use crate::device::pool::Parts;
use crate::device::vector;
use crate::device::view::{RowsMut, Span};
use crate::ops::linear::flat;
use crate::ops::prologue::Loader;
use crate::ops::prologue::Prologue;
use crate::tape::{Mismatch, Op, TensorType, Workspace};

/// Gradient of the activated input (`[n, h, w, c]`, before doubling) from dy and the weight.
#[derive(Debug)]
pub struct Conv2dDgrad {
    pub(super) upsample: bool,
    pub(super) algorithm: Algorithm,
}

impl Op for Conv2dDgrad {
    fn name(&self) -> &'static str {
        "conv2d_dgrad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let [n, h, w, _] = inputs[0].nhwc();
        let c = inputs[1].channels();
        let scale = if self.upsample { 2 } else { 1 };
        Ok(vec![TensorType::f32(&[n, h / scale, w / scale, c])])
    }

    fn workspace(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Workspace {
        let (c, [n, h, w, k]) = (outputs[0].channels(), inputs[0].nhwc());
        if self.algorithm.is_winograd([n, h, w, c], k) {
            return winograd::workspace([n, h, w, c], k);
        }
        Workspace {
            shared: gemm::packed_len(9 * k, c),
            per_thread: Tiles::new([n, h, w, k], k).scratch_len() + 2 * k,
        }
    }

    fn flops(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> u64 {
        2 * (inputs[0].len() * 9 * outputs[0].channels()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, Prologue::default(), 0, 0);
        let dx = call.output(0);
        let (k, c) = (loader.x.cols(), dx.cols());
        let [n, h, w, _] = loader.x.shape();
        if self.algorithm.is_winograd([n, h, w, c], k) {
            self.winograd(call, loader, dx);
            return;
        }
        let tiles = Tiles::new(loader.x.shape(), k);
        let packed = call.shared();
        // The filter turned by 180 degrees: tap t of the gradient is tap 8 - t of the weight.
        let taps: [usize; 9] = std::array::from_fn(|t| (8 - t) * c);
        gemm::pack_blocks(
            call.pool(),
            packed,
            (flat(call.input(1)), &taps),
            [k, c],
            [9 * c, 1],
        );
        let task = Task {
            loader,
            tiles: &tiles,
            packed,
            upsample: self.upsample,
        };
        let split = if self.upsample {
            tiles.split_halved(dx)
        } else {
            tiles.split(dx)
        };
        call.pool()
            .run(&[split], call.scratch(), |number, parts, scratch| {
                task.run(number, parts, scratch);
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let (dy, dx) = (call.input(0), call.output(0));
        let conv = Conv {
            source: Source::plain(dy),
            w: call.weight(1),
            bias: None,
            added: Added::None,
            y: dx,
            gradient: true,
            down: self.upsample,
        };
        conv.launch(
            call,
            wgmma::suits(call, Prologue::default(), dy, &[Some(dx), Some(conv.w)]),
        );
        Ok(())
    }
}

impl Conv2dDgrad {
    fn winograd(&self, call: &Call<'_>, loader: Loader<'_>, dx: RowsMut<'_>) {
        let ([n, h, w, _], c) = (loader.x.shape(), dx.cols());
        let forward = Forward {
            loader,
            upsample: false,
            weight: Weight {
                w: flat(call.input(1)),
                c,
                how: Use::Gradient,
            },
            output: Output {
                bias: None,
                residual: None,
                halved: self.upsample,
            },
        };
        forward.run(call, (dx, [n, h, w, c]), call.shared(), |_, _| {});
    }
}

struct Task<'a> {
    loader: Loader<'a>,
    tiles: &'a Tiles,
    packed: &'a [f32],
    upsample: bool,
}

impl Task<'_> {
    fn run(&self, number: usize, parts: &mut Parts<'_>, scratch: &mut [f32]) {
        let mut dx = parts.get(0);
        let k = self.loader.x.cols();
        let (place, pixels) = self.tiles.task(number);
        let area = self.tiles.area(place, pixels);
        let (table, act) = scratch.split_at_mut(2 * k);
        area.fill(&self.loader, false, table, act);
        let term = Term {
            a: Span::from(&*act),
            a_stride: 1,
            a_batch: self.tiles.pitch(),
            b: Columns::Packed(self.packed),
            k: 3 * k,
            batch: 3,
        };
        if self.upsample {
            clear(&mut dx);
        }
        let w = self.tiles.width();
        let columns = dx.cols();
        gemm::multiply(
            pixels,
            columns,
            &[term],
            |_, r| area.position(r),
            |r, j, sums| {
                let range = j..j + sums.len();
                if self.upsample {
                    // Strips have even heights, so a task owns whole 2x2 blocks.
                    vector::add(sums, &mut dx.row(0, r / w / 2 * (w / 2) + r % w / 2)[range]);
                } else {
                    dx.row(0, r)[range].copy_from_slice(sums);
                }
            },
        );
    }
}

fn clear(x: &mut RowsMut<'_>) {
    for r in 0..x.rows() {
        x.row(0, r).fill(0.0);
    }
}
