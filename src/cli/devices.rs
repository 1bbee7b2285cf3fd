//! `gmmk devices`.

use super::device::kernel_cache;
use super::terminal::say;
use anyhow::Result;
use clap::Args;
use gmmk::data::default_cache_dir;
use gmmk::device::cuda::{Cache, CudaError, Nvrtc, architecture, probe};
use gmmk::device::memory::available_bytes;
use gmmk::device::{pool, simd};
use gmmk::report::files::human_bytes;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Options of `gmmk devices`.
#[derive(Args)]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was found on this machine.
struct Found {
    threads: usize,
    memory: Option<u64>,
    gpus: Result<Vec<(String, u32)>, CudaError>,
    nvrtc: Result<Nvrtc, CudaError>,
    cache: PathBuf,
    kernels: Cache,
}

/// Runs `gmmk devices`.
pub fn run(args: DevicesArgs) -> Result<()> {
    let found = Found {
        threads: pool::default_threads(),
        memory: available_bytes(),
        gpus: probe(),
        nvrtc: Nvrtc::find(),
        cache: default_cache_dir()?,
        kernels: Cache::new(&kernel_cache()?),
    };
    if args.json {
        say(&serde_json::to_string_pretty(&found.json())?);
    } else {
        found.lines().iter().for_each(|line| say(line));
    }
    Ok(())
}

impl Found {
    fn json(&self) -> Value {
        let cpu = json!({
            "threads": self.threads,
            "architecture": std::env::consts::ARCH,
            "vectors": simd::level().name(),
            "available_bytes": self.memory,
        });
        let gpus = self.gpus.iter().flatten();
        let gpus: Value = gpus.map(|(name, cc)| gpu(name, *cc)).collect();
        let nvrtc = self.nvrtc.as_ref().ok();
        let nvrtc = nvrtc.map(|n| json!({ "path": n.path, "version": n.version }));
        let (files, bytes) = self.kernels.size();
        let folder = self.kernels.folder();
        json!({
            "cpu": cpu, "gpus": gpus, "nvrtc": nvrtc, "cache": self.cache,
            "kernels": { "folder": folder, "files": files, "bytes": bytes },
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn lines(&self) -> Vec<String> {
        let level = simd::level().name();
        let arch = std::env::consts::ARCH;
        let mut out = vec![format!(
            "cpu      {} threads, {arch}, {level}",
            self.threads
        )];
        out.extend(
            self.memory
                .map(|bytes| format!("memory   {} free", human_bytes(bytes))),
        );
        match &self.gpus {
            Ok(gpus) => out.extend(
                gpus.iter()
                    .enumerate()
                    .map(|(i, (name, cc))| format!("cuda:{i}   {name}, {}", architecture(*cc))),
            ),
            Err(error) => out.push(format!("gpu      {error}")),
        }
        out.push(match &self.nvrtc {
            Ok(n) => {
                let [major, minor] = n.version;
                format!("nvrtc    {major}.{minor}, {}", n.path.display())
            }
            Err(error) => format!("nvrtc    {error}"),
        });
        out.push(format!(
            "cache    {} (packed data sets; $GMMK_CACHE moves it)",
            self.cache.display()
        ));
        let (files, bytes) = self.kernels.size();
        out.push(format!(
            "kernels  {}: {files} compiled, {}",
            self.kernels.folder().display(),
            human_bytes(bytes)
        ));
        out
    }
}

fn gpu(name: &str, capability: u32) -> Value {
    json!({ "name": name, "compute_capability": [capability / 10, capability % 10] })
}
