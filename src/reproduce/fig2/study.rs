//! Every condition and kind of latent, with several seeds, and what the figures say about the claim.

use super::diffusion::{Outcome, Recipe};
use super::toy::{Condition, Verdict};
use crate::gmm::latent::LatentKind;

/// The same experiment made in numpy, float64, two seeds: condition, per cent of defects with fixed and
/// with fresh Z, training loss with fixed Z.
pub const NUMPY: [(Condition, f64, f64, f64); 5] = [
    (Condition::None, 47.6, 45.8, 0.169),
    (Condition::Class4, 65.2, 63.2, 0.097),
    (Condition::Feat4, 36.6, 26.5, 0.040),
    (Condition::Feat8, 23.8, 16.3, 0.031),
    (Condition::Class16, 8.9, 8.1, 0.024),
];

/// Size of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Seeds per condition.
    pub seeds: u64,
    /// Points of the data set.
    pub points: usize,
    /// Steps of training.
    pub steps: usize,
    /// Points per step.
    pub batch: usize,
    /// Samples of each model.
    pub samples: usize,
}

impl Settings {
    /// The runs to make: a model without a condition has no latent, so it is trained once per seed.
    pub fn recipes(&self, seed: u64) -> Vec<Recipe> {
        let mut recipes = Vec::new();
        for latent in [LatentKind::Fixed, LatentKind::Fresh] {
            for condition in Condition::ALL {
                if condition == Condition::None && latent == LatentKind::Fresh {
                    continue;
                }
                recipes.extend((seed..seed + self.seeds).map(|seed| Recipe {
                    condition,
                    latent,
                    seed,
                    points: self.points,
                    steps: self.steps,
                    batch: self.batch,
                    samples: self.samples,
                }));
            }
        }
        recipes
    }
}

/// All models.
pub struct Study {
    /// Their settings and what they did.
    pub runs: Vec<(Recipe, Outcome)>,
}

impl Study {
    /// What the models of a condition did, seed by seed.
    pub fn of(&self, condition: Condition, latent: LatentKind) -> Vec<&Outcome> {
        // Without a condition there is no latent.
        let latent = match condition {
            Condition::None => LatentKind::Fixed,
            _ => latent,
        };
        let same = |r: &Recipe| r.condition == condition && r.latent == latent;
        let runs = self.runs.iter().filter(|(r, _)| same(r));
        runs.map(|(_, outcome)| outcome).collect()
    }

    /// Share of defects, seed by seed.
    pub fn defects(&self, condition: Condition, latent: LatentKind) -> Vec<f64> {
        let outcomes = self.of(condition, latent);
        outcomes.iter().map(|o| o.share(Verdict::Defect)).collect()
    }

    /// How the defects of `features` compare with those of `classes`, over both kinds of latents and
    /// all seeds.
    pub fn compare(&self, features: &[Condition], classes: Condition) -> Comparison {
        let mut comparison = Comparison::default();
        for latent in [LatentKind::Fixed, LatentKind::Fresh] {
            for &feature in features {
                let ours = self.of(feature, latent);
                for (ours, theirs) in ours.iter().zip(self.of(classes, latent)) {
                    let [a, b] = [ours, theirs].map(|o| o.share(Verdict::Defect));
                    // Two standard errors of a difference of two shares of as many samples.
                    let n = ours.samples.len() as f64;
                    let noise = 2.0 * ((a * (1.0 - a) + b * (1.0 - b)) / n).sqrt();
                    comparison.add(b - a, noise);
                }
            }
        }
        comparison
    }
}

/// Pairs of models, compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Pairs.
    pub pairs: usize,
    /// Pairs in which the features have fewer defects by more than sampling noise.
    pub fewer: usize,
    /// Pairs in which they have more.
    pub more: usize,
}

impl Comparison {
    fn add(&mut self, advantage: f64, noise: f64) {
        self.pairs += 1;
        self.fewer += usize::from(advantage > noise);
        self.more += usize::from(advantage < -noise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An outcome with so many defects in a hundred samples.
    fn outcome(defects: usize) -> Outcome {
        let verdict = |i| match i < defects {
            true => Verdict::Defect,
            false => Verdict::Right,
        };
        Outcome {
            loss: 0.0,
            samples: (0..100).map(|i| ([0.0; 2], verdict(i))).collect(),
        }
    }

    #[test]
    fn pairs_are_compared_beyond_sampling_noise() {
        let settings = Settings {
            seeds: 2,
            points: 1,
            steps: 1,
            batch: 1,
            samples: 100,
        };
        let recipes = settings.recipes(5);
        assert_eq!(recipes.len(), 2 * 9);
        let defects = |r: &Recipe| match (r.condition, r.latent, r.seed) {
            (Condition::Class4, ..) => 50,
            // Closer than 2 sqrt((.45 .55 + .5 .5) / 100) = 0.14.
            (Condition::Feat4, LatentKind::Fresh, 6) => 45,
            (Condition::Feat4, ..) => 20,
            (Condition::Feat8, ..) => 80,
            _ => 0,
        };
        let runs = recipes.into_iter().map(|r| {
            let outcome = outcome(defects(&r));
            (r, outcome)
        });
        let study = Study {
            runs: runs.collect(),
        };
        let compare = |features: &[Condition]| {
            let c = study.compare(features, Condition::Class4);
            (c.pairs, c.fewer, c.more)
        };
        assert_eq!(compare(&[Condition::Feat4]), (4, 3, 0));
        assert_eq!(compare(&[Condition::Feat4, Condition::Feat8]), (8, 3, 4));
        let same = study.of(Condition::None, LatentKind::Fresh).len();
        assert_eq!(same, 2, "the models without condition have no latent");
    }
}
