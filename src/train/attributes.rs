//! The attribute network's training and use. It learns from real pictures alone and from no denoiser,
//! so that it can say what a denoiser has drawn.

use super::checkpoint::{
    Checkpoint, CheckpointError, CheckpointInfo, Counters, Part, TensorSource, TensorSpec,
    write_file,
};
use super::config::{DataKind, RunConfig, resume_difference};
use super::length::Length;
use super::step::StepError;
use super::tensors::{StateTensors, restore};
use crate::data::{Batch, DataError, Loader, Packed};
use crate::device::pool::Pool;
use crate::gmm::entropy::{EntropyError, EntropySpec, Variant};
use crate::model::attribute_net::{AttributeNet, AttributeOutputs};
use crate::ops::adamw::{AdamWConfig, COUNTERS, adamw};
use crate::ops::add;
use crate::ops::attribute_loss::{attribute_loss, entropy_loss};
use crate::ops::unpack::Unpack;
use crate::report::picture::to_byte;
use crate::rng::split;
use crate::tape::executable::{DeviceError, Executable};
use crate::tape::state::State;
use crate::tape::{Arena, Tape, TapeError, TensorType, Var};
use std::path::Path;
use std::sync::Arc;

/// The attribute network cannot be trained or read.
#[derive(Debug, thiserror::Error)]
pub enum AttributeError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network's program.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// The loss.
    #[error(transparent)]
    Loss(#[from] EntropyError),
    /// The file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The caller asked to stop.
    #[error("stopped while training the attribute network; nothing of it was kept")]
    Stopped,
    /// There is nothing to measure it on.
    #[error(
        "the attribute network is measured on held-out pictures, but none is held out; expected a data set with some"
    )]
    NoHeldOut,
}

impl From<TapeError> for AttributeError {
    fn from(error: TapeError) -> Self {
        Self::Step(error.into())
    }
}

/// Name of the network in its file.
const NAME: &str = "attribute-net";
/// Pictures that are looked at together.
const BATCH: usize = 32;

/// The settings of the network's training on a data set.
pub fn config(data: DataKind, path: Option<&Path>, steps: u64, seed: u64) -> RunConfig {
    let mut config = RunConfig::new(data, NAME);
    config.data_path = path.map(Path::to_path_buf);
    config.steps = Length::Steps(steps);
    config.batch = BATCH as u64;
    config.lr = 2e-3;
    config.seed = seed;
    config
}

/// How well the network does on pictures that it has not learnt from.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// Pictures measured.
    pub pictures: usize,
    /// Share of the pictures on which an attribute is named right, K.
    pub accuracy: Vec<f64>,
    /// Share of the pictures on which its commoner value would have been right, K.
    pub base: Vec<f64>,
    /// Mean squared error of its probability, K; their sum is the SSE of a picture.
    pub squared_error: Vec<f64>,
}

impl HeldOut {
    /// Mean accuracy over the attributes.
    pub fn mean_accuracy(&self) -> f64 {
        self.accuracy.iter().sum::<f64>() / self.accuracy.len().max(1) as f64
    }

    /// Squared error of a picture, summed over its attributes.
    pub fn sse(&self) -> f64 {
        self.squared_error.iter().sum()
    }
}

/// What the network says of pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Probability of each attribute, pictures x K.
    pub probabilities: Vec<f64>,
    /// Features, pictures x C.
    pub features: Vec<f64>,
}

/// A trained network that looks at pictures.
pub struct AttributeClassifier {
    net: AttributeNet,
    names: Vec<String>,
    config: RunConfig,
    state: State,
    looking: Looking,
    held_out: HeldOut,
}

impl AttributeClassifier {
    /// Trains a network on the training pictures of `data`; `watch` sees (step, steps, loss) and stops
    /// the training by returning false.
    ///
    /// # Errors
    /// See [`AttributeError`].
    pub fn train(
        config: &RunConfig,
        data: &Arc<Packed>,
        pool: &Arc<Pool>,
        watch: &mut dyn FnMut(u64, u64, f64) -> bool,
    ) -> Result<Self, AttributeError> {
        let net = AttributeNet::new(data.size() as usize, data.attribute_names().len());
        let mut state = State::default();
        let arenas = [
            Arena::Params,
            Arena::Grads,
            Arena::AdamM,
            Arena::AdamV,
            Arena::Ema,
        ];
        for arena in arenas {
            state.allocate(arena, net.table().elements())?;
        }
        state.allocate(Arena::Counters, COUNTERS)?;
        net.table()
            .initialise(config.seed, state.get_mut(Arena::Params));
        let mut learning = Learning::new(&net, config, pool)?;
        let mut loader = Loader::new(data.clone(), config.batch as usize, config.seed, 0)?;
        let total = config.total_steps();
        let mut mean = None;
        for step in 1..=total {
            let batch = loader.next()?;
            let decay = config.ema_decay(batch.first_sample);
            let loss = learning.run(&mut state, batch, config.seed, [config.lr, decay])?;
            let smooth = mean.map_or(loss, |mean: f64| mean + 0.05 * (loss - mean));
            mean = Some(smooth);
            if !watch(step, total, smooth) {
                return Err(AttributeError::Stopped);
            }
        }
        Self::ready(net, config.clone(), state, data, pool)
    }

