//! The curve of the loss, as a picture.

use super::{TrainError, Trainer};
use crate::report::figure::{Figure, Mark, Panel, pale};
use crate::train::runs::RunState;

impl Trainer<'_> {
    /// Draws the loss so far.
    pub(super) fn plot(&self) -> Result<(), TrainError> {
        let run = self.as_run(RunState::Running);
        let thousands = |points: Vec<[f64; 2]>| -> Vec<[f64; 2]> {
            points.into_iter().map(|[x, y]| [x / 1000.0, y]).collect()
        };
        let panel = Panel {
            x_label: "thousand images".into(),
            y_label: "mean squared error".into(),
            log_y: true,
            legend: true,
            marks: vec![
                Mark::line("", pale(0), thousands(run.points("loss"))),
                Mark::line("training", 0, thousands(run.smooth("loss"))),
                Mark::line(
                    "held out (averaged weights)",
                    1,
                    thousands(run.points("held_out_loss")),
                ),
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
