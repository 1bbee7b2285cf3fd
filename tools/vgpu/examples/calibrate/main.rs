//! Measures a device with some twenty small kernels, prints model against measurement, and writes the device's table.
//!
//!     tools/vgpu/calibrate               # a real device: writes tools/vgpu/devices/NAME.toml
//!     tools/vgpu/calibrate --write FILE  # somewhere else, and from the virtual device, too
//!
//! On the virtual device the measurement is the driver's own modelled time of a small launch: it only checks itself.

use cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, LaunchConfig, PushKernelArg,
};
use std::sync::Arc;
use vgpu::device::Device;
use vgpu::harness::{TestDevice, compile, device, nvrtc};
use vgpu::machine::{Machine, Shape};
use vgpu::model;
use vgpu::stats::Summary;

/// Any error, in words.
type Fail = Box<dyn std::error::Error>;

const SOURCE: &str = include_str!("kernels.cu");
const FILE: &str = "kernels.cu";

/// How a case's `n` and traffic follow from the size of the problem.
#[derive(Clone, Copy, PartialEq)]
enum Size {
    /// n float4 of a buffer of this many bytes; DRAM moves it so many times.
    Stream(f64),
    /// The same in a buffer an eighth of L2.
    InL2,
    /// n iterations, no traffic.
    Loop(i32),
    /// n iterations of requests that L1 serves.
    InL1(i32),
}

/// Kernel, size, and what it is to show.
const CASES: [(&str, Size, &str); 19] = [
    ("copy", Size::Stream(2.0), "DRAM, both ways"),
    ("read", Size::Stream(1.0), "DRAM, reading"),
    ("fill", Size::Stream(1.0), "DRAM, writing"),
    ("copy_async", Size::Stream(2.0), "DRAM through cp.async"),
    ("copy", Size::InL2, "L2, both ways"),
    ("read_l2", Size::InL2, "L2, reading"),
    ("read_l1", Size::InL1(512), "L1"),
    ("shared_load", Size::Loop(512), "shared memory"),
    (
        "shared_conflict",
        Size::Loop(512),
        "bank conflicts, fourfold",
    ),
    ("shared_atomic", Size::Loop(512), "shared atomics"),
    ("atomic_spread", Size::Loop(16), "global atomics, spread"),
    ("atomic_same", Size::Loop(16), "global atomics, one address"),
    ("mma_bf16", Size::Loop(512), "tensor cores, bf16"),
    ("mma_tf32", Size::Loop(512), "tensor cores, tf32"),
    ("ldmatrix", Size::Loop(128), "ldmatrix"),
    ("fma_f32", Size::Loop(128), "f32 FMA"),
    ("fma_f64", Size::Loop(64), "f64 FMA"),
    ("mad_int", Size::Loop(128), "integer multiply-add"),
    ("exp2_f32", Size::Loop(128), "special functions"),
];

/// The device under test.
struct Bench {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    x: CudaSlice<f32>,
    y: CudaSlice<f32>,
    /// Bytes of each buffer.
    bytes: usize,
    blocks: u32,
}

/// One case's launch and what came of it.
struct Run {
    n: i32,
    blocks: u32,
    measured: f64,
    modelled: model::Time,
    summary: Summary,
    load: model::Load,
}

/// The module: PTX, or machine code where the driver is older than the compiler.
fn module(test: &TestDevice, context: &Arc<CudaContext>) -> Result<Arc<CudaModule>, Fail> {
    let ptx = compile(SOURCE, FILE, &test.arch(), &[]);
    match context.load_module(cudarc::nvrtc::Ptx::from_src(ptx)) {
        Ok(module) => Ok(module),
        Err(_) => {
            let arch = test.arch().replace("compute", "sm");
            let options = [&format!("-arch={arch}") as &str, "-default-device"];
            let cubin = nvrtc()?.cubin(SOURCE, FILE, &options)?;
            Ok(context.load_module(cudarc::nvrtc::Ptx::from_binary(cubin))?)
        }
    }
}

impl Bench {
    fn new(test: &TestDevice, table: &Device) -> Result<Bench, Fail> {
        let context = CudaContext::new(0)?;
        // SAFETY: one stream, work in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        // The interpreter gets a small problem that is still larger than nothing.
        let bytes = if test.real {
            (8 * table.l2_bytes).max(1 << 28) as usize
        } else {
            1 << 20
        };
        Ok(Bench {
            module: module(test, &context)?,
            x: stream.clone_htod(&vec![1f32; bytes / 4])?,
            y: stream.alloc_zeros::<f32>(bytes / 4)?,
            stream,
            bytes,
            blocks: if test.real { table.sms * 8 } else { 8 },
        })
    }

