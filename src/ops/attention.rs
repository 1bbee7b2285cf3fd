//! Attention of pixels to tokens and pixels: per head, o = softmax(q K^T / sqrt(d)) V.

use crate::device::call::Call;
use crate::device::cuda::{self, Args, Elem, Kernel, Precision, Unsupported, View};
use crate::device::gemm::{self, Columns, Term};
use crate::device::pool::Parts;
use crate::device::vector;
use crate::device::view::{Rows, RowsMut, Span};
use crate::tape::backward::Backward;
use crate::tape::{Mismatch, NodeIo, Op, Tape, TapeError, TensorType, Var, Workspace};

/// Records the attention of `q` (`[n, .., c]`, p rows a sample) to `k` and `v` (`[n, s, c]`), heads of
/// `head_dim` channels; the result has the shape of `q`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(tape: &mut Tape, [q, k, v]: [Var; 3], head_dim: usize) -> Result<Var, TapeError> {
    Ok(tape.push(Attention { head_dim }, &[q, k, v])?[0])
}

/// See [`attention`]. Outputs: o, and the log-sum-exp of each row's scores `[n, p, heads]`.
#[derive(Debug)]
pub struct Attention {
    head_dim: usize,
}

/// Queries whose scores are in memory at a time.
const QUERIES: usize = 64;
/// Queries of a task: enough to reuse the packed keys and values.
const TASK: usize = 256;

impl Attention {
    fn check(&self, inputs: &[&TensorType]) -> Result<(), Mismatch> {
        let [q, k, v] = [inputs[0], inputs[1], inputs[2]];
        if self.head_dim == 0 || !q.channels().is_multiple_of(self.head_dim) {
            let want = format!("a multiple of {} channels per head", self.head_dim);
            return Err(Mismatch::new("channels of the queries", want, q.channels()));
        }
        Mismatch::check(
            "keys",
            &[q.samples(), k.rows(), q.channels()][..],
            &k.shape[..],
        )?;
        Mismatch::check("values", &k.shape, &v.shape)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        self.check(inputs)?;
        let q = inputs[0];
        let lse = TensorType::f32(&[q.samples(), q.rows(), q.channels() / self.head_dim]);
        Ok(vec![q.clone(), lse])
    }

    fn differentiable(&self) -> bool {
        true
    }

    fn vjp(&self, b: &mut Backward<'_>, node: &NodeIo) -> Result<(), TapeError> {
        let Some(d_out) = b.grad(node.outputs[0])? else {
            return Ok(());
        };
        let mut inputs = node.inputs.clone();
        inputs.extend(&node.outputs);
        inputs.push(d_out);
        let gradients = b.tape.push(
            AttentionBackward {
                head_dim: self.head_dim,
            },
            &inputs,
        )?;
        for (&input, gradient) in node.inputs.iter().zip(gradients) {
            b.add_plain(input, gradient);
        }
        Ok(())
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        let s = inputs[1].rows();
        let packed = gemm::packed_len(self.head_dim, s) + gemm::packed_len(s, self.head_dim);
        Workspace {
            shared: 0,
            per_thread: packed + QUERIES * s,
        }
    }

