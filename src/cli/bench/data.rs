//! `gmmk bench data`: how fast pictures are read, cropped, scaled and packed, and how fast the training
//! loader hands out batches.

use super::super::data::{self, DataName};
use super::super::terminal::say;
use anyhow::{Context, Result};
use clap::Args;
use gmmk::data::{Loader, open_or_pack};
use gmmk::device::pool::Pool;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What to measure.
#[derive(Args)]
pub struct DataArgs {
    /// The data set
    #[arg(value_enum, default_value_t = DataName::Faces)]
    dataset: DataName,
    /// Its folder [default: $GMMK_DATA, ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Side of the packed pictures
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
    /// Pictures per batch
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    batch: u64,
    /// CPU threads; 0 is one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Batches that are timed, after as many that are not.
const BATCHES: usize = 100;

/// Runs `gmmk bench data`: packs the whole set into a temporary folder, then loads from it.
pub fn run(args: &DataArgs) -> Result<()> {
    let kind = data::resolve(args.dataset.kind(), args.data.as_deref())?;
    let source = data::source(kind, args.data.as_deref(), None)?;
    let pool = Pool::new(args.threads as usize)?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let start = Instant::now();
    let packed =
        pool.enter(|| open_or_pack(source.as_ref(), args.size, folder.path(), &mut |_| ()))?;
    let packing = packed.len() as f64 / start.elapsed().as_secs_f64();
    let packed = Arc::new(packed);
    let mut loader = Loader::new(packed.clone(), args.batch as usize, 0, 0)?;
    for _ in 0..BATCHES {
        loader.next()?;
    }
    let start = Instant::now();
    for _ in 0..BATCHES {
        loader.next()?;
    }
    let loading = (BATCHES as u64 * args.batch) as f64 / start.elapsed().as_secs_f64();
    if args.json {
        let line = json!({
            "what": "data", "data": kind.to_string(), "pictures": packed.len(), "size": args.size,
            "threads": pool.threads(), "packed_per_s": packing, "loaded_per_s": loading,
            "batch": args.batch,
        });
        say(&line.to_string());
    } else {
        say(&format!(
            "{kind}, {} pictures of {size}x{size}, {} threads: packed {packing:.0} pictures/s, loaded {loading:.0} pictures/s in batches of {}",
            packed.len(),
            pool.threads(),
            args.batch,
            size = args.size
        ));
    }
    Ok(())
}
