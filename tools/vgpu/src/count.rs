//! Counters: what a profiler would count, exactly, for each line of PTX.

use crate::decode::kernel::Kernel;

/// Classes of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Class {
    Int,
    Fp32,
    Fp16,
    Fp64,
    Sfu,
    Cvt,
    Mov,
    Pred,
    LdGlobal,
    StGlobal,
    LdShared,
    StShared,
    LdLocal,
    StLocal,
    LdParam,
    LdConst,
    Generic,
    Atomic,
    Async,
    Ldmatrix,
    Tensor,
    Shuffle,
    Barrier,
    Branch,
    Other,
}

impl Class {
    /// All of them, in order.
    pub const ALL: [Class; 25] = [
        Class::Int,
        Class::Fp32,
        Class::Fp16,
        Class::Fp64,
        Class::Sfu,
        Class::Cvt,
        Class::Mov,
        Class::Pred,
        Class::LdGlobal,
        Class::StGlobal,
        Class::LdShared,
        Class::StShared,
        Class::LdLocal,
        Class::StLocal,
        Class::LdParam,
        Class::LdConst,
        Class::Generic,
        Class::Atomic,
        Class::Async,
        Class::Ldmatrix,
        Class::Tensor,
        Class::Shuffle,
        Class::Barrier,
        Class::Branch,
        Class::Other,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Class::Int => "int",
            Class::Fp32 => "fp32",
            Class::Fp16 => "fp16",
            Class::Fp64 => "fp64",
            Class::Sfu => "sfu",
            Class::Cvt => "cvt",
            Class::Mov => "mov",
            Class::Pred => "pred",
            Class::LdGlobal => "ld.global",
            Class::StGlobal => "st.global",
            Class::LdShared => "ld.shared",
            Class::StShared => "st.shared",
            Class::LdLocal => "ld.local",
            Class::StLocal => "st.local",
            Class::LdParam => "ld.param",
            Class::LdConst => "ld.const",
            Class::Generic => "ld/st generic",
            Class::Atomic => "atomic",
            Class::Async => "cp.async",
            Class::Ldmatrix => "ldmatrix",
            Class::Tensor => "tensor",
            Class::Shuffle => "shuffle",
            Class::Barrier => "barrier",
            Class::Branch => "branch",
            Class::Other => "other",
        }
    }
}

/// Counters of one instruction.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Line {
    /// Warp instructions issued.
    pub runs: u64,
    /// Active lanes.
    pub lanes: u64,
    /// Branches that split their warp.
    pub divergent: u64,
    /// Requests to global memory.
    pub requests: u64,
    /// Distinct sectors of 32 bytes, request by request.
    pub sectors: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
    /// Requests to shared memory.
    pub shared: u64,
    /// Wavefronts of shared memory.
    pub waves: u64,
    /// Wavefronts without any conflict.
    pub ideal: u64,
    /// Distinct addresses of atomic requests.
    pub addresses: u64,
}

/// The last access pattern of an instruction: the next is mostly the same, shifted.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Distances from the first lane's address.
    pub delta: [u32; 32],
    /// The lanes, and the first address below its period.
    pub key: (u32, u32),
    /// Sectors or wavefronts.
    pub value: u32,
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct Counts {
    /// For each instruction.
    pub lines: Vec<Line>,
    /// The last pattern of each.
    pub patterns: Vec<Pattern>,
    /// Sectors read for the first time in this launch.
    pub read_sectors: u64,
    /// Sectors written for the first time.
    pub written_sectors: u64,
    /// Warp instructions of the longest block.
    pub longest_block: u64,
    /// Blocks done.
    pub blocks: u64,
    /// Sectors of all buffers that were read and written, where only a sample of the blocks has run.
    pub buffers: [u64; 2],
    /// What the caches did, where they are modelled.
    pub traffic: Option<crate::cache::Traffic>,
}

impl Counts {
    /// Zeros for a kernel.
    pub fn new(kernel: &Kernel) -> Counts {
        let n = kernel.code.len();
        let none = Pattern {
            delta: [0; 32],
            key: (0, u32::MAX),
            value: 0,
        };
        Counts {
            lines: vec![Line::default(); n + 1],
            patterns: vec![none; n + 1],
            ..Counts::default()
        }
    }

    /// From `part` blocks to `all` of them. First uses of sectors grow alike, but not beyond the buffers.
    pub fn scale(&mut self, part: u64, all: u64) {
        let up = |n: &mut u64| {
            *n = (u128::from(*n) * u128::from(all) / u128::from(part.max(1))) as u64;
        };
        for line in &mut self.lines {
            for n in [
                &mut line.runs,
                &mut line.lanes,
                &mut line.divergent,
                &mut line.requests,
                &mut line.sectors,
                &mut line.bytes,
                &mut line.shared,
                &mut line.waves,
                &mut line.ideal,
                &mut line.addresses,
            ] {
                up(n);
            }
        }
        up(&mut self.read_sectors);
        up(&mut self.written_sectors);
        self.read_sectors = self.read_sectors.min(self.buffers[0]);
        self.written_sectors = self.written_sectors.min(self.buffers[1]);
        self.blocks = all;
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Counts) {
        for (a, b) in self.lines.iter_mut().zip(&other.lines) {
            a.runs += b.runs;
            a.lanes += b.lanes;
            a.divergent += b.divergent;
            a.requests += b.requests;
            a.sectors += b.sectors;
            a.bytes += b.bytes;
            a.shared += b.shared;
            a.waves += b.waves;
            a.ideal += b.ideal;
            a.addresses += b.addresses;
        }
        for (a, b) in self.buffers.iter_mut().zip(other.buffers) {
            *a = (*a).max(b);
        }
        self.read_sectors += other.read_sectors;
        self.written_sectors += other.written_sectors;
        self.longest_block = self.longest_block.max(other.longest_block);
        self.blocks += other.blocks;
    }
}

/// How many different values there are.
pub fn distinct(values: &mut [u32]) -> u32 {
    if values.is_sorted() {
        return values.windows(2).filter(|w| w[0] != w[1]).count() as u32
            + u32::from(!values.is_empty());
    }
    values.sort_unstable();
    distinct(values)
}
