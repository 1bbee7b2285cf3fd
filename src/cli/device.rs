//! Where to compute: what `--device`, `--precision`, `--no-graph` and `--threads` make of the machine.

use super::terminal::warn;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use gmmk::data::default_cache_dir;
use gmmk::device::cuda::{Cuda, CudaError, Nvrtc, Nvtx, Precision, probe};
use gmmk::device::pool::Pool;
use gmmk::device::{Device, Gpu};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// What `--device` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU that works, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// GPU number N.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("`{s}`: expected auto, cpu, cuda or cuda:N");
        match (s, s.strip_prefix("cuda:")) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(n)) => Ok(Self::Cuda(n.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What `--precision` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    /// Everything f32, without tensor cores: for comparison
    F32,
    /// Stored as f32, products in tf32
    Tf32,
    /// Activations bf16; sums, statistics and weights f32
    Bf16,
}

impl PrecisionName {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        Precision::from(self).name()
    }
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::F32 => Self::F32,
            PrecisionName::Tf32 => Self::Tf32,
            PrecisionName::Bf16 => Self::Bf16,
        }
    }
}

/// The options of every command that computes.
#[derive(Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value_t = Choice::Auto)]
    device: Choice,
    /// Number formats of a GPU [default: bf16, where there are tensor cores]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Launch a GPU's kernels one by one, not as a graph
    #[arg(long)]
    no_graph: bool,
    /// CPU threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: u32,
}

impl DeviceArgs {
    /// What they ask for.
    pub fn wish(self) -> Wish {
        Wish {
            device: self.device,
            precision: self.precision.map(Into::into),
            no_graph: self.no_graph,
            nvtx: false,
            threads: self.threads,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// The device.
    pub device: Choice,
    /// Number formats of a GPU; `None` is the device's best.
    pub precision: Option<Precision>,
    /// Launch kernels one by one.
    pub no_graph: bool,
    /// Name the network's parts for profilers.
    pub nvtx: bool,
    /// Worker threads; 0 is one per core.
    pub threads: u32,
}

/// Folder of compiled kernels.
pub fn kernel_cache() -> Result<PathBuf> {
    Ok(default_cache_dir()?.join("kernels"))
}

impl Wish {
    /// Opens the device, and says in one line what it is and why.
    pub fn open(self) -> Result<(Device, String)> {
        let pool = Arc::new(Pool::new(self.threads as usize)?);
        let named = |device: Device, why: &str| {
            let text = device.describe() + why;
            (device, text)
        };
        let ordinal = match self.device {
            Choice::Cpu => {
                self.check_cpu()?;
                return Ok(named(pool.into(), ""));
            }
            Choice::Auto => 0,
            Choice::Cuda(n) => n,
        };
        match self.open_gpu(ordinal) {
            Ok(gpu) => {
                let gpu = Some(gpu);
                Ok(named(Device { pool, gpu }, ""))
            }
            Err(error) if self.device == Choice::Auto => {
                self.check_cpu()?;
                // A machine without a GPU is no surprise; a GPU that cannot be used is.
                let why = match error.downcast_ref::<CudaError>() {
                    Some(CudaError::NoDevice(_)) => " (no NVIDIA GPU)".to_string(),
                    _ => format!(" ({error:#})"),
                };
                Ok(named(pool.into(), &why))
            }
            Err(error) => Err(error.context(format!("--device {}", self.device))),
        }
    }

    fn check_cpu(self) -> Result<()> {
        match self.precision {
            Some(p) if p != Precision::F32 => bail!(
                "--precision {}: the CPU computes in f32; leave it out, or choose --device cuda",
                p.name()
            ),
            _ => Ok(()),
        }
    }

    fn open_gpu(self, ordinal: usize) -> Result<Gpu> {
        let cuda = Cuda::open(ordinal, Some(&kernel_cache()?))?;
        let capability = cuda.limits().capability;
        if capability < 75 {
            bail!(
                "{} has compute capability {}.{}; kernels need 7.5 or newer",
                cuda.name(),
                capability / 10,
                capability % 10
            );
        }
        let tensor_cores = capability >= 80;
        let precision = self.precision.unwrap_or(if tensor_cores {
            Precision::Bf16
        } else {
            Precision::F32
        });
        if precision != Precision::F32 && !tensor_cores {
            bail!(
                "--precision {}: {} computes in f32 only (bf16 and tf32 need compute capability 8.0)",
                precision.name(),
                cuda.name()
            );
        }
        Ok(Gpu {
            cuda,
            precision,
            graph: !self.no_graph && !self.nvtx,
            nvtx: match self.nvtx {
                true => Some(Arc::new(Nvtx::open()?)),
                false => None,
            },
            progress: Arc::new(|done, all| {
                if all >= 8 && (done == all || done.is_multiple_of(16)) {
                    warn(&format!("compiling kernels: {done} of {all}"));
                }
            }),
        })
    }
}

impl Choice {
    /// True if a GPU will be used: one is asked for, or there is one that can be.
    pub fn is_gpu(self) -> bool {
        match self {
            Self::Cpu => false,
            Self::Cuda(_) => true,
            Self::Auto => probe().is_ok_and(|found| !found.is_empty()) && Nvrtc::find().is_ok(),
        }
    }
}

/// Parses the device of a configuration.
pub fn parse(device: &str, precision: &str) -> Result<(Choice, Option<Precision>)> {
    let choice = device
        .parse()
        .map_err(anyhow::Error::msg)
        .context("device")?;
    let precision = match precision {
        "auto" => None,
        name => Some(
            PrecisionName::from_str(name, false)
                .map_err(anyhow::Error::msg)
                .context("precision")?
                .into(),
        ),
    };
    Ok((choice, precision))
}
