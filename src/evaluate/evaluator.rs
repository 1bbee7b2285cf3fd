//! The whole measurement, again and again with the same noise and the same requests.

use super::agreement::Agreement;
use super::classifier::{AttributeClassifier, AttributeError};
use super::frechet::{Features, Gaussian, Reference};
use super::manifold::{Manifold, Overlap};
use super::neighbours::{Compared, Nearest, Neighbours};
use crate::data::Packed;
use crate::device::Device;
use crate::diffusion::generate::{GenerateError, Generator, Request};
use crate::diffusion::sampler::{Sampler, SamplerError, SamplerPlan};
use crate::report::picture::to_byte;
use crate::tape::Arena;
use crate::tape::executable::DeviceError;
use crate::tape::state::State;
use crate::train::held_out::{HeldOut, Measurement};
use crate::train::setup::Setup;
use crate::train::step::StepError;
use std::sync::Arc;

/// A denoiser cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The classifier.
    #[error(transparent)]
    Classifier(#[from] AttributeError),
    /// The held-out loss.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The device's.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Drawing.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The sampler's settings.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// Nothing to compare with.
    #[error(
        "`{data}`: {train} pictures to train on and {held_out} held out; an evaluation needs two of both"
    )]
    Few {
        /// The data set.
        data: String,
        /// Training pictures.
        train: usize,
        /// Held-out pictures.
        held_out: usize,
    },
    /// A classifier of pictures of another size.
    #[error(
        "the attribute classifier looks at {found} x {found} pixels, but the network draws {expected} x {expected}; expected one of `gmmk train-classifier {data} --size {expected}`"
    )]
    Size {
        /// The network's.
        expected: usize,
        /// The classifier's.
        found: usize,
        /// The data set.
        data: String,
    },
    /// A classifier of other attributes.
    #[error(
        "the attribute classifier names other attributes ({found}, ..) than the data has ({expected}, ..); expected one of `gmmk train-classifier {data}`"
    )]
    Attributes {
        /// The data's first that differs.
        expected: String,
        /// The classifier's.
        found: String,
        /// The data set.
        data: String,
    },
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Pictures.
    pub count: usize,
    /// Seed of noise and Z.
    pub seed: u64,
    /// How noise becomes a picture.
    pub sampler: Sampler,
    /// Steps of the sampler.
    pub steps: u32,
    /// Pictures drawn at a time.
    pub batch: usize,
    /// Whether the loss on held-out pictures is measured too; a run does so itself.
    pub loss: bool,
}

/// How drawn pictures, or real ones in their place, compare with held-out ones in features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likeness {
    /// Fréchet distance in gmmk classifier features (squared, as is the custom). It is no FID.
    pub frechet: f64,
    /// Precision, recall, density, coverage.
    pub overlap: Overlap,
}

/// What was measured of a denoiser.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The loss on held-out pictures.
    pub loss: Option<Measurement>,
    /// The attributes asked for against those seen.
    pub agreement: Agreement,
    /// Against the held-out pictures, in features.
    pub likeness: Likeness,
    /// The training picture next to each drawn one.
    pub nearest: Vec<Nearest>,
    /// Their distances against those of the held-out pictures.
    pub distance: Compared,
    /// The same of the relative distances.
    pub relative: Compared,
    /// The drawn pictures, bytes `[count, size, size, 3]`.
    pub pictures: Vec<u8>,
}

/// What is measured of real pictures, once: the other side of every comparison.
pub struct Real {
    /// Held-out pictures compared with.
    pub held_out: usize,
    /// Training pictures in the place of drawn ones.
    pub training: usize,
    /// How those compare with the held-out ones: as good as a denoiser can be at this number of pictures.
    pub likeness: Likeness,
    reference: Reference,
    manifold: Manifold,
    nearest: Vec<Nearest>,
}

/// Measures denoisers of one network and data set.
pub struct Evaluator {
    settings: Settings,
    data: Arc<Packed>,
    device: Device,
    judge: AttributeClassifier,
    plan: SamplerPlan,
    generator: Generator,
    loss: Option<HeldOut>,
    requests: Vec<Request>,
    neighbours: Neighbours,
    real: Real,
}

impl Evaluator {
    /// Prepares the measurement of `setup`'s network on `data`: looks at the real pictures.
    ///
    /// # Errors
    /// See [`EvaluateError`].
    pub fn new(
        setup: &Setup,
        data: Arc<Packed>,
        mut judge: AttributeClassifier,
        settings: Settings,
        device: &Device,
    ) -> Result<Self, EvaluateError> {
        check(setup, &data, &judge)?;
        let Settings {
            sampler,
            steps,
            count,
            batch,
            ..
        } = settings;
        let held_out = spread(data.held_out_indices(), count);
        // What a held-out picture has is asked for; where there are too few, again with another Z.
        let request =
            |i: usize| Request::new(data.attributes(held_out[i % held_out.len()]), i as u64);
        let neighbours = Neighbours::new(data.clone(), &device.pool);
        let batch = batch.clamp(1, count.max(1));
        Ok(Self {
            plan: SamplerPlan::new(&setup.schedule, sampler, steps, Some(1.0))?,
            generator: Generator::new(&setup.net, &setup.conditioning, batch, device)?,
            loss: match settings.loss {
                true => HeldOut::new(setup, &data, device)?,
                false => None,
            },
            requests: (0..count).map(request).collect(),
            real: Real::new(&data, &held_out, &neighbours, &mut judge, count, device)?,
            device: device.clone(),
            settings,
            data,
            judge,
            neighbours,
        })
    }