    fn n(&self, size: Size, table: &Device) -> i32 {
        match size {
            Size::Stream(_) => (self.bytes / 16) as i32,
            Size::InL2 => (self.bytes / 16).min(table.l2_bytes as usize / 8 / 16) as i32,
            Size::Loop(n) | Size::InL1(n) => n,
        }
    }

    fn launch(&mut self, f: &CudaFunction, n: i32, blocks: u32) -> Result<(), Fail> {
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (256, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernels' parameters; y and x have room for what n says.
        unsafe {
            self.stream
                .launch_builder(f)
                .arg(&mut self.y)
                .arg(&self.x)
                .arg(&n)
                .launch(config)
        }?;
        Ok(())
    }

    /// Seconds of one launch: the best of a few, after one that warms up.
    fn measure(&mut self, kernel: &str, n: i32, real: bool) -> Result<f64, Fail> {
        let f = self.module.load_function(kernel)?;
        let (mut best, repeats) = (f64::INFINITY, if real { 20 } else { 1 });
        for round in 0..=repeats {
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            let start = self.stream.record_event(flags)?;
            self.launch(&f, n, self.blocks)?;
            let end = self.stream.record_event(flags)?;
            self.stream.synchronize()?;
            if round > 0 {
                best = best.min(f64::from(start.elapsed_ms(&end)?) * 1e-3);
            }
        }
        Ok(best)
    }

    /// Seconds of one node in a graph of a hundred empty kernels.
    fn node(&mut self) -> Result<f64, Fail> {
        let f = self.module.load_function("nothing")?;
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        for _ in 0..100 {
            self.launch(&f, 0, 1)?;
        }
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags)?.ok_or("no graph")?;
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        graph.launch()?;
        let start = self.stream.record_event(flags)?;
        graph.launch()?;
        let end = self.stream.record_event(flags)?;
        self.stream.synchronize()?;
        Ok(f64::from(start.elapsed_ms(&end)?) * 1e-5)
    }
}

/// The model's time of a launch: counters of a few of its blocks, the rest like them.
fn modelled(
    ptx: &str,
    kernel: &str,
    size: Size,
    n: i32,
    blocks: u32,
    d: &Device,
) -> Result<(Summary, model::Load, model::Time), Fail> {
    let mut m = Machine::new(1 << 32);
    let module = m.load(ptx)?;
    let few = blocks.min(8);
    let streams = matches!(size, Size::Stream(_)) || kernel == "copy";
    // A loop over a buffer is shared by all blocks: fewer blocks get a smaller buffer.
    let few_n = if streams {
        (i64::from(n) * i64::from(few) / i64::from(blocks)) as i32
    } else {
        n
    };
    let bytes = if matches!(size, Size::Stream(_) | Size::InL2) {
        16 * few_n as usize
    } else {
        1 << 16
    };
    let ones = 1f32.to_le_bytes().repeat(bytes / 4);
    let (y, x) = (m.upload(&ones)?, m.upload(&ones)?);
    let shape = Shape::linear(few, 256);
    let done = m.call(&module, kernel, shape, &[y, x, few_n as u64])?;
    if done.error != 0 || !done.findings.is_empty() {
        return Err(format!("{kernel}: error {}: {:?}", done.error, done.findings).into());
    }
    let decoded = module.kernels[kernel].as_ref().map_err(Clone::clone)?;
    let summary = Summary::new(decoded, &module, shape, &done.counts, d);
    let mut load = summary.load();
    (load.blocks, load.resident) = (
        u64::from(blocks),
        d.resident(256, 32, summary.shared_bytes).0,
    );
    load.dram_bytes = match size {
        Size::Stream(times) => times * 16.0 * f64::from(n),
        _ => 0.0,
    };
    if matches!(size, Size::InL1(_)) {
        load.sectors = 0.0;
    }
    let mut time = model::time(&load, d);
    time.seconds += model::NODE;
    Ok((summary, load, time))
}

