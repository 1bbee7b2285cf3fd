//! Linear layers on a CUDA device: which form of a kernel, how it is cut into tiles, and its launches.

use super::{Linear, LinearDgrad, LinearWgrad};
use crate::device::cuda::{Args, Call, Elem, Kernel, Precision, Unsupported, View};
use crate::ops::prologue::{self, Prologue};
use crate::tape::backward::Mode;

/// Most weights of one launch: its arguments end at 4 KiB.
const SETS: usize = 48;

/// Tiles of `edge` x `edge` results, and the kernel form that computes them.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Form {
    /// Rows and columns of a tile.
    pub edge: usize,
    /// Threads of a block.
    pub threads: usize,
    /// On tensor cores: edge of a warp's tile, stages of the pipeline, blocks per multiprocessor.
    tensor: Option<[usize; 3]>,
}

/// f32 products.
const SCALAR: Form = Form {
    edge: 64,
    threads: 256,
    tensor: None,
};
/// Tensor cores, where large tiles would leave multiprocessors idle.
const SMALL: Form = Form {
    edge: 64,
    threads: 128,
    tensor: Some([32, 4, 3]),
};
/// Tensor cores, half the operand traffic.
const LARGE: Form = Form {
    edge: 128,
    threads: 128,
    tensor: Some([64, 3, 2]),
};

impl Form {
    /// The form for a product; `load` is the work of the busiest multiprocessor for an edge. A result of
    /// a small tile costs about a quarter more: it takes twice the operands.
    fn pick(tensor: bool, load: impl Fn(usize) -> usize) -> Self {
        match tensor {
            false => SCALAR,
            true if 4 * load(LARGE.edge) <= 5 * load(SMALL.edge) => LARGE,
            true => SMALL,
        }
    }

    fn define(self, kernel: Kernel) -> Kernel {
        let kernel = kernel.flag("MMA", self.tensor.is_some());
        let Some([warp, stages, blocks]) = self.tensor else {
            return kernel;
        };
        kernel
            .define("BM", self.edge)
            .define("BN", self.edge)
            .define("WM", warp)
            .define("WN", warp)
            .define("STAGES", stages)
            .define("BLOCKS", blocks)
    }

    /// Dynamic shared memory: a stage is 64 bytes of each row of two tiles.
    fn shared(self) -> usize {
        self.tensor
            .map_or(0, |[_, stages, _]| stages * 2 * self.edge * 64)
    }
}

/// Depth of a chunk of the scalar form.
const DEPTH: usize = 16;

/// Parts that the sums of the scalar form are made in (`kernels/simt.cuh`), from shape and device alone.
struct Parts {
    count: usize,
    address: u64,
    tickets: u64,
}

impl Parts {
    /// For `tiles` tiles of sums over `chunks` chunks: as many as fill the device, four chunks or more each.
    fn new(call: &mut Call<'_>, form: Form, tiles: usize, chunks: usize) -> Self {
        let wanted = 2 * call.device().sms / tiles;
        let count = match form.tensor {
            None => wanted.min(chunks / 4).max(1),
            Some(_) => 1,
        };
        if count == 1 {
            return Self {
                count,
                address: 0,
                tickets: 0,
            };
        }
        Self {
            count,
            address: call.scratch(4 * tiles * count * form.edge * form.edge),
            // Kernels leave the tickets as they find them.
            tickets: call.table(&vec![0_u32; tiles]),
        }
    }

    fn args(&self, args: Args) -> Args {
        args.ptr(self.address).ptr(self.tickets)
    }
}

/// True if tensor cores may multiply these operands: a format that they take, rows of 16-byte vectors.
pub(in crate::ops) fn on_tensor_cores(call: &Call<'_>, operands: &[View]) -> bool {
    let elem = match call.precision() {
        Precision::F32 => return false,
        Precision::Tf32 => Elem::F32,
        Precision::Bf16 => Elem::Bf16,
    };
    call.device().capability >= 80
        && operands
            .iter()
            .all(|x| x.elem == elem && x.vector(8) * elem.bytes() == 16)
}

/// Widest access that fits all of them, in elements.
fn vector<'v>(views: impl IntoIterator<Item = &'v View>) -> usize {
    views.into_iter().map(|v| v.vector(8)).min().unwrap_or(1)
}

/// Makes one sample of each tensor if all of them lie so, and says how many rows a sample has.
fn merge(views: &mut [&mut View]) -> usize {
    let (n, rows) = (views[0].n(), views[0].rows());
    for view in views.iter_mut().filter(|v| v.rows() == 1) {
        view.ld = view.sample;
    }
    if n == 1 || views.iter().any(|v| v.sample != rows * v.ld) {
        return rows;
    }
    for view in views {
        view.shape = [1, 1, n * rows, view.c()];
        view.sample = n * rows * view.ld;
    }
    n * rows
}

