//! The held-out measurement: the loss on pictures that training never sees, at fixed noise and times,
//! and what the classifier reads of them.

use super::classifier::ClassifierScores;
use super::levels::{Level, Levels};
use super::setup::Setup;
use super::step::{LossProbe, StepError, Tokens};
use crate::data::{Batch, Packed};
use crate::device::Device;
use crate::gmm::latent::LatentKind;
use crate::tape::Arena;
use crate::tape::executable::DeviceError;
use crate::tape::state::State;

/// Held-out pictures that are measured, at the most.
const PICTURES: usize = 256;
/// Sample numbers of held-out pictures start here, far from those of training.
const FIRST_SAMPLE: u64 = 1 << 48;

/// The measurement's program and its batches, which never change.
pub struct HeldOut {
    program: LossProbe,
    parts: Vec<Part>,
    attributes: usize,
    t_max: u32,
}

/// One batch.
struct Part {
    batch: Batch,
    latents: Vec<u64>,
    /// Attributes and latents of other held-out pictures, where there is a classifier.
    other: Option<(Vec<u8>, Vec<u64>)>,
    t: Vec<u32>,
    /// Pictures that count; the last batch is filled up.
    valid: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Mean squared error of the noise.
    pub loss: f64,
    /// The same by noise level; levels that no picture has are left out.
    pub levels: Vec<(Level, f64)>,
    /// What the classifier reads, if the network has one.
    pub classifier: Option<ClassifierScores>,
}

impl HeldOut {
    /// Up to 256 held-out pictures of `data`, evenly spread; `None` if nothing is held out.
    ///
    /// # Errors
    /// Operands that do not fit; not enough memory.
    pub fn new(setup: &Setup, data: &Packed, device: &Device) -> Result<Option<Self>, StepError> {
        let indices = data.held_out_indices();
        let count = indices.len().min(PICTURES);
        if count == 0 {
            return Ok(None);
        }
        let config = &setup.config;
        let batch = (config.batch.div_ceil(config.micro_batches) as usize).min(count);
        let pick = |i: usize| indices[i * indices.len() / count] as usize;
        let parts = (0..count)
            .step_by(batch)
            .map(|first| {
                let slots: Vec<usize> = (first..first + batch).map(|i| i.min(count - 1)).collect();
                Part::new(setup, data, &pick, &slots, count)
            })
            .collect();
        Ok(Some(Self {
            program: LossProbe::new(&setup.recipe(), batch, device)?,
            parts,
            attributes: data.attribute_names().len(),
            t_max: setup.schedule.t_max(),
        }))
    }

    /// Measures all pictures under `weights`.
    ///
    /// # Errors
    /// The device's.
    pub fn measure(
        &mut self,
        state: &mut State,
        weights: Arena,
    ) -> Result<Measurement, DeviceError> {
        let k = self.attributes;
        let mut levels = Levels::new(self.t_max);
        let mut scores: Option<ClassifierScores> = None;
        for part in &self.parts {
            let Part { batch, valid, .. } = part;
            let labels = || batch.attributes.chunks(k).take(*valid);
            let tokens = Tokens {
                attributes: &batch.attributes,
                latents: &part.latents,
            };
            let own = self.program.run((state, weights), batch, tokens, &part.t)?;
            for (&loss, &t) in own.losses[..*valid].iter().zip(&part.t) {
                levels.add(t, loss);
            }
            let (Some(logits), Some((attributes, latents))) = (own.logits, &part.other) else {
                continue;
            };
            let scores = scores.get_or_insert_default();
            for (logits, labels) in logits.chunks(k).zip(labels()) {
                scores.own.add(logits, labels);
            }
            let tokens = Tokens {
                attributes,
                latents,
            };
            let other = self.program.run((state, weights), batch, tokens, &part.t)?;
            let logits = other.logits.unwrap_or_default();
            let pictures = logits.chunks(k).zip(labels()).zip(attributes.chunks(k));
            for ((logits, labels), tokens) in pictures {
                scores.add_other(logits, labels, tokens);
            }
        }
        Ok(Measurement {
            loss: levels.mean(),
            levels: levels.means(),
            classifier: scores,
        })
    }
}

impl Part {
    /// The pictures in `slots` of `count`; `pick` gives a slot's picture in `data`.
    fn new(
        setup: &Setup,
        data: &Packed,
        pick: &impl Fn(usize) -> usize,
        slots: &[usize],
        count: usize,
    ) -> Self {
        let t_max = u64::from(setup.schedule.t_max());
        // Time steps are spread evenly, in an order unrelated to the pictures'.
        let t = |i: usize| {
            ((((i as u64 * 89) % count as u64) * 2 + 1) * t_max / (2 * count as u64)) as u32
        };
        let attributes = |slots: &[usize]| -> Vec<u8> {
            let rows = slots.iter().map(|&i| data.attributes(pick(i)));
            rows.flatten().copied().collect()
        };
        let rows =
            |slots: &[usize]| -> Vec<u64> { slots.iter().map(|&i| data.row(pick(i))).collect() };
        let images = slots.iter().map(|&i| data.image(pick(i)));
        let batch = Batch {
            images: images.flatten().copied().collect(),
            attributes: attributes(slots),
            rows: rows(slots),
            first_sample: FIRST_SAMPLE + slots[0] as u64,
        };
        let samples: Vec<u64> = (batch.first_sample..).take(slots.len()).collect();
        let fresh = setup.config.latent == LatentKind::Fresh;
        // The picture half way round: with two or more it is another.
        let others: Vec<usize> = slots
            .iter()
            .map(|&i| (i + count.div_ceil(2)) % count)
            .collect();
        let other = setup.classifier.is_some().then(|| {
            let latents = if fresh {
                samples.clone()
            } else {
                rows(&others)
            };
            (attributes(&others), latents)
        });
        Self {
            latents: if fresh { samples } else { batch.rows.clone() },
            other,
            t: slots.iter().map(|&i| t(i)).collect(),
            valid: (count - slots[0]).min(slots.len()),
            batch,
        }
    }
}
