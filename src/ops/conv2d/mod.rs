//! 3x3 convolution, stride 1, zero padding 1:
//! `y[n,p,q,k]` = `b[k]` + sum_{r,s,c} act(x)`[n,p+r-1,q+s-1,c]` `w[k,r,s,c]`  (+ residual).
//!
//! The input comes through a prologue (norm, SiLU, nearest doubling); padding is zero *after* it.
//! The residual may be a tensor, a tensor to be doubled, or a tensor behind a 1x1 convolution whose
//! products join the same accumulators.

mod dgrad;
mod plan;
mod tile;
mod wgmma;
mod wgrad;
mod winograd;

pub use dgrad::Conv2dDgrad;
pub use wgrad::Conv2dWgrad;
pub use winograd::Algorithm;

use super::linear::{self, Weights};
use super::prologue::{Loader, NormVars, Prologue, gather, norm_operands};
use crate::device::call::Call;
use crate::device::cuda;
use crate::device::gemm::{self, Columns, Term};
use crate::device::pool::Parts;
use crate::device::view::{Rows, RowsMut, Span};
use crate::tape::backward::{Backward, Contribution, Resample};
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};
use plan::{Added, Conv, Source};
use tile::Tiles;
use winograd::{Forward, Output, Use, Weight};

/// What is added to a convolution's output.
#[derive(Clone, Copy, Debug)]
pub enum Residual {
    /// A tensor of the output's size.
    Plain(Var),
    /// A tensor of half the height and width, doubled by nearest neighbour.
    Doubled(Var),
    /// A 1x1 convolution of a tensor.
    Shortcut(Var, Weights),
}

/// What a convolution does beside the sum of products.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Norm of the input.
    pub norm: Option<&'a NormVars>,
    /// SiLU of the (normalised) input.
    pub silu: bool,
    /// Nearest-neighbour doubling of the activated input.
    pub upsample: bool,
    /// Added to the output.
    pub residual: Option<Residual>,
    /// How the CPU computes it and its gradients.
    pub algorithm: Algorithm,
}

