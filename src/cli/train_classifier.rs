//! `gmmk train-classifier`.

use super::check_file;
use super::data::{self, DataName};
use super::device::DeviceArgs;
use super::terminal::{Progress, columns, say, stop_flag, warn};
use anyhow::Result;
use clap::Args;
use gmmk::evaluate::agreement::{Tally, mean_balanced};
use gmmk::evaluate::classifier::{self, AttributeClassifier, HeldOut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Options of `gmmk train-classifier`.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct TrainClassifierArgs {
    /// The data set
    #[arg(value_enum)]
    dataset: DataName,
    /// Its folder [default: $GMMK_DATA, ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The attributes of `folder`: a CSV file, its first column the pictures' names
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// Height and width of the pictures: those that the model to be judged draws
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(8..=256))]
    size: u32,
    /// Steps of 32 pictures
    #[arg(long, default_value_t = 4000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    steps: u64,
    /// Seed of everything random
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The classifier's file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs `gmmk train-classifier`.
pub fn run(args: &TrainClassifierArgs) -> Result<()> {
    check_file(&args.out, "the classifier's file name", "judge.safetensors")?;
    data::check_attributes(args.dataset, args.attributes.as_deref())?;
    let kind = data::resolve(args.dataset.kind(), args.data.as_deref())?;
    let mut config = classifier::config(kind, args.data.as_deref(), args.steps, args.seed);
    config.attributes = args.attributes.clone();
    let packed = Arc::new(data::open_run(&config, args.size)?);
    let (device, name) = args.device.wish().open()?;
    warn(&format!(
        "{}: {} pictures of {size}x{size} to train on, {} held out; {} attributes; device: {name}",
        packed.data_set(),
        packed.train_indices().len(),
        packed.held_out_indices().len(),
        packed.attribute_names().len(),
        size = args.size
    ));
    let stop = stop_flag("stopping; no classifier is written");
    let mut progress = Progress::new("training", args.steps, Duration::from_secs(15));
    let mut watch = |step, total, loss| {
        progress.update(step, total, || format!("loss {loss:.4}"));
        !stop.load(Ordering::Relaxed)
    };
    let trained = AttributeClassifier::train(&config, &packed, &device, &mut watch);
    progress.finish();
    let trained = trained?;
    trained.save(&args.out)?;
    say(&table(trained.attribute_names(), trained.held_out()));
    say(&format!("\nwrote {}", args.out.display()));
    Ok(())
}

/// How well it does, attribute by attribute.
fn table(names: &[String], held_out: &HeldOut) -> String {
    let share = |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.1} %", 100.0 * s));
    let row = |name: &str, values: [Option<f64>; 4]| -> Vec<String> {
        [name.to_owned()]
            .into_iter()
            .chain(values.map(share))
            .collect()
    };
    let head = [
        "held out",
        "right",
        "where on",
        "where off",
        "commoner value",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let one = |(name, t): (&String, &Tally)| {
        row(
            name,
            [
                Some(t.accuracy()),
                t.on_share(),
                t.off_share(),
                Some(t.base()),
            ],
        )
    };
    rows.extend(names.iter().zip(&held_out.attributes).map(one));
    let balanced = mean_balanced(&held_out.attributes);
    let all = format!("mean of {} pictures", held_out.pictures);
    let (mean, base) = (held_out.mean_accuracy(), held_out.mean_base());
    rows.push(row(&all, [Some(mean), None, None, Some(base)]));
    rows.push(row(
        "on and off counted alike",
        [balanced, None, None, Some(0.5)],
    ));
    columns(&rows)
}
