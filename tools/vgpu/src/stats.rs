//! One launch in numbers: counters by class, traffic, occupancy, modelled time.

use crate::cache::Traffic;
use crate::count::{Class, Counts, Line};
use crate::decode::Loaded;
use crate::decode::kernel::Kernel;
use crate::device::Device;
use crate::exec::cx::Inst;
use crate::machine::Shape;
use crate::model::{self, Load};
use crate::sass::KernelSass;
use std::collections::BTreeMap;

/// A launch's counters, summed.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Summary {
    pub kernel: String,
    pub device: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub blocks: u64,
    pub inst: u64,
    pub lane_inst: u64,
    /// Warp instructions by class.
    pub classes: BTreeMap<&'static str, u64>,
    pub mma_ops: u64,
    pub mma_flop: u64,
    /// The same in bf16 FLOPs that take as long.
    pub tensor_work: f64,
    /// FLOPs of the problem without padding, as the launcher gave them.
    pub useful_flop: Option<u64>,
    pub fp32_flop: u64,
    pub loads: Line,
    pub stores: Line,
    pub atomics: Line,
    pub copies: Line,
    pub shared: u64,
    pub waves: u64,
    pub ideal_waves: u64,
    pub divergent: u64,
    pub unique_read: u64,
    pub unique_written: u64,
    /// L1, L2 and DRAM, where caches are modelled.
    pub traffic: Option<Traffic>,
    pub longest_block: u64,
    pub shared_bytes: u32,
    pub registers: Option<u32>,
    pub spills: Option<u32>,
    /// Executed SASS instructions by opcode, where ptxas and nvdisasm are at hand.
    pub sass: BTreeMap<String, u64>,
    pub resident: u32,
    pub limited_by: &'static str,
    /// Modelled seconds of the kernel alone.
    pub seconds: f64,
    pub limit: &'static str,
    /// Modelled fraction of the device's peak: of tensor FLOPs if there are any, else of DRAM bandwidth.
    pub of_peak: f64,
}

impl Summary {
    /// Sums up a launch. SASS counts where the module has been disassembled.
    pub fn new(
        kernel: &Kernel,
        module: &Loaded,
        shape: Shape,
        counts: &Counts,
        device: &Device,
    ) -> Summary {
        let mut s = Summary {
            kernel: kernel.name.clone(),
            device: device.name.clone(),
            grid: shape.grid,
            block: shape.block,
            blocks: shape.grid.iter().map(|n| u64::from(*n)).product(),
            unique_read: counts.read_sectors * 32,
            unique_written: counts.written_sectors * 32,
            traffic: counts.traffic,
            longest_block: counts.longest_block,
            shared_bytes: kernel.shared_bytes + shape.dynamic,
            ..Summary::default()
        };
        for (inst, line) in kernel.code.iter().zip(&counts.lines) {
            s.add(inst, line);
        }
        let sass = module.sass.get().and_then(|k| k.get(&kernel.name));
        s.model(kernel, counts, device, sass);
        s
    }

    fn add(&mut self, inst: &Inst, line: &Line) {
        let class = inst.class;
        self.inst += line.runs;
        self.lane_inst += line.lanes;
        *self.classes.entry(class.name()).or_default() += line.runs;
        self.shared += line.shared;
        self.waves += line.waves;
        self.ideal_waves += line.ideal;
        self.divergent += line.divergent;
        match class {
            Class::Tensor => {
                self.mma_ops += line.runs;
                let flop = 2 * inst.imm * line.runs;
                self.mma_flop += flop;
                self.tensor_work += flop as f64 * f64::from(inst.b) / 16.0;
            }
            Class::Fp32 => self.fp32_flop += line.lanes,
            _ => {}
        }
        let to = match class {
            Class::StGlobal => &mut self.stores,
            Class::Atomic => &mut self.atomics,
            Class::Async => &mut self.copies,
            _ => &mut self.loads,
        };
        to.requests += line.requests;
        to.sectors += line.sectors;
        to.bytes += line.bytes;
        to.addresses += line.addresses;
    }

    fn class(&self, class: Class) -> f64 {
        self.classes.get(class.name()).copied().unwrap_or(0) as f64
    }

    /// What the launch asks of a device.
    pub fn load(&self) -> Load {
        let threads: u32 = self.block.iter().product();
        let n = self.blocks.max(1) as f64;
        let issued = if self.sass.is_empty() {
            self.inst
        } else {
            self.sass.values().sum()
        };
        let sectors = (self.loads.sectors + self.stores.sectors + self.copies.sectors) as f64;
        Load {
            blocks: self.blocks,
            resident: self.resident.max(1),
            warps: threads.div_ceil(32),
            tensor_flop: self.tensor_work / n,
            issued: issued as f64 / n,
            fp32: self.class(Class::Fp32) / n,
            int: self.class(Class::Int) / n,
            sfu: (self.class(Class::Sfu) + self.class(Class::Cvt)) / n,
            fp64: self.class(Class::Fp64) / n,
            fp16: self.class(Class::Fp16) / n,
            waves: self.waves as f64 / n,
            sectors: self.traffic.map_or(sectors, |t| t.l2 as f64) / n,
            dram_bytes: self.dram_bytes() as f64,
            atomic_sectors: self.atomics.sectors as f64 / n,
            overlapped: self.class(Class::Async) > 0.0,
            requests: (self.loads.requests + self.copies.requests) as f64 / n,
        }
    }