/// Records the convolution of `x` (`[n, h, w, c]`) with `weights` (`[k, 3, 3, c]`, `[k]`).
///
/// # Errors
/// Shapes that do not fit.
pub fn conv2d(
    tape: &mut Tape,
    x: Var,
    weights: Weights,
    extras: Extras<'_>,
) -> Result<Var, TapeError> {
    let mut inputs = vec![x, weights.w, weights.b];
    inputs.extend(extras.norm.map(NormVars::operands).unwrap_or_default());
    let residual = match extras.residual {
        None => ResidualKind::None,
        Some(Residual::Plain(var)) => {
            inputs.push(var);
            ResidualKind::Plain
        }
        Some(Residual::Doubled(var)) => {
            inputs.push(var);
            ResidualKind::Doubled
        }
        Some(Residual::Shortcut(var, Weights { w, b })) => {
            inputs.extend([var, w, b]);
            ResidualKind::Shortcut
        }
    };
    let prologue = Prologue::new(extras.norm, extras.silu);
    tape.push_one(
        Conv2d {
            prologue,
            upsample: extras.upsample,
            residual,
            algorithm: extras.algorithm,
        },
        &inputs,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResidualKind {
    None,
    Plain,
    Doubled,
    Shortcut,
}

/// See [`conv2d`]. Inputs: x, w, b, the norm's operands, the residual and its weights.
#[derive(Debug)]
pub struct Conv2d {
    prologue: Prologue,
    upsample: bool,
    residual: ResidualKind,
    algorithm: Algorithm,
}

impl Conv2d {
    fn residual_at(&self) -> usize {
        3 + self.prologue.operands()
    }

    /// Packs the weights of the folded 1x1 convolution, if there is one.
    fn shortcut<'a>(&self, call: &Call<'a>, packed: &'a mut [f32]) -> Option<Shortcut<'a>> {
        let at = self.residual_at();
        (self.residual == ResidualKind::Shortcut).then(|| {
            let (from, bias) = (call.input(at), call.input(at + 2).row(0, 0));
            let (c, w) = (from.cols(), linear::flat(call.input(at + 1)));
            gemm::pack_blocks(call.pool(), packed, (w, &[0]), [c, bias.len()], [1, c]);
            Shortcut { from, packed, bias }
        })
    }

    /// The tensor that is added, and how it is resampled.
    fn residual<'a>(&self, call: &Call<'a>) -> Option<(Rows<'a>, Resample)> {
        let from = || call.input(self.residual_at());
        match self.residual {
            ResidualKind::Plain => Some((from(), Resample::None)),
            ResidualKind::Doubled => Some((from(), Resample::OfPool)),
            _ => None,
        }
    }

    /// [`Op::cpu`] by Winograd's algorithm.
    fn winograd(&self, call: &Call<'_>, loader: Loader<'_>, y: RowsMut<'_>) {
        let (shape, c) = (y.shape(), loader.x.cols());
        let (shared, rest) = call
            .shared()
            .split_at_mut(winograd::workspace(shape, c).shared);
        let shortcut = self.shortcut(call, rest);
        let forward = Forward {
            loader,
            upsample: self.upsample,
            weight: Weight {
                w: linear::flat(call.input(1)),
                c,
                how: Use::Forward,
            },
            output: Output {
                bias: Some(call.input(2).row(0, 0)),
                residual: self.residual(call),
                halved: false,
            },
        };
        forward.run(call, (y, shape), shared, |place, y| {
            if let Some(shortcut) = &shortcut {
                shortcut.add(place, y);
            }
        });
    }

    fn check_residual(&self, inputs: &[&TensorType], y: &TensorType) -> Result<(), Mismatch> {
        let [n, h, w, k] = y.nhwc();
        let at = self.residual_at();
        match self.residual {
            ResidualKind::None => Ok(()),
            ResidualKind::Plain => Mismatch::check("residual", y, inputs[at]),
            ResidualKind::Doubled => {
                let [rn, rh, rw, rk] = inputs[at].nhwc();
                let doubled = [rn, 2 * rh, 2 * rw, rk];
                Mismatch::check("doubled residual", [n, h, w, k], doubled)
            }
            ResidualKind::Shortcut => {
                let c = inputs[at].channels();
                Mismatch::check("input of the shortcut", [n, h, w, c], inputs[at].nhwc())?;
                let weight = &inputs[at + 1].shape[..];
                Mismatch::check("weight of the shortcut", &[k, 1, 1, c][..], weight)?;
                Mismatch::check("bias of the shortcut", &[k][..], &inputs[at + 2].shape[..])
            }
        }
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        let x = inputs[0];
        Mismatch::check("axes of the input", 4, x.shape.len())?;
        let [n, h, w, c] = x.nhwc();
        let k = inputs[1].shape.first().copied().unwrap_or(0);
        Mismatch::check("weight", &[k, 3, 3, c][..], &inputs[1].shape[..])?;
        Mismatch::check("bias", &[k][..], &inputs[2].shape[..])?;
        self.prologue.check(x, &inputs[3..])?;
        let scale = if self.upsample { 2 } else { 1 };
        let y = TensorType::f32(&[n, scale * h, scale * w, k]);
        self.check_residual(inputs, &y)?;
        Ok(vec![y])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let Some(dy) = b.grad(node.outputs[0])? else {
            return Ok(());
        };
        let x = node.inputs[0];
        let at = self.residual_at();
        let plain = Contribution {
            var: dy,
            resample: Resample::None,
        };
        match self.residual {
            ResidualKind::None => {}
            ResidualKind::Plain => b.add(node.inputs[at], plain),
            ResidualKind::Doubled => {
                b.add(
                    node.inputs[at],
                    Contribution {
                        var: dy,
                        resample: Resample::OfUpsample,
                    },
                );
            }
            ResidualKind::Shortcut => {
                let [from, w, bias] = [node.inputs[at], node.inputs[at + 1], node.inputs[at + 2]];
                linear::backward_one(b, from, dy, [w, bias])?;
            }
        }
        let norm = norm_operands(self.prologue, node, 3).to_vec();
        let weights = [node.inputs[1], node.inputs[2]];
        linear::record_wgrad(b, [x, dy], &norm, weights, |modes| Conv2dWgrad {
            prologue: self.prologue,
            upsample: self.upsample,
            modes,
            algorithm: self.algorithm,
        })?;
        if !b.needs(x) && norm.is_empty() {
            return Ok(());
        }
        let dact = b.tape.push_one(
            Conv2dDgrad {
                upsample: self.upsample,
                algorithm: self.algorithm,
            },
            &[dy, node.inputs[1]],
        )?;
        let dact = Contribution {
            var: dact,
            resample: Resample::None,
        };
        self.prologue.backward(b, x, dact, &norm)
    }

    fn workspace(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Workspace {
        let (shape, c) = (outputs[0].nhwc(), inputs[0].channels());
        let k = shape[3];
        let shortcut = match self.residual {
            ResidualKind::Shortcut => gemm::packed_len(inputs[self.residual_at()].channels(), k),
            _ => 0,
        };
        if self.algorithm.is_winograd(shape, c) {
            let winograd = winograd::workspace(shape, c);
            return Workspace {
                shared: winograd.shared + shortcut,
                ..winograd
            };
        }
        Workspace {
            shared: gemm::packed_len(9 * c, k) + shortcut,
            per_thread: Tiles::new(shape, c).scratch_len() + 2 * c,
        }
    }

    fn flops(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> u64 {
        let shortcut = match self.residual {
            ResidualKind::Shortcut => inputs[self.residual_at()].channels(),
            _ => 0,
        };
        2 * (outputs[0].len() * (9 * inputs[0].channels() + shortcut)) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let loader = Loader::new(call, self.prologue, 0, 3);
        let c = loader.x.cols();
        let y = call.output(0);
        if self.algorithm.is_winograd(y.shape(), c) {
            self.winograd(call, loader, y);
            return;
        }
        let (tiles, k) = (Tiles::new(y.shape(), c), y.cols());
        let (packed, rest) = call.shared().split_at_mut(gemm::packed_len(9 * c, k));
        let w = linear::flat(call.input(1));
        gemm::pack_blocks(call.pool(), packed, (w, &[0]), [9 * c, k], [1, 9 * c]);
        let task = Direct {
            loader,
            upsample: self.upsample,
            tiles: &tiles,
            packed,
            bias: call.input(2).row(0, 0),
            shortcut: self.shortcut(call, rest),
            residual: self.residual(call),
        };
        call.pool()
            .run(&[tiles.split(y)], call.scratch(), |_, parts, scratch| {
                task.run(parts, scratch);
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), cuda::Unsupported> {
        let at = self.residual_at();
        let y = call.output(0);
        let added = match self.residual {
            ResidualKind::None => Added::None,
            ResidualKind::Plain => Added::Plain(call.input(at)),
            ResidualKind::Doubled => Added::Doubled(call.input(at)),
            ResidualKind::Shortcut => {
                Added::Shortcut(call.input(at), call.weight(at + 1), call.weight(at + 2))
            }
        };
        let (from, w2) = match added {
            Added::None => (None, None),
            Added::Plain(r) | Added::Doubled(r) => (Some(r), None),
            Added::Shortcut(r, w2, _) => (Some(r), Some(w2)),
        };
        let others = [Some(y), from, Some(call.weight(1)), w2];
        let wgmma = wgmma::suits(call, self.prologue, call.input(0), &others)
            && (self.prologue.norm.is_some() || !self.upsample);
        let conv = Conv {
            source: Source::new(call, self.prologue, 3, self.upsample, wgmma),
            w: call.weight(1),
            bias: Some(call.weight(2)),
            added,
            y,
            gradient: false,
            down: false,
        };
        conv.launch(call, wgmma);
        Ok(())
    }
}

/// The folded 1x1 convolution, ready for products.
struct Shortcut<'a> {
    from: Rows<'a>,
    packed: &'a [f32],
    bias: &'a [f32],
}

impl<'a> Shortcut<'a> {
    /// Its products with the pixels from `place` on.
    fn term(&self, (n, first): (usize, usize)) -> Term<'a> {
        let picture = self.from.rows();
        Term {
            a: self.from.span(n + first / picture, first % picture),
            a_stride: 1,
            a_batch: 0,
            b: Columns::Packed(self.packed),
            k: self.from.cols(),
            batch: 1,
        }
    }

    /// Where row `r` starts in the term: rows follow each other in memory within a picture.
    fn position(&self, r: usize) -> usize {
        let picture = self.from.rows();
        r / picture * self.from.sample_stride() + r % picture * self.from.ld()
    }

    /// Adds it to the output's pixels from `place` on.
    fn add(&self, place: (usize, usize), y: &mut RowsMut<'_>) {
        gemm::multiply(
            y.rows(),
            y.cols(),
            &[self.term(place)],
            |_, r| self.position(r),
            |r, j, sums| {
                let range = j..j + sums.len();
                let out = &mut y.row(0, r)[range.clone()];
                for ((o, &s), &b) in out.iter_mut().zip(sums).zip(&self.bias[range]) {
                    *o += s + b;
                }
            },
        );
    }
}

struct Direct<'a> {
    loader: Loader<'a>,
    upsample: bool,
    tiles: &'a Tiles,
    packed: &'a [f32],
    bias: &'a [f32],
    shortcut: Option<Shortcut<'a>>,
    residual: Option<(Rows<'a>, Resample)>,
}

impl Direct<'_> {
    fn run(&self, parts: &mut Parts<'_>, scratch: &mut [f32]) {
        let place = parts.place(0);
        let mut y = parts.get(0);
        let area = self.tiles.area(place, y.rows());
        let c = self.loader.x.cols();
        let (table, act) = scratch.split_at_mut(2 * c);
        area.fill(&self.loader, self.upsample, table, act);
        let pitch = self.tiles.pitch();
        let conv = Term {
            a: Span::from(&*act),
            a_stride: 1,
            a_batch: pitch,
            b: Columns::Packed(self.packed),
            k: 3 * c,
            batch: 3,
        };
        let terms = [conv, self.shortcut.as_ref().map_or(conv, |s| s.term(place))];
        let count = 1 + usize::from(self.shortcut.is_some());
        let position = |term: usize, r: usize| match &self.shortcut {
            Some(shortcut) if term == 1 => shortcut.position(r),
            _ => area.position(r),
        };
        gemm::multiply(
            y.rows(),
            y.cols(),
            &terms[..count],
            position,
            |r, j, sums| {
                let range = j..j + sums.len();
                let out = &mut y.row(0, r)[range.clone()];
                for ((o, &s), &b) in out.iter_mut().zip(sums).zip(&self.bias[range.clone()]) {
                    *o = s + b;
                }
                if let Some(shortcut) = &self.shortcut {
                    out.iter_mut()
                        .zip(&shortcut.bias[range.clone()])
                        .for_each(|(o, &b)| *o += b);
                }
                if let Some((from, resample)) = self.residual {
                    let (n, pixel) = area.pixel(r);
                    self.add_residual(from.columns(j, sums.len()), resample, (n, pixel), out);
                }
            },
        );
    }

    fn add_residual(
        &self,
        from: Rows<'_>,
        resample: Resample,
        (n, pixel): (usize, usize),
        out: &mut [f32],
    ) {
        match resample {
            Resample::None => gather((from, Resample::None), n, pixel, 1, out),
            _ => {
                let w = self.tiles.width();
                let low = pixel / w / 2 * (w / 2) + pixel % w / 2;
                gather((from, Resample::None), n, low, 1, out);
            }
        }
    }
}
