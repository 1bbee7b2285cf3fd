//! The model of a figure: a checkpoint that was given, or a run of its own.

use super::data::Data;
use super::{Context, ReproduceError, Scale};
use crate::data::Packed;
use crate::device::Device;
use crate::diffusion::generate::{Generator, Latents, Request};
use crate::diffusion::sampler::{Sampler, SamplerPlan};
use crate::evaluate::statistics::Pictures;
use crate::gmm::latent::LatentKind;
use crate::tape::Arena;
use crate::tape::state::State;
use crate::train::checkpoint::{self, Checkpoint, Part};
use crate::train::config::{DataKind, RunConfig, resume_difference};
use crate::train::length::Length;
use crate::train::machine::Machine;
use crate::train::metrics::{self, MetricsRow};
use crate::train::run_dir::RunDir;
use crate::train::setup::{self, Setup};
use crate::train::tensors::load;
use crate::train::trainer::{Observer, Start, Trainer};
use crate::train::trial::seconds_per_picture;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Pictures drawn at a time.
const BATCH: usize = 16;

/// How a figure's own model is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// The network.
    pub preset: &'static str,
    /// Steps.
    pub steps: u64,
    /// Pictures per step.
    pub batch: u64,
    /// Learning rate.
    pub lr: f64,
}

impl Training {
    /// The model of the overlapping features.
    pub fn features(scale: Scale) -> Self {
        match scale {
            Scale::Quick => Self {
                preset: "tiny",
                steps: 1500,
                batch: 16,
                lr: 1e-3,
            },
            Scale::Full => Self {
                preset: "celeba64",
                steps: 400_000,
                batch: 16,
                lr: 1e-4,
            },
        }
    }

    /// The model of the disjoint classes.
    pub fn classes(scale: Scale) -> Self {
        match scale {
            Scale::Quick => Self {
                steps: 1000,
                ..Self::features(scale)
            },
            Scale::Full => Self {
                preset: "cifar32",
                ..Self::features(scale)
            },
        }
    }

    /// The run's configuration on `data`.
    pub fn config(&self, data: &Data, seed: u64) -> RunConfig {
        let mut config = RunConfig::new(data.kind, self.preset);
        config.data_path = data.path.clone();
        config.attributes = data.attributes.clone();
        config.steps = Length::Steps(self.steps);
        config.batch = self.batch;
        config.lr = self.lr;
        config.seed = seed;
        // A page now and then, and no more than a few minutes lost.
        config.sample_every = Length::Steps((self.steps / 4).max(500));
        config.save_every = Length::Steps((self.steps / 10).clamp(1, 1000));
        config
    }

    /// Height and width of the preset's pictures.
    ///
    /// # Errors
    /// There is no such preset.
    pub fn size(&self) -> Result<usize, ReproduceError> {
        Ok(setup::preset(self.preset)?.config().sample_size)
    }
}

/// A trained denoiser and its pictures.
pub struct Model {
    /// What it computes with.
    pub setup: Setup,
    /// What it was trained on.
    pub data: Arc<Packed>,
    /// The data in words.
    pub about: String,
    /// Steps it was trained.
    pub step: u64,
    /// The run's metrics, where its folder was given.
    pub metrics: Vec<MetricsRow>,
    state: State,
    device: Device,
}

impl Model {
    /// The model in `checkpoint`, or the features' model trained into `OUT/models/features-PRESET`.
    ///
    /// # Errors
    /// See [`ReproduceError`].
    pub fn features(
        checkpoint: Option<&Path>,
        training: Training,
        context: &mut Context<'_>,
    ) -> Result<Self, ReproduceError> {
        if let Some(path) = checkpoint {
            return Self::open(path, context);
        }
        let data = Data::faces(context, training.size()?)?;
        let config = training.config(&data, context.seed);
        let name = format!("features-{}", training.preset);
        Self::train(&name, config, &data, context)
    }

    /// The model of a checkpoint file or a run's folder, with its data.
    ///
    /// # Errors
    /// The checkpoint cannot be read, or its data is not there or has other attributes.
    pub fn open(path: &Path, context: &mut Context<'_>) -> Result<Self, ReproduceError> {
        let found = checkpoint::resolve(path)?;
        if let Some(note) = &found.note {
            context.progress.say(&format!("note: {note}"));
        }
        let checkpoint = Checkpoint::open(&found.path)?;
        let config = &checkpoint.info().config;
        let size = setup::network(config)?.sample_size;
        let folder = match config.data {
            DataKind::Faces => None,
            _ => context.data.clone().or(config.data_path.clone()),
        };
        let data = Data::open(
            config.data,
            folder,
            config.attributes.clone(),
            size,
            context,
        )?;
        let run = found.path.parent().and_then(Path::parent);
        Self::ready(&checkpoint, &data, run, context)
    }

