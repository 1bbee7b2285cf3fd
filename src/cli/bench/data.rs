//! `gmmk bench data`: how fast a data set is opened, its pictures read, decoded, cropped, scaled and packed,
//! and how fast the training loader hands out batches.

use super::super::data::{self, DataName};
use super::super::terminal::say;
use anyhow::{Context, Result};
use clap::Args;
use gmmk::data::{Loader, Source, open_or_pack, picture};
use gmmk::device::memory::peak_resident_bytes;
use gmmk::device::pool::Pool;
use gmmk::report::files::{human_bytes, human_duration};
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
    /// Its folder, or a zip of pictures [default: $GMMK_DATA, ./data]
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
/// Pictures that are read and decoded one by one.
const SINGLE: usize = 2000;

/// Pictures per second.
struct Rates {
    /// Of one thread that reads files, decodes them, and makes small squares of them; `None` for pictures that
    /// have no files.
    single: Option<[f64; 3]>,
    packing: f64,
    loading: f64,
}

/// Runs `gmmk bench data`: packs the whole set into a temporary folder, then loads from it.
pub fn run(args: &DataArgs) -> Result<()> {
    let kind = data::resolve(args.dataset.kind(), args.data.as_deref())?;
    let start = Instant::now();
    let source = data::source(kind, args.data.as_deref(), None)?;
    let opened = start.elapsed().as_secs_f64();
    let memory = peak_resident_bytes().unwrap_or(0);
    let single = single_thread(source.as_ref(), args.size)?;
    let pool = Pool::new(args.threads as usize)?;
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let start = Instant::now();
    let packed =
        pool.enter(|| open_or_pack(source.as_ref(), args.size, folder.path(), &mut |_| ()))?;
    let packing = packed.len() as f64 / start.elapsed().as_secs_f64();
    let (count, packed) = (packed.len(), Arc::new(packed));
    let mut loader = Loader::new(packed, args.batch as usize, 0, 0)?;
    for _ in 0..BATCHES {
        loader.next()?;
    }
    let start = Instant::now();
    for _ in 0..BATCHES {
        loader.next()?;
    }
    let rates = Rates {
        single,
        packing,
        loading: (BATCHES as u64 * args.batch) as f64 / start.elapsed().as_secs_f64(),
    };
    let (threads, name) = (pool.threads(), kind.to_string());
    if args.json {
        let [read, decoded, scaled] = rates.single.map_or([None; 3], |r| r.map(Some));
        let line = json!({
            "what": "data", "data": name, "pictures": count, "size": args.size,
            "opened_s": opened, "opened_peak_rss_bytes": memory,
            "read_per_s": read, "decoded_per_s": decoded, "scaled_per_s": scaled,
            "threads": threads, "packed_per_s": rates.packing, "loaded_per_s": rates.loading,
            "batch": args.batch,
        });
        say(&line.to_string());
        return Ok(());
    }
    say(&format!(
        "{name}: {count} pictures, opened in {}; {} of memory then",
        human_duration(opened),
        human_bytes(memory)
    ));
    if let Some([read, decoded, scaled]) = rates.single {
        say(&format!(
            "one thread, pictures/s: read {read:.0}, and decoded {decoded:.0}, and cropped and scaled to {size}x{size} {scaled:.0}",
            size = args.size
        ));
    }
    say(&format!(
        "{threads} threads: packed {:.0} pictures/s; loaded {:.0} pictures/s in batches of {}",
        rates.packing, rates.loading, args.batch
    ));
    Ok(())
}

/// Reads up to [`SINGLE`] pictures, evenly spread, again and again: once from the disk, which is not timed; the
/// files alone; with the decoder; and all that packing does to a picture.
fn single_thread(source: &dyn Source, size: u32) -> Result<Option<[f64; 3]>> {
    let count = source.len().min(SINGLE);
    let spread = || (0..count).map(|i| i * source.len() / count);
    for i in spread() {
        source.file(i).transpose()?;
    }
    let mut rates = [0.0; 3];
    for (what, rate) in rates.iter_mut().enumerate() {
        let start = Instant::now();
        for i in spread() {
            match what {
                2 => drop(source.read(i, size)?),
                _ => {
                    let Some(file) = source.file(i) else {
                        return Ok(None);
                    };
                    let file = file?;
                    if what == 1 {
                        picture::open(&file)?;
                    }
                }
            }
        }
        *rate = count as f64 / start.elapsed().as_secs_f64();
    }
    Ok(Some(rates))
}