    /// The network in the file `path`, if it was trained with this configuration on these attributes;
    /// `None` where there is no such file or it is another's.
    ///
    /// # Errors
    /// See [`AttributeError`]: a damaged file, not enough memory.
    pub fn load(
        path: &Path,
        config: &RunConfig,
        data: &Arc<Packed>,
        pool: &Arc<Pool>,
    ) -> Result<Option<Self>, AttributeError> {
        if !path.exists() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(path)?;
        let info = checkpoint.info();
        if resume_difference(&info.config, config).is_err()
            || info.counters.step != config.total_steps()
            || info.attribute_names != data.attribute_names()
        {
            return Ok(None);
        }
        let net = AttributeNet::new(data.size() as usize, data.attribute_names().len());
        let mut state = State::default();
        state.allocate(Arena::Params, net.table().elements())?;
        state.allocate(Arena::Ema, net.table().elements())?;
        restore(
            &checkpoint,
            net.table(),
            &mut state,
            &[Part::Weight, Part::Ema],
        )?;
        Self::ready(net, config.clone(), state, data, pool).map(Some)
    }

    /// Writes weights and averaged weights.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AttributeError> {
        let steps = self.config.total_steps();
        let info = CheckpointInfo {
            config: self.config.clone(),
            counters: Counters {
                step: steps,
                images_seen: steps * self.config.batch,
                adam_step: steps,
                skipped: 0,
            },
            attribute_names: self.names.clone(),
            attribute_rows: Vec::new(),
            network: serde_json::json!({
                "network": NAME,
                "sample_size": self.net.size(),
                "attributes": self.net.attributes(),
            }),
        };
        let mut tensors = Weights(StateTensors::new(self.net.table(), &self.state));
        Ok(write_file(path, &mut tensors, &info)?)
    }

    fn ready(
        net: AttributeNet,
        config: RunConfig,
        state: State,
        data: &Packed,
        pool: &Arc<Pool>,
    ) -> Result<Self, AttributeError> {
        let looking = Looking::new(&net, pool)?;
        let held_out = HeldOut {
            pictures: 0,
            accuracy: Vec::new(),
            base: Vec::new(),
            squared_error: Vec::new(),
        };
        let names = data.attribute_names().to_vec();
        let mut ready = Self {
            net,
            names,
            config,
            state,
            looking,
            held_out,
        };
        ready.held_out = ready.measure(data)?;
        Ok(ready)
    }

    /// How well it does on held-out pictures.
    pub fn held_out(&self) -> &HeldOut {
        &self.held_out
    }

    /// Number of features of a picture.
    pub fn features(&self) -> usize {
        self.looking.width
    }

    /// What it says of pictures, `[pictures, size, size, 3]` bytes.
    ///
    /// # Errors
    /// The device's.
    pub fn look(&mut self, pictures: &[u8]) -> Result<Seen, DeviceError> {
        let mut seen = Seen::default();
        for chunk in pictures.chunks(BATCH * self.looking.elements) {
            self.looking.run(&mut self.state, chunk, &mut seen)?;
        }
        Ok(seen)
    }

    /// [`AttributeClassifier::look`] at pictures in `[-1, 1]`, rounded to bytes as a file would be.
    ///
    /// # Errors
    /// The device's.
    pub fn look_at_samples(&mut self, pictures: &[f32]) -> Result<Seen, DeviceError> {
        let bytes: Vec<u8> = pictures.iter().map(|&x| to_byte(x)).collect();
        self.look(&bytes)
    }

    /// Measures it on the held-out pictures of `data`.
    fn measure(&mut self, data: &Packed) -> Result<HeldOut, AttributeError> {
        let indices = data.held_out_indices();
        if indices.is_empty() {
            return Err(AttributeError::NoHeldOut);
        }
        let (k, n) = (self.names.len(), indices.len() as f64);
        let mut sums = vec![[0.0; 3]; k];
        for chunk in indices.chunks(BATCH) {
            let images: Vec<u8> = chunk
                .iter()
                .flat_map(|&i| data.image(i as usize).iter().copied())
                .collect();
            let seen = self.look(&images)?;
            for (&i, row) in chunk.iter().zip(seen.probabilities.chunks(k)) {
                let truth = data.attributes(i as usize);
                for ((sum, p), &y) in sums.iter_mut().zip(row).zip(truth) {
                    let y = f64::from(y);
                    sum[0] += f64::from((*p >= 0.5) == (y == 1.0));
                    sum[1] += y;
                    sum[2] += (p - y).powi(2);
                }
            }
        }
        Ok(HeldOut {
            pictures: indices.len(),
            accuracy: sums.iter().map(|s| s[0] / n).collect(),
            base: sums
                .iter()
                .map(|s| (s[1] / n).max(1.0 - s[1] / n))
                .collect(),
            squared_error: sums.iter().map(|s| s[2] / n).collect(),
        })
    }
}

