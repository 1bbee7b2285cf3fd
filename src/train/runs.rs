//! What runs have come to: one run's folder read back, all runs of a folder, two runs beside each other.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::{ConfigError, Difference, RunConfig, differences};
use super::machine::Machine;
use super::metrics::{self, MetricsError, MetricsRow};
use super::run_dir::{RunDirError, is_locked};
use crate::report::figure::moving_average;
use crate::report::files::{FileError, io_error};

/// Why a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// Not a run, or a folder that cannot be listed.
    #[error(transparent)]
    Dir(#[from] RunDirError),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// A process is training it.
    Running,
    /// It has its full length.
    Finished,
    /// It could go on.
    Stopped,
}

impl RunState {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
        }
    }
}

/// A run's folder, read.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub path: PathBuf,
    /// Its configuration.
    pub config: RunConfig,
    /// Lines of metrics; of a long run thinned out ([`super::history::History`]).
    pub rows: Vec<MetricsRow>,
    /// What it was trained on, where that is recorded.
    pub machine: Option<Machine>,
    /// Whether it goes on.
    pub state: RunState,
}

/// Lines of metrics, from the last, whose median is the throughput.
const RATES: usize = 100;

impl Run {
    /// Reads the run in `path`.
    ///
    /// # Errors
    /// There is none, or its configuration or metrics are damaged.
    pub fn open(path: &Path) -> Result<Self, RunsError> {
        if !path.join("config.toml").is_file() {
            let path = path.to_path_buf();
            return Err(RunDirError::NotARun { path }.into());
        }
        let config = RunConfig::load(&path.join("config.toml"))?;
        let file = path.join("metrics.jsonl");
        let rows = match file.exists() {
            true => metrics::read(&file)?,
            false => Vec::new(),
        };
        let taken = rows.last().map_or(0, |row| row.step);
        let state = match is_locked(path) {
            true => RunState::Running,
            false if taken >= config.total_steps() => RunState::Finished,
            false => RunState::Stopped,
        };
        Ok(Self {
            machine: Machine::load(&path.join("machine.json")),
            path: path.to_path_buf(),
            config,
            rows,
            state,
        })
    }

    /// The folder's name.
    pub fn name(&self) -> String {
        let whole = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let name = whole.file_name().map(|n| n.to_string_lossy().into_owned());
        name.unwrap_or_else(|| whole.display().to_string())
    }

    /// The device in words: what it was, or what was asked for.
    pub fn device(&self) -> &str {
        let machine = self.machine.as_ref();
        machine.map_or(&self.config.device, |machine| &machine.device)
    }

    /// Steps taken, as logged.
    pub fn step(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.step)
    }

    /// Points (images, value) of a metric, where it was measured.
    pub fn points(&self, metric: &str) -> Vec<[f64; 2]> {
        let point = |row: &MetricsRow| row.get(metric).map(|y| [row.images as f64, y]);
        self.rows.iter().filter_map(point).collect()
    }

    /// The same, averaged over about a fiftieth of the run.
    pub fn smooth(&self, metric: &str) -> Vec<[f64; 2]> {
        let points = self.points(metric);
        moving_average(&points, (points.len() / 100).clamp(2, 50))
    }

    /// The last finite value of a metric.
    pub fn last(&self, metric: &str) -> Option<f64> {
        let values = self.rows.iter().rev().filter_map(|row| row.get(metric));
        values.into_iter().find(|v| v.is_finite())
    }

    /// Images per second: the median of the last lines.
    pub fn images_per_s(&self) -> Option<f64> {
        let rates = self
            .rows
            .iter()
            .rev()
            .filter_map(|row| row.get("images_per_s"));
        let mut rates: Vec<f64> = rates.filter(|r| r.is_finite()).take(RATES).collect();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }

    /// What a list of runs says of it.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn summary(&self) -> Result<Summary, RunsError> {
        let last = self.rows.last();
        Ok(Summary {
            name: self.name(),
            path: self.path.clone(),
            state: self.state,
            data: self.config.data.to_string(),
            preset: self.config.preset.clone(),
            device: self.device().to_owned(),
            step: self.step(),
            total_steps: self.config.total_steps(),
            images: last.map_or(0, |row| row.images),
            seconds: last.map_or(0.0, |row| row.seconds),
            loss: self.last("loss"),
            smoothed_loss: self
                .smooth("loss")
                .last()
                .map(|p| p[1])
                .filter(|y| y.is_finite()),
            held_out_loss: self.last("held_out_loss"),
            images_per_s: self.images_per_s(),
            skipped: self.last("skipped").unwrap_or(0.0) as u64,
            bytes: folder_bytes(&self.path)?,
        })
    }
}

