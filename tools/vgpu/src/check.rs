//! Findings: what a kernel did wrong, where, and how often.

use crate::decode::kernel::Source;
use crate::exec::launch::Launch;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    OutOfBounds,
    UseAfterFree,
    Misaligned,
    Uninitialised,
    SharedRace,
    GlobalRace,
    SameAddress,
    Barrier,
    Deadlock,
    Collective,
    InFlight,
    Mbarrier,
    NonFinite,
    Endless,
    Other,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::UseAfterFree => "use after free",
            Kind::Misaligned => "misaligned",
            Kind::Uninitialised => "uninitialised read",
            Kind::SharedRace => "shared memory race",
            Kind::GlobalRace => "global memory race",
            Kind::SameAddress => "lanes store different values to one address",
            Kind::Barrier => "divergent barrier",
            Kind::Deadlock => "barrier that nobody completes",
            Kind::Collective => "collective without some of its lanes",
            Kind::InFlight => "asynchronous copy still in flight",
            Kind::Mbarrier => "misuse of an mbarrier",
            Kind::NonFinite => "non-finite result of finite operands",
            Kind::Endless => "endless loop",
            Kind::Other => "fault",
        }
    }
}

/// Where in a launch.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    /// The instruction.
    pub pc: u32,
    /// Its lines.
    pub source: Source,
    /// The block.
    pub block: [u32; 3],
    /// The warp in its block.
    pub warp: u32,
    /// The lane in its warp.
    pub lane: u32,
}

/// One place that does one thing wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In which kernel.
    pub kernel: String,
    /// Where it happened first.
    pub at: Location,
    /// The PTX text of the line.
    pub ptx: String,
    /// Source file, where known.
    pub file: String,
    /// Addresses, buffers, values.
    pub text: String,
    /// How often.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location {
            source,
            block: [x, y, z],
            warp,
            lane,
            ..
        } = self.at;
        write!(
            f,
            "vgpu: {}: {} in {}",
            self.kind.name(),
            self.text,
            self.kernel
        )?;
        write!(f, ", block ({x},{y},{z}), warp {warp}, lane {lane}")?;
        if source.line > 0 {
            write!(f, ", {}:{}", self.file, source.line)?;
        }
        write!(f, ", PTX line {}: {}", source.ptx, self.ptx)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        Ok(())
    }
}

/// The findings of one launch.
#[derive(Debug, Default)]
pub struct Findings {
    list: Mutex<BTreeMap<(u32, Kind), Finding>>,
}

/// A lock that survives a panic of another thread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Findings {
    /// Adds one; the same fault at the same instruction is only counted.
    pub fn add(&self, kind: Kind, at: Location, launch: &Launch<'_>, text: String) {
        let mut list = lock(&self.list);
        let finding = list.entry((at.pc, kind)).or_insert_with(|| Finding {
            kind,
            kernel: launch.kernel.name.clone(),
            at,
            ptx: launch.module.line(at.source.ptx).to_owned(),
            file: launch.module.file(at.source.file).to_owned(),
            text,
            count: 0,
        });
        finding.count += 1;
    }

    /// Whether there is none of a kind yet.
    pub fn lacks(&self, kind: Kind) -> bool {
        !lock(&self.list).keys().any(|(_, k)| *k == kind)
    }

    /// All of them.
    pub fn take(&self) -> Vec<Finding> {
        std::mem::take(&mut *lock(&self.list))
            .into_values()
            .collect()
    }
}