    fn flops(&self, inputs: &[&TensorType], _: &[&TensorType]) -> u64 {
        4 * (inputs[0].len() * inputs[1].rows()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let [q, k, v] = [0, 1, 2].map(|i| call.input(i));
        let outputs = [call.output(0).split(TASK), call.output(1).split(TASK)];
        call.pool()
            .run(&outputs, call.scratch(), |_, parts, scratch| {
                let (n, first) = parts.place(0);
                let [mut o, mut lse] = parts.many([0, 1]);
                for head in 0..q.cols() / self.head_dim {
                    let heads = [q, k, v].map(|x| x.columns(head * self.head_dim, self.head_dim));
                    forward(heads, (n, first), head, &mut o, &mut lse, scratch);
                }
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), Unsupported> {
        let views = [call.input(0), call.input(1), call.input(2), call.output(0)];
        let form = Form::new(call, &views, self.head_dim)?;
        let (p, s, d) = (views[0].rows(), views[1].rows(), self.head_dim);
        // All keys at once if they are few: one pass. Otherwise blocks, the next one on its way.
        let block = if s <= 128 { s.next_multiple_of(16) } else { 64 };
        let stages = if s <= block { 1 } else { 2 };
        let kernel = form.define(Kernel::new("attention", "attention"), block);
        let shared = form.shared(64 + 2 * stages * block, 0);
        let (heads, blocks) = (views[0].c() / d, p.div_ceil(64));
        let args = views.into_iter().fold(Args::new(), Args::view);
        let args = args
            .view(call.output(1))
            .int(heads)
            .int(blocks)
            .int(form.parts)
            .int(p)
            .int(s)
            .int(d);
        let grid = [views[0].n() * heads * blocks * form.parts, 1, 1];
        call.launch(kernel, grid, form.threads, shared, args);
        Ok(())
    }

    fn exact(&self, i: usize) -> bool {
        i == 1
    }
}

/// Keys (queries) that a block of the gradient's kernel looks at at a time; more would take registers
/// that it does not have.
const BACKWARD_BLOCK: usize = 32;

/// Form of the attention kernels for some tensors: f32 products, or tensor cores.
struct Form {
    elem: Elem,
    vector: usize,
    /// Head width rounded up to tensor cores' 16, if they are used.
    padded: Option<usize>,
    threads: usize,
    /// Blocks of 64 channels that a head takes.
    parts: usize,
}

impl Form {
    fn new(call: &cuda::Call<'_>, views: &[View], d: usize) -> Result<Self, Unsupported> {
        let elem = views[0].elem;
        if views.iter().any(|v| v.elem != elem) {
            return Err(Unsupported("its operands are stored differently".into()));
        }
        let mut vector = views.iter().map(|v| v.vector(8)).min().unwrap_or(1);
        while !d.is_multiple_of(vector) {
            vector /= 2;
        }
        let tensor = call.precision() == Precision::Bf16
            && call.device().capability >= 80
            && (elem, vector) == (Elem::Bf16, 8)
            && d <= 64;
        Ok(Self {
            elem,
            vector,
            padded: tensor.then(|| d.next_multiple_of(16)),
            threads: if tensor { 128 } else { 256 },
            parts: d.div_ceil(64),
        })
    }

    fn define(&self, kernel: Kernel, block: usize) -> Kernel {
        let kernel = kernel
            .define("TX", self.elem)
            .define("VX", self.vector)
            .flag("MMA", self.padded.is_some());
        match self.padded {
            Some(padded) => kernel.define("DP", padded).define("KB", block),
            None => kernel,
        }
    }

    /// Shared memory of `rows` rows of a head, 16 bytes between them, and `floats` floats.
    fn shared(&self, rows: usize, floats: usize) -> usize {
        self.padded
            .map_or(0, |padded| rows * (padded + 8) * 2 + floats * 4)
    }
}

/// One head of the queries from row `first` of sample `n` on, as many as `o` has rows.
fn forward(
    [q, k, v]: [Rows<'_>; 3],
    (n, first): (usize, usize),
    head: usize,
    o: &mut RowsMut<'_>,
    lse: &mut RowsMut<'_>,
    scratch: &mut [f32],
) {
    let (s, d) = (k.rows(), q.cols());
    let scale = 1.0 / (d as f32).sqrt();
    let (keys, rest) = scratch.split_at_mut(gemm::packed_len(d, s));
    let (values, scores) = rest.split_at_mut(gemm::packed_len(s, d));
    pack_rows(keys, k, n, true);
    pack_rows(values, v, n, false);
    for block in (0..o.rows()).step_by(QUERIES) {
        let rows = QUERIES.min(o.rows() - block);
        let queries = (q.span(n, first + block), q.ld(), 1);
        product([rows, s, d], queries, keys, |r, j, sums| {
            scores[r * s + j..r * s + j + sums.len()].copy_from_slice(sums);
        });
        for r in 0..rows {
            let row = &mut scores[r * s..(r + 1) * s];
            let (max, sum) = vector::softmax_exp(row, scale);
            lse.row(0, block + r)[head] = max + sum.ln();
            vector::scale(row, 1.0 / sum);
        }
        let p = (Span::from(&*scores), s, 1);
        product([rows, d, s], p, values, |r, j, sums| {
            let at = head * d + j;
            o.row(0, block + r)[at..at + sums.len()].copy_from_slice(sums);
        });
    }
}

/// Packs the rows of sample `n` as a B: `transposed` with rows as columns, else as they are.
fn pack_rows(packed: &mut [f32], x: Rows<'_>, n: usize, transposed: bool) {
    gemm::pack_rows(packed, [x.rows(), x.cols()], transposed, |r| x.row(n, r));
}

/// C = A B, `m` x `n` with sums of `k`, for a packed B; A has row distance `ld` and element distance
/// `step`.
fn product(
    [m, n, k]: [usize; 3],
    (a, ld, step): (Span<'_>, usize, usize),
    packed: &[f32],
    store: impl FnMut(usize, usize, &[f32]),
) {
    let term = Term {
        a,
        a_stride: step,
        a_batch: 0,
        b: Columns::Packed(packed),
        k,
        batch: 1,
    };
    gemm::multiply(m, n, &[term], |_, r| r * ld, store);
}

/// Gradients of q, k and v. With P the softmax (rebuilt from the scores and their log-sum-exp) and
/// D = rowsum(dO o): dV = P^T dO, dS = P (dO V^T - D) / sqrt(d), dQ = dS K, dK = dS^T Q.
/// Inputs: q, k, v, o, lse, dO.
#[derive(Debug)]
pub struct AttentionBackward {
    head_dim: usize,
}

impl AttentionBackward {
    /// Numbers of the packed operands and score blocks, in the order of [`Block`].
    fn lengths(&self, s: usize) -> [usize; 7] {
        let d = self.head_dim;
        let (wide, tall) = (gemm::packed_len(d, s), gemm::packed_len(s, d));
        let queries = gemm::packed_len(QUERIES, d);
        [wide, wide, tall, QUERIES * s, QUERIES * s, queries, queries]
    }
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, Mismatch> {
        Ok(inputs[..3].iter().map(|&t| t.clone()).collect())
    }

    fn workspace(&self, inputs: &[&TensorType], _: &[&TensorType]) -> Workspace {
        Workspace {
            shared: 0,
            per_thread: self.lengths(inputs[1].rows()).iter().sum(),
        }
    }

    fn flops(&self, inputs: &[&TensorType], _: &[&TensorType]) -> u64 {
        8 * (inputs[0].len() * inputs[1].rows()) as u64
    }

    fn cpu(&self, call: &Call<'_>) {
        let inputs: [Rows<'_>; 6] = std::array::from_fn(|i| call.input(i));
        let (d, rows, s) = (self.head_dim, inputs[0].rows(), inputs[1].rows());
        let outputs = [0, 1, 2].map(|i| {
            let out = call.output(i);
            let rows = out.rows();
            out.split(rows)
        });
        let lengths = self.lengths(s);
        call.pool()
            .run(&outputs, call.scratch(), |n, parts, scratch| {
                for head in 0..inputs[0].cols() / d {
                    let of_head = |i: usize| inputs[i].columns(head * d, d);
                    let [q, k, v, o, d_out] = [0, 1, 2, 3, 5].map(of_head);
                    let mut rest = &mut *scratch;
                    let mut parts_of_scratch = lengths.iter().map(|&length| {
                        let (part, tail) = std::mem::take(&mut rest).split_at_mut(length);
                        rest = tail;
                        part
                    });
                    let mut next = || parts_of_scratch.next().unwrap_or_default();
                    let mut block = Block {
                        heads: [q, k, v, o, d_out],
                        lse: inputs[4],
                        place: (n, head),
                        keys: next(),
                        values: next(),
                        key_rows: next(),
                        p: next(),
                        ds: next(),
                        queries: next(),
                        d_outs: next(),
                    };
                    pack_rows(block.keys, k, n, true);
                    pack_rows(block.values, v, n, true);
                    pack_rows(block.key_rows, k, n, false);
                    for first in (0..rows).step_by(QUERIES) {
                        block.run(first, QUERIES.min(rows - first), parts);
                    }
                }
            });
    }

    fn cuda(&self, call: &mut cuda::Call<'_>) -> Result<(), Unsupported> {
        let inputs: [View; 6] = std::array::from_fn(|i| call.input(i));
        let outputs: [View; 3] = std::array::from_fn(|i| call.output(i));
        let mut views = outputs.to_vec();
        views.extend([0, 1, 2, 3, 5].map(|i| inputs[i]));
        let form = Form::new(call, &views, self.head_dim)?;
        let (p, s, d) = (inputs[0].rows(), inputs[1].rows(), self.head_dim);
        let kernel = form.define(
            Kernel::new("attention_backward", "attention_backward"),
            BACKWARD_BLOCK,
        );
        let shared = form.shared(128 + 6 * BACKWARD_BLOCK, 2 * BACKWARD_BLOCK);
        let (heads, queries, keys) = (inputs[0].c() / d, p.div_ceil(64), s.div_ceil(64));
        let args = inputs.into_iter().chain(outputs);
        let args = args
            .fold(Args::new(), Args::view)
            .int(heads)
            .int(queries)
            .int(keys)
            .int(form.parts)
            .int(p)
            .int(s)
            .int(d);
        let grid = [inputs[0].n() * heads * (queries + keys) * form.parts, 1, 1];
        call.launch(kernel, grid, form.threads, shared, args);
        Ok(())
    }
}

/// One head of one sample: operands, and scratch for one block of queries.
struct Block<'a, 's> {
    heads: [Rows<'a>; 5],
    lse: Rows<'a>,
    place: (usize, usize),
    keys: &'s mut [f32],
    values: &'s mut [f32],
    key_rows: &'s mut [f32],
    p: &'s mut [f32],
    ds: &'s mut [f32],
    queries: &'s mut [f32],
    d_outs: &'s mut [f32],
}

impl Block<'_, '_> {
    fn run(&mut self, first: usize, rows: usize, parts: &mut Parts<'_>) {
        self.scores(first, rows);
        let [q, k, _, _, d_out] = self.heads;
        let (n, head) = self.place;
        let (s, d) = (k.rows(), q.cols());
        let mut dq = parts.get(0);
        let ds = (Span::from(&*self.ds), s, 1);
        product([rows, d, s], ds, self.key_rows, |r, j, sums| {
            let at = head * d + j;
            dq.row(0, first + r)[at..at + sums.len()].copy_from_slice(sums);
        });
        gemm::pack_rows(self.queries, [rows, d], false, |r| q.row(n, first + r));
        gemm::pack_rows(self.d_outs, [rows, d], false, |r| d_out.row(n, first + r));
        let products = [(1, &*self.ds, &*self.queries), (2, &*self.p, &*self.d_outs)];
        for (output, scores, packed) in products {
            let mut out = parts.get(output);
            let transposed = (Span::from(scores), 1, s);
            product([s, d, rows], transposed, packed, |r, j, sums| {
                let at = head * d + j;
                let out = &mut out.row(0, r)[at..at + sums.len()];
                if first == 0 {
                    out.copy_from_slice(sums);
                } else {
                    vector::add(sums, out);
                }
            });
        }
    }

    /// P and dS of the queries `first..first + rows`.
    fn scores(&mut self, first: usize, rows: usize) {
        let [q, k, _, o, d_out] = self.heads;
        let (n, head) = self.place;
        let (s, d) = (k.rows(), q.cols());
        let scale = 1.0 / (d as f32).sqrt();
        let (p, ds) = (&mut *self.p, &mut *self.ds);
        let queries = (q.span(n, first), q.ld(), 1);
        product([rows, s, d], queries, self.keys, |r, j, sums| {
            p[r * s + j..r * s + j + sums.len()].copy_from_slice(sums);
        });
        let d_outs = (d_out.span(n, first), d_out.ld(), 1);
        product([rows, s, d], d_outs, self.values, |r, j, sums| {
            ds[r * s + j..r * s + j + sums.len()].copy_from_slice(sums);
        });
        for r in 0..rows {
            let range = r * s..(r + 1) * s;
            let lse = self.lse.row(n, first + r)[head];
            vector::softmax_rebuild(&mut p[range.clone()], scale, lse);
            let delta = vector::dot(d_out.row(n, first + r), o.row(n, first + r));
            vector::softmax_backward(&p[range.clone()], &mut ds[range], delta, scale);
        }
    }
}
