//! Which CUDA kernel computes a convolution, with which tile, on which grid: a function of shapes, storage and
//! device only, so that a program's launches (and the bits of its results) can be repeated.

use super::wgmma;
use crate::device::cuda::{Args, Call, Elem, Kernel, Launch, Limits, Precision, View};
use crate::ops::prologue::{self, Prologue};

/// What is added to a convolution's output.
#[derive(Clone, Copy, Debug)]
pub enum Added {
    /// Nothing.
    None,
    /// A tensor of the output's size.
    Plain(View),
    /// A tensor of half the height and width, doubled.
    Doubled(View),
    /// A tensor behind a 1x1 convolution: the tensor, weights and bias.
    Shortcut(View, View, View),
}

/// An input with what happens to it on its way in.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The stored tensor.
    pub x: View,
    /// Address of a and b of every sample and channel; 0 without a norm.
    pub table: u64,
    /// SiLU of a x + b.
    pub silu: bool,
    /// Nearest-neighbour doubling after it.
    pub upsample: bool,
}

impl Source {
    /// Input 0 of `call`, whose norm's operands are inputs from `first` on: with a table of coefficients, or
    /// `activated` beforehand.
    pub fn new(
        call: &mut Call<'_>,
        prologue: Prologue,
        first: usize,
        upsample: bool,
        activated: bool,
    ) -> Self {
        if activated {
            return Self::plain(prologue::activated(call, prologue, first, upsample));
        }
        let x = call.input(0);
        Self {
            x,
            table: prologue::table(call, prologue.norm, first, x.shape),
            silu: prologue.silu,
            upsample,
        }
    }

    /// `x` as it is.
    pub fn plain(x: View) -> Self {
        Self {
            x,
            table: 0,
            silu: false,
            upsample: false,
        }
    }
}

/// A convolution, or its input gradient: the same kernels, with the filter turned by 180 degrees.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// x (dy of the gradient).
    pub source: Source,
    /// `[K, 3, 3, C]`.
    pub w: View,
    /// `[K]`; none for the gradient.
    pub bias: Option<View>,
    /// Added to the output.
    pub added: Added,
    /// y (the gradient of the activated x).
    pub y: View,
    /// The input gradient.
    pub gradient: bool,
    /// The gradient behind a doubling: sums of 2x2 blocks are stored.
    pub down: bool,
}

/// A weight gradient, in parts.
#[derive(Clone, Copy, Debug)]
pub struct Wgrad {
    /// x.
    pub source: Source,
    /// The output's gradient.
    pub dy: View,
}

/// Launches of a weight gradient but for the sum of its parts ([`reduce`]).
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel that makes them, its arguments but for the scratch.
    pub launch: Launch,
    /// Their number.
    pub splits: usize,
    /// Bytes of scratch for them.
    pub scratch: usize,
}

impl Parts {
    /// Bytes of `splits` parts of a `[k, 3, 3, c]` gradient and its bias's.
    pub fn scratch(splits: usize, c: usize, k: usize) -> usize {
        4 * splits * ((9 * c + 1) * k).next_multiple_of(4)
    }
}

/// A tile of `conv2d.cu`.
#[derive(Debug)]
struct Form {
    /// Images, rows, columns.
    tile: [usize; 3],
    channels: usize,
    /// Pixels and channels of a warp.
    warp: [usize; 2],
    /// Blocks of a multiprocessor that registers are limited for, where shared memory holds as many.
    blocks: usize,
    /// Rate at which it keeps the tensor cores busy, relative to the best form (estimated): where tensor cores
    /// are the bottleneck, and where they are so fast (8.0, 9.0, 10.0) that feeding them is.
    rate: [f64; 2],
}

/// The first one fits every device and every picture.
const FORMS: [Form; 7] = [
    Form::new([1, 8, 8], 64, [32, 32], 3, [0.8, 0.6]),
    Form::new([1, 8, 16], 128, [64, 32], 1, [1.0, 0.85]),
    Form::new([1, 16, 16], 128, [64, 64], 1, [1.0, 1.0]),
    Form::new([2, 8, 8], 128, [64, 32], 1, [0.97, 0.82]),
    Form::new([1, 8, 16], 64, [64, 32], 2, [0.95, 0.75]),
    Form::new([4, 4, 4], 64, [32, 32], 2, [0.7, 0.55]),
    Form::new([1, 8, 16], 32, [32, 32], 3, [0.6, 0.4]),
];

impl Form {
    const fn new(
        tile: [usize; 3],
        channels: usize,
        warp: [usize; 2],
        blocks: usize,
        rate: [f64; 2],
    ) -> Self {
        Self {
            tile,
            channels,
            warp,
            blocks,
            rate,
        }
    }

