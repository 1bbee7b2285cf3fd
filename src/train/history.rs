//! The lines of metrics so far, in bounded memory: a run of days has millions.

use super::metrics::MetricsRow;

/// Most rows that are held; a figure has fewer columns of pixels.
pub const MOST_ROWS: usize = 4096;

/// Lines of metrics in order. Beyond [`MOST_ROWS`] neighbours become one row: its step, images and seconds
/// are the later line's, its values the mean over the lines that have them. The last line stays as it is.
#[derive(Debug, Clone, Default)]
pub struct History {
    merged: Vec<MetricsRow>,
    /// Lines in the last of `merged`, of `span`.
    filled: usize,
    /// Lines in every other one; 0 before the first.
    span: usize,
    last: Option<MetricsRow>,
}

impl History {
    /// Adds the next line.
    pub fn push(&mut self, row: MetricsRow) {
        let Some(row) = self.last.replace(row) else {
            return;
        };
        match self.merged.last_mut() {
            Some(last) if self.filled < self.span => {
                merge(last, row, self.filled as f64, 1.0);
                self.filled += 1;
            }
            _ => {
                self.merged.push(row);
                (self.filled, self.span) = (1, self.span.max(1));
            }
        }
        if self.merged.len() == MOST_ROWS && self.filled == self.span {
            self.halve();
        }
    }

    /// Makes one row of every two.
    fn halve(&mut self) {
        let rows = std::mem::take(&mut self.merged);
        for (i, row) in rows.into_iter().enumerate() {
            match self.merged.last_mut() {
                Some(last) if i % 2 == 1 => merge(last, row, 1.0, 1.0),
                _ => self.merged.push(row),
            }
        }
        self.span *= 2;
        self.filled = self.span;
    }

    /// The last line.
    pub fn last(&self) -> Option<&MetricsRow> {
        self.last.as_ref()
    }

    /// All rows, at most [`MOST_ROWS`] + 1.
    pub fn rows(&self) -> impl Iterator<Item = &MetricsRow> {
        self.merged.iter().chain(&self.last)
    }
}

/// Merges the row `b` into the one before it, `a`: means with these weights of what both have.
fn merge(a: &mut MetricsRow, b: MetricsRow, weight_a: f64, weight_b: f64) {
    (a.step, a.images, a.seconds) = (b.step, b.images, b.seconds);
    for (name, value) in b.values {
        match a.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, mean)) => {
                *mean = (*mean * weight_a + value * weight_b) / (weight_a + weight_b)
            }
            None => a.values.push((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> MetricsRow {
        let mut values = vec![("loss".to_owned(), step as f64)];
        values.extend(
            step.is_multiple_of(100)
                .then(|| ("held_out_loss".to_owned(), 7.0)),
        );
        MetricsRow {
            step,
            images: 4 * step,
            seconds: step as f64,
            values,
        }
    }

    #[test]
    fn a_short_run_is_kept_as_it_is() {
        let mut history = History::default();
        assert!(history.last().is_none() && history.rows().next().is_none());
        (1..=MOST_ROWS as u64).for_each(|step| history.push(row(step)));
        let kept: Vec<_> = history.rows().cloned().collect();
        let given: Vec<_> = (1..=MOST_ROWS as u64).map(row).collect();
        assert_eq!(kept, given);
    }

    #[test]
    fn a_long_run_is_thinned_evenly() {
        let mut history = History::default();
        for step in 1..=100_001 {
            history.push(row(step));
            assert!(history.rows().count() <= MOST_ROWS + 1);
        }
        assert_eq!(
            history.last(),
            Some(&row(100_001)),
            "the last line as it is"
        );
        let rows: Vec<_> = history.rows().collect();
        assert!(rows.len() > MOST_ROWS / 2, "{}", rows.len());
        let mut before = 0;
        for row in &rows {
            let span = row.step - before;
            // The mean of the steps after `before` up to this one.
            let mean = (before + 1 + row.step) as f64 / 2.0;
            let loss = row.get("loss").unwrap();
            assert!(
                (loss - mean).abs() < 1e-6,
                "{loss} at {}, of {span}",
                row.step
            );
            let hundred = row.step / 100 > before / 100;
            let held_out = row.get("held_out_loss");
            assert_eq!(held_out, hundred.then_some(7.0), "{}", row.step);
            before = row.step;
        }
    }
}
