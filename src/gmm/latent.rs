//! Latents Z and the conditioning tokens made of them, in f64: the oracle of the op `latent_tokens`.
//!
//! Paper section 3.1, Eq. 8-9: `z_kn` is drawn from a mixture, independently for every feature k and
//! position n; only the rows of active features are kept. As a *set* of attention tokens these rows
//! do not say which feature is which, so each carries a fixed code: `tok_k = A_k (gamma c_k + Z_k)`.
//!
//! Nothing is stored: Z is a function of (seed, stream, index), see [`LatentMixture::fill`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rng::{CODE_SEED, Philox, Stream, box_muller, scale};

/// Below this many numbers per feature an active row can look like an inactive one.
const SHORT_LATENT: usize = 8;

/// What is wrong with a mixture or a request for latents.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LatentError {
    /// A mixture of no components.
    #[error(
        "latent mixture: expected at least one component, found none; give one mean per component"
    )]
    NoComponents,
    /// A latent of length zero.
    #[error("latent: N is 0; expected the U-Net's cross_attention_dim, at least 1")]
    EmptyLatent,
    /// A standard deviation that is not a positive number.
    #[error("latent mixture: sigma is {sigma}; expected a finite number above 0")]
    Sigma {
        /// The value given.
        sigma: f64,
    },
    /// A mean that is not a number.
    #[error("latent mixture: mu[{component}] is {mu}; expected a finite number")]
    Mean {
        /// Which component.
        component: usize,
        /// The value given.
        mu: f64,
    },
    /// A weight that is negative or not a number.
    #[error("latent mixture: pi[{component}] is {pi}; expected a finite number, 0 or above")]
    Weight {
        /// Which component.
        component: usize,
        /// The value given.
        pi: f64,
    },
    /// Weights that do not add up to one.
    #[error(
        "latent mixture: the weights add up to {sum}; expected 1 within 1e-6: divide each by the sum"
    )]
    WeightSum {
        /// Their sum.
        sum: f64,
    },
    /// Another number of weights than means.
    #[error("latent mixture: {weights} weights for {means} means; expected one weight per mean")]
    WeightCount {
        /// Number of weights.
        weights: usize,
        /// Number of means.
        means: usize,
    },
    /// An attribute that is neither 0 nor 1.
    #[error("latent: attribute {feature} is {value}; expected 0 or 1 (map -1 to 0 when reading)")]
    Attribute {
        /// Which feature.
        feature: usize,
        /// The value given.
        value: u8,
    },
    /// A buffer of the wrong length.
    #[error("latent: the buffer holds {found} numbers; expected K x N = {features} x {n}")]
    BufferLength {
        /// Numbers in the buffer.
        found: usize,
        /// K.
        features: usize,
        /// N.
        n: usize,
    },
    /// More numbers than the counter can address.
    #[error("latent: K x N = {features} x {n} numbers; expected fewer than 2^33: make N smaller")]
    TooLong {
        /// K.
        features: usize,
        /// N.
        n: usize,
    },
    /// A feature code scale that is not a number.
    #[error("latent: the feature code's scale is {gamma}; expected a finite number (0 for none)")]
    CodeScale {
        /// The value given.
        gamma: f64,
    },
}

/// Whose latent a picture gets, and of which law (`--latent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LatentKind {
    /// Every training picture owns one Z for ever (the paper).
    #[default]
    Fixed,
    /// A new Z at every visit.
    Fresh,
    /// As `Fixed`, but one Gaussian of the mixture's variance: the ablation.
    Gaussian,
}

impl LatentKind {
    /// The stream its training latents come from. Sampling always uses `LatentFresh` unless it
    /// asks for a training picture's own Z.
    pub fn stream(self) -> Stream {
        match self {
            Self::Fixed | Self::Gaussian => Stream::LatentFixed,
            Self::Fresh => Stream::LatentFresh,
        }
    }

    /// The law of z.
    pub fn mixture(self) -> LatentMixture {
        match self {
            Self::Fixed | Self::Fresh => LatentMixture::paper(),
            Self::Gaussian => LatentMixture::gaussian(),
        }
    }
}

impl fmt::Display for LatentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Fresh => "fresh",
            Self::Gaussian => "gaussian",
        })
    }
}

