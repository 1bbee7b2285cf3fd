//! The prologue and its gradient on a CUDA device (kernels/prologue*.cu).

use super::super::add::{launch_sum, number};
use super::super::launch::{Columns, THREADS, channels_at_once};
use super::{Norm, Prologue, PrologueBackward};
use crate::device::cuda::{Args, Call, Elem, Kernel, View};
use crate::tape::backward::{Mode, Resample};

/// Operands of a norm as the kernels take them (kernels/norm.cuh).
#[derive(Clone, Copy, Debug)]
pub struct NormArgs {
    stats: Option<View>,
    gamma: Option<View>,
    beta: Option<View>,
    scale_shift: Option<View>,
    c: usize,
    groups: usize,
}

impl NormArgs {
    /// Those of `call` from input `first` on, for a tensor of `c` channels.
    pub fn new(call: &Call<'_>, norm: Option<Norm>, first: usize, c: usize) -> Self {
        let operand = |i: usize| norm.map(|_| call.input(first + i));
        Self {
            stats: operand(0),
            gamma: operand(1),
            beta: operand(2),
            scale_shift: norm.filter(|n| n.scale_shift).and_then(|_| operand(3)),
            c,
            groups: norm.map_or(1, |n| n.groups),
        }
    }

    /// Appends them to the arguments of a launch.
    pub fn args(&self, args: Args) -> Args {
        let pointer = |view: Option<View>| view.map_or(0, |v| v.pointer);
        args.view_or_null(self.stats)
            .ptr(pointer(self.gamma))
            .ptr(pointer(self.beta))
            .view_or_null(self.scale_shift)
            .int(self.c)
            .int(self.groups)
    }

    /// The definitions that the kernels need, for `vector` channels at a time.
    pub fn define(&self, kernel: Kernel, vector: usize) -> Kernel {
        let elem = |view: Option<View>| view.map_or(Elem::F32, |v| v.elem);
        // Scales and shifts are two runs of c numbers.
        let halves = self.scale_shift.map(|v| View {
            shape: [2 * v.n(), 1, 1, self.c],
            ..v
        });
        let views = [self.gamma, self.beta, self.scale_shift, halves];
        let views: Vec<View> = views.into_iter().flatten().collect();
        kernel
            .define("TG", elem(self.gamma))
            .define("TS", elem(self.scale_shift))
            .flag("SCALE_SHIFT", self.scale_shift.is_some())
            .define("VN", channels_at_once(&views).min(vector))
    }
}

/// Address of the table ab `[n, 2, c]` (a, then b, of act = SiLU(a x + b)) for a tensor of `shape`, whose
/// norm's operands are inputs of `call` from `first` on: made by the first node that asks. 0 without a norm.
pub fn table(call: &mut Call<'_>, norm: Option<Norm>, first: usize, shape: [usize; 4]) -> u64 {
    let Some(some) = norm else { return 0 };
    let [n, _, _, c] = shape;
    let inputs: Vec<usize> = (first..first + 3 + usize::from(some.scale_shift)).collect();
    let (ab, new) = call.shared("prologue_table", &inputs, 8 * n * c);
    if new {
        let norm = NormArgs::new(call, norm, first, c);
        let kernel = norm.define(Kernel::new("prologue", "prologue_table"), 1);
        let args = norm.args(Args::new()).ptr(ab).int(n);
        let grid = [(n * c).div_ceil(THREADS), 1, 1];
        call.launch(kernel, grid, THREADS, 0, args);
    }
    ab
}

/// SiLU(a x + b) of the whole tensor `x`, doubled if `upsample` says so, as bf16; x itself where there is
/// nothing to do. The norm's operands are inputs of `call` from `first` on, x is input 0. Made by the first
/// node that asks.
pub fn activated(call: &mut Call<'_>, prologue: Prologue, first: usize, upsample: bool) -> View {
    let x = call.input(0);
    if prologue.norm.is_none() && !upsample {
        return x;
    }
    let [n, h, w, c] = x.shape;
    let scale = if upsample { 2 } else { 1 };
    let shape = [n, scale * h, scale * w, c];
    let scale_shift = prologue.norm.is_some_and(|norm| norm.scale_shift);
    let operands = first..first + 3 + usize::from(scale_shift);
    let inputs: Vec<usize> = std::iter::once(0).chain(operands).collect();
    let name = match (prologue.silu, upsample) {
        (false, false) => "normed",
        (true, false) => "activated",
        (false, true) => "normed and doubled",
        (true, true) => "activated and doubled",
    };
    let (address, new) = call.shared(name, &inputs, 2 * n * scale * h * scale * w * c);
    let y = View::dense(address, Elem::Bf16, shape);
    if new {
        let norm = NormArgs::new(call, prologue.norm, first, c);
        let vector = channels_at_once(&[x, y]);
        let columns = Columns::new([n, h * w, c], vector, call.device());
        let kernel = Kernel::new("norm_pool", "norm_act")
            .define("TX", x.elem)
            .define("TY", y.elem)
            .define("TR", y.elem)
            .define("VX", vector)
            .flag("SILU", prologue.silu)
            .flag("UPSAMPLE", upsample);
        let args = norm.args(Args::new().view(x)).view(y).int(h * w).int(w);
        let args = args.int(columns.lanes);
        call.launch(
            norm.define(kernel, vector),
            columns.grid(n),
            THREADS,
            0,
            args.int(columns.blocks).int(columns.span),
        );
    }
    y
}

/// What the launches of a gradient share.
struct Gradient {
    norm: NormArgs,
    dact: (View, Resample),
    x: View,
    /// Four at most.
    residuals: Vec<(View, Resample)>,
    /// Null without a norm.
    sums: u64,
    apply: u64,
}

