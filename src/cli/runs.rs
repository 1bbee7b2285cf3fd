//! `gmmk runs`: all runs of a folder, or two beside each other.

use super::terminal::{columns, duration, say, warn};
use anyhow::{Result, bail};
use clap::Args;
use gmmk::report::files::human_bytes;
use gmmk::train::report::{grouped, significant};
use gmmk::train::runs::{self, Comparison, Run, Summary};
use std::path::{Path, PathBuf};

/// Options of `gmmk runs`.
#[derive(Args)]
pub struct RunsArgs {
    /// A folder of runs [default: runs], or one run; two runs (folders, or names in runs/) are compared
    #[arg(value_name = "DIR", num_args = 0..=2)]
    paths: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `gmmk runs`.
pub fn run(args: RunsArgs) -> Result<()> {
    if let [a, b] = &args.paths[..] {
        let found = runs::compare(&Run::open(&resolve(a))?, &Run::open(&resolve(b))?)?;
        match args.json {
            true => say(&serde_json::to_string_pretty(&found)?),
            false => say(&compared(&found)),
        }
        return Ok(());
    }
    let given = args.paths.first();
    let dir = given.map_or(Path::new("runs"), PathBuf::as_path);
    if given.is_none() && !dir.exists() {
        bail!("there is no folder runs here; say where the runs are (gmmk runs DIR), or train one");
    }
    let folders = match is_run(dir) {
        true => vec![dir.to_path_buf()],
        false => runs::find(dir)?,
    };
    let mut found = Vec::new();
    for folder in folders {
        match Run::open(&folder).and_then(|run| run.summary()) {
            Ok(summary) => found.push(summary),
            // One damaged run hides no other.
            Err(error) => warn(&format!("warning: {error}")),
        }
    }
    match args.json {
        true => say(&serde_json::to_string_pretty(&found)?),
        false if found.is_empty() => say(&format!("no runs in {}", dir.display())),
        false => say(&listed(&found)),
    }
    Ok(())
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file()
}

/// A run's folder, or the run of that name in `runs/`.
fn resolve(path: &Path) -> PathBuf {
    let named = Path::new("runs").join(path);
    match !is_run(path) && is_run(&named) {
        true => named,
        false => path.to_path_buf(),
    }
}

fn some(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

fn loss(value: Option<f64>) -> String {
    some(value, |v| significant(v, 4))
}

fn listed(found: &[Summary]) -> String {
    let head = [
        "run", "state", "data", "preset", "steps", "images", "loss", "held out", "img/s", "device",
        "size",
    ];
    let line = |run: &Summary| {
        vec![
            run.name.clone(),
            run.state.name().to_owned(),
            run.data.clone(),
            run.preset.clone(),
            format!("{} of {}", run.step, run.total_steps),
            grouped(run.images),
            loss(run.smoothed_loss),
            loss(run.held_out_loss),
            some(run.images_per_s, |v| significant(v, 3)),
            run.device.clone(),
            human_bytes(run.bytes),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    columns(
        &std::iter::once(head)
            .chain(found.iter().map(line))
            .collect::<Vec<_>>(),
    )
}

fn compared(found: &Comparison) -> String {
    let names = found.runs.each_ref().map(|run| run.name.clone());
    let [a, b] = &found.runs;
    let row = |name: &str, of: &dyn Fn(&Summary) -> String| vec![name.to_owned(), of(a), of(b)];
    let mut facts = vec![
        vec![String::new(), names[0].clone(), names[1].clone()],
        row("state", &|r| r.state.name().to_owned()),
        row("steps", &|r| format!("{} of {}", r.step, r.total_steps)),
        row("images", &|r| grouped(r.images)),
        row("training time", &|r| duration(r.seconds)),
        row("images/s", &|r| some(r.images_per_s, |v| significant(v, 3))),
        row("device", &|r| r.device.clone()),
        row("skipped steps", &|r| grouped(r.skipped)),
        row("size", &|r| human_bytes(r.bytes)),
    ];
    facts.extend(found.config.iter().map(|difference| difference.to_vec()));
    let mut text = columns(&facts);
    if found.config.is_empty() {
        text.push_str("\n\nthe configurations are the same");
    }
    if let [a, b] = found.runs.each_ref().map(|run| run.images_per_s)
        && let (Some(a), Some(b)) = (a, b)
    {
        let times = significant(b / a, 3);
        text.push_str(&format!(
            "\n\n{} trains {times} times as many images per second as {}",
            names[1], names[0]
        ));
    }
    if found.losses.is_empty() {
        return text + "\n\nno images that both have seen: no losses to compare";
    }
    let head = ["images", "loss", "", "ratio", "held out", "", "ratio"];
    let mut losses = vec![head.map(str::to_owned).to_vec()];
    for at in &found.losses {
        let ratio = |[a, b]: [Option<f64>; 2]| loss(a.zip(b).map(|(a, b)| b / a));
        losses.push(vec![
            grouped(at.images),
            loss(at.loss[0]),
            loss(at.loss[1]),
            ratio(at.loss),
            loss(at.held_out_loss[0]),
            loss(at.held_out_loss[1]),
            ratio(at.held_out_loss),
        ]);
    }
    let title = format!(
        "\n\nlosses after as many images, {} and {} (training: means over a twentieth of the images)\n",
        names[0], names[1]
    );
    text + &title + &columns(&losses)
}
