//! The driver's state behind its functions: handles, launches, errors, findings.

use crate::cache::Levels;
use crate::check::{Finding, lock};
use crate::config::Config;
use crate::decode::Loaded;
use crate::decode::kernel::Kernel;
use crate::device::Device;
use crate::machine::{Machine, Shape};
use crate::stats;
use crate::stream::{Event, Graph, Stream, Work};
use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;

/// CUDA's error codes that the driver gives.
#[allow(missing_docs)]
pub mod code {
    pub const INVALID_VALUE: u32 = 1;
    pub const OUT_OF_MEMORY: u32 = 2;
    pub const NOT_INITIALIZED: u32 = 3;
    pub const INVALID_DEVICE: u32 = 101;
    pub const INVALID_CONTEXT: u32 = 201;
    pub const NO_BINARY: u32 = 209;
    pub const INVALID_PTX: u32 = 218;
    pub const INVALID_HANDLE: u32 = 400;
    pub const NOT_FOUND: u32 = 500;
    pub const NOT_READY: u32 = 600;
    pub const LAUNCH_RESOURCES: u32 = 701;
    pub const CAPTURE_UNSUPPORTED: u32 = 900;
    pub const CAPTURE_INVALIDATED: u32 = 901;
    pub const CAPTURE_UNJOINED: u32 = 904;
    pub const NOT_SUPPORTED: u32 = 801;
    pub const UNKNOWN: u32 = 999;
}

/// A function's handle.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its module.
    pub module: Arc<Loaded>,
    /// Its name there.
    pub name: String,
    /// Dynamic shared memory that it may use.
    pub dynamic: u32,
}

impl Function {
    /// The kernel.
    ///
    /// # Errors
    ///
    /// A kernel that could not be decoded.
    pub fn kernel(&self) -> Result<&Kernel, u32> {
        match self.module.kernels.get(&self.name) {
            Some(Ok(kernel)) => Ok(kernel),
            _ => Err(code::INVALID_HANDLE),
        }
    }
}

/// Everything.
pub struct Driver {
    /// Options.
    pub config: Config,
    /// What it pretends to be.
    pub device: Device,
    /// Memory and execution.
    pub machine: Machine,
    /// Modules by handle.
    pub modules: HashMap<u64, Arc<Loaded>>,
    /// Functions by handle.
    pub functions: HashMap<u64, Function>,
    /// Streams by handle; 0 is the default one.
    pub streams: HashMap<u64, Stream>,
    /// Events by handle.
    pub events: HashMap<u64, Event>,
    /// Graphs, instantiated or not, by handle.
    pub graphs: HashMap<u64, Graph>,
    /// Pinned host memory: bytes by address.
    pub pinned: HashMap<u64, usize>,
    /// Device addresses of pinned memory that was mapped, by host address.
    pub mapped: HashMap<u64, u64>,
    /// Modelled seconds of all work so far.
    pub now: f64,
    started: std::time::Instant,
    next: u64,
    error: Option<(u32, ThreadId)>,
    findings: HashMap<ThreadId, Vec<Finding>>,
    /// FLOPs of a thread's next kernel without padding.
    pub useful: HashMap<ThreadId, u64>,
    cover: HashMap<(String, u32), (u64, String)>,
    /// Kernels of which a sample has ended early.
    excused: std::collections::HashSet<String>,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// The driver, if `cuInit` was called.
///
/// # Errors
///
/// 3 if not.
pub fn with<T>(f: impl FnOnce(&mut Driver) -> Result<T, u32>) -> Result<T, u32> {
    let mut driver: MutexGuard<'_, Option<Driver>> = lock(&DRIVER);
    f(driver.as_mut().ok_or(code::NOT_INITIALIZED)?)
}

/// Starts the driver if it is not yet there.
///
/// # Errors
///
/// Options that cannot be read: their message stands on stderr.
pub fn init() -> Result<(), u32> {
    let mut driver = lock(&DRIVER);
    if driver.is_none() {
        let made = Config::from_env().and_then(Driver::new).map_err(|e| {
            eprintln!("vgpu: {e}");
            code::INVALID_VALUE
        })?;
        *driver = Some(made);
    }
    Ok(())
}

impl Driver {
    fn new(config: Config) -> Result<Driver, String> {
        let device = Device::named(&config.device)?;
        let mut driver = Driver {
            machine: Machine::new(device.dram_bytes),
            device,
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::from([(0, Stream::default())]),
            events: HashMap::new(),
            graphs: HashMap::new(),
            pinned: HashMap::new(),
            mapped: HashMap::new(),
            now: 0.0,
            started: std::time::Instant::now(),
            next: 0x1000,
            error: None,
            findings: HashMap::new(),
            useful: HashMap::new(),
            cover: HashMap::new(),
            excused: Default::default(),
            config,
        };
        driver.apply();
        Ok(driver)
    }

