//! One axis of a panel: its range, its ticks, and where a value lies.

use plotters::coord::ranged1d::{BoldPoints, Ranged};
use plotters::coord::types::RangedCoordf64;

/// Values low..=high to 0..=1, and where its ticks are.
pub(in crate::report) struct Axis {
    pub(in crate::report) low: f64,
    pub(in crate::report) high: f64,
    log: bool,
}

impl Axis {
    /// `range` where given, else what `values` span with `pad` (a share of the span) on each side.
    pub(in crate::report) fn new(
        range: Option<[f64; 2]>,
        values: impl Iterator<Item = f64>,
        log: bool,
        pad: f64,
    ) -> Self {
        let usable = |v: &f64| v.is_finite() && (!log || *v > 0.0);
        let given = range.filter(|[a, b]| usable(a) && usable(b) && a < b);
        if let Some([low, high]) = given {
            return Self { low, high, log };
        }
        let span = values.filter(usable);
        let (low, high) = span.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        let (low, high) = match (low > high, log) {
            (true, true) => (0.1, 1.0),
            (true, false) => (0.0, 1.0),
            // Far enough from overflow, and from numbers whose neighbours are ticks apart.
            (false, true) => (low.clamp(1e-250, 1e250), high.clamp(1e-250, 1e250)),
            (false, false) => (low.clamp(-1e290, 1e290), high.clamp(-1e290, 1e290)),
        };
        let (low, high) = if log {
            (low.ln(), high.ln())
        } else {
            (low, high)
        };
        let least = 1e-9 * low.abs().max(high.abs());
        let half = match (high - low > least, log) {
            (true, _) => (high - low) * pad,
            (false, true) => 0.5,
            (false, false) => {
                low.abs().max(high.abs()) * 0.05 + f64::from(low == 0.0 && high == 0.0) * 0.5
            }
        };
        let (low, high) = (low - half, high + half);
        if log {
            Self {
                low: low.exp(),
                high: high.exp(),
                log,
            }
        } else {
            Self { low, high, log }
        }
    }

    /// Share of the axis, 0 at its low end, outside 0..=1 for what lies outside; `None` for a value
    /// that has no place.
    pub(in crate::report) fn share(&self, v: f64) -> Option<f64> {
        let f = |v: f64| if self.log { v.ln() } else { v };
        let share = (f(v) - f(self.low)) / (f(self.high) - f(self.low));
        share.is_finite().then_some(share)
    }

    /// At most about `most` round numbers on the axis, and their texts.
    pub(in crate::report) fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        let values = if self.log {
            self.log_ticks(most)
        } else {
            self.round_numbers(most)
        };
        let inside = values.into_iter();
        let inside = inside.filter(|&v| {
            self.share(v)
                .is_some_and(|s| (-1e-9..=1.0 + 1e-9).contains(&s))
        });
        let span = self.high - self.low;
        inside
            .map(|v| {
                (
                    v,
                    if self.log {
                        power_text(v)
                    } else {
                        tick_text(v, span)
                    },
                )
            })
            .collect()
    }

    /// Multiples of 1, 2 or 5 times a power of ten. The library compares with absolute tolerances:
    /// it is asked about numbers of the size of 1.
    fn round_numbers(&self, most: usize) -> Vec<f64> {
        let power = self.low.abs().max(self.high.abs()).log10().floor();
        let unit = 10_f64.powf(power);
        let range = self.low / unit..self.high / unit;
        let ticks = RangedCoordf64::from(range).key_points(BoldPoints(most));
        ticks.into_iter().map(|v| v * unit).collect()
    }

    /// Powers of ten, with their twofold and fivefold where there are few.
    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let (first, last) = (
            self.low.log10().floor() as i32,
            self.high.log10().ceil() as i32,
        );
        let inside = |v: &f64| (self.low * 0.999_999..=self.high * 1.000_001).contains(v);
        let all = |multiples: &[f64], every: i32| -> Vec<f64> {
            (first..=last)
                .filter(|d| d.rem_euclid(every) == 0)
                .flat_map(|d| multiples.iter().map(move |m| m * 10_f64.powi(d)))
                .filter(inside)
                .collect()
        };
        let fine = all(&[1.0, 2.0, 5.0], 1);
        match fine.len() {
            0..=2 => self.round_numbers(most),
            n if n <= most => fine,
            _ => {
                let every = (1..).find(|&every| all(&[1.0], every).len() <= most.max(1));
                all(&[1.0], every.unwrap_or(1))
            }
        }
    }
}