    /// The run `OUT/models/NAME`: used where it is finished, gone on with where it is not, begun where
    /// there is none.
    ///
    /// # Errors
    /// The folder holds another run; training fails.
    pub fn train(
        name: &str,
        config: RunConfig,
        data: &Data,
        context: &mut Context<'_>,
    ) -> Result<Self, ReproduceError> {
        let folder = context.out.join("models").join(name);
        let setup = Setup::for_data(config, &data.packed)?;
        let (run, last) = open_run(&folder, &setup)?;
        let taken = last.as_ref().map_or(0, |c| c.info().counters.step);
        if taken < setup.config.total_steps() {
            let memory = setup.check_memory(&context.device)?;
            Machine::new(&context.device, memory).save(&run.machine())?;
            announce(&setup, data, &folder, taken, context)?;
            let packed = data.packed.clone();
            let device = context.device.clone();
            let start = last.map_or(Start::New, Start::Resume);
            let mut trainer = Trainer::new(&setup, &run, packed, &start, &device)?;
            let mut watcher = Watcher { context };
            // Ctrl-C ends the program; what was saved last is gone on with.
            trainer.train(&AtomicBool::new(false), &mut watcher)?;
        }
        let found = checkpoint::resolve(&folder)?;
        let checkpoint = Checkpoint::open(&found.path)?;
        Self::ready(&checkpoint, data, Some(&folder), context)
    }

    fn ready(
        checkpoint: &Checkpoint,
        data: &Data,
        run: Option<&Path>,
        context: &Context<'_>,
    ) -> Result<Self, ReproduceError> {
        let info = checkpoint.info();
        if info.attribute_names != data.packed.attribute_names() {
            return Err(ReproduceError::OtherAttributes {
                checkpoint: checkpoint.path().to_path_buf(),
                data: data.about.clone(),
            });
        }
        let setup = Setup::for_data(info.config.clone(), &data.packed)?;
        let state = load::<ReproduceError>(checkpoint, setup.net.table(), &[Part::Ema])?;
        let rows = run.map(|run| run.join("metrics.jsonl"));
        let metrics = match rows.filter(|path| path.is_file()) {
            Some(path) => metrics::read(&path)?,
            None => Vec::new(),
        };
        Ok(Self {
            setup,
            data: data.packed.clone(),
            about: data.about.clone(),
            step: info.counters.step,
            metrics,
            state,
            device: context.device.clone(),
        })
    }

    /// Height and width of its pictures.
    pub fn size(&self) -> usize {
        self.setup.net.config().sample_size
    }

    /// The latents that training assigned to its pictures.
    ///
    /// # Errors
    /// It was trained with fresh ones.
    pub fn assigned(&self) -> Result<Latents, ReproduceError> {
        match self.setup.config.latent {
            LatentKind::Fresh => Err(ReproduceError::NoAssignedLatents),
            LatentKind::Fixed | LatentKind::Gaussian => Ok(Latents::Assigned {
                seed: self.setup.config.seed,
            }),
        }
    }

    /// The path of a sampler of `steps` steps, at most T; `None`: all T.
    ///
    /// # Errors
    /// No steps.
    pub fn plan(
        &self,
        sampler: Sampler,
        steps: Option<u32>,
    ) -> Result<SamplerPlan, ReproduceError> {
        let t_max = self.setup.schedule.t_max();
        let steps = steps.map_or(t_max, |steps| steps.min(t_max));
        let schedule = &self.setup.schedule;
        Ok(SamplerPlan::new(schedule, sampler, steps, Some(1.0))?)
    }