    fn model(
        &mut self,
        kernel: &Kernel,
        counts: &Counts,
        device: &Device,
        sass: Option<&KernelSass>,
    ) {
        self.registers = sass.map(|k| k.registers);
        self.spills = sass.map(|k| k.spills);
        if let Some(k) = sass {
            self.sass = k.executed(kernel, counts);
        }
        let threads = self.block.iter().product();
        (self.resident, self.limited_by) =
            device.resident(threads, self.registers.unwrap_or(0), self.shared_bytes);
        let load = self.load();
        let time = model::time(&load, device);
        (self.seconds, self.limit) = (time.seconds, time.limit);
        self.of_peak = if self.mma_flop > 0 {
            self.tensor_work
                / time.seconds
                / (device.tensor_flop * f64::from(device.sms) * device.clock_ghz * 1e9)
        } else {
            load.dram_bytes / time.seconds / (device.dram_gb_per_s * 1e9)
        };
    }

    /// Bytes to and from DRAM: what the caches let through, or every byte once.
    fn dram_bytes(&self) -> u64 {
        self.traffic
            .map_or(self.unique_read + self.unique_written, |t| t.dram_bytes())
    }

    /// As one line of JSON.
    pub fn json(&self) -> String {
        let mut out = Vec::new();
        self.put_counts(&mut out);
        self.put_traffic(&mut out);
        self.put_model(&mut out);
        let items: Vec<String> = out
            .iter()
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        format!("{{{}}}", items.join(","))
    }

    fn put_counts(&self, out: &mut Vec<(String, String)>) {
        let lanes = self.lane_inst as f64 / (32.0 * self.inst.max(1) as f64);
        let classes = map(self.classes.iter().map(|(k, v)| (*k, *v)));
        for (key, value) in [
            ("kernel", text(&self.kernel)),
            ("device", text(&self.device)),
            ("grid", format!("{:?}", self.grid)),
            ("block", format!("{:?}", self.block)),
            ("inst", self.inst.to_string()),
            ("lane_inst", self.lane_inst.to_string()),
            ("simd_eff", format!("{lanes:.4}")),
            ("classes", classes),
            ("mma_ops", self.mma_ops.to_string()),
            ("mma_flop", self.mma_flop.to_string()),
            ("divergent", self.divergent.to_string()),
            ("block_max_inst", self.longest_block.to_string()),
        ] {
            out.push((key.to_owned(), value));
        }
        if let Some(useful) = self.useful_flop {
            out.push(("useful_flop".to_owned(), useful.to_string()));
            out.push(("useful_of_flop".to_owned(), self.mma_flop.to_string()));
        }
    }

    fn put_traffic(&self, out: &mut Vec<(String, String)>) {
        let lines = [
            ("ld", &self.loads),
            ("st", &self.stores),
            ("atom", &self.atomics),
            ("cp_async", &self.copies),
        ];
        for (name, line) in lines {
            out.push((format!("{name}_req"), line.requests.to_string()));
            out.push((format!("{name}_sect"), line.sectors.to_string()));
            out.push((format!("{name}_bytes"), line.bytes.to_string()));
        }
        for (key, value) in [
            ("atom_addr", self.atomics.addresses),
            ("sh_req", self.shared),
            ("sh_wave", self.waves),
            ("bank_conflict", self.waves.saturating_sub(self.ideal_waves)),
            ("unique_read", self.unique_read),
            ("unique_written", self.unique_written),
        ] {
            out.push((key.to_owned(), value.to_string()));
        }
        if let Some(t) = self.traffic {
            for (key, value) in [
                ("l1_sect_hit", t.l1_hits),
                ("l2_sect", t.l2),
                ("l2_sect_hit", t.l2_hits),
                ("dram_bytes", t.dram_bytes()),
            ] {
                out.push((key.to_owned(), value.to_string()));
            }
        }
    }

    fn put_model(&self, out: &mut Vec<(String, String)>) {
        let known = |n: Option<u32>| n.map_or("null".to_owned(), |n| n.to_string());
        for (key, value) in [
            ("shared_bytes", self.shared_bytes.to_string()),
            ("registers", known(self.registers)),
            ("spills", known(self.spills)),
            ("resident_blocks", self.resident.to_string()),
            ("resident_limit", text(self.limited_by)),
            ("sass", map(self.sass.iter().map(|(k, v)| (k.as_str(), *v)))),
            ("modelled_us", format!("{:.4}", self.seconds * 1e6)),
            ("modelled_limit", text(self.limit)),
            ("modelled_of_peak", format!("{:.4}", self.of_peak)),
        ] {
            out.push((key.to_owned(), value));
        }
    }
}

/// A JSON string.
fn text(s: &str) -> String {
    format!("\"{}\"", s.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A JSON object of numbers.
fn map<'a>(items: impl Iterator<Item = (&'a str, u64)>) -> String {
    let items: Vec<String> = items.map(|(k, v)| format!("\"{k}\":{v}")).collect();
    format!("{{{}}}", items.join(","))
}
