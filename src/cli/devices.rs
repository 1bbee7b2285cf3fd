//! `gmmk devices`.

use super::terminal::say;
use anyhow::Result;
use clap::Args;
use gmmk::data::default_cache_dir;
use gmmk::device::memory::available_bytes;
use gmmk::device::{pool, simd};
use gmmk::report::files::human_bytes;
use serde_json::json;

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
    if args.json {
        let cpu = json!({
            "threads": threads,
            "architecture": std::env::consts::ARCH,
            "vectors": level,
            "available_bytes": memory,
        });
        let all = json!({ "cpu": cpu, "cache": cache, "version": env!("CARGO_PKG_VERSION") });
        say(&serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    say(&format!(
        "cpu      {} threads, {}, {level}",
        threads,
        std::env::consts::ARCH
    ));
    if let Some(bytes) = memory {
        say(&format!("memory   {} free", human_bytes(bytes)));
    }
    say(&format!(
        "cache    {} (packed data sets; $GMMK_CACHE moves it)",
        cache.display()
    ));
    say("gpu      none: this version computes on the CPU");
    Ok(())
}