/// A latent kind that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("latent `{0}` does not exist; expected fixed, fresh or gaussian")]
pub struct UnknownLatentKind(pub String);

impl FromStr for LatentKind {
    type Err = UnknownLatentKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "fixed" => Ok(Self::Fixed),
            "fresh" => Ok(Self::Fresh),
            "gaussian" => Ok(Self::Gaussian),
            _ => Err(UnknownLatentKind(text.to_owned())),
        }
    }
}

impl TryFrom<String> for LatentKind {
    type Error = UnknownLatentKind;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LatentKind> for String {
    fn from(kind: LatentKind) -> Self {
        kind.to_string()
    }
}

/// How a word chooses a component. Equal weights have a form of their own, exact for any count.
#[derive(Debug, Clone, PartialEq)]
enum Weights {
    Equal,
    Cumulative(Vec<f64>),
}

/// The law of one latent number: `sum_m pi_m N(mu_m, sigma^2)`, one standard deviation for all.
#[derive(Debug, Clone, PartialEq)]
pub struct LatentMixture {
    weights: Weights,
    mu: Vec<f64>,
    sigma: f64,
}

impl LatentMixture {
    /// Equal weights over `mu`. Errors: no component, a value that is not finite, sigma <= 0.
    pub fn equal(mu: &[f64], sigma: f64) -> Result<Self, LatentError> {
        if mu.is_empty() {
            return Err(LatentError::NoComponents);
        }
        if let Some((component, &mu)) = mu.iter().enumerate().find(|(_, m)| !m.is_finite()) {
            return Err(LatentError::Mean { component, mu });
        }
        if !(sigma.is_finite() && sigma > 0.0) {
            return Err(LatentError::Sigma { sigma });
        }
        Ok(Self {
            weights: Weights::Equal,
            mu: mu.to_vec(),
            sigma,
        })
    }

    /// Weights `pi` over `mu`. Errors: as [`LatentMixture::equal`], and weights that are negative,
    /// not finite, not one per mean, or whose sum is off 1 by more than 1e-6 (within it they are
    /// renormalised).
    pub fn weighted(pi: &[f64], mu: &[f64], sigma: f64) -> Result<Self, LatentError> {
        let mut mixture = Self::equal(mu, sigma)?;
        if pi.len() != mu.len() {
            return Err(LatentError::WeightCount {
                weights: pi.len(),
                means: mu.len(),
            });
        }
        for (component, &pi) in pi.iter().enumerate() {
            if !(pi.is_finite() && pi >= 0.0) {
                return Err(LatentError::Weight { component, pi });
            }
        }
        let sum: f64 = pi.iter().sum();
        if (sum - 1.0).abs() > 1e-6 {
            return Err(LatentError::WeightSum { sum });
        }
        let mut total = 0.0;
        let mut cumulative: Vec<f64> = pi
            .iter()
            .map(|p| {
                total += p / sum;
                total
            })
            .collect();
        // The last component that has any weight takes what rounding leaves below 1.
        if let Some(last) = pi.iter().rposition(|&p| p > 0.0) {
            cumulative[last..].fill(1.0);
        }
        mixture.weights = Weights::Cumulative(cumulative);
        Ok(mixture)
    }

    /// The paper's law: thirds at -1, 0 and 1, sigma 0.2.
    pub fn paper() -> Self {
        Self {
            weights: Weights::Equal,
            mu: vec![-1.0, 0.0, 1.0],
            sigma: 0.2,
        }
    }

    /// One Gaussian of the paper's mean and variance, N(0, 2/3 + 0.04).
    pub fn gaussian() -> Self {
        Self {
            weights: Weights::Equal,
            mu: vec![0.0],
            sigma: (2.0 / 3.0 + 0.04_f64).sqrt(),
        }
    }

    /// Weights of the components; they add up to 1.
    pub fn weights(&self) -> Vec<f64> {
        match &self.weights {
            Weights::Equal => vec![1.0 / self.mu.len() as f64; self.mu.len()],
            Weights::Cumulative(cumulative) => {
                let before = std::iter::once(&0.0).chain(cumulative);
                cumulative.iter().zip(before).map(|(c, b)| c - b).collect()
            }
        }
    }

