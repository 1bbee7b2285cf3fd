//! What a person sees of a run.

use crate::cli::terminal::Progress;
use gmmk::train::metrics::MetricsRow;
use gmmk::train::trainer::Observer;
use std::time::Duration;

/// A run's progress, with its newest held-out loss.
pub struct Watcher {
    progress: Progress,
    last: Option<f64>,
}

impl Watcher {
    /// Of a run of so many steps.
    pub fn new(total: u64) -> Self {
        Self {
            progress: Progress::new("training", total, Duration::from_secs(15)),
            last: None,
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.progress.finish();
    }
}

impl Observer for Watcher {
    fn step(&mut self, step: u64, total: u64, images_per_s: f64, loss: f64) {
        let held_out = self
            .last
            .map(|l| format!(", held out {l:.4}"))
            .unwrap_or_default();
        self.progress.update(step, total, || {
            format!("{images_per_s:.1} img/s, loss {loss:.4}{held_out}")
        });
    }

    fn logged(&mut self, row: &MetricsRow) {
        self.last = row.get("held_out_loss").or(self.last);
    }

    fn note(&mut self, text: &str) {
        self.progress.line(text);
    }
}