    /// Hands options on to where they work.
    fn apply(&mut self) {
        self.machine.options = self.config.launch;
        if self.config.launch.sample > 0 {
            self.sample();
        }
        self.machine.memory.races = self.config.launch.race;
        self.machine.memory.poison = if self.config.poison_nan {
            0xff
        } else {
            crate::exec::memory::POISON
        };
    }

    /// Only a sample of every grid runs: memory holds garbage, and the checks that would find it are off.
    fn sample(&mut self) {
        let options = &mut self.machine.options;
        (options.fast, options.race, options.nan) = (true, false, false);
        options.max_inst = options.max_inst.min(5_000_000);
        self.machine.memory.races = false;
        static SAID: std::sync::Once = std::sync::Once::new();
        SAID.call_once(|| {
            eprintln!(
                "vgpu: VGPU_SAMPLE={}: only so many blocks of a launch run, counters and times are scaled to all of \
                 them, and RESULTS ARE GARBAGE",
                options.sample
            );
        });
    }

    /// Forgets what a sample's kernel did wrong on garbage, but says that its figures are no good.
    fn excuse(&mut self, kernel: &str, outcome: &mut crate::machine::Outcome) {
        let wrong = outcome.error != 0 || !outcome.findings.is_empty();
        if wrong && self.excused.insert(kernel.to_owned()) {
            let first = outcome.findings.first().map(ToString::to_string);
            let first = first.unwrap_or_default();
            eprintln!(
                "vgpu: sampled blocks of {kernel} ended early on garbage, its figures are too low or too high: {first}"
            );
        }
        outcome.findings.clear();
        outcome.error = 0;
    }

    /// Changes an option.
    ///
    /// # Errors
    ///
    /// No such option or value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.config.set(key, value)?;
        if key == "device" {
            self.device = Device::named(&self.config.device)?;
            self.machine.memory.total = self.device.dram_bytes;
        }
        self.apply();
        Ok(())
    }

    /// A new handle.
    pub fn handle(&mut self) -> u64 {
        self.next += 16;
        self.next
    }

    /// Seconds on the clock that events read.
    pub fn time(&self) -> f64 {
        if self.config.host_time {
            self.started.elapsed().as_secs_f64()
        } else {
            self.now
        }
    }

