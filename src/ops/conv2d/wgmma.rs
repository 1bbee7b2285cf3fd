//! The convolutions on Hopper's warpgroup products (kernels/conv2d_wgmma.cu and conv2d_wgrad_wgmma.cu): when they
//! are used, with which tile. Their input is activated beforehand ([`prologue::activated`]).

use super::plan::{Added, Conv, Parts, Wgrad, splits, tile, tiles};
use crate::device::cuda::{Args, Boxes, Call, Elem, Kernel, Launch, Limits, Precision, View};
use crate::ops::prologue::Prologue;

/// Channels of a row in shared memory.
const CHUNK: usize = 64;
/// Most parts of a sum over channels.
const SPLITS: usize = 4;
/// Tickets that the tiles of all launches share; a launch with more tiles makes no parts.
const TICKETS: usize = 256;
/// FLOP/s of a multiprocessor in the first form (measured on an H100).
const SPEED: f64 = 5.2e12;
/// Seconds to leave a part and to add one (estimated).
const LEAVE: f64 = 1.5e-6;
const ADD: f64 = 0.5e-6;

/// A tile of `conv2d_wgmma.cu`.
#[derive(Debug)]
struct Form {
    /// Images, rows, columns.
    tile: [usize; 3],
    channels: usize,
    /// Filter taps in shared memory.
    stages: usize,
    /// Blocks of a multiprocessor, where shared memory holds as many.
    blocks: usize,
    /// Rate at which it keeps the tensor cores busy, relative to the first (measured on an H100).
    rate: f64,
}

const FORMS: [Form; 5] = [
    Form::new([1, 16, 16], 128, 5, 1, 1.0),
    Form::new([1, 8, 16], 128, 4, 2, 0.85),
    Form::new([2, 8, 8], 128, 6, 1, 0.8),
    Form::new([1, 16, 16], 64, 6, 1, 0.8),
    Form::new([2, 8, 8], 64, 8, 1, 0.55),
];

impl Form {
    const fn new(
        tile: [usize; 3],
        channels: usize,
        stages: usize,
        blocks: usize,
        rate: f64,
    ) -> Self {
        Self {
            tile,
            channels,
            stages,
            blocks,
            rate,
        }
    }

    /// A tile of several images holds them whole.
    fn fits(&self, [_, h, w]: [usize; 3]) -> bool {
        let [images, rows, columns] = self.tile;
        images == 1 || (h <= rows && w <= columns)
    }

    fn pixels(&self) -> usize {
        self.tile.iter().product()
    }

    /// It can make parts: its sums leave registers for adding them.
    fn splits(&self) -> bool {
        self.pixels() * self.channels <= 128 * 128
    }

    fn grid(&self, size: [usize; 3], results: usize) -> usize {
        tiles(self.tile, size) * results.div_ceil(self.channels)
    }

    /// Addresses of the sums of `grid` tiles in parts, and of the tiles' tickets.
    fn parts(&self, call: &mut Call<'_>, grid: usize, splits: usize) -> (u64, u64) {
        if splits == 1 {
            return (0, 0);
        }
        let sums = 4 * self.pixels() * self.channels;
        // Kernels leave the tickets as they find them.
        let tickets = call.table(&[0_u32; TICKETS]);
        (call.scratch(grid * splits * sums), tickets)
    }

    /// Blocks of a multiprocessor that registers are limited for; each takes a KiB of shared memory more than it asks
    /// for. Adding parts takes registers, and with them there is a block for every multiprocessor anyway.
    fn resident(&self, halos: usize, splits: usize, device: &Limits) -> usize {
        const TAKEN: usize = 1024;
        let hold = (device.shared_per_block + TAKEN) / (self.shared(halos) + TAKEN);
        if splits > 1 { 1 } else { self.blocks.min(hold) }
    }