/// Weight `i`, in the format in which `x` is multiplied: f32 unless on tensor cores.
fn weight(call: &Call<'_>, i: usize, tensor: bool) -> View {
    if tensor {
        call.weight(i)
    } else {
        call.input(i)
    }
}

/// Cuts `items` where the storage changes, and after at most [`SETS`].
fn runs<T>(items: &[T], elem: impl Fn(&T) -> Elem) -> Vec<&[T]> {
    items
        .chunk_by(|a, b| elem(a) == elem(b))
        .flat_map(|run| run.chunks(SETS))
        .collect()
}

/// Places for sets in a kernel's arguments: few numbers, so that few kernels are compiled.
fn capacity(sets: usize) -> usize {
    [1, 4, 16].into_iter().find(|&c| sets <= c).unwrap_or(SETS)
}

/// What is multiplied: x through a prologue, with the table of its coefficients.
#[derive(Clone, Copy)]
struct Source {
    x: View,
    ab: u64,
    prologue: Prologue,
}

impl Source {
    /// Input 0 of `call`, whose norm's operands are inputs from `first` on. In bf16 it is normed beforehand, once
    /// for the layers and their weight gradients: tensor cores outrun a norm on the way in.
    fn new(call: &mut Call<'_>, prologue: Prologue, first: usize, tensor: bool) -> Self {
        let bf16 = call.precision() == Precision::Bf16;
        if tensor && bf16 && prologue.norm.is_some() {
            return Self {
                x: prologue::activated(call, prologue, first, false),
                ab: 0,
                prologue: Prologue::default(),
            };
        }
        let x = call.input(0);
        let ab = prologue::table(call, prologue.norm, first, x.shape);
        Self { x, ab, prologue }
    }
}

/// One of the layers: weight, bias, result.
struct Set {
    w: View,
    bias: u64,
    y: View,
}

impl Linear {
    pub(super) fn launch(&self, call: &mut Call<'_>) -> Result<(), Unsupported> {
        let residual = self
            .residual
            .then(|| call.input(self.first_norm() + self.prologue.operands()));
        let mut operands = vec![call.input(0)];
        operands.extend((0..self.sets).map(|i| call.weight(1 + 2 * i)));
        let tensor = on_tensor_cores(call, &operands);
        let source = Source::new(call, self.prologue, self.first_norm(), tensor);
        let sets: Vec<Set> = (0..self.sets)
            .map(|i| Set {
                w: weight(call, 1 + 2 * i, tensor),
                bias: call.input(2 + 2 * i).pointer,
                y: call.output(i),
            })
            .collect();
        for run in runs(&sets, |s| s.y.elem) {
            launch_run(call, (source, residual), run, tensor);
        }
        Ok(())
    }
}

fn launch_run(
    call: &mut Call<'_>,
    (source, mut residual): (Source, Option<View>),
    sets: &[Set],
    tensor: bool,
) {
    let Source {
        mut x,
        ab,
        prologue,
    } = source;
    let c = x.c();
    let mut ys: Vec<View> = sets.iter().map(|s| s.y).collect();
    let per_sample = if prologue.norm.is_some() {
        x.rows()
    } else {
        let mut views = vec![&mut x];
        views.extend(residual.as_mut());
        views.extend(&mut ys);
        merge(&mut views)
    };
    let rows = x.n() * x.rows();
    let columns = |edge: usize| ys.iter().map(|y| y.c().div_ceil(edge)).sum::<usize>();
    let sms = call.device().sms;
    let form = Form::pick(tensor, |edge| {
        (rows.div_ceil(edge) * columns(edge)).div_ceil(sms) * edge * edge
    });
    let mut words = Vec::new();
    let mut first = 0;
    for (set, y) in sets.iter().zip(&ys) {
        words.extend([set.w.pointer, set.bias]);
        words.extend([y.pointer, y.sample as u64, y.ld as u64]);
        words.push(y.c() as u64 | (first as u64) << 32);
        first += y.c().div_ceil(form.edge);
    }
    words.resize(6 * capacity(sets.len()), 0);
    let kernel = Kernel::new("linear", "linear")
        .define("TX", x.elem)
        .define("TW", sets[0].w.elem)
        .define("TY", ys[0].elem)
        .define("TR", residual.map_or(x.elem, |r| r.elem))
        .define("VX", x.vector(8))
        .define("VW", vector(sets.iter().map(|s| &s.w)))
        .define("VY", vector(ys.iter().chain(&residual)))
        .define("SETS", capacity(sets.len()))
        .flag("NORM", prologue.norm.is_some())
        .flag("SILU", prologue.silu)
        .flag("RESIDUAL", residual.is_some());
    let args = Args::new()
        .view(x)
        .ptr(ab)
        .view_or_null(residual)
        .words(&words)
        .int(sets.len());
    let tiles = first * rows.div_ceil(form.edge);
    let parts = Parts::new(call, form, tiles, c.div_ceil(DEPTH));
    let args = parts.args(args).int(first).int(rows).int(per_sample).int(c);
    let grid = [tiles, parts.count, 1];
    call.launch(form.define(kernel), grid, form.threads, form.shared(), args);
}