    /// It can be used: shared memory suffices, and a tile of several images holds them whole.
    fn fits(&self, device: &Limits, [_, h, w]: [usize; 3]) -> bool {
        let [images, rows, columns] = self.tile;
        self.shared() <= device.shared_per_block && (images == 1 || (h <= rows && w <= columns))
    }

    fn pixels(&self) -> usize {
        self.tile.iter().product()
    }

    fn threads(&self) -> usize {
        32 * (self.pixels() / self.warp[0]) * (self.channels / self.warp[1])
    }

    /// Bytes of two halos and two stages of three taps, 64 bytes of channels each.
    fn shared(&self) -> usize {
        let [images, rows, columns] = self.tile;
        2 * 64 * (images * (rows + 2) * (columns + 2) + 3 * self.channels)
    }

    /// Blocks of a multiprocessor; each takes a KiB of shared memory more than it asks for.
    fn resident(&self, device: &Limits) -> usize {
        const TAKEN: usize = 1024;
        let hold = (device.shared_per_block + TAKEN) / (self.shared() + TAKEN);
        self.blocks.min(hold)
    }

    fn grid(&self, size: [usize; 3], results: usize) -> usize {
        tiles(self.tile, size) * results.div_ceil(self.channels)
    }
}

/// Tiles (images, rows, columns) that cover pictures (samples, height, width).
pub fn tiles(tile: [usize; 3], size: [usize; 3]) -> usize {
    size.iter().zip(tile).map(|(s, t)| s.div_ceil(t)).product()
}

/// Adds a planned launch.
pub fn push(call: &mut Call<'_>, launch: Launch) {
    call.launch(
        launch.kernel,
        launch.grid.map(|x| x as usize),
        launch.threads as usize,
        launch.shared,
        launch.args,
    );
}

/// A launch without arguments.
fn launch(kernel: Kernel, grid: [usize; 3], threads: usize, shared: usize) -> Launch {
    Launch {
        kernel,
        grid: grid.map(|x| x as u32),
        threads: threads as u32,
        shared,
        args: Args::new(),
    }
}

fn source(kernel: Kernel, source: &Source) -> Kernel {
    kernel
        .define("TX", source.x.elem)
        .define("VX", source.x.vector(8))
        .flag("NORM", source.table != 0)
        .flag("SILU", source.silu)
        .flag("UPSAMPLE", source.upsample)
}

/// The definitions of a tile.
pub fn tile(kernel: Kernel, [images, rows, columns]: [usize; 3]) -> Kernel {
    kernel
        .define("IMAGES", images)
        .define("ROWS", rows)
        .define("COLUMNS", columns)
}

impl Conv {
    /// Samples, height and width of the convolution itself.
    pub fn size(&self) -> [usize; 3] {
        let full = if self.gradient { self.source.x } else { self.y };
        let [n, h, w, _] = full.shape;
        [n, h, w]
    }

    /// Launches it, with the kernels of `wgmma.rs` or those of this file.
    pub fn launch(&self, call: &mut Call<'_>, wgmma: bool) {
        if wgmma {
            wgmma::launch(call, self);
        } else {
            push(call, self.plan(&call.device(), call.precision()));
        }
    }

    /// The launch, arguments and all.
    fn plan(&self, device: &Limits, precision: Precision) -> Launch {
        let mut launch = if precision == Precision::F32 || device.capability < 80 {
            self.simt()
        } else {
            self.tiled(self.form(device), device)
        };
        let [n, h, w] = self.size();
        let (residual, w2, bias2) = match self.added {
            Added::None => (None, None, None),
            Added::Plain(r) | Added::Doubled(r) => (Some(r), None, None),
            Added::Shortcut(from, w, bias) => (Some(from), Some(w), Some(bias)),
        };
        let address = |view: Option<View>| view.map_or(0, |v| v.pointer);
        launch.args = Args::new()
            .view(self.source.x)
            .ptr(self.source.table)
            .ptr(self.w.pointer)
            .ptr(address(self.bias))
            .view_or_null(residual)
            .ptr(address(w2))
            .ptr(address(bias2))
            .view(self.y)
            .int(n)
            .int(h)
            .int(w)
            .int(self.source.x.c())
            .int(self.y.c())
            .int(w2.map_or(0, |w| w.c()));
        launch
    }