    /// Means of the components.
    pub fn mu(&self) -> &[f64] {
        &self.mu
    }

    /// The common standard deviation.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    fn component(&self, word: u32) -> usize {
        match &self.weights {
            Weights::Equal => scale(word, self.mu.len() as u32) as usize,
            Weights::Cumulative(cumulative) => {
                let u = f64::from(word >> 8) / 16_777_216.0;
                cumulative
                    .partition_point(|&c| c <= u)
                    .min(self.mu.len() - 1)
            }
        }
    }

    /// Number `element` = k N + n of the latent that `philox` addresses: block element / 2, lane
    /// element mod 2 chooses the component; both lanes share one Box-Muller pair of words 2 and 3.
    fn value(&self, philox: &Philox, element: usize) -> f64 {
        let words = philox.block((element / 2) as u32);
        let lane = element % 2;
        let normal = box_muller(words[2], words[3])[lane];
        self.mu[self.component(words[lane])] + self.sigma * normal
    }

    /// `Z = [A_1 Z_1, .., A_K Z_K]` (Eq. 9): `out` is `[K, N]` row-major, `attributes` is A in {0,1}^K.
    /// Rows of inactive features are exactly zero; skipping them moves no other number.
    pub fn fill(
        &self,
        draw: LatentDraw,
        attributes: &[u8],
        n: usize,
        out: &mut [f64],
    ) -> Result<(), LatentError> {
        check_request(attributes, n, out.len())?;
        let philox = draw.philox();
        for (k, (row, &active)) in out.chunks_exact_mut(n).zip(attributes).enumerate() {
            for (i, z) in row.iter_mut().enumerate() {
                *z = if active == 1 {
                    self.value(&philox, k * n + i)
                } else {
                    0.0
                };
            }
        }
        Ok(())
    }

    /// Tokens `[K, N]`: `tok_k = A_k (gamma c_k + Z_k)`; `gamma` 0 leaves the code out (the paper as
    /// printed). The code enters no product with a gradient.
    pub fn fill_tokens(
        &self,
        draw: LatentDraw,
        attributes: &[u8],
        n: usize,
        gamma: f64,
        out: &mut [f64],
    ) -> Result<(), LatentError> {
        if !gamma.is_finite() {
            return Err(LatentError::CodeScale { gamma });
        }
        self.fill(draw, attributes, n, out)?;
        for (k, (row, &active)) in out.chunks_exact_mut(n).zip(attributes).enumerate() {
            if active == 1 {
                for (i, z) in row.iter_mut().enumerate() {
                    *z += gamma * feature_code(k as u64, i);
                }
            }
        }
        Ok(())
    }
}

/// Which latent: a function of these three and of nothing else.
#[derive(Debug, Clone, Copy)]
pub struct LatentDraw {
    /// The run's (or the sampling command's) seed.
    pub seed: u64,
    /// `LatentFixed` or `LatentFresh`.
    pub stream: Stream,
    /// Row number of the picture (fixed) or sample number (fresh).
    pub index: u64,
}

impl LatentDraw {
    fn philox(self) -> Philox {
        Philox::new(self.seed, self.stream, self.index)
    }
}

fn check_request(attributes: &[u8], n: usize, found: usize) -> Result<(), LatentError> {
    let features = attributes.len();
    if n == 0 {
        return Err(LatentError::EmptyLatent);
    }
    match features.checked_mul(n) {
        Some(total) if (total as u64) < 1 << 33 => {
            if total != found {
                return Err(LatentError::BufferLength { found, features, n });
            }
        }
        _ => return Err(LatentError::TooLong { features, n }),
    }
    match attributes.iter().enumerate().find(|(_, a)| **a > 1) {
        Some((feature, &value)) => Err(LatentError::Attribute { feature, value }),
        None => Ok(()),
    }
}

/// Entry n of the code of `feature`, -1 or +1: bit n mod 32 of word n/32 mod 4 of block n/128 of the
/// feature's stream under the fixed [`CODE_SEED`]. The same for every model, and for every N.
pub fn feature_code(feature: u64, n: usize) -> f64 {
    let words = Philox::new(CODE_SEED, Stream::FeatureCode, feature).block((n / 128) as u32);
    if words[n / 32 % 4] >> (n % 32) & 1 == 1 {
        1.0
    } else {
        -1.0
    }
}