    /// Bytes: halos, filters and barriers, or the sums that take their place.
    fn shared(&self, halos: usize) -> usize {
        let buffers = halos * halo(self.tile) + self.stages * self.channels * 2 * CHUNK;
        let sums = 4 * self.pixels() * (self.channels + 8);
        (buffers + 16 * (self.stages + halos)).max(sums)
    }
}

/// Bytes of a tile with a border of one pixel, in whole eights of pixels.
fn halo([images, rows, columns]: [usize; 3]) -> usize {
    (images * (rows + 2) * (columns + 2)).next_multiple_of(8) * 2 * CHUNK
}

/// The device has these products, and the tensors suit them: bf16 with channels in eights, enough of them, maps that
/// fill squares of 8x8, and an input that [`prologue::activated`] can make.
pub fn suits(call: &Call<'_>, prologue: Prologue, x: View, others: &[Option<View>]) -> bool {
    let whole = |v: &View| v.elem == Elem::Bf16 && v.vector(8) == 8;
    let wide = |v: &View| v.c() >= CHUNK / 2;
    let others: Vec<View> = others.iter().copied().flatten().collect();
    call.device().capability == 90
        && call.precision() == Precision::Bf16
        && (prologue.norm.is_some() || !prologue.silu)
        && x.shape[1].min(x.shape[2]) >= 4
        && x.rows() >= 48
        && wide(&x)
        && others.iter().all(wide)
        && others.iter().chain([&x]).all(whole)
}

/// Launches a convolution or input gradient whose input is activated.
pub fn launch(call: &mut Call<'_>, conv: &Conv) {
    let (k, c) = (conv.y.c(), conv.source.x.c());
    let (form, splits) = form(&call.device(), conv, c.div_ceil(CHUNK));
    let [images, rows, columns] = form.tile;
    let pixels = [images, rows + 2, columns + 2, CHUNK];
    let x = Boxes::of(conv.source.x, pixels);
    let w = if conv.gradient {
        filter(conv.w.pointer, [k, 9, c], [CHUNK, CHUNK])
    } else {
        filter(conv.w.pointer, [c, 9, k], [CHUNK, form.channels])
    };
    let (residual, source, w2, bias2) = match conv.added {
        Added::None => (None, None, None, None),
        Added::Plain(r) | Added::Doubled(r) => (Some(r), None, None, None),
        Added::Shortcut(from, w2, bias) => (None, Some(from), Some(w2), Some(bias)),
    };
    let s = source.map_or(0, |v| v.c());
    let source = source.map(|v| Boxes::of(v, pixels));
    let w2 = w2.map(|v| filter(v.pointer, [s, 1, k], [CHUNK, form.channels]));
    let address = |view: Option<View>| view.map_or(0, |v| v.pointer);
    let maps = [
        &x,
        &w,
        source.as_ref().unwrap_or(&x),
        w2.as_ref().unwrap_or(&w),
    ];
    let [x, w, source, w2] = maps.map(|boxes| call.tensor_map(boxes));
    let [n, h, wd] = conv.size();
    let grid = form.grid(conv.size(), k);
    let (parts, tickets) = form.parts(call, grid, splits);
    let args = Args::new()
        .words(&x)
        .words(&w)
        .ptr(address(conv.bias))
        .view_or_null(residual)
        .words(&source)
        .words(&w2)
        .ptr(address(bias2))
        .view(conv.y)
        .ptr(parts)
        .ptr(tickets);
    let args = args.int(n).int(h).int(wd).int(c).int(k).int(s);
    let halos = if s > 0 { 3 } else { 2 };
    call.launch(
        kernel(conv, form)
            .define("SPLITS", splits)
            .define("BLOCKS", form.resident(halos, splits, &call.device())),
        [grid, splits, 1],
        288,
        form.shared(halos),
        args,
    );
}