    /// The form whose busiest multiprocessor has the least to do; of equals the first.
    fn form(&self, device: &Limits) -> &'static Form {
        let fed = usize::from(matches!(device.capability, 80 | 90 | 100));
        let cost = |form: &Form| {
            let work = form.pixels() * form.channels;
            let grid = form.grid(self.size(), self.y.c());
            (grid.div_ceil(device.sms) * work) as f64 / form.rate[fed]
        };
        let fitting = FORMS[1..].iter().filter(|f| f.fits(device, self.size()));
        fitting.fold(
            &FORMS[0],
            |best, form| {
                if cost(form) < cost(best) { form } else { best }
            },
        )
    }

    fn tiled(&self, form: &Form, device: &Limits) -> Launch {
        let kernel = tile(self.kernel("conv2d"), form.tile)
            .define("BN", form.channels)
            .define("WM", form.warp[0])
            .define("WN", form.warp[1])
            .define("BLOCKS", form.resident(device));
        let grid = [form.grid(self.size(), self.y.c()), 1, 1];
        launch(kernel, grid, form.threads(), form.shared())
    }

    fn simt(&self) -> Launch {
        let size = self.size();
        let shape = if size[1].max(size[2]) <= 4 {
            [4, 4, 4]
        } else {
            [1, 8, 8]
        };
        let grid = [tiles(shape, size) * self.y.c().div_ceil(64), 1, 1];
        launch(tile(self.kernel("conv2d_f32"), shape), grid, 256, 0)
    }

    /// The kernel with the definitions that both files know.
    fn kernel(&self, file: &'static str) -> Kernel {
        let bias = self.bias.map_or(Elem::F32, |b| b.elem);
        let kernel = source(Kernel::new(file, file), &self.source)
            .define("TW", self.w.elem)
            .define("VW", self.w.vector(8))
            .define("TB", bias)
            .define("TY", self.y.elem)
            .define("VY", self.y.vector(8))
            .flag("BIAS", self.bias.is_some())
            .flag("DGRAD", self.gradient)
            .flag("DOWN", self.down);
        let (kind, residual) = match self.added {
            Added::None => return kernel.define("RESIDUAL", 0),
            Added::Plain(r) => (1, r),
            Added::Doubled(r) => (2, r),
            Added::Shortcut(from, ..) => (3, from),
        };
        let kernel = kernel
            .define("RESIDUAL", kind)
            .define("TR", residual.elem)
            .define("VR", residual.vector(8));
        match self.added {
            Added::Shortcut(_, w, _) => kernel.define("VS", w.vector(8)),
            _ => kernel,
        }
    }
}

impl Wgrad {
    /// The launch that makes the parts. Its last argument, their address, is left to the caller.
    pub fn plan(&self, device: &Limits, precision: Precision) -> Parts {
        let [n, h, w, k] = self.dy.shape;
        let c = self.source.x.c();
        let blocks = k.div_ceil(64) * c.div_ceil(64);
        let (mut launch, steps) = if precision == Precision::F32 || device.capability < 80 {
            (self.simt(3 * blocks), tiles([1, 4, 8], [n, h, w]))
        } else {
            self.tiled(blocks, precision)
        };
        // A multiprocessor holds one block of tensor cores, or two others.
        let places = if launch.shared > 0 {
            device.sms
        } else {
            2 * device.sms
        };
        let splits = splits(launch.grid[0] as usize, places, steps);
        launch.grid[1] = splits as u32;
        launch.args = Args::new()
            .view(self.source.x)
            .ptr(self.source.table)
            .view(self.dy)
            .int(n)
            .int(h)
            .int(w)
            .int(c)
            .int(k);
        Parts {
            launch,
            splits,
            scratch: Parts::scratch(splits, c, k),
        }
    }

    /// The launch on tensor cores, of one part, and its steps: the shape of a step that needs the fewest.
    fn tiled(&self, blocks: usize, precision: Precision) -> (Launch, usize) {
        let [n, h, w, _] = self.dy.shape;
        let (elem, shapes) = if precision == Precision::Bf16 {
            (Elem::Bf16, [[1, 4, 16], [1, 8, 8], [4, 4, 4]])
        } else {
            (Elem::F32, [[1, 4, 8], [1, 4, 8], [2, 4, 4]])
        };
        let steps = |shape: [usize; 3]| tiles(shape, [n, h, w]);
        let first = shapes[0];
        let shape = shapes[1..].iter().fold(first, |best, &shape| {
            if steps(shape) < steps(best) {
                shape
            } else {
                best
            }
        });
        let [images, rows, columns] = shape;
        let pixels = images * (rows * columns + (rows + 2) * (columns + 2));
        let kernel = tile(self.kernel("conv2d_wgrad"), shape).define("TP", elem);
        // Three stages of 64 channels.
        let shared = 3 * 64 * elem.bytes() * pixels;
        (launch(kernel, [blocks, 1, 1], 256, shared), steps(shape))
    }