/// What a person should know about latents of length `n`, if anything: with a mean of 0 among the
/// components a short row can look inactive.
pub fn short_latent_warning(n: usize) -> Option<String> {
    (n < SHORT_LATENT).then(|| {
        format!(
            "latents of N = {n} numbers are short: one of the components has mean 0, so an active \
             feature can look inactive; use a cross_attention_dim of at least {SHORT_LATENT}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAW: LatentDraw = LatentDraw {
        seed: 3,
        stream: Stream::LatentFixed,
        index: 9,
    };

    #[test]
    fn moments_of_both_laws_agree() {
        for mixture in [LatentMixture::paper(), LatentMixture::gaussian()] {
            let mut z = vec![0.0; 200_000];
            mixture.fill(DRAW, &[1; 10], 20_000, &mut z).unwrap();
            let mean = z.iter().sum::<f64>() / 2e5;
            let var = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / 2e5;
            assert!(
                mean.abs() < 0.01 && (var - 2.0 / 3.0 - 0.04).abs() < 0.01,
                "{mean} {var}"
            );
        }
    }

    #[test]
    fn weights_choose_components_in_proportion() {
        let mixture =
            LatentMixture::weighted(&[0.0, 0.25, 0.75, 0.0], &[5.0, -1.0, 1.0, 9.0], 1e-3).unwrap();
        let mut z = vec![0.0; 100_000];
        mixture.fill(DRAW, &[1], 100_000, &mut z).unwrap();
        let low = z.iter().filter(|z| (**z + 1.0).abs() < 0.1).count();
        let high = z.iter().filter(|z| (**z - 1.0).abs() < 0.1).count();
        assert_eq!(low + high, 100_000, "components without weight were drawn");
        assert!((24_300..25_700).contains(&low), "{low}");
    }

    #[test]
    fn inactive_rows_are_zero_and_move_nothing() {
        let mixture = LatentMixture::paper();
        let (mut all, mut some) = (vec![0.0; 15], vec![1.0; 15]);
        mixture
            .fill_tokens(DRAW, &[1, 1, 1], 5, 1.0, &mut all)
            .unwrap();
        mixture
            .fill_tokens(DRAW, &[1, 0, 1], 5, 1.0, &mut some)
            .unwrap();
        assert_eq!((&all[..5], &all[10..]), (&some[..5], &some[10..]));
        assert_eq!(some[5..10], [0.0; 5]);
    }

    #[test]
    fn every_mistake_is_named() {
        let ok = [-1.0, 1.0];
        assert_eq!(
            LatentMixture::equal(&[], 0.1),
            Err(LatentError::NoComponents)
        );
        for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                LatentMixture::equal(&ok, sigma),
                Err(LatentError::Sigma { .. })
            ));
        }
        let bad = LatentMixture::equal(&[0.0, f64::NAN], 0.1);
        assert!(matches!(bad, Err(LatentError::Mean { component: 1, .. })));
        let weighted = |pi: &[f64]| LatentMixture::weighted(pi, &ok, 0.1);
        assert!(matches!(
            weighted(&[1.0]),
            Err(LatentError::WeightCount { .. })
        ));
        assert!(matches!(
            weighted(&[0.4, 0.4]),
            Err(LatentError::WeightSum { .. })
        ));
        assert!(matches!(
            weighted(&[2.0, -1.0]),
            Err(LatentError::Weight { component: 1, .. })
        ));
        let paper = LatentMixture::paper();
        let mut out = [0.0; 4];
        let mut fill = |a: &[u8], n| paper.fill(DRAW, a, n, &mut out);
        assert_eq!(fill(&[1], 0), Err(LatentError::EmptyLatent));
        assert!(matches!(
            fill(&[1], 3),
            Err(LatentError::BufferLength { .. })
        ));
        assert!(matches!(
            fill(&[1, 255], 2),
            Err(LatentError::Attribute { feature: 1, .. })
        ));
        assert!(matches!(
            fill(&[1; 8], 1 << 31),
            Err(LatentError::TooLong { .. })
        ));
        assert!(short_latent_warning(7).is_some() && short_latent_warning(8).is_none());
        assert!("fixd".parse::<LatentKind>().is_err());
    }
}