impl LinearDgrad {
    pub(super) fn launch(&self, call: &mut Call<'_>) -> Result<(), Unsupported> {
        let mut operands: Vec<View> = (0..self.sets).map(|i| call.input(i)).collect();
        operands.extend((0..self.sets).map(|i| call.weight(self.sets + i)));
        let tensor = on_tensor_cores(call, &operands);
        let sets: Vec<(View, View)> = (0..self.sets)
            .map(|i| (call.input(i), weight(call, self.sets + i, tensor)))
            .collect();
        for (i, run) in runs(&sets, |s| s.0.elem).into_iter().enumerate() {
            launch_dgrad(call, run, tensor, i > 0);
        }
        Ok(())
    }
}

fn launch_dgrad(call: &mut Call<'_>, sets: &[(View, View)], tensor: bool, add: bool) {
    let mut dx = call.output(0);
    let mut dys: Vec<View> = sets.iter().map(|s| s.0).collect();
    let mut views = vec![&mut dx];
    views.extend(&mut dys);
    let per_sample = merge(&mut views);
    let (rows, c) = (dx.n() * dx.rows(), dx.c());
    let sms = call.device().sms;
    let form = Form::pick(tensor, |edge| {
        (rows.div_ceil(edge) * c.div_ceil(edge)).div_ceil(sms) * edge * edge
    });
    let mut words = Vec::new();
    for (dy, (_, w)) in dys.iter().zip(sets) {
        words.push(w.pointer);
        words.extend([dy.pointer, dy.sample as u64, dy.ld as u64]);
        words.push(dy.c() as u64);
    }
    words.resize(5 * capacity(sets.len()), 0);
    let kernel = Kernel::new("linear_dgrad", "linear_dgrad")
        .define("TX", dx.elem)
        .define("TY", dys[0].elem)
        .define("TW", sets[0].1.elem)
        .define("VX", dx.vector(8))
        .define("VY", vector(&dys))
        .define("VW", vector(sets.iter().map(|s| &s.1)))
        .define("SETS", capacity(sets.len()))
        .flag("ADD", add);
    let across = c.div_ceil(form.edge);
    let tiles = across * rows.div_ceil(form.edge);
    let chunks = dys.iter().map(|dy| dy.c().div_ceil(DEPTH)).sum();
    let parts = Parts::new(call, form, tiles, chunks);
    let args = Args::new().words(&words).int(sets.len()).view(dx);
    let args = parts.args(args).int(across);
    let args = args.int(rows).int(per_sample).int(c);
    let grid = [tiles, parts.count, 1];
    call.launch(form.define(kernel), grid, form.threads, form.shared(), args);
}

/// Rows that a split of a weight gradient sums up at least: fewer cost more to add than to sum.
const STRETCH: usize = 256;

/// Blocks of a multiprocessor that sum up parts of a weight gradient: one alone would wait for its own copies.
fn resident(tensor: bool, edge: usize) -> usize {
    let forms = if tensor { [SMALL, LARGE] } else { [SCALAR; 2] };
    let [_, _, blocks] = forms[usize::from(edge > SMALL.edge)]
        .tensor
        .unwrap_or([1; 3]);
    blocks
}

/// How the rows of a weight gradient are cut, from shape and device alone: rows of a split, and splits.
/// Splits are for `places` of blocks that the tiles would leave idle.
fn cut(rows: usize, tiles: usize, places: usize) -> (usize, usize) {
    let splits = (places / tiles).clamp(1, rows.div_ceil(STRETCH));
    // A whole number of the deepest chunk.
    let stretch = rows.div_ceil(splits).next_multiple_of(32);
    (stretch, rows.div_ceil(stretch))
}