/// The tensors of a finished network: nothing of the optimizer.
struct Weights<'a>(StateTensors<'a>);

impl TensorSource for Weights<'_> {
    fn tensors(&self) -> &[TensorSpec] {
        self.0.tensors()
    }

    fn parts(&self) -> &[Part] {
        &[Part::Weight, Part::Ema]
    }

    fn read(
        &mut self,
        part: Part,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.read(part, index, out)
    }
}

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
struct Learning {
    exe: Executable,
    feed: Feed,
    attributes: Var,
    rates: Var,
    loss: Var,
}

impl Learning {
    fn new(
        net: &AttributeNet,
        config: &RunConfig,
        pool: &Arc<Pool>,
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
            exe: Executable::new(tape, pool.clone())?,
            feed,
            attributes,
            rates,
            loss,
        })
    }

    fn run(
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
struct Looking {
    exe: Executable,
    feed: Feed,
    out: AttributeOutputs,
    elements: usize,
    width: usize,
}

impl Looking {
    fn new(net: &AttributeNet, pool: &Arc<Pool>) -> Result<Self, AttributeError> {
        let mut tape = Tape::new();
        let feed = Feed::record(&mut tape, net.size(), BATCH, false)?;
        let out = net.record(&mut tape, feed.pictures, false)?;
        tape.keep(out.logits);
        tape.keep(out.features);
        let width = tape.ty(out.features).channels();
        let mut exe = Executable::new(tape, pool.clone())?;
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
    fn run(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ProceduralFaces, open_or_pack};

    fn faces(folder: &Path) -> Arc<Packed> {
        let faces = ProceduralFaces::new(2, 1000);
        Arc::new(open_or_pack(&faces, 16, folder, &mut |_| ()).unwrap())
    }

    /// The squared error of a constant guess of the right share is share (1 - share), summed over the
    /// attributes.
    #[test]
    fn it_learns_what_a_constant_guess_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let (data, pool) = (faces(folder.path()), Arc::new(Pool::new(2).unwrap()));
        let config = config(DataKind::Faces, None, 400, 1);
        let mut losses = Vec::new();
        let mut watch = |_, _, loss| {
            losses.push(loss);
            true
        };
        let mut trained = AttributeClassifier::train(&config, &data, &pool, &mut watch).unwrap();
        assert!(
            (losses[0] - 2.0_f64.ln()).abs() < 1e-6,
            "a new network gives every attribute a half"
        );
        let held_out = trained.held_out().clone();
        let constant: f64 = held_out.base.iter().map(|b| b * (1.0 - b)).sum();
        assert!(
            held_out.sse() < 0.85 * constant,
            "SSE {} of a constant's {constant}",
            held_out.sse()
        );
        let path = folder.path().join("net.safetensors");
        trained.save(&path).unwrap();
        let mut read = AttributeClassifier::load(&path, &config, &data, &pool)
            .unwrap()
            .unwrap();
        assert_eq!(read.held_out(), &held_out);
        // A batch and a part of one.
        let pictures: Vec<u8> = (0..40).flat_map(|i| data.image(i)).copied().collect();
        let (one, other) = (
            trained.look(&pictures).unwrap(),
            read.look(&pictures).unwrap(),
        );
        assert_eq!(one, other);
        assert_eq!(one.probabilities.len(), 40 * 40);
        assert_eq!(one.features.len(), 40 * trained.features());
        let alone = trained.look(data.image(35)).unwrap();
        assert_eq!(alone.probabilities, one.probabilities[35 * 40..36 * 40]);
        let longer = super::config(DataKind::Faces, None, 251, 1);
        let other = AttributeClassifier::load(&path, &longer, &data, &pool).unwrap();
        assert!(other.is_none(), "another configuration is another network");
    }

    #[test]
    fn stopping_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (data, pool) = (faces(folder.path()), Arc::new(Pool::new(1).unwrap()));
        let config = config(DataKind::Faces, None, 5, 1);
        let stopped = AttributeClassifier::train(&config, &data, &pool, &mut |_, _, _| false);
        assert!(matches!(stopped, Err(AttributeError::Stopped)));
    }
}
