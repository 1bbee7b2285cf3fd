//! The attribute classifier's loss, and how well it reads attributes.

use crate::gmm::entropy::{EntropyError, EntropyLoss, EntropySpec, Variant};
use crate::ops::attribute_loss::entropy_loss;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The loss of the attribute classifier at the bottleneck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassifierKind {
    /// No classifier.
    #[default]
    None,
    /// Binary cross-entropy.
    Bce,
    /// The gated NGMG entropy: cross-entropy whose weight grows with the neighbours' errors.
    Ngmg,
}

impl fmt::Display for ClassifierKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Bce => "bce",
            Self::Ngmg => "ngmg",
        })
    }
}

impl ClassifierKind {
    /// The loss of `k` attributes; `floor` is the constant part of the gated loss's weight. `None` where
    /// there is no classifier.
    ///
    /// # Errors
    /// The gated loss of one attribute with floor 0; a negative floor.
    pub fn loss(self, floor: f64, k: usize) -> Result<Option<EntropyLoss>, EntropyError> {
        let variant = match self {
            Self::None => return Ok(None),
            Self::Bce => Variant::Bce,
            Self::Ngmg => Variant::Gated,
        };
        let spec = EntropySpec {
            variant,
            floor,
            ..EntropySpec::default()
        };
        entropy_loss(spec, k).map(Some)
    }
}

/// How well logits tell attributes: sums over the pictures seen so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    pictures: usize,
    squares: f64,
    right: Vec<usize>,
}

impl Scores {
    /// Adds a picture's `logits` `[k]` and its `labels` `[k]`, 0 or 1.
    pub fn add(&mut self, logits: &[f32], labels: &[u8]) {
        self.right.resize(labels.len(), 0);
        self.pictures += 1;
        for ((right, &z), &y) in self.right.iter_mut().zip(logits).zip(labels) {
            let p = 1.0 / (1.0 + (-f64::from(z)).exp());
            self.squares += (p - f64::from(y)).powi(2);
            *right += usize::from((z > 0.0) == (y == 1));
        }
    }

    /// Sum over the attributes of (probability - label)^2, per picture.
    pub fn squared_error(&self) -> f64 {
        self.squares / self.pictures as f64
    }

    /// Share of pictures in which each attribute is told right, `[k]`.
    pub fn accuracies(&self) -> impl Iterator<Item = f64> + '_ {
        let pictures = self.pictures as f64;
        self.right.iter().map(move |&right| right as f64 / pictures)
    }

    /// Mean of [`Self::accuracies`].
    pub fn accuracy(&self) -> f64 {
        self.accuracies().sum::<f64>() / self.right.len() as f64
    }
}

/// Held-out scores of the classifier, twice: it can read the attributes off the conditioning tokens
/// instead of the picture, and only another picture's tokens show whether it does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassifierScores {
    /// With the picture's own tokens, against the picture's labels.
    pub own: Scores,
    /// With another picture's tokens, against the picture's labels.
    pub other: Scores,
    /// Attributes in which picture and tokens disagree, and how many of them the prediction tells as
    /// the tokens have them.
    disagreements: [usize; 2],
}

impl ClassifierScores {
    /// Adds a picture seen with another picture's tokens, made of the attributes `tokens`.
    pub fn add_other(&mut self, logits: &[f32], labels: &[u8], tokens: &[u8]) {
        self.other.add(logits, labels);
        for ((&z, label), &token) in logits.iter().zip(labels).zip(tokens) {
            if *label != token {
                self.disagreements[0] += 1;
                self.disagreements[1] += usize::from((z > 0.0) == (token == 1));
            }
        }
    }

    /// Where tokens and picture disagree: the share of attributes told as the tokens have them. 1 is a
    /// classifier that reads tokens alone, 0 one that reads the picture alone; `None` if they never do.
    pub fn follows_tokens(&self) -> Option<f64> {
        let [all, followed] = self.disagreements;
        (all > 0).then(|| followed as f64 / all as f64)
    }

    /// The values of a line of metrics, by name; `names` are the attributes'.
    pub fn metrics(&self, names: &[String]) -> Vec<(String, f64)> {
        let mut values = Vec::new();
        for (scores, suffix) in [(&self.own, ""), (&self.other, "_other_tokens")] {
            values.push((format!("classifier_sse{suffix}"), scores.squared_error()));
            values.push((format!("classifier_accuracy{suffix}"), scores.accuracy()));
        }
        values.extend(
            self.follows_tokens()
                .map(|share| ("classifier_follows_tokens".into(), share)),
        );
        for (scores, prefix) in [
            (&self.own, "accuracy"),
            (&self.other, "accuracy_other_tokens"),
        ] {
            let named = names.iter().zip(scores.accuracies());
            values.extend(named.map(|(name, x)| (format!("{prefix}/{name}"), x)));
        }
        values
    }
}

impl fmt::Display for ClassifierScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |scores: &Scores| 100.0 * scores.accuracy();
        write!(
            f,
            "{:.1} % of attributes told right with the picture's own tokens (squared error {:.3} per picture), {:.1} % with another's ({:.3})",
            percent(&self.own),
            self.own.squared_error(),
            percent(&self.other),
            self.other.squared_error(),
        )?;
        match self.follows_tokens() {
            Some(share) => write!(
                f,
                "; where the two disagree it follows the tokens in {:.1} %",
                100.0 * share
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pictures of two attributes by hand: sigmoid(ln 3) = 3/4.
    #[test]
    fn scores_by_hand() {
        let l = 3.0_f32.ln();
        let mut scores = ClassifierScores::default();
        scores.own.add(&[l, -l], &[1, 0]);
        scores.own.add(&[l, -l], &[0, 0]);
        scores.own.add(&[l, l], &[1, 0]);
        let sixteenths = (1 + 1) + (9 + 1) + (1 + 9);
        let want = f64::from(sixteenths) / 16.0 / 3.0;
        assert!((scores.own.squared_error() - want).abs() < 1e-6);
        let accuracies: Vec<f64> = scores.own.accuracies().collect();
        assert_eq!(accuracies, [2.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(scores.follows_tokens(), None);
        // Tokens say (1, 1), the picture (1, 0): one disagreement, told as the tokens have it.
        scores.add_other(&[l, l], &[1, 0], &[1, 1]);
        // And one told as the picture has it.
        scores.add_other(&[-l, l], &[0, 1], &[1, 1]);
        assert_eq!(scores.follows_tokens(), Some(0.5));
        assert_eq!(scores.other.accuracy(), 0.75);
        let names = ["a".to_string(), "b".to_string()];
        let metrics = scores.metrics(&names);
        assert_eq!(metrics.len(), 5 + 4);
        assert_eq!(metrics[8], ("accuracy_other_tokens/b".to_string(), 0.5));
    }

    #[test]
    fn losses_that_cannot_be_are_refused() {
        assert!(ClassifierKind::None.loss(0.0, 1).unwrap().is_none());
        assert!(ClassifierKind::Bce.loss(0.0, 1).unwrap().is_some());
        assert!(ClassifierKind::Ngmg.loss(1.0, 1).unwrap().is_some());
        let error = ClassifierKind::Ngmg.loss(0.0, 1).unwrap_err().to_string();
        assert!(error.contains("no neighbours"), "{error}");
        assert!(ClassifierKind::Ngmg.loss(-1.0, 40).is_err());
    }
}