    /// The error that an earlier kernel left, if it concerns this thread.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn healthy(&self) -> Result<(), u32> {
        match self.error {
            Some((code, thread))
                if !self.config.sticky_thread || thread == std::thread::current().id() =>
            {
                Err(code)
            }
            _ => Ok(()),
        }
    }

    /// Forgets this thread's findings and errors.
    pub fn forget(&mut self) {
        self.error = None;
        self.findings.remove(&std::thread::current().id());
    }

    /// This thread's findings.
    pub fn findings(&self) -> &[Finding] {
        self.findings
            .get(&std::thread::current().id())
            .map_or(&[], |f| f)
    }

    /// Checks a launch against the device's and the kernel's limits.
    ///
    /// # Errors
    ///
    /// CUDA's error for what exceeds them.
    pub fn check_shape(&self, function: &Function, shape: &Shape) -> Result<(), u32> {
        let kernel = function.kernel()?;
        let threads = shape.block.iter().map(|n| u64::from(*n)).product::<u64>();
        let [gx, gy, gz] = shape.grid;
        if threads == 0
            || gx == 0
            || gy == 0
            || gz == 0
            || gy > 65_535
            || gz > 65_535
            || gx > i32::MAX as u32
        {
            return Err(code::INVALID_VALUE);
        }
        if threads > 1024 || shape.block[2] > 64 {
            return Err(code::INVALID_VALUE);
        }
        let total = |d: [u32; 3]| d.iter().map(|n| u64::from(*n)).product::<u64>();
        if kernel.maxntid.is_some_and(|d| threads > total(d))
            || kernel.reqntid.is_some_and(|d| d != shape.block)
        {
            return Err(code::LAUNCH_RESOURCES);
        }
        let allowed = function
            .dynamic
            .max((48 << 10) - kernel.shared_bytes.min(48 << 10));
        if shape.dynamic > allowed
            || kernel.shared_bytes + shape.dynamic > self.device.shared_per_block
        {
            return Err(code::INVALID_VALUE);
        }
        if shape.cooperative {
            let resident = self
                .device
                .resident(threads as u32, 0, kernel.shared_bytes + shape.dynamic)
                .0;
            if total(shape.grid) > u64::from(resident * self.device.sms) {
                return Err(720);
            }
        }
        Ok(())
    }

    /// Executes a kernel now.
    pub fn execute(&mut self, function: &Function, shape: Shape, params: &[u8]) {
        let Ok(kernel) = function.kernel() else {
            return;
        };
        self.machine.caches = self.levels(function, kernel, &shape);
        let mut outcome = self.machine.launch(&function.module, kernel, shape, params);
        if self.config.launch.sample > 0 {
            self.excuse(&kernel.name, &mut outcome);
        }
        let text = &function.module.text;
        let thread = std::thread::current().id();
        self.report(&outcome.findings);
        self.findings
            .entry(thread)
            .or_default()
            .extend(outcome.findings);
        if outcome.error != 0 {
            self.error.get_or_insert((outcome.error, thread));
        }
        if self.config.cover.is_some() {
            for (pc, line) in outcome
                .counts
                .lines
                .iter()
                .enumerate()
                .take(kernel.code.len())
            {
                let ptx = kernel.source[pc].ptx;
                let entry = self
                    .cover
                    .entry((kernel.name.clone(), ptx))
                    .or_insert_with(|| (0, text.line(ptx).to_owned()));
                entry.0 += line.runs;
            }
            self.write_cover();
        }
        let mut summary = stats::Summary::new(
            kernel,
            &function.module,
            shape,
            &outcome.counts,
            &self.device,
        );
        summary.useful_flop = self.useful.remove(&thread);
        self.now += summary.seconds + crate::model::NODE;
        if let Some(path) = &self.config.stats {
            append(path, &summary.json());
        }
    }

    /// The caches that a launch sees, where they are modelled.
    fn levels(&self, function: &Function, kernel: &Kernel, shape: &Shape) -> Option<Levels> {
        let wanted = self.config.caches.unwrap_or(self.config.stats.is_some())
            && self.config.launch.sample == 0;
        let sass = function.module.sass.get().and_then(|k| k.get(&kernel.name));
        let threads = shape.block.iter().product();
        let shared = kernel.shared_bytes + shape.dynamic;
        wanted.then(|| {
            self.device
                .levels(threads, sass.map_or(0, |k| k.registers), shared)
        })
    }

    fn report(&self, findings: &[Finding]) {
        for finding in findings.iter().take(20) {
            eprintln!("{finding}");
            if let Some(path) = &self.config.report {
                append(path, &finding.to_string());
            }
        }
        if findings.len() > 20 {
            eprintln!("vgpu: and {} more places", findings.len() - 20);
        }
    }

    /// Lines that no launch has executed, whenever a launch has ended.
    fn write_cover(&self) {
        let Some(path) = &self.config.cover else {
            return;
        };
        let mut missing: Vec<_> = self
            .cover
            .iter()
            .filter(|(_, (runs, _))| *runs == 0)
            .collect();
        missing.sort();
        let lines: Vec<String> = missing
            .iter()
            .map(|((kernel, line), (_, text))| format!("{kernel}:{line}: {text}\n"))
            .collect();
        if let Err(e) = std::fs::write(path, lines.concat()) {
            eprintln!("vgpu: {path}: {e}");
        }
    }

    /// Executes a copy or fill on memory.
    ///
    /// # Errors
    ///
    /// A range outside its buffer.
    pub fn transfer(&mut self, work: &Work) -> Result<(), u32> {
        let memory = &mut self.machine.memory;
        let (done, bytes) = match *work {
            // SAFETY: the caller of the copy promised that the host range is there until the copy is done.
            Work::ToDevice { to, from, len } => (memory.write(to, unsafe { host(from, len) }), len),
            Work::ToHost { to, from, len } => {
                // SAFETY: as above.
                let bytes = unsafe { host_mut(to, len) };
                (memory.read(from, bytes), len)
            }
            Work::Within { to, from, len } => (memory.copy(to, from, len), len),
            Work::Fill {
                to,
                value,
                width,
                count,
            } => (
                memory.fill(to, &value.to_le_bytes()[..width as usize], count),
                u64::from(width) * count,
            ),
            _ => (true, 0),
        };
        self.now += bytes as f64 / (self.device.dram_gb_per_s * 1e9) + 1e-6;
        if done {
            Ok(())
        } else {
            Err(code::INVALID_VALUE)
        }
    }
}

fn append(path: &str, line: &str) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path);
    if let Err(e) = file.and_then(|mut f| writeln!(f, "{line}")) {
        eprintln!("vgpu: {path}: {e}");
    }
}

/// Host memory that a copy reads.
///
/// # Safety
///
/// `len` readable bytes at `at`.
unsafe fn host<'a>(at: u64, len: u64) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at as *const u8, len as usize) }
}

/// Host memory that a copy writes.
///
/// # Safety
///
/// `len` writable bytes at `at`.
unsafe fn host_mut<'a>(at: u64, len: u64) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len as usize) }
}
