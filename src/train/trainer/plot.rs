//! The curve of the loss, as a picture.

use super::{TrainError, Trainer};
use crate::report::figure::{Figure, Mark, Panel, moving_average, pale};
use crate::train::metrics::MetricsRow;

impl Trainer<'_> {
    /// Draws the loss so far.
    pub(super) fn plot(&self) -> Result<(), TrainError> {
        let points = |key: &str| -> Vec<[f64; 2]> {
            let thousands = |row: &MetricsRow| row.images as f64 / 1000.0;
            let point = |row: &MetricsRow| row.get(key).map(|loss| [thousands(row), loss]);
            self.history.rows().filter_map(point).collect()
        };
        let raw = points("loss");
        let smooth = moving_average(&raw, (raw.len() / 100).clamp(2, 50));
        let held_out = points("held_out_loss");
        let panel = Panel {
            x_label: "thousand images".into(),
            y_label: "mean squared error".into(),
            log_y: true,
            legend: true,
            marks: vec![
                Mark::line("", pale(0), raw),
                Mark::line("training", 0, smooth),
                Mark::line("held out (averaged weights)", 1, held_out),
            ],
            ..Panel::default()
        };
        let mut plot = Figure::single(panel, [960, 520]);
        plot.title = format!(
            "{} on {}: noise prediction error",
            self.setup.config.preset, self.setup.config.data
        );
        plot.render()?.save_png(&self.run.loss_plot())?;
        Ok(())
    }
}