/// The form whose busiest multiprocessor is done first, and in how many parts its sums are made; of equals the
/// first.
fn form(device: &Limits, conv: &Conv, chunks: usize) -> (&'static Form, usize) {
    let size = conv.size();
    let cost = |form: &Form, splits: usize| {
        let grid = form.grid(size, conv.y.c());
        let work = 2 * form.pixels() * form.channels * CHUNK * 9 * chunks.div_ceil(splits);
        let time = ((grid * splits).div_ceil(device.sms) * work) as f64 / (SPEED * form.rate);
        match splits {
            1 => time,
            _ if grid > TICKETS || !form.splits() => f64::INFINITY,
            _ => time + LEAVE + splits as f64 * ADD,
        }
    };
    let fitting = FORMS.iter().filter(|f| f.fits(size));
    let all = fitting.flat_map(|f| (1..=SPLITS.min(chunks)).map(move |splits| (f, splits)));
    let start = (&FORMS[0], 1, f64::INFINITY);
    let best = all.fold(start, |best, (form, splits)| {
        let cost = cost(form, splits);
        if cost < best.2 {
            (form, splits, cost)
        } else {
            best
        }
    });
    (best.0, best.1)
}

/// Boxes of one tap of a filter `[rows, taps, width]`, given innermost first.
fn filter(pointer: u64, [width, taps, rows]: [usize; 3], [columns, lines]: [usize; 2]) -> Boxes {
    Boxes {
        pointer,
        sizes: [width, taps, rows].map(|x| x as u64).to_vec(),
        strides: [width, taps * width].map(|x| x as u64).to_vec(),
        shape: [columns, 1, lines].map(|x| x as u32).to_vec(),
    }
}

fn kernel(conv: &Conv, form: &Form) -> Kernel {
    let bias = conv.bias.map_or(Elem::F32, |b| b.elem);
    let residual = match conv.added {
        Added::None => 0,
        Added::Plain(_) => 1,
        Added::Doubled(_) => 2,
        Added::Shortcut(..) => 3,
    };
    tile(Kernel::new("conv2d_wgmma", "conv2d_wgmma"), form.tile)
        .define("BN", form.channels)
        .define("STAGES", form.stages)
        .define("TB", bias)
        .define("TR", Elem::Bf16)
        .define("TY", Elem::Bf16)
        .define("VY", 8)
        .define("VR", 8)
        .flag("BIAS", conv.bias.is_some())
        .flag("DGRAD", conv.gradient)
        .flag("DOWN", conv.down)
        .define("RESIDUAL", residual)
}

/// The launch that makes the parts of a weight gradient whose input is activated, as [`Wgrad::plan`].
pub fn parts(call: &mut Call<'_>, wgrad: &Wgrad) -> Parts {
    const STAGES: usize = 4;
    let [n, h, w, k] = wgrad.dy.shape;
    let c = wgrad.source.x.c();
    let shape = if h <= 8 && w <= 8 {
        [2, 8, 8]
    } else {
        [1, 8, 16]
    };
    let [images, rows, columns] = shape;
    let blocks = k.div_ceil(CHUNK) * c.div_ceil(CHUNK);
    // A part wants four steps at least; `splits` counts in steps of half the pixels.
    let steps = 2 * tiles(shape, [n, h, w]);
    let splits = splits(blocks, call.device().sms, steps);
    let x = call.tensor_map(&Boxes::of(
        wgrad.source.x,
        [images, rows + 2, columns + 2, CHUNK],
    ));
    let dy = call.tensor_map(&Boxes::of(wgrad.dy, [1, 8, 8, CHUNK]));
    let args = Args::new().words(&x).words(&dy);
    let stage = halo(shape) + images * rows * columns * 2 * CHUNK;
    Parts {
        launch: Launch {
            kernel: tile(
                Kernel::new("conv2d_wgrad_wgmma", "conv2d_wgrad_wgmma"),
                shape,
            ),
            grid: [blocks as u32, splits as u32, 1],
            threads: 416,
            shared: STAGES * (stage + 16),
            args: args.int(n).int(h).int(w).int(c).int(k),
        },
        splits,
        scratch: Parts::scratch(splits, c, k),
    }
}