impl LinearWgrad {
    pub(super) fn launch(&self, call: &mut Call<'_>) -> Result<(), Unsupported> {
        let mut dy = call.input(1);
        let tensor = on_tensor_cores(call, &[call.input(0), dy]);
        let Source {
            mut x,
            ab,
            prologue,
        } = Source::new(call, self.prologue, 2, tensor);
        let per_sample = if prologue.norm.is_some() {
            x.rows()
        } else {
            merge(&mut [&mut x, &mut dy])
        };
        let (rows, c, k) = (x.n() * x.rows(), x.c(), dy.c());
        let sms = call.device().sms;
        let tiles = |edge: usize| c.div_ceil(edge) * k.div_ceil(edge);
        let form = Form::pick(tensor, |edge| {
            let (stretch, splits) = cut(rows, tiles(edge), sms * resident(tensor, edge));
            (tiles(edge) * splits).div_ceil(sms) * stretch * edge * edge
        });
        let (stretch, splits) = cut(rows, tiles(form.edge), sms * resident(tensor, form.edge));
        let (dw, db) = (call.output(0), call.output(1));
        let add = self.modes.map(|mode| mode == Mode::Add);
        let (to, add_now) = if splits == 1 {
            ([dw.pointer, db.pointer], add)
        } else {
            let weights = call.scratch(splits * k * c * 4);
            ([weights, call.scratch(splits * k * 4)], [false; 2])
        };
        let kernel = define(form, prologue, [x, dy, dw]);
        let args = Args::new()
            .view(x)
            .view(dy)
            .ptr(ab)
            .ptr(to[0])
            .ptr(to[1])
            .u32(add_now[0].into())
            .u32(add_now[1].into())
            .int(c.div_ceil(form.edge))
            .int(stretch)
            .int(rows)
            .int(per_sample)
            .int(c)
            .int(k);
        let grid = [tiles(form.edge), 1, splits];
        let entry = Kernel {
            entry: "linear_wgrad",
            ..kernel.clone()
        };
        call.launch(entry, grid, form.threads, form.shared(), args);
        if splits > 1 {
            let sums = [to, [dw.pointer, db.pointer]];
            launch_reduce(call, kernel, sums, add, [splits, k, c]);
        }
        Ok(())
    }
}

/// Adds the partial sums of dW and db, in order.
fn launch_reduce(
    call: &mut Call<'_>,
    kernel: Kernel,
    [parts, to]: [[u64; 2]; 2],
    add: [bool; 2],
    [splits, k, c]: [usize; 3],
) {
    let kernel = Kernel {
        entry: "linear_wgrad_reduce",
        ..kernel
    };
    let pointers = parts.into_iter().chain(to);
    let args = pointers
        .fold(Args::new(), Args::ptr)
        .u32(add[0].into())
        .u32(add[1].into())
        .int(splits)
        .u64((k * c) as u64)
        .int(k);
    let grid = [(k * c + k).div_ceil(256), 1, 1];
    call.launch(kernel, grid, 256, 0, args);
}

fn define(form: Form, prologue: Prologue, [x, dy, dw]: [View; 3]) -> Kernel {
    let kernel = Kernel::new("linear_wgrad", "")
        .define("TX", x.elem)
        .define("TY", dy.elem)
        .define("VX", x.vector(8))
        .define("VY", dy.vector(8))
        .define("VW", dw.vector(4))
        .flag("NORM", prologue.norm.is_some())
        .flag("SILU", prologue.silu);
    form.define(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_cover_the_rows_once() {
        for rows in [1, 31, 32, 255, 256, 257, 1000, 65_536] {
            for tiles in [1, 3, 64, 1000] {
                let (stretch, splits) = cut(rows, tiles, 128);
                assert_eq!(stretch % 32, 0);
                assert!(stretch * splits >= rows && stretch * (splits - 1) < rows);
                assert!(splits == 1 || splits * tiles <= 128);
            }
        }
    }

    #[test]
    fn samples_merge_only_where_their_rows_follow_each_other() {
        let dense = View::dense(0, Elem::F32, [3, 2, 5, 4]);
        let slice = View { ld: 7, ..dense };
        let padded = View {
            sample: 44,
            ..dense
        };
        let wide = View {
            ld: 9,
            sample: 90,
            ..dense
        };
        let (mut a, mut b) = (dense, wide);
        assert_eq!(merge(&mut [&mut a, &mut b]), 30);
        assert_eq!((b.shape, b.ld), ([1, 1, 30, 4], 9));
        for other in [slice, padded] {
            let (mut a, mut b) = (dense, other);
            assert_eq!(merge(&mut [&mut a, &mut b]), 10);
            assert_eq!((a, b), (dense, other));
        }
        // One row per sample: the samples are the rows.
        let mut vectors = View {
            sample: 12,
            ..View::dense(0, Elem::F32, [6, 1, 1, 4])
        };
        assert_eq!(merge(&mut [&mut vectors]), 6);
        assert_eq!((vectors.ld, vectors.rows()), (12, 6));
    }

    #[test]
    fn runs_end_where_the_storage_changes() {
        let mut elems = vec![Elem::F32; 50];
        elems.extend([Elem::Bf16; 2]);
        let lengths: Vec<usize> = runs(&elems, |e| *e).iter().map(|r| r.len()).collect();
        assert_eq!(lengths, [48, 2, 2]);
        assert_eq!([1, 2, 4, 5, 17, 48].map(capacity), [1, 4, 4, 16, 48, 48]);
    }
}
