//! The recorded programs of the attribute network: a step of its training, and a look at pictures.

use super::{AttributeError, BATCH, Seen};
use crate::data::Batch;
use crate::device::Device;
use crate::gmm::entropy::{EntropySpec, Variant};
use crate::model::attribute_net::{AttributeNet, AttributeOutputs};
use crate::ops::adamw::{AdamWConfig, adamw};
use crate::ops::add;
use crate::ops::attribute_loss::{attribute_loss, entropy_loss};
use crate::ops::unpack::Unpack;
use crate::rng::split;
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use crate::train::config::RunConfig;

/// Inputs that both programs share, and the pictures made of them.
struct Feed {
    images: Var,
    seed: Var,
    samples: Var,
    pictures: Var,
}

impl Feed {
    fn record(tape: &mut Tape, size: usize, batch: usize, flip: bool) -> Result<Self, TapeError> {
        let images = tape.input("images", TensorType::u8(&[batch, size, size, 3]));
        let seed = tape.input("seed", TensorType::u32(&[2]));
        let samples = tape.input("samples", TensorType::u32(&[batch, 2]));
        let pictures = tape.push_one(Unpack { flip }, &[images, seed, samples])?;
        Ok(Self {
            images,
            seed,
            samples,
            pictures,
        })
    }
}

/// The training step.
pub struct Learning {
    exe: Executable,
    feed: Feed,
    attributes: Var,
    rates: Var,
    loss: Var,
}

impl Learning {
    pub fn new(
        net: &AttributeNet,
        config: &RunConfig,
        device: &Device,
    ) -> Result<Self, AttributeError> {
        let (batch, k) = (config.batch as usize, net.attributes());
        let mut tape = Tape::new();
        let feed = Feed::record(&mut tape, net.size(), batch, config.flip)?;
        let attributes = tape.input("attributes", TensorType::u8(&[batch, k]));
        let rates = tape.input("rates", TensorType::f32(&[2]));
        let logits = net.record(&mut tape, feed.pictures, true)?.logits;
        let bce = EntropySpec {
            variant: Variant::Bce,
            ..EntropySpec::default()
        };
        let bce = entropy_loss(bce, k)?;
        let [loss, _] = attribute_loss(&mut tape, logits, attributes, bce, 1.0)?;
        tape.backward(&[loss], add::sum)?;
        let optimizer = AdamWConfig {
            betas: config.betas,
            eps: config.eps,
            weight_decay: config.weight_decay,
            clip: Some(config.clip),
        };
        adamw(&mut tape, net.table().elements(), rates, optimizer)?;
        tape.keep(loss);
        Ok(Self {
            exe: Executable::new(tape, device.clone())?,
            feed,
            attributes,
            rates,
            loss,
        })
    }

    pub fn run(
        &mut self,
        state: &mut State,
        batch: &Batch,
        seed: u64,
        rates: [f64; 2],
    ) -> Result<f64, DeviceError> {
        let samples = batch.first_sample..batch.first_sample + batch.rows.len() as u64;
        let samples: Vec<u32> = samples.flat_map(split).collect();
        self.exe.write(self.feed.images, &batch.images)?;
        self.exe.write(self.feed.seed, &split(seed))?;
        self.exe.write(self.feed.samples, &samples)?;
        self.exe.write(self.attributes, &batch.attributes)?;
        self.exe.write(self.rates, &rates.map(|r| r as f32))?;
        self.exe.run(state, Arena::Params)?;
        Ok(self.exe.read(self.loss)?[0].into())
    }
}

/// The program that looks at pictures.
pub struct Looking {
    exe: Executable,
    feed: Feed,
    out: AttributeOutputs,
    /// Values of a picture.
    pub elements: usize,
    /// Features of a picture.
    pub width: usize,
}

impl Looking {
    pub fn new(net: &AttributeNet, device: &Device) -> Result<Self, AttributeError> {
        let mut tape = Tape::new();
        let feed = Feed::record(&mut tape, net.size(), BATCH, false)?;
        let out = net.record(&mut tape, feed.pictures, false)?;
        tape.keep(out.logits);
        tape.keep(out.features);
        let width = tape.ty(out.features).channels();
        let mut exe = Executable::new(tape, device.clone())?;
        exe.write(feed.seed, &[0_u32; 2])?;
        exe.write(feed.samples, &[0_u32; 2 * BATCH])?;
        Ok(Self {
            exe,
            feed,
            out,
            elements: net.size() * net.size() * 3,
            width,
        })
    }

    /// Looks at up to a batch of pictures; the rest of the batch is grey.
    pub fn run(
        &mut self,
        state: &mut State,
        pictures: &[u8],
        seen: &mut Seen,
    ) -> Result<(), DeviceError> {
        let count = pictures.len() / self.elements;
        let mut images = vec![128; BATCH * self.elements];
        images[..pictures.len()].copy_from_slice(pictures);
        self.exe.write(self.feed.images, &images)?;
        self.exe.run(state, Arena::Ema)?;
        let logits = self.exe.read(self.out.logits)?;
        let logits = &logits[..count * logits.len() / BATCH];
        seen.probabilities
            .extend(logits.iter().map(|&z| 1.0 / (1.0 + f64::from(-z).exp())));
        let features = self.exe.read(self.out.features)?;
        seen.features
            .extend(features[..count * self.width].iter().map(|&f| f64::from(f)));
        Ok(())
    }
}