/// The table of a device that was asked for its attributes, and the shares that measurements of a real one give.
fn fitted(
    context: &CudaContext,
    base: &Device,
    results: &[Run],
    real: bool,
) -> Result<Device, Fail> {
    let ask = |a: Attribute| context.attribute(a).map(|v| v as u32);
    let mut d = base.clone();
    d.sms = ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    d.shared_per_sm = ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?;
    d.shared_per_block = ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    d.blocks = ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR)?;
    d.warps = ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)? / 32;
    d.l2_bytes = ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into();
    let clock = f64::from(ask(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?);
    if clock > 0.0 {
        d.clock_ghz = clock * 1e-6;
    }
    let memory = f64::from(ask(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?);
    let bits = f64::from(ask(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?);
    if memory > 0.0 && bits > 0.0 {
        d.dram_gb_per_s = 2.0 * memory * bits / 8.0 * 1e-6;
    }
    d.dram_bytes = context.total_mem()? as u64;
    if !real {
        return Ok(d);
    }
    let by = |n: usize| {
        (
            &results[n],
            f64::from(results[n].blocks) / results[n].measured,
        )
    };
    let (copy, _) = by(0);
    d.eta_dram = copy.load.dram_bytes / copy.measured / (d.dram_gb_per_s * 1e9);
    let (l2, per_second) = by(5);
    d.l2_bytes_per_clock = 32.0 * l2.load.sectors * per_second / (d.clock_ghz * 1e9);
    let (atomics, per_second) = by(10);
    d.atomic_slices = atomics.load.atomic_sectors * per_second / (d.clock_ghz * 1e9);
    let (mma, per_second) = by(12);
    let peak = d.tensor_flop * d.mma_share * f64::from(d.sms) * d.clock_ghz * 1e9;
    d.eta_tensor = mma.load.tensor_flop * per_second / peak;
    Ok(d)
}

/// Where the table goes: what `--write` says, or beside the others for a real device.
fn target(name: &str, real: bool) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    if let Some(n) = args.iter().position(|a| a == "--write") {
        return args.get(n + 1).cloned();
    }
    let slug: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    real.then(|| format!("{}/devices/{slug}.toml", env!("CARGO_MANIFEST_DIR")))
}

fn print(results: &[(usize, Run)]) {
    println!(
        "{:<28} {:>10} {:>11} {:>11}  limit",
        "", "", "measured us", "modelled us"
    );
    for (n, r) in results {
        let (kernel, _, what) = CASES[*n];
        let (measured, modelled) = (r.measured * 1e6, r.modelled.seconds * 1e6);
        println!(
            "{what:<28} {:>9.0}% {measured:>11.2} {modelled:>11.2}  {} ({kernel}, n {}, {} blocks of 256, {} instructions a block)",
            100.0 * (modelled / measured - 1.0),
            r.modelled.limit,
            r.n,
            r.blocks,
            r.summary.inst / r.summary.blocks.max(1)
        );
    }
}

fn main() -> Result<(), Fail> {
    let test = device();
    let table = if test.real {
        Device::nearest(test.capability).to_owned()
    } else {
        std::env::var("VGPU_DEVICE").unwrap_or_else(|_| "rtx4090".to_owned())
    };
    let base = Device::named(&table)?;
    if !test.real {
        println!(
            "{}: no device. Its times are the model's own: this run checks only that both ways to it agree.",
            test.name
        );
        test.set("caches", "1");
    }
    let mut bench = Bench::new(test, &base)?;
    let ptx = compile(SOURCE, FILE, &test.arch(), &[]);
    let mut results = Vec::new();
    for (n, (kernel, size, _)) in CASES.into_iter().enumerate() {
        let count = bench.n(size, &base);
        let measured = bench.measure(kernel, count, test.real)?;
        let (summary, load, modelled) = modelled(&ptx, kernel, size, count, bench.blocks, &base)?;
        results.push((
            n,
            Run {
                n: count,
                blocks: bench.blocks,
                measured,
                modelled,
                summary,
                load,
            },
        ));
    }
    print(&results);
    println!("one empty node of a graph: {:.2} us", bench.node()? * 1e6);
    for finding in test.findings() {
        println!("{finding}");
    }
    let context = bench.stream.context().clone();
    let results: Vec<Run> = results.into_iter().map(|r| r.1).collect();
    let mut fit = fitted(&context, &base, &results, test.real)?;
    fit.name = test.name.clone();
    match target(&test.name, test.real) {
        Some(path) => {
            let source = if test.real {
                "Measured"
            } else {
                "NOT measured: made from the model itself,"
            };
            let head =
                format!("# {source} by tools/vgpu/calibrate; lanes and L1 as in {table}.toml\n");
            std::fs::write(&path, head + &fit.table()?)?;
            println!("wrote {path}");
        }
        None => println!("no device table is written: nothing was measured"),
    }
    Ok(())
}
