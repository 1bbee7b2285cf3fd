//! The time model against times that others have published: `cargo run -p vgpu --example published`.
//!
//! Every load follows from the problem by a formula; nothing is fitted to these figures. Sources: CUTLASS's README
//! (it names no device; the figures fit an A100), unet.cu's README (RTX 4090). The tiles are assumed where the
//! source does not give them.

use vgpu::device::Device;
use vgpu::model::{Load, time};

/// A published time.
#[derive(Clone)]
struct Case {
    name: &'static str,
    device: &'static str,
    milliseconds: f64,
    load: Load,
}

/// A matrix product in tiles: `m` x `n` x `k`, elements of so many bytes in and out.
struct Product {
    m: f64,
    n: f64,
    k: f64,
    tile: (f64, f64),
    warps: u32,
    bytes: (f64, f64),
    /// Distinct bytes that are read: of a convolution less than m k.
    read: f64,
}

impl Product {
    fn blocks(&self) -> f64 {
        (self.m / self.tile.0).ceil() * (self.n / self.tile.1).ceil()
    }

    /// What does not depend on the pipe that multiplies.
    fn load(&self) -> Load {
        let (tm, tn) = self.tile;
        let loaded = (tm + tn) * self.k * self.bytes.0;
        let stored = tm * tn * self.bytes.1;
        Load {
            blocks: self.blocks() as u64,
            resident: 1,
            warps: self.warps,
            sectors: (loaded + stored) / 32.0,
            dram_bytes: self.read + self.m * self.n * self.bytes.1,
            ..Load::default()
        }
    }

    /// By tensor cores; `work` is the time of one product in those of bf16.
    fn tensor(&self, work: f64, overlapped: bool) -> Load {
        let flop = 2.0 * self.tile.0 * self.tile.1 * self.k;
        let mma = flop / 4096.0 * work;
        Load {
            tensor_flop: flop * work,
            // Two instructions beside each mma, and half a wavefront of fragments.
            issued: 2.0 * mma,
            waves: 1.2 * mma,
            overlapped,
            ..self.load()
        }
    }

    /// By f32 lanes.
    fn plain(&self, overlapped: bool) -> Load {
        let fma = self.tile.0 * self.tile.1 * self.k / 32.0;
        Load {
            fp32: fma,
            issued: 1.2 * fma,
            waves: fma / 8.0,
            overlapped,
            ..self.load()
        }
    }
}

/// A pass over arrays: bytes read and written by L2, and by DRAM.
fn stream(bytes: f64, dram: f64) -> Load {
    let blocks = (bytes / 2.0 / 4.0 / 512.0).ceil();
    Load {
        blocks: blocks as u64,
        resident: 3,
        warps: 16,
        issued: 16.0 * 25.0,
        sectors: bytes / 32.0 / blocks,
        dram_bytes: dram,
        requests: 16.0,
        ..Load::default()
    }
}

fn case(name: &'static str, device: &'static str, milliseconds: f64, load: Load) -> Case {
    Case {
        name,
        device,
        milliseconds,
        load,
    }
}

/// CUTLASS's README.
fn cutlass() -> Vec<Case> {
    let gemm = Product {
        m: 3456.0,
        n: 4096.0,
        k: 8192.0,
        tile: (256.0, 128.0),
        warps: 8,
        bytes: (2.0, 2.0),
        read: 2.0 * (3456.0 + 4096.0) * 8192.0,
    };
    let pixels = 8.0 * 224.0 * 224.0;
    let conv = |bytes: f64| Product {
        m: pixels,
        n: 128.0,
        k: 1152.0,
        tile: (128.0, 128.0),
        warps: 8,
        bytes: (bytes, 4.0),
        read: (pixels + 1152.0) * 128.0 * bytes,
    };
    let (half, single) = (conv(2.0).tensor(1.0, true), conv(4.0).plain(false));
    let long = "CUTLASS f16 GEMM 3456x4096x8192";
    vec![
        case(long, "a100", 0.986, gemm.tensor(1.0, true)),
        case("CUTLASS f16 conv 8x224x224x128, 3x3", "a100", 0.711, half),
        case("CUTLASS f32 conv, the same", "a100", 7.34, single),
    ]
}

/// unet.cu's README: 32 images of 64x64, 192 to 64 channels.
fn unet() -> Vec<Case> {
    let images = 32.0 * 64.0 * 64.0;
    let product = |read: f64| Product {
        m: images,
        n: 64.0,
        k: 1728.0,
        tile: (128.0, 64.0),
        warps: 8,
        bytes: (4.0, 4.0),
        read,
    };
    let (columns, input) = (images * 1728.0 * 4.0, images * 192.0 * 4.0);
    let (gemm, fill) = (product(columns).plain(true), columns + input);
    let cudnn = product(input).tensor(2.0, true);
    let device = "rtx4090";
    let fill = stream(fill, fill);
    let inside = stream(67.1e6, 0.0);
    vec![
        case("unet.cu cuBLAS SGEMM step", device, 1.141, gemm),
        case("unet.cu fill of the im2col matrix", device, 1.328, fill),
        case("unet.cu transpose + bias, inside L2", device, 0.055, inside),
        case("cuDNN conv 192 to 64, TF32 assumed", device, 0.457, cudnn),
    ]
}

fn main() {
    println!(
        "{:<38} {:>8} {:>9} {:>9} {:>7}  limited by",
        "", "device", "published", "modelled", "error"
    );
    let (mut sum, mut worst) = (0.0, 0.0f64);
    let cases = [cutlass(), unet()].concat();
    for c in &cases {
        let device = match Device::named(c.device) {
            Ok(device) => device,
            Err(e) => return eprintln!("{e}"),
        };
        let t = time(&c.load, &device);
        let error = t.seconds * 1e3 / c.milliseconds - 1.0;
        (sum, worst) = (sum + error.abs(), worst.max(error.abs()));
        println!(
            "{:<38} {:>8} {:>6.3} ms {:>6.3} ms {:>6.0}%  {}",
            c.name,
            c.device,
            c.milliseconds,
            t.seconds * 1e3,
            100.0 * error,
            t.limit
        );
    }
    println!(
        "mean error {:.0} %, worst {:.0} %: {} points from two sources are an indication, no validation",
        100.0 * sum / cases.len() as f64,
        100.0 * worst,
        cases.len()
    );
}
