//! The attribute network's training and use. It learns from real pictures alone and from no denoiser,
//! so that it can say what a denoiser has drawn.

use super::agreement::Tally;
use crate::data::{DataError, Loader, Packed};
use crate::device::Device;
use crate::gmm::entropy::EntropyError;
use crate::model::attribute_net::AttributeNet;
use crate::ops::adamw::COUNTERS;
use crate::report::picture::to_byte;
use crate::tape::executable::DeviceError;
use crate::tape::state::State;
use crate::tape::{Arena, TapeError};
use crate::train::checkpoint::{
    Checkpoint, CheckpointError, CheckpointInfo, Counters, Part, TensorSource, TensorSpec,
    write_file,
};
use crate::train::config::{DataKind, RunConfig, resume_difference};
use crate::train::length::Length;
use crate::train::step::StepError;
use crate::train::tensors::{StateTensors, load};
use program::{Learning, Looking};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod program;

/// Most pixels a side of the pictures that a file may say it judges: those that are packed.
const LARGEST: usize = 8192;

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
    /// A checkpoint of something else.
    #[error("{}: no attribute classifier: {found}; expected a file that `gmmk train-classifier` wrote", path.display())]
    NoClassifier {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Pictures measured.
    pub pictures: usize,
    /// Each attribute, K.
    pub attributes: Vec<Tally>,
    /// Mean squared error of its probability, K; their sum is the SSE of a picture.
    pub squared_error: Vec<f64>,
}

impl HeldOut {
    /// Mean accuracy over the attributes.
    pub fn mean_accuracy(&self) -> f64 {
        self.mean(Tally::accuracy)
    }

    /// Mean accuracy of always naming an attribute's commoner value.
    pub fn mean_base(&self) -> f64 {
        self.mean(Tally::base)
    }

    fn mean(&self, of: impl Fn(&Tally) -> f64) -> f64 {
        self.attributes.iter().map(of).sum::<f64>() / self.attributes.len().max(1) as f64
    }

    /// Squared error of a picture, summed over its attributes.
    pub fn sse(&self) -> f64 {
        self.squared_error.iter().sum()
    }
}

/// What the file of a network says of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct About {
    network: String,
    sample_size: usize,
    attributes: usize,
    /// Whether a picture has exactly one attribute.
    one_hot: bool,
    held_out: HeldOut,
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
    one_hot: bool,
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
        device: &Device,
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
        let mut learning = Learning::new(&net, config, device)?;
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
        state.fetch()?;
        let (names, one_hot) = (data.attribute_names().to_vec(), data.one_hot());
        let mut trained = Self::ready(net, config.clone(), (names, one_hot), state, device)?;
        trained.held_out = trained.measure(data)?;
        Ok(trained)
    }

    /// The network in the file `path`.
    ///
    /// # Errors
    /// See [`AttributeError`]: no such file, a damaged one or another network's, not enough memory.
    pub fn open(path: &Path, device: &Device) -> Result<Self, AttributeError> {
        let checkpoint = Checkpoint::open(path)?;
        let info = checkpoint.info();
        let other = |found: String| AttributeError::NoClassifier {
            path: path.to_path_buf(),
            found,
        };
        if info.network.get("network") != Some(&Value::from(NAME)) {
            let preset = &info.config.preset;
            return Err(other(format!("it holds a network `{preset}`")));
        }
        let about: About = serde_json::from_value(info.network.clone())
            .map_err(|e| other(format!("its description is incomplete ({e})")))?;
        let k = info.attribute_names.len();
        let counts = [about.attributes, about.held_out.attributes.len()];
        if counts != [k; 2] || about.held_out.squared_error.len() != k {
            return Err(other(format!("{counts:?} attributes with {k} names")));
        }
        if !(1..=LARGEST).contains(&about.sample_size) {
            let size = about.sample_size;
            return Err(other(format!("pictures of {size} pixels a side")));
        }
        let net = AttributeNet::new(about.sample_size, k);
        let parts = [Part::Weight, Part::Ema];
        let state = load::<AttributeError>(&checkpoint, net.table(), &parts)?;
        let names = (info.attribute_names.clone(), about.one_hot);
        let mut read = Self::ready(net, info.config.clone(), names, state, device)?;
        read.held_out = about.held_out;
        Ok(read)
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
        device: &Device,
    ) -> Result<Option<Self>, AttributeError> {
        if !path.exists() {
            return Ok(None);
        }
        let read = match Self::open(path, device) {
            Ok(read) => read,
            Err(AttributeError::NoClassifier { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = resume_difference(&read.config, config).is_ok()
            && read.config.total_steps() == config.total_steps()
            && read.names == data.attribute_names()
            && read.size() == data.size() as usize;
        Ok(same.then_some(read))
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
            network: json!(About {
                network: NAME.to_owned(),
                sample_size: self.net.size(),
                attributes: self.net.attributes(),
                one_hot: self.one_hot,
                held_out: self.held_out.clone(),
            }),
        };
        let mut tensors = Weights(StateTensors::new(self.net.table(), &self.state));
        Ok(write_file(path, &mut tensors, &info)?)
    }

    fn ready(
        net: AttributeNet,
        config: RunConfig,
        (names, one_hot): (Vec<String>, bool),
        state: State,
        device: &Device,
    ) -> Result<Self, AttributeError> {
        Ok(Self {
            looking: Looking::new(&net, device)?,
            net,
            names,
            config,
            one_hot,
            state,
            held_out: HeldOut::default(),
        })
    }

    /// How it was trained.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Names of its attributes.
    pub fn attribute_names(&self) -> &[String] {
        &self.names
    }

    /// Height and width of the pictures that it looks at.
    pub fn size(&self) -> usize {
        self.net.size()
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

    /// Whether it sees each attribute in pictures with these probabilities, pictures x K: where a picture
    /// has exactly one, its most probable; otherwise those that are at least as probable as not.
    pub fn attributes(&self, probabilities: &[f64]) -> Vec<bool> {
        let k = self.names.len().max(1);
        let named = |row: &[f64]| -> Vec<bool> {
            if !self.one_hot {
                return row.iter().map(|&p| p >= 0.5).collect();
            }
            let most = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            (0..row.len()).map(|i| Some(i) == most).collect()
        };
        probabilities.chunks(k).flat_map(named).collect()
    }

    /// Measures it on the held-out pictures of `data`.
    fn measure(&mut self, data: &Packed) -> Result<HeldOut, AttributeError> {
        let indices = data.held_out_indices();
        if indices.is_empty() {
            return Err(AttributeError::NoHeldOut);
        }
        let (k, n) = (self.names.len(), indices.len() as f64);
        let mut attributes = vec![Tally::default(); k];
        let mut squared_error = vec![0.0; k];
        for chunk in indices.chunks(BATCH) {
            let images = chunk.iter().flat_map(|&i| data.image(i as usize));
            let seen = self.look(&images.copied().collect::<Vec<_>>())?;
            let named = self.attributes(&seen.probabilities);
            let rows = seen.probabilities.chunks(k).zip(named.chunks(k));
            for (&i, (probabilities, named)) in chunk.iter().zip(rows) {
                for (a, &y) in data.attributes(i as usize).iter().enumerate() {
                    attributes[a].add(y == 1, named[a]);
                    squared_error[a] += (probabilities[a] - f64::from(y)).powi(2) / n;
                }
            }
        }
        Ok(HeldOut {
            pictures: indices.len(),
            attributes,
            squared_error,
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

#[cfg(test)]
mod tests;