/// Residual gradients that the kernel takes.
const RESIDUALS: usize = 4;

impl PrologueBackward {
    /// Launches the gradient.
    pub(super) fn launch(&self, call: &mut Call<'_>) {
        let x = call.input(1);
        let first_residual = 2 + self.prologue.operands();
        let residuals: Vec<(View, Resample)> = (first_residual..)
            .zip(&self.residuals)
            .map(|(i, &r)| (call.input(i), r))
            .collect();
        let mut gradient = Gradient {
            norm: NormArgs::new(call, self.prologue.norm, 2, x.c()),
            dact: (call.input(0), self.dact),
            x,
            residuals: at_most_four(call, residuals, x.shape),
            sums: 0,
            apply: 0,
        };
        if self.prologue.norm.is_some() {
            let bytes = 8 * x.n() * x.c();
            (gradient.sums, gradient.apply) = (call.scratch(bytes), call.scratch(bytes));
            self.launch_sums(call, &gradient);
        }
        self.launch_apply(call, &gradient);
    }

    /// P and Q, from them d(scale, shift) and the coefficients of dx.
    fn launch_sums(&self, call: &mut Call<'_>, g: &Gradient) {
        let (n, rows, c) = (g.x.n(), g.x.rows(), g.x.c());
        let vector = channels_at_once(&[g.dact.0, g.x]);
        let columns = Columns::new([n, rows, c], vector, call.device());
        let part = call.scratch(8 * n * columns.blocks * c);
        let kernel = Kernel::new("prologue_backward_sums", "prologue_backward_sums")
            .define("TX", g.x.elem)
            .define("TD", g.dact.0.elem)
            .define("RD", number(g.dact.1))
            .define("VX", vector)
            .flag("SILU", self.prologue.silu);
        let args = g.norm.args(Args::new().view(g.dact.0).view(g.x)).ptr(part);
        let args = args.int(rows).int(g.x.shape[2]).int(columns.lanes);
        call.launch(
            g.norm.define(kernel, vector),
            columns.grid(n),
            THREADS,
            2 * columns.shared(),
            args.int(columns.blocks).int(columns.span),
        );
        // Groups of a block: some 64 channels, so that a sample is spread over a few blocks.
        let chunk = (64 / (c / g.norm.groups)).clamp(1, g.norm.groups);
        let kernel = Kernel::new("prologue", "prologue_backward_finalize");
        let dscale_shift = g.norm.scale_shift.map(|_| call.output(3));
        let args = g.norm.args(Args::new()).ptr(part).ptr(g.sums);
        let args = args.ptr(g.apply).view_or_null(dscale_shift);
        call.launch(
            g.norm.define(kernel, 1),
            [n, g.norm.groups.div_ceil(chunk), 1],
            128,
            0,
            args.int(rows).int(columns.blocks).int(chunk),
        );
    }

    /// dx, and with it dgamma and dbeta.
    fn launch_apply(&self, call: &mut Call<'_>, g: &Gradient) {
        let (n, rows, c) = (g.x.n(), g.x.rows(), g.x.c());
        let dx = call.output(0);
        let mut views: Vec<View> = g.residuals.iter().map(|r| r.0).collect();
        views.extend([g.dact.0, g.x, dx]);
        let vector = channels_at_once(&views);
        let columns = Columns::new([n, rows, c], vector, call.device());
        let norm = self.prologue.norm.is_some();
        let mut kernel = Kernel::new("prologue_backward", "prologue_backward")
            .define("TX", g.x.elem)
            .define("TD", g.dact.0.elem)
            .define("TO", dx.elem)
            .define("RD", number(g.dact.1))
            .define("VX", vector)
            .flag("NORM", norm)
            .flag("SILU", self.prologue.silu)
            .flag("ADD_GAMMA", self.modes[0] == Mode::Add)
            .flag("ADD_BETA", self.modes[1] == Mode::Add)
            .define("RESIDUALS", g.residuals.len());
        let args = g.norm.args(Args::new().view(g.dact.0).view(g.x));
        let mut args = args.ptr(g.apply).ptr(g.sums);
        for i in 0..RESIDUALS {
            let residual = g.residuals.get(i).copied();
            let (view, resample) = residual.unwrap_or((dx, Resample::None));
            kernel = kernel
                .define(["T0", "T1", "T2", "T3"][i], view.elem)
                .define(["R0", "R1", "R2", "R3"][i], number(resample));
            args = args.view(view);
        }
        let param = |i: usize| if norm { call.output(i).pointer } else { 0 };
        let args = args.view(dx).ptr(param(1)).ptr(param(2));
        let args = args.int(n).int(rows).int(g.x.shape[2]).int(columns.lanes);
        let mut grid = columns.grid(n);
        // Blocks behind those of dx add up 32 numbers of dgamma and dbeta each.
        grid[0] += if norm { (2 * c).div_ceil(32) } else { 0 };
        call.launch(
            g.norm.define(kernel, vector),
            grid,
            THREADS,
            0,
            args.int(columns.blocks).int(columns.span),
        );
    }
}

/// The same sum with four summands at most: more are added up beforehand.
fn at_most_four(
    call: &mut Call<'_>,
    mut parts: Vec<(View, Resample)>,
    shape: [usize; 4],
) -> Vec<(View, Resample)> {
    if parts.len() > RESIDUALS {
        let rest = parts.split_off(RESIDUALS - 1);
        let bytes = 4 * shape.iter().product::<usize>();
        let sum = View::dense(call.scratch(bytes), Elem::F32, shape);
        launch_sum(call, &rest, sum);
        parts.push((sum, Resample::None));
    }
    parts
}