/// One line of a list of runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether it goes on.
    pub state: RunState,
    /// The data set.
    pub data: String,
    /// The network.
    pub preset: String,
    /// What it was trained on.
    pub device: String,
    /// Steps taken.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The last logged loss.
    pub loss: Option<f64>,
    /// The last value of the smoothed loss.
    pub smoothed_loss: Option<f64>,
    /// The last held-out loss.
    pub held_out_loss: Option<f64>,
    /// Images per second.
    pub images_per_s: Option<f64>,
    /// Steps skipped because the gradient was not finite.
    pub skipped: u64,
    /// Size of the folder.
    pub bytes: u64,
}

fn folder_bytes(path: &Path) -> Result<u64, FileError> {
    let fail = io_error(path, 0, "list the folder");
    let mut sum = 0;
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A running process replaces files between the list and the look; links lead elsewhere.
        let Ok(kind) = entry.metadata() else { continue };
        sum += match kind.is_dir() {
            true => folder_bytes(&entry.path())?,
            false => kind.len(),
        };
    }
    Ok(sum)
}

/// The folders of runs in `dir`, by name.
///
/// # Errors
/// `dir` cannot be listed.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>, RunsError> {
    let fail = io_error(dir, 0, "list the folder of runs");
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.join("config.toml").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Two runs beside each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Both runs.
    pub runs: [Summary; 2],
    /// Keys of the configuration that differ: key, value of the first, value of the second.
    pub config: Vec<[String; 3]>,
    /// Losses after as many images.
    pub losses: Vec<AtImages>,
}

/// Losses of two runs after as many images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtImages {
    /// Images seen.
    pub images: u64,
    /// Loss of both: the mean of what was logged over the last twentieth of the images compared.
    pub loss: [Option<f64>; 2],
    /// Held-out loss of both, between measurements on a straight line.
    pub held_out_loss: [Option<f64>; 2],
}

/// Places at which losses are compared.
const PLACES: u64 = 8;
/// Losses are means over one part in so many of the images compared: the same for both runs, however
/// long each is.
const SPAN: u64 = 20;

/// Compares two runs.
///
/// # Errors
/// A folder cannot be listed.
pub fn compare(a: &Run, b: &Run) -> Result<Comparison, RunsError> {
    let keys = |d: Difference| [d.key, d.saved, d.wanted];
    let config = differences(&a.config, &b.config)?;
    let end = |run: &Run| run.rows.last().map_or(0, |row| row.images);
    let common = end(a).min(end(b));
    let runs = [a, b];
    let logged = runs.map(|run| run.points("loss"));
    let held_out = runs.map(|run| run.points("held_out_loss"));
    let at = |images: u64| AtImages {
        images,
        loss: [0, 1].map(|i| mean_before(&logged[i], images, common / SPAN)),
        held_out_loss: [0, 1].map(|i| value_at(&held_out[i], images as f64)),
    };
    let places = (1..=PLACES).map(|i| common * i / PLACES);
    Ok(Comparison {
        runs: [a.summary()?, b.summary()?],
        config: config.into_iter().map(keys).collect(),
        losses: places.filter(|&images| images > 0).map(at).collect(),
    })
}

/// Mean of the points in the `span` before `x` and at it; where there are none, the curve's value.
fn mean_before(points: &[[f64; 2]], x: u64, span: u64) -> Option<f64> {
    let range = x.saturating_sub(span) as f64..=x as f64;
    let inside = points
        .iter()
        .filter(|p| p[1].is_finite() && range.contains(&p[0]));
    let (sum, count) = inside.fold((0.0, 0_u32), |(sum, n), p| (sum + p[1], n + 1));
    match count {
        0 => value_at(points, x as f64),
        n => Some(sum / f64::from(n)),
    }
}

/// A curve's value at `x`, on the straight line between its neighbours; `None` outside it.
fn value_at(points: &[[f64; 2]], x: f64) -> Option<f64> {
    let finite: Vec<[f64; 2]> = points
        .iter()
        .copied()
        .filter(|p| p[1].is_finite())
        .collect();
    let right = finite.partition_point(|p| p[0] < x);
    let &[x1, y1] = finite.get(right)?;
    if x1 == x {
        return Some(y1);
    }
    let &[x0, y0] = finite.get(right.checked_sub(1)?)?;
    Some(y0 + (y1 - y0) * (x - x0) / (x1 - x0))
}

