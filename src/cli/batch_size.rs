//! `--batch N|auto`.

use std::str::FromStr;

/// What `--batch` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// What the memory holds.
    Auto,
    /// So many pictures.
    Pictures(u64),
}

impl BatchSize {
    /// The number, where it says one.
    pub fn number(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Pictures(n) => Some(n),
        }
    }
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|n| (1..=1 << 20).contains(n));
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            (_, Some(n)) => Ok(Self::Pictures(n)),
            _ => Err(format!(
                "`{text}`: expected auto, or a number in 1..=1048576"
            )),
        }
    }
}
