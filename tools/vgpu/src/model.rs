//! How long a device would take: a model, never a measurement.
//!
//! Per block the time of each pipe in clocks; the slowest compute pipe and the slowest memory level
//! overlap fully when the kernel copies asynchronously, not at all otherwise; blocks run in waves.

use crate::device::Device;

/// What a launch asks of a device; counts are of one block unless said otherwise.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Load {
    /// Of the grid.
    pub blocks: u64,
    /// Resident on one SM at once.
    pub resident: u32,
    pub warps: u32,
    pub tensor_flop: f64,
    pub issued: f64,
    pub fp32: f64,
    pub int: f64,
    pub sfu: f64,
    pub fp64: f64,
    pub fp16: f64,
    pub waves: f64,
    /// That L2 is asked for.
    pub sectors: f64,
    /// Of the whole launch: what the caches let through, or every byte once.
    pub dram_bytes: f64,
    pub atomic_sectors: f64,
    /// Loads run beside arithmetic (a pipeline of asynchronous copies).
    pub overlapped: bool,
    pub requests: f64,
}

/// A modelled time and the term that decides it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Seconds.
    pub seconds: f64,
    /// What a faster kernel would have to do less of.
    pub limit: &'static str,
}

/// Seconds that a kernel costs beside its own, as a node of a graph.
pub const NODE: f64 = 1.2e-6;
/// Clocks from a block's start to its first useful result.
const FILL: f64 = 700.0;
/// Clocks that a load from L2 or DRAM takes.
const LATENCY: f64 = 400.0;
/// Loads that a warp has in flight.
const IN_FLIGHT: f64 = 4.0;

/// The larger of two terms.
fn larger(a: (f64, &'static str), b: (f64, &'static str)) -> (f64, &'static str) {
    if b.0 > a.0 { b } else { a }
}

/// The busiest pipe of an SM, in clocks of one block.
fn compute(load: &Load, d: &Device) -> (f64, &'static str) {
    let pipe = |count: f64, lanes: f64| count * 32.0 / lanes;
    let tensor_rate = d.tensor_flop * d.mma_share * d.eta_tensor;
    [
        (load.tensor_flop / tensor_rate, "tensor cores"),
        (load.issued / d.issue_slots, "issue"),
        (pipe(load.fp32, d.fp32_lanes), "fp32"),
        (pipe(load.int, d.int_lanes), "integer"),
        (
            pipe(load.sfu, d.sfu_lanes),
            "special functions and conversions",
        ),
        (pipe(load.fp64, d.fp64_lanes), "fp64"),
        (pipe(load.fp16, d.fp16_lanes), "fp16"),
        (
            load.waves * 128.0 / d.shared_bytes_per_clock,
            "shared memory",
        ),
    ]
    .into_iter()
    .fold((0.0, "nothing"), larger)
}

/// The slower of L2 and DRAM, in clocks of one block when `busy` SMs share them.
fn memory(load: &Load, d: &Device, busy: f64) -> (f64, &'static str) {
    let dram_per_clock = d.eta_dram * d.dram_gb_per_s / d.clock_ghz;
    let l2 = (32.0 * load.sectors * busy / d.l2_bytes_per_clock, "L2");
    let bytes = load.dram_bytes / load.blocks.max(1) as f64;
    larger(l2, (bytes * busy / dram_per_clock, "DRAM"))
}

/// The time of one launch.
pub fn time(load: &Load, d: &Device) -> Time {
    let sms = f64::from(d.sms);
    // Blocks that share an SM also share its pipes; the last wave counts whole.
    let per_sm = (load.blocks as f64 / sms).ceil();
    let resident = f64::from(load.resident).min(per_sm).max(1.0);
    let busy = sms.min(load.blocks as f64);
    let (a, b) = (compute(load, d), memory(load, d, busy));
    let (most, least) = if a.0 > b.0 { (a, b) } else { (b, a) };
    let main = if load.overlapped {
        most.0
    } else {
        most.0 + least.0
    };
    let atomic = load.atomic_sectors * busy / d.atomic_slices;
    let latency = load.requests * LATENCY / (f64::from(load.warps.max(1)) * IN_FLIGHT);
    let limit = if atomic > main { "atomics" } else { most.1 };
    let (clocks, limit) = larger((resident * (main + atomic), limit), (latency, "latency"));
    let waves = (load.blocks as f64 / (sms * resident)).ceil().max(1.0);
    let seconds = (waves * clocks + FILL) / (d.clock_ghz * 1e9);
    let limit = if FILL > waves * clocks {
        "launch"
    } else {
        limit
    };
    let floor = load.dram_bytes / (d.eta_dram * d.dram_gb_per_s * 1e9);
    if floor > seconds {
        Time {
            seconds: floor,
            limit: "DRAM",
        }
    } else {
        Time { seconds, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CUTLASS's published f16 GEMM 3456x4096x8192 with 256x128 tiles took 0.986 ms on an A100.
    #[test]
    fn a_published_gemm() {
        let d = Device::named("a100").unwrap();
        let (m, n, k) = (256.0, 128.0, 8192.0);
        let load = Load {
            blocks: 14 * 32,
            resident: 1,
            warps: 8,
            tensor_flop: 2.0 * m * n * k,
            issued: 2.0 * m * n * k / 4096.0 * 1.4,
            waves: 2.0 * m * n * k / 4096.0 * 1.2 / 2.0,
            sectors: 2.0 * (m + n) * k / 32.0,
            dram_bytes: 2.0 * (3456.0 + 4096.0) * 8192.0 + 2.0 * 3456.0 * 4096.0,
            overlapped: true,
            ..Load::default()
        };
        let t = time(&load, &d);
        assert!(
            t.limit == "tensor cores" && (t.seconds / 0.986e-3 - 1.0).abs() < 0.15,
            "{t:?}"
        );
    }

    /// A copy is as fast as DRAM, and says so.
    #[test]
    fn a_copy() {
        let d = Device::named("h100").unwrap();
        let bytes = 1e9;
        let load = Load {
            blocks: 100_000,
            resident: 8,
            warps: 8,
            issued: 100.0,
            sectors: bytes * 2.0 / 32.0 / 1e5,
            dram_bytes: 2.0 * bytes,
            ..Load::default()
        };
        let t = time(&load, &d);
        assert_eq!(t.limit, "DRAM");
        // 3.0 TB/s were measured on such a device.
        assert!(
            (2.0 * bytes / t.seconds / 3.0e12 - 1.0).abs() < 0.1,
            "{t:?}"
        );
    }
}
