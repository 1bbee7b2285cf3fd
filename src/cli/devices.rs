//! `gmmk devices`.

use super::device::kernel_cache;
use super::terminal::say;
use anyhow::Result;
use clap::Args;
use gmmk::data::default_cache_dir;
use gmmk::device::cuda::{Cache, Nvrtc, architecture, probe};
use gmmk::device::memory::available_bytes;
use gmmk::device::{pool, simd};
use gmmk::report::files::human_bytes;
use serde_json::{Value, json};

/// Options of `gmmk devices`.
#[derive(Args)]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `gmmk devices`.
pub fn run(args: DevicesArgs) -> Result<()> {
    let threads = pool::default_threads();
    let level = simd::level().name();
    let cache = default_cache_dir()?;
    let memory = available_bytes();
    let gpus = probe();
    let nvrtc = Nvrtc::find();
    let kernels = Cache::new(&kernel_cache()?);
    let (files, bytes) = kernels.size();
    if args.json {
        let cpu = json!({
            "threads": threads,
            "architecture": std::env::consts::ARCH,
            "vectors": level,
            "available_bytes": memory,
        });
        let gpus: Value = match &gpus {
            Ok(gpus) => gpus.iter().map(|(name, cc)| gpu(name, *cc)).collect(),
            Err(_) => json!([]),
        };
        let nvrtc = nvrtc
            .ok()
            .map(|n| json!({ "path": n.path, "version": n.version }));
        let kernels = json!({ "folder": kernels.folder(), "files": files, "bytes": bytes });
        let all = json!({
            "cpu": cpu, "gpus": gpus, "nvrtc": nvrtc, "cache": cache, "kernels": kernels,
            "version": env!("CARGO_PKG_VERSION"),
        });
        say(&serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    say(&format!(
        "cpu      {threads} threads, {}, {level}",
        std::env::consts::ARCH
    ));
    if let Some(bytes) = memory {
        say(&format!("memory   {} free", human_bytes(bytes)));
    }
    match gpus {
        Ok(gpus) => {
            for (i, (name, cc)) in gpus.iter().enumerate() {
                say(&format!("cuda:{i}   {name}, {}", architecture(*cc)));
            }
        }
        Err(error) => say(&format!("gpu      {error}")),
    }
    match nvrtc {
        Ok(n) => {
            let [major, minor] = n.version;
            say(&format!("nvrtc    {major}.{minor}, {}", n.path.display()));
        }
        Err(error) => say(&format!("nvrtc    {error}")),
    }
    say(&format!(
        "cache    {} (packed data sets; $GMMK_CACHE moves it)",
        cache.display()
    ));
    say(&format!(
        "kernels  {}: {files} compiled, {}",
        kernels.folder().display(),
        human_bytes(bytes)
    ));
    Ok(())
}

fn gpu(name: &str, capability: u32) -> Value {
    json!({ "name": name, "compute_capability": [capability / 10, capability % 10] })
}