    /// What is drawn.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The data.
    pub fn data(&self) -> &Packed {
        &self.data
    }

    /// The network that names attributes.
    pub fn judge(&self) -> &AttributeClassifier {
        &self.judge
    }

    /// The other side of the comparisons.
    pub fn real(&self) -> &Real {
        &self.real
    }

    /// Predictions of the network that the drawing takes.
    pub fn predictions(&self) -> u64 {
        let batches = self.requests.len().div_ceil(self.generator.batch());
        (self.plan.steps().len() * batches) as u64
    }

    /// Measures the denoiser with these weights; `watch` hears of every prediction and stops the drawing
    /// by returning false.
    ///
    /// # Errors
    /// See [`EvaluateError`].
    pub fn measure(
        &mut self,
        (state, weights): (&mut State, Arena),
        mut watch: impl FnMut() -> bool,
    ) -> Result<Evaluation, EvaluateError> {
        let loss = match &mut self.loss {
            Some(held_out) => Some(held_out.measure(state, weights)?),
            None => None,
        };
        let drawn = self.generator.draw(
            (state, weights),
            &self.plan,
            (self.settings.seed, 0),
            &self.requests,
            |_, _, _| watch(),
        )?;
        let pictures: Vec<u8> = drawn.iter().map(|&x| to_byte(x)).collect();
        let seen = self.judge.look(&pictures)?;
        let asked: Vec<u8> = (self.requests.iter())
            .flat_map(|request| request.attributes())
            .collect();
        let named = self.judge.attributes(&seen.probabilities);
        let features = Features {
            values: &seen.features,
            dim: self.judge.features(),
        };
        let nearest = self.neighbours.nearest(&pictures, &self.device.pool);
        let compare = |of: fn(&Nearest) -> f64| {
            let values = |found: &[Nearest]| found.iter().map(of).collect::<Vec<_>>();
            Compared::new(&values(&nearest), &values(&self.real.nearest))
        };
        Ok(Evaluation {
            loss,
            agreement: Agreement::new(&named, &asked, self.data.attribute_names().len()),
            likeness: self.real.compare(features),
            distance: compare(|n| n.distance),
            relative: compare(|n| n.relative),
            nearest,
            pictures,
        })
    }
}

impl Real {
    fn new(
        data: &Packed,
        held_out: &[usize],
        neighbours: &Neighbours,
        judge: &mut AttributeClassifier,
        count: usize,
        device: &Device,
    ) -> Result<Self, DeviceError> {
        let bytes = |indices: &[usize]| -> Vec<u8> {
            let images = indices.iter().map(|&i| data.image(i));
            images.flatten().copied().collect()
        };
        let dim = judge.features();
        let training = spread(data.train_indices(), count);
        let pictures = bytes(held_out);
        let [values, others] = [
            judge.look(&pictures)?.features,
            judge.look(&bytes(&training))?.features,
        ];
        let features = Features {
            values: &values,
            dim,
        };
        let mut real = Self {
            held_out: held_out.len(),
            training: training.len(),
            likeness: Likeness {
                frechet: 0.0,
                overlap: Overlap::default(),
            },
            reference: Reference::new(Gaussian::of_all(features)),
            manifold: Manifold::new(features),
            nearest: neighbours.nearest(&pictures, &device.pool),
        };
        real.likeness = real.compare(Features {
            values: &others,
            dim,
        });
        Ok(real)
    }

    fn compare(&self, features: Features<'_>) -> Likeness {
        Likeness {
            frechet: self.reference.distance(&Gaussian::of_all(features)),
            overlap: self.manifold.overlap(&Manifold::new(features)),
        }
    }
}

/// Checks that data, network and classifier belong together.
fn check(setup: &Setup, data: &Packed, judge: &AttributeClassifier) -> Result<(), EvaluateError> {
    let kind = setup.config.data.to_string();
    let (train, held_out) = (data.train_indices().len(), data.held_out_indices().len());
    if train < 2 || held_out < 2 {
        return Err(EvaluateError::Few {
            data: kind,
            train,
            held_out,
        });
    }
    let expected = setup.net.config().sample_size;
    if judge.size() != expected {
        return Err(EvaluateError::Size {
            expected,
            found: judge.size(),
            data: kind,
        });
    }
    let (ours, theirs) = (data.attribute_names(), judge.attribute_names());
    if ours != theirs {
        let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
        let name = |names: &[String]| names.get(at).map_or("none more".to_owned(), Clone::clone);
        return Err(EvaluateError::Attributes {
            expected: name(ours),
            found: name(theirs),
            data: kind,
        });
    }
    Ok(())
}

/// Up to `count` of the `indices`, evenly spread.
fn spread(indices: &[u32], count: usize) -> Vec<usize> {
    let taken = count.min(indices.len());
    let pick = |i: usize| indices[i * indices.len() / taken] as usize;
    (0..taken).map(pick).collect()
}