/// A value of a logarithmic axis; powers of ten far from 1 as such.
fn power_text(value: f64) -> String {
    let power = value.log10().round();
    if power.abs() < 4.0 || (value / 10_f64.powf(power) - 1.0).abs() > 1e-6 {
        return tick_text(value, value);
    }
    let raised = |c: char| match c {
        '-' => '\u{207b}',
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    };
    let power = format!("{power:.0}")
        .chars()
        .map(raised)
        .collect::<String>();
    format!("10{power}")
}

/// A tick's text: `0.05`, `1500`, `20k`, `1.5M`, `3e-7`.
fn tick_text(value: f64, span: f64) -> String {
    let size = value.abs().max(span * 1e-3);
    let short = |v: f64, unit: &str| {
        let text = format!("{v:.3}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    let text = if value.abs() < span * 1e-9 {
        "0".to_owned()
    } else if !(1e-4..1e9).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        format!("{digits}e{power}")
    } else if size >= 1e6 && span >= 1e4 {
        short(value / 1e6, "M")
    } else if size >= 1e4 && span >= 1e2 {
        short(value / 1e3, "k")
    } else {
        let decimals = (3.0 - span.min(size).log10().floor()).clamp(0.0, 9.0) as usize;
        let text = format!("{value:.decimals$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    };
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_inside_the_axis() {
        let axis = Axis::new(None, [0.013, 0.94].into_iter(), false, 0.0);
        assert_eq!((axis.low, axis.high), (0.013, 0.94));
        let texts: Vec<_> = axis.ticks(6).into_iter().map(|t| t.1).collect();
        assert_eq!(texts, ["0.2", "0.4", "0.6", "0.8"]);
        let log = Axis::new(Some([0.01, 1.0]), std::iter::empty(), true, 0.0);
        let texts: Vec<_> = log.ticks(8).into_iter().map(|t| t.1).collect();
        assert_eq!(texts, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        let wide = Axis::new(Some([1e-6, 1e6]), std::iter::empty(), true, 0.0);
        let texts: Vec<_> = wide.ticks(5).into_iter().map(|t| t.1).collect();
        assert_eq!(
            texts,
            ["10\u{207b}\u{2076}", "0.001", "1", "1000", "10\u{2076}"]
        );
    }

    #[test]
    fn texts_are_short() {
        let texts = [
            (0.05, 1.0),
            (20_000.0, 1e5),
            (1.5e6, 1e7),
            (0.0, 1.0),
            (1500.0, 3000.0),
            (3e-7, 1e-6),
            (-0.5, 1.0),
        ];
        let texts = texts.map(|(v, span)| tick_text(v, span));
        let expected = [
            "0.05",
            "20k",
            "1.5M",
            "0",
            "1500",
            "3e\u{2212}7",
            "\u{2212}0.5",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn shares_follow_the_scale() {
        let log = Axis::new(Some([1.0, 100.0]), std::iter::empty(), true, 0.0);
        assert!((log.share(10.0).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(log.share(-1.0), None);
        let padded = Axis::new(None, [0.0, 10.0].into_iter(), false, 0.1);
        assert_eq!((padded.low, padded.high), (-1.0, 11.0));
        assert_eq!(padded.share(f64::NAN), None);
    }
}