    /// Draws one picture per request from latents of this kind; noise is numbered from `first` under the
    /// figure's seed.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn draw(
        &mut self,
        latents: Latents,
        plan: &SamplerPlan,
        (first, requests): (u64, &[Request]),
        context: &mut Context<'_>,
    ) -> Result<Pictures, ReproduceError> {
        self.draw_watched(latents, plan, (first, requests), context, &mut |_, _, _| ())
    }

    /// [`Model::draw`]; `watch` sees step, estimates of the pictures and the number of the first.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn draw_watched(
        &mut self,
        latents: Latents,
        plan: &SamplerPlan,
        (first, requests): (u64, &[Request]),
        context: &mut Context<'_>,
        watch: &mut dyn FnMut(usize, &[f32], usize),
    ) -> Result<Pictures, ReproduceError> {
        let Setup {
            net, conditioning, ..
        } = &self.setup;
        let batch = requests.len().min(BATCH);
        let mut generator =
            Generator::with_latents(net, conditioning, latents, batch, &self.device)?;
        let total = (plan.steps().len() * requests.len().div_ceil(batch.max(1))) as u64;
        let mut done = 0;
        let (seed, weights) = (context.seed, (&mut self.state, Arena::Ema));
        let drawn = generator.draw(weights, plan, (seed, first), requests, |step, x0, at| {
            done += 1;
            context.progress.at(done, total, "sampling");
            watch(step, x0, at);
            true
        });
        Ok(Pictures {
            data: drawn?,
            size: self.size(),
        })
    }

    /// Training picture number `position` of `count` that are spread evenly over all: its place in the
    /// data.
    pub fn training_picture(&self, position: usize, count: usize) -> usize {
        let indices = self.data.train_indices();
        indices[position * indices.len() / count.max(1) % indices.len().max(1)] as usize
    }

    /// Pictures of the data as the network sees them.
    pub fn pictures(&self, indices: &[usize]) -> Pictures {
        let bytes = indices.iter().map(|&i| self.data.image(i));
        Pictures::from_bytes(bytes, self.size())
    }

    /// "tiny on celeba, trained 3000 steps".
    pub fn title(&self) -> String {
        format!(
            "{} on {}, trained {} steps of {}",
            self.setup.config.preset, self.about, self.step, self.setup.config.batch
        )
    }

    /// How often training has seen each picture, on average.
    pub fn epochs(&self) -> f64 {
        let seen = (self.step * self.setup.config.batch) as f64;
        seen / self.data.train_indices().len().max(1) as f64
    }
}

/// The run in `folder`, begun if there is none, and its newest checkpoint.
fn open_run(folder: &Path, setup: &Setup) -> Result<(RunDir, Option<Checkpoint>), ReproduceError> {
    if !folder.join("config.toml").is_file() {
        let run = RunDir::create(folder)?;
        setup.config.save(&run.config())?;
        return Ok((run, None));
    }
    let run = RunDir::resume(folder)?;
    let saved = RunConfig::load(&run.config())?;
    let other = |reason: String| ReproduceError::OtherRun {
        folder: folder.to_path_buf(),
        reason,
    };
    resume_difference(&saved, &setup.config).map_err(|e| other(e.to_string()))?;
    if checkpoint::list(&run.checkpoints())?.is_empty() {
        return Ok((run, None));
    }
    let last = Checkpoint::open(&checkpoint::resolve(folder)?.path)?;
    let (taken, total) = (last.info().counters.step, setup.config.total_steps());
    if taken > total {
        let reason = format!("it has taken {taken} steps, more than {total}");
        return Err(other(reason));
    }
    if saved != setup.config {
        setup.config.save(&run.config())?;
    }
    Ok((run, Some(last)))
}

/// Says that training comes first, and how long it will take.
fn announce(
    setup: &Setup,
    data: &Data,
    folder: &Path,
    taken: u64,
    context: &mut Context<'_>,
) -> Result<(), ReproduceError> {
    let config = &setup.config;
    let (_, seconds) = seconds_per_picture(setup, &context.device)?;
    let left = (config.total_steps() - taken) * config.batch;
    let minutes = left as f64 * seconds / 60.0;
    let verb = if taken == 0 {
        "training first"
    } else {
        "going on with training first"
    };
    context.progress.say(&format!(
        "{verb}: {} on {}, steps {taken} to {} of {}, about {}, into {}",
        config.preset,
        data.about,
        config.total_steps(),
        config.batch,
        if minutes < 90.0 {
            format!("{minutes:.0} minutes")
        } else {
            format!("{:.1} hours", minutes / 60.0)
        },
        folder.display()
    ));
    Ok(())
}

struct Watcher<'a, 'b> {
    context: &'a mut Context<'b>,
}

impl Observer for Watcher<'_, '_> {
    fn step(&mut self, step: u64, total: u64, _: f64, _: f64) {
        self.context.progress.at(step, total, "training");
    }

    fn logged(&mut self, _: &MetricsRow) {}

    fn note(&mut self, text: &str) {
        self.context.progress.say(text);
    }
}