    fn simt(&self, blocks: usize) -> Launch {
        launch(self.kernel("conv2d_wgrad_f32"), [blocks, 1, 1], 256, 0)
    }

    fn kernel(&self, file: &'static str) -> Kernel {
        source(Kernel::new(file, file), &self.source)
            .define("TY", self.dy.elem)
            .define("VY", self.dy.vector(8))
    }
}

/// Parts of a sum whose `blocks` blocks find so many `places`: as many as fill them once, or up to three more if
/// that leaves fewer places idle; at least eight steps each.
pub fn splits(blocks: usize, places: usize, steps: usize) -> usize {
    let time = |splits: usize| (blocks * splits).div_ceil(places) as f64 / splits as f64;
    let first = (places / blocks).max(1);
    let more = first + 1..first + 4;
    let best = more.fold(first, |best, s| if time(s) < time(best) { s } else { best });
    best.clamp(1, steps.div_ceil(8))
}

/// Sums `splits` parts of dw and db at `parts` in their order; adds to what is there where `add` says so.
pub fn reduce(parts: u64, splits: usize, outputs: [View; 2], add: [bool; 2]) -> Launch {
    let [dw, db] = outputs;
    let length = dw.len() + db.len();
    let kernel = Kernel::new("conv2d_wgrad_reduce", "conv2d_wgrad_reduce");
    let mut launch = launch(kernel, [length.div_ceil(256), 1, 1], 256, 0);
    launch.args = Args::new()
        .ptr(parts)
        .int(splits)
        .u64(dw.len() as u64)
        .int(db.len())
        .ptr(dw.pointer)
        .u32(u32::from(add[0]))
        .ptr(db.pointer)
        .u32(u32::from(add[1]));
    launch
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RTX_4090: Limits = Limits {
        sms: 128,
        capability: 89,
        shared_per_block: 99 << 10,
        memory: 24 << 30,
        clock: 2.52e9,
    };

    fn conv([n, h, w]: [usize; 3], c: usize, k: usize) -> Conv {
        Conv {
            source: Source {
                x: View::dense(1 << 20, Elem::Bf16, [n, h, w, c]),
                table: 0,
                silu: false,
                upsample: false,
            },
            w: View::dense(1 << 30, Elem::Bf16, [k, 3, 3, c]),
            bias: None,
            added: Added::None,
            y: View::dense(1 << 25, Elem::Bf16, [n, h, w, k]),
            gradient: false,
            down: false,
        }
    }

    fn defined(launch: &Launch, name: &str) -> String {
        let found = launch.kernel.defines.iter().find(|d| d.0 == name);
        found.unwrap().1.clone()
    }

    #[test]
    fn forms_stay_within_the_smallest_device() {
        let small = Limits {
            shared_per_block: 48 << 10,
            ..RTX_4090
        };
        for size in [[1, 1, 1], [16, 64, 64], [3, 8, 8], [9, 4, 4], [2, 7, 100]] {
            for channels in [1, 3, 64, 128, 500] {
                for device in [small, RTX_4090] {
                    let launch = conv(size, channels, channels).plan(&device, Precision::Bf16);
                    assert!(launch.shared <= device.shared_per_block, "{launch:?}");
                    assert!(launch.threads <= 256 && launch.grid[0] > 0, "{launch:?}");
                }
            }
        }
    }

    #[test]
    fn large_maps_take_large_tiles_and_few_blocks_small_ones() {
        let many = conv([16, 64, 64], 128, 128).plan(&RTX_4090, Precision::Bf16);
        assert_eq!((defined(&many, "BN").as_str(), many.grid[0]), ("128", 512));
        let few = conv([16, 8, 8], 512, 512).plan(&RTX_4090, Precision::Bf16);
        assert_eq!((defined(&few, "BN").as_str(), few.grid[0]), ("64", 128));
        let picture = conv([16, 64, 64], 128, 3).plan(&RTX_4090, Precision::Bf16);
        assert_eq!(defined(&picture, "BN"), "32");
    }

    #[test]
    fn parts_fill_the_device() {
        assert_eq!(splits(4, 128, 1024), 32);
        assert_eq!(splits(64, 128, 1024), 2);
        // 144 blocks on 128 places: 2 rounds of one part, 5 rounds of four parts.
        assert_eq!(splits(144, 128, 1024), 4);
        assert_eq!(splits(4, 128, 17), 3);
    }
}
