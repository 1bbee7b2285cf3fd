//! Lengths of training: steps or images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How long something takes: `4000` or `4000steps`, `500img`, `64kimg`, `1.5Mimg`.
///
/// Progress is counted in images, so that the batch size changes neither schedules nor meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Optimizer steps.
    Steps(u64),
    /// Training images.
    Images(u64),
}

/// A length of another form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "length `{text}`: {problem}; expected 4000 or 4000steps (steps), 500img, 64kimg or 1.5Mimg (images)"
)]
pub struct LengthError {
    text: String,
    problem: &'static str,
}

impl Length {
    /// Steps of `batch` images that make up this length; a part of a step counts as one.
    pub fn steps(self, batch: u64) -> u64 {
        match self {
            Self::Steps(n) => n,
            Self::Images(n) => n.div_ceil(batch.max(1)),
        }
    }

    /// Images of this length, for steps of `batch` images; saturating.
    pub fn images(self, batch: u64) -> u64 {
        match self {
            Self::Steps(n) => n.saturating_mul(batch),
            Self::Images(n) => n,
        }
    }

    /// Nothing at all.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Steps(0) | Self::Images(0))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Steps(n) => write!(f, "{n}steps"),
            Self::Images(n) if n > 0 && n.is_multiple_of(1000) => write!(f, "{}kimg", n / 1000),
            Self::Images(n) => write!(f, "{n}img"),
        }
    }
}

impl FromStr for Length {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Self, LengthError> {
        let fail = |problem| LengthError {
            text: text.to_owned(),
            problem,
        };
        let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_'));
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let digits = match unit {
            "" | "steps" | "step" | "img" => 0,
            "kimg" => 3,
            "Mimg" => 6,
            _ => return Err(fail("the unit is none of steps, img, kimg, Mimg")),
        };
        let number = number.replace('_', "");
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
            return Err(fail("it does not start with a number"));
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > digits {
            return Err(fail("it is not a whole number of steps or images"));
        }
        // Decimal digits, not floats: 1.1Mimg is exactly 1100000 images.
        let scaled = format!("{whole}{fraction:0<digits$}");
        let count: u64 = scaled
            .parse()
            .map_err(|_| fail("the number cannot be read or is too large"))?;
        if count > i64::MAX as u64 {
            return Err(fail("the number is too large"));
        }
        Ok(if unit.ends_with("img") {
            Self::Images(count)
        } else {
            Self::Steps(count)
        })
    }
}

impl Serialize for Length {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a length such as 4000 or \"64kimg\"")]
        enum Form {
            Steps(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Steps(n) => Ok(Self::Steps(n)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_exactly() {
        for (text, length, shown) in [
            ("4000", Length::Steps(4000), "4000steps"),
            ("4_000steps", Length::Steps(4000), "4000steps"),
            ("64kimg", Length::Images(64_000), "64kimg"),
            ("1.5Mimg", Length::Images(1_500_000), "1500kimg"),
            ("1.1Mimg", Length::Images(1_100_000), "1100kimg"),
            ("0.0005Mimg", Length::Images(500), "500img"),
            ("0.50kimg", Length::Images(500), "500img"),
            ("0", Length::Steps(0), "0steps"),
        ] {
            let read: Length = text.parse().unwrap();
            assert_eq!((read, read.to_string().as_str()), (length, shown));
            assert_eq!(shown.parse::<Length>().unwrap(), length);
        }
        for text in [
            "",
            "kimg",
            "-1",
            "1e3",
            "1.5",
            "1.5steps",
            "4 kimg",
            "64kimages",
            "1.0001kimg",
            "1..2kimg",
            ".5kimg",
            "5.kimg",
            "99999999999999999999",
            "9999999999999999999Mimg",
        ] {
            assert!(text.parse::<Length>().is_err(), "{text}");
        }
    }

    #[test]
    fn batches_round_up() {
        assert_eq!(Length::Images(100).steps(16), 7);
        assert_eq!(Length::Steps(7).images(16), 112);
        assert_eq!(Length::Images(100).steps(0), 100);
    }
}