#[cfg(test)]
mod tests {
    use super::super::config::DataKind;
    use super::super::length::Length;
    use super::super::metrics::MetricsWriter;
    use super::*;

    /// A run of `batch` whose loss after n images is 1000 / (n + 1000), logged every step.
    fn run(dir: &Path, batch: u64, logged: u64, total: u64) -> Run {
        fs::create_dir_all(dir).unwrap();
        let mut config = RunConfig::new(DataKind::Faces, "nano");
        (config.batch, config.steps) = (batch, Length::Steps(total));
        config.save(&dir.join("config.toml")).unwrap();
        let mut writer = MetricsWriter::create(&dir.join("metrics.jsonl")).unwrap();
        for step in 1..=logged {
            let images = step * batch;
            let mut values = vec![
                ("loss".to_owned(), 1000.0 / (images as f64 + 1000.0)),
                (
                    "images_per_s".into(),
                    if step == 3 { 1e9 } else { 10.0 * batch as f64 },
                ),
                ("skipped".into(), 2.0),
            ];
            if step % 10 == 0 {
                values.push(("held_out_loss".into(), images as f64));
            }
            let seconds = step as f64;
            writer
                .append(&MetricsRow {
                    step,
                    images,
                    seconds,
                    values,
                })
                .unwrap();
        }
        Run::open(dir).unwrap()
    }

    #[test]
    fn a_summary_says_what_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let a = run(&dir.path().join("a"), 4, 100, 100);
        let summary = a.summary().unwrap();
        assert_eq!(
            (summary.name.as_str(), summary.state),
            ("a", RunState::Finished)
        );
        assert_eq!(
            (summary.step, summary.images, summary.skipped),
            (100, 400, 2)
        );
        assert_eq!(summary.loss, Some(1000.0 / 1400.0));
        assert_eq!(
            summary.images_per_s,
            Some(40.0),
            "an outlier is no throughput"
        );
        assert_eq!(summary.held_out_loss, Some(400.0));
        let sizes = fs::read_dir(&a.path)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len());
        assert_eq!(summary.bytes, sizes.sum::<u64>());
        let b = run(&dir.path().join("b"), 4, 0, 100);
        assert_eq!(b.state, RunState::Stopped);
        assert_eq!(b.summary().unwrap().loss, None);
        fs::create_dir(dir.path().join("not a run")).unwrap();
        assert_eq!(find(dir.path()).unwrap(), [a.path.clone(), b.path]);
        let lock = fs::File::create(a.path.join(".lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(Run::open(&a.path).unwrap().state, RunState::Running);
        assert!(Run::open(&dir.path().join("not a run")).is_err());
    }

    /// Runs of different batch sizes are compared after as many images, wherever their lines lie.
    #[test]
    fn losses_are_compared_after_as_many_images() {
        let dir = tempfile::tempdir().unwrap();
        let a = run(&dir.path().join("a"), 4, 1000, 1000);
        let b = run(&dir.path().join("b"), 7, 300, 400);
        let found = compare(&a, &b).unwrap();
        let keys: Vec<&str> = found.config.iter().map(|d| d[0].as_str()).collect();
        assert_eq!(keys, ["steps", "batch"]);
        assert_eq!(found.config[1][1..], ["4", "7"]);
        assert_eq!(found.losses.len(), 8);
        assert_eq!(found.losses[7].images, 2100, "the shorter run's length");
        for at in &found.losses {
            // The mean over the 105 images before, up to half a step of 7 images.
            let (end, span) = (at.images as f64 + 1000.0, 105.0);
            let exact = 1000.0 / span * (end / (end - span)).ln();
            for loss in at.loss {
                assert!((loss.unwrap() / exact - 1.0).abs() < 4e-3, "{at:?}");
            }
            for held_out in at.held_out_loss {
                assert!(
                    (held_out.unwrap() - at.images as f64).abs() < 1e-6,
                    "{at:?}"
                );
            }
        }
        // A run ten times as long has learnt the same after as many images.
        let long = compare(&b, &run(&dir.path().join("d"), 7, 3000, 3000)).unwrap();
        for at in &long.losses {
            assert_eq!(at.loss[0], at.loss[1], "{at:?}");
        }
        assert!(
            compare(&a, &run(&dir.path().join("c"), 4, 0, 9))
                .unwrap()
                .losses
                .is_empty()
        );
    }
}
