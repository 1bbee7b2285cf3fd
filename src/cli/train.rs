//! `gmmk train`.

use super::batch_size::BatchSize;
use super::data::{self, DataName};
use super::device::{self, Choice, PrecisionName, Wish};
use super::eval::EvalEvery;
use super::terminal::{duration, say, stop_flag, warn};
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use gmmk::data::Packed;
use gmmk::device::Device;
use gmmk::diffusion::schedule::ScheduleSpec;
use gmmk::gmm::latent::{LatentKind, short_latent_warning};
use gmmk::model::{ConfigError, NetworkConfig};
use gmmk::report::files::human_bytes;
use gmmk::train::checkpoint::{self, Checkpoint};
use gmmk::train::classifier::ClassifierKind;
use gmmk::train::config::{DataKind, FeatureCode, RunConfig, network_table, resume_difference};
use gmmk::train::length::Length;
use gmmk::train::machine::Machine;
use gmmk::train::rate::RateSchedule;
use gmmk::train::run_dir::{RunDir, RunDirError};
use gmmk::train::setup::{self, Memory, Setup};
use gmmk::train::space::Space;
use gmmk::train::trainer::{Probe, Start, Trainer};
use gmmk::train::trial;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use watcher::Watcher;

mod from;
mod watcher;

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Code {
    /// Tokens carry a fixed code of their feature
    On,
    /// The paper as printed
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Classifier {
    /// No classifier
    None,
    /// Binary cross-entropy
    Bce,
    /// NGMG entropy: cross-entropy that weighs an attribute by its neighbours' errors
    Ngmg,
}

impl Classifier {
    fn kind(self) -> ClassifierKind {
        match self {
            Classifier::None => ClassifierKind::None,
            Classifier::Bce => ClassifierKind::Bce,
            Classifier::Ngmg => ClassifierKind::Ngmg,
        }
    }
}

/// Options of `gmmk train`; the defaults stand in the run's config.toml.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct TrainArgs {
    /// The data set
    #[arg(value_enum)]
    dataset: DataName,
    /// Its folder, or a zip of pictures [default: $GMMK_DATA, ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Attributes of the pictures of `folder`, a CSV file [default: the only one in --data]
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// The network: celeba64, cifar32, small64, tiny or nano [default: tiny; on a GPU celeba64, cifar32 for cifar10]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A run's config.toml to start from, or a network's config.json
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Begin with the weights of a checkpoint (a file, a run's folder, an imported model), and with its network
    #[arg(long, value_name = "PATH", conflicts_with_all = ["resume", "config", "preset"])]
    from: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long)]
    device: Option<Choice>,
    /// Number formats of a GPU [default: bf16, where there are tensor cores]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Launch a GPU's kernels one by one, not as a graph
    #[arg(long)]
    no_graph: bool,
    /// Convolutions on a CPU as the sums they are, not by Winograd's algorithm
    #[arg(long)]
    exact: bool,
    /// Length of the whole run: 4000, 4000steps or 64kimg [default: 20000steps]
    #[arg(long, value_name = "N")]
    steps: Option<Length>,
    /// Pictures per step; auto: as many as fit, a power of two up to 256 [default: 16]
    #[arg(long, value_name = "N|auto")]
    batch: Option<BatchSize>,
    /// Parts in which a step's pictures are taken, one after the other, to save memory [default: 1]
    #[arg(long, value_name = "N")]
    micro_batches: Option<u64>,
    /// Learning rate [default: 1e-4]
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// The learning rate rises from 0 over this length [default: 0]
    #[arg(long, value_name = "N")]
    warmup: Option<Length>,
    /// What it does then: constant, or cosine (to 0 at the run's end) [default: constant]
    #[arg(long, value_name = "KIND")]
    lr_schedule: Option<RateSchedule>,
    /// Half-life of the weights' average [default: 110kimg, at most a twentieth of what was seen]
    #[arg(long, value_name = "N")]
    ema_half_life: Option<Length>,
    /// Steps in a row without a finite gradient before the run gives up [default: 100]
    #[arg(long, value_name = "N")]
    max_skipped: Option<u64>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// CPU threads; 0 is one per core [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=4096))]
    threads: Option<u32>,
    /// Z of a picture: fixed, fresh at every visit, or fixed from one Gaussian [default: fixed]
    #[arg(long, value_name = "KIND")]
    latent: Option<LatentKind>,
    /// The code that tells features apart [default: on]
    #[arg(long, value_enum)]
    feature_code: Option<Code>,
    /// Share of pictures trained on without attributes, such as 0.1: what `sample --guidance` needs [default: 0]
    #[arg(long, value_name = "P")]
    token_dropout: Option<f64>,
    /// Noise schedule: constant:B[:T] or linear:B0:B1[:T] [default: the data set's]
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<ScheduleSpec>,
    /// Mirror training pictures at random [default: on]
    #[arg(long, value_enum)]
    flip: Option<Switch>,
    /// Loss of an attribute classifier at the bottleneck, trained along [default: none]
    #[arg(long, value_enum, value_name = "LOSS")]
    classifier: Option<Classifier>,
    /// Weight of the classifier's loss beside the noise's [default: 0.1]
    #[arg(long, value_name = "X")]
    classifier_weight: Option<f64>,
    /// Constant part of an attribute's weight in the ngmg loss; 0 is the pure NGMG loss [default: 1]
    #[arg(long, value_name = "X")]
    ngmg_floor: Option<f64>,
    /// A page of samples every so often [default: 500steps]
    #[arg(long, value_name = "N")]
    sample_every: Option<Length>,
    /// A checkpoint every so often [default: 500steps]
    #[arg(long, value_name = "N")]
    save_every: Option<Length>,
    #[command(flatten)]
    eval: EvalEvery,
    /// Name of the run, a folder in runs/ [default: DATASET-PRESET]
    #[arg(long, conflicts_with = "out")]
    name: Option<String>,
    /// Folder of the run
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run
    #[arg(long)]
    resume: bool,
    /// Print configuration, memory and estimated time; train nothing
    #[arg(long)]
    dry_run: bool,
}

impl TrainArgs {
    /// Puts the options that were given over `config`.
    fn apply(&self, config: &mut RunConfig) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        set(&mut config.steps, &self.steps);
        let batch = self.batch.and_then(BatchSize::number);
        set(&mut config.batch, &batch);
        set(&mut config.micro_batches, &self.micro_batches);
        set(&mut config.lr, &self.lr);
        set(&mut config.warmup, &self.warmup);
        set(&mut config.lr_schedule, &self.lr_schedule);
        set(&mut config.ema_half_life, &self.ema_half_life);
        set(&mut config.max_skipped, &self.max_skipped);
        set(&mut config.seed, &self.seed);
        set(&mut config.threads, &self.threads);
        set(&mut config.latent, &self.latent);
        set(&mut config.token_dropout, &self.token_dropout);
        set(&mut config.schedule, &self.schedule);
        set(
            &mut config.classifier,
            &self.classifier.map(Classifier::kind),
        );
        set(&mut config.classifier_weight, &self.classifier_weight);
        set(&mut config.ngmg_floor, &self.ngmg_floor);
        set(&mut config.sample_every, &self.sample_every);
        set(&mut config.save_every, &self.save_every);
        set(&mut config.device, &self.device.map(|d| d.to_string()));
        let precision = self.precision.map(|p| p.name().to_string());
        set(&mut config.precision, &precision);
        set(&mut config.exact, &self.exact.then_some(true));
        set(&mut config.flip, &self.flip.map(|f| f == Switch::On));
        let code = |c| match c {
            Code::On => FeatureCode::On,
            Code::None => FeatureCode::None,
        };
        set(&mut config.feature_code, &self.feature_code.map(code));
        if let Some(preset) = &self.preset {
            config.preset = preset.clone();
            config.network = None;
        }
        if self.data.is_some() {
            config.data_path = self.data.clone();
        }
        if self.attributes.is_some() {
            config.attributes = self.attributes.clone();
        }
    }

    /// Refuses options that this run has no use for.
    fn check_classifier(&self, config: &RunConfig) -> Result<()> {
        let kind = config.classifier;
        if self.classifier_weight.is_some() && kind == ClassifierKind::None {
            bail!("--classifier-weight without a classifier; add --classifier bce or ngmg");
        }
        if self.ngmg_floor.is_some() && kind != ClassifierKind::Ngmg {
            bail!("--ngmg-floor with the classifier `{kind}`; it belongs to --classifier ngmg");
        }
        Ok(())
    }

    /// The configuration of a new run.
    fn configure(&self) -> Result<RunConfig> {
        data::check_attributes(self.dataset, self.attributes.as_deref())?;
        let kind = data::resolve(self.dataset.kind(), self.data.as_deref())?;
        let mut config = RunConfig::new(kind, self.default_preset(kind));
        // A CPU makes about a thousandth of the paper's run in the time that people wait.
        config.steps = Length::Steps(20_000);
        config.sample_every = Length::Steps(500);
        config.save_every = Length::Steps(500);
        if let Some(path) = &self.config {
            config = match path.extension().and_then(|e| e.to_str()) {
                Some("json") => {
                    let network = NetworkConfig::load(path).map_err(|error| match error {
                        ConfigError::Key { .. } => anyhow!("{}: {error}", path.display()),
                        other => other.into(),
                    })?;
                    config.network = Some(network_table(&network.to_json())?);
                    config.preset = path
                        .file_stem()
                        .map_or_else(String::new, |s| s.to_string_lossy().into());
                    config
                }
                _ => RunConfig::load(path)?,
            };
            if config.data != kind {
                bail!(
                    "{} is for {}, but this run is on {kind}",
                    path.display(),
                    config.data
                );
            }
        }
        if let Some(path) = &self.from {
            from::configure(&mut config, path, self.classifier.map(Classifier::kind))?;
        }
        self.apply(&mut config);
        self.check_classifier(&config)?;
        config.validate()?;
        Ok(config)
    }

    /// Puts what the memory holds in the place of `--batch auto`.
    fn choose_batch(&self, setup: &mut Setup, device: &Device) -> Result<()> {
        if self.batch == Some(BatchSize::Auto) {
            let batch = setup.auto_batch(device)?;
            warn(&format!("--batch auto: {batch} pictures per step"));
            setup.config.batch = batch;
            setup.config.validate()?;
        }
        Ok(())
    }

    /// The paper's network on a GPU; on a CPU one that shows something within minutes.
    fn default_preset(&self, data: DataKind) -> &'static str {
        match data {
            _ if !self.device.unwrap_or_default().is_gpu() => "tiny",
            DataKind::Cifar10 => "cifar32",
            DataKind::Celeba | DataKind::Faces | DataKind::Folder => "celeba64",
        }
    }

    fn folder(&self, config: Option<&RunConfig>) -> PathBuf {
        if let Some(out) = &self.out {
            return out.clone();
        }
        let name = self.name.clone().unwrap_or_else(|| {
            let data = config.map_or_else(|| self.dataset.kind(), |c| c.data);
            let preset = config
                .map(|c| c.preset.clone())
                .or_else(|| self.preset.clone());
            let preset = preset.unwrap_or_else(|| self.default_preset(data).into());
            format!("{data}-{preset}")
        });
        Path::new("runs").join(name)
    }
}

/// Opens the device that a configuration asks for, and says what it is.
fn open_device(config: &RunConfig, no_graph: bool) -> Result<(Device, String)> {
    let (device, precision) = device::parse(&config.device, &config.precision)?;
    Wish {
        device,
        precision,
        no_graph,
        nvtx: false,
        threads: config.threads,
    }
    .open()
}

/// Runs `gmmk train`.
pub fn run(args: &TrainArgs) -> Result<()> {
    if args.resume {
        return resume(args);
    }
    let config = args.configure()?;
    if args.dry_run {
        return dry_run(config, args);
    }
    let folder = args.folder(Some(&config));
    if folder.join("config.toml").exists() {
        bail!(
            "{} holds a run already; go on with it (--resume), or give this one another --name",
            folder.display()
        );
    }
    // What can be refused is refused before the long work, and before the folder is made.
    RunDir::check_new(&folder)?;
    let network = setup::network(&config)?;
    let packed = Arc::new(data::open_run(&config, network.sample_size as u32)?);
    let device = open_device(&config, args.no_graph)?;
    let mut setup = Setup::for_data(config, &packed)?;
    args.choose_batch(&mut setup, &device.0)?;
    let memory = setup.check_memory(&device.0)?;
    check_space(&setup, &folder)?;
    let probe = args.eval.prepare(&setup, &packed, &device.0)?;
    let start = from::start(&setup, &packed)?;
    let run = RunDir::create(&folder)?;
    setup.config.save(&run.config())?;
    go(&setup, &run, (packed, probe), start, &device, memory)
}

/// Refuses a run that could not save, and says so when its checkpoints will not all fit.
fn check_space(setup: &Setup, folder: &Path) -> Result<()> {
    if let Some(note) = Space::new(setup).check(folder)? {
        warn(&format!("warning: {note}"));
    }
    Ok(())
}

/// The configuration of the run in `folder`, and what it becomes with the options given.
fn resumed_config(args: &TrainArgs, folder: &Path) -> Result<(RunConfig, RunConfig)> {
    let path = folder.join("config.toml");
    if !path.is_file() {
        return Err(RunDirError::NotARun {
            path: folder.to_path_buf(),
        }
        .into());
    }
    let saved = RunConfig::load(&path)?;
    let mut wanted = saved.clone();
    let instead =
        saved.data == DataKind::Faces && args.dataset == DataName::Celeba && args.data.is_none();
    if !instead {
        wanted.data = args.dataset.kind();
    }
    if args.batch == Some(BatchSize::Auto) {
        bail!(
            "--batch auto with --resume: the run has its batch, {}; leave it out",
            saved.batch
        );
    }
    args.apply(&mut wanted);
    args.check_classifier(&wanted)?;
    resume_difference(&saved, &wanted)?;
    wanted.validate()?;
    Ok((saved, wanted))
}

fn resume(args: &TrainArgs) -> Result<()> {
    let folder = match args.folder(None) {
        // Without CelebA the run was named after the faces that took its place.
        folder if args.out.is_none() && args.name.is_none() && !folder.exists() => {
            let kind = data::resolve(args.dataset.kind(), args.data.as_deref())?;
            let preset = args.preset.as_deref();
            let preset = preset.unwrap_or_else(|| args.default_preset(args.dataset.kind()));
            args.folder(Some(&RunConfig::new(kind, preset)))
        }
        folder => folder,
    };
    if args.dry_run {
        let (_, wanted) = resumed_config(args, &folder)?;
        return dry_run(wanted, args);
    }
    let run = RunDir::resume(&folder)?;
    let (saved, wanted) = resumed_config(args, &folder)?;
    let network = setup::network(&wanted)?;
    let packed = Arc::new(data::open_run(&wanted, network.sample_size as u32)?);
    let device = open_device(&wanted, args.no_graph)?;
    let setup = Setup::for_data(wanted, &packed)?;
    let memory = setup.check_memory(&device.0)?;
    let start = if checkpoint::list(&run.checkpoints())?.is_empty() {
        warn("note: the run stopped before its first checkpoint; it starts from the beginning");
        from::start(&setup, &packed)?
    } else {
        let found = checkpoint::resolve(run.path())?;
        if let Some(note) = found.note {
            warn(&format!("note: {note}"));
        }
        let checkpoint = Checkpoint::open(&found.path)?;
        resume_difference(&checkpoint.info().config, &setup.config).with_context(|| {
            format!(
                "{} belongs to another run than {}",
                found.path.display(),
                run.config().display()
            )
        })?;
        let (taken, total) = (checkpoint.info().counters.step, setup.config.total_steps());
        if taken > total {
            bail!(
                "{} has taken {taken} steps already, more than the {total} asked for; give it a longer --steps",
                folder.display()
            );
        }
        Start::Resume(checkpoint)
    };
    check_space(&setup, run.path())?;
    if setup.config != saved {
        setup.config.save(&run.config())?;
    }
    let probe = args.eval.prepare(&setup, &packed, &device.0)?;
    go(&setup, &run, (packed, probe), start, &device, memory)
}

/// Trains and reports.
fn go(
    setup: &Setup,
    run: &RunDir,
    (packed, probe): (Arc<Packed>, Option<Box<dyn Probe>>),
    start: Start,
    (device, name): &(Device, String),
    memory: Memory,
) -> Result<()> {
    let config = &setup.config;
    greet(setup, &packed, name, memory);
    Machine::new(device, memory).save(&run.machine())?;
    let total = config.total_steps();
    let mut trainer = Trainer::new(setup, run, packed, &start, device)?;
    if let Some(probe) = probe {
        trainer.attach(probe);
    }
    if let Start::Resume(checkpoint) = &start {
        let step = checkpoint.info().counters.step;
        if step < total {
            warn(&format!("resuming at step {step} of {total}"));
        } else {
            warn(&format!(
                "note: the run has taken {step} of its {total} steps; to go on, give it a longer --steps"
            ));
        }
    }
    drop(start);
    let stop = stop_flag("stopping after this step and saving");
    let mut watcher = Watcher::new(total);
    let outcome = trainer.train(&stop, &mut watcher);
    watcher.finish();
    let outcome = outcome?;
    let folder = run.path().display();
    if outcome.step == 0 && !outcome.finished {
        say("stopped before the first step; nothing was trained");
    } else if outcome.finished {
        // A short run has no page.
        let drawn = run.sample_page(outcome.step).exists();
        let samples = if drawn { ", samples" } else { "" };
        say(&format!(
            "done: {} steps; report.html{samples} and checkpoints in {folder}",
            outcome.step
        ));
        say(&format!(
            "draw more: gmmk sample --checkpoint {folder} --out samples.png"
        ));
    } else {
        say(&format!(
            "stopped and saved at step {} of {total} in {folder}",
            outcome.step
        ));
        say(&format!(
            "go on: gmmk train {} --out {folder} --resume",
            config.data
        ));
    }
    Ok(())
}

fn greet(setup: &Setup, packed: &Packed, device: &str, memory: Memory) {
    let (train, held_out) = (
        packed.train_indices().len(),
        packed.held_out_indices().len(),
    );
    warn(&format!(
        "{}: {train} pictures to train on, {held_out} held out; {} attributes",
        packed.data_set(),
        packed.attribute_names().len()
    ));
    let name = &setup.config.preset;
    warn(&format!(
        "{name}: {:.2} M parameters; {} of memory (weights and optimizer {}, step {}, measuring {})",
        setup.net.table().count() as f64 / 1e6,
        human_bytes(memory.total() as u64),
        human_bytes(memory.parameters as u64),
        human_bytes(memory.step as u64),
        human_bytes(memory.measuring as u64)
    ));
    warn(&format!("device: {device}"));
    let warnings = [
        setup.schedule.warning(),
        short_latent_warning(setup.net.config().cross_attention_dim),
    ];
    for warning in warnings.into_iter().flatten() {
        warn(&format!("warning: {warning}"));
    }
}

/// Prints what a run would be.
fn dry_run(config: RunConfig, args: &TrainArgs) -> Result<()> {
    let source = data::source_of(&config)?;
    let (device, _) = open_device(&config, args.no_graph)?;
    let mut setup = Setup::new(config, source.attribute_names().len())?;
    args.choose_batch(&mut setup, &device)?;
    let config = &setup.config;
    say(config.to_toml()?.trim_end());
    let memory = setup.check_memory(&device)?;
    say(&format!(
        "\nmemory: {} = weights, gradients, moments and average {} + step {} (at least {}, unshared {}) + measuring {}",
        human_bytes(memory.total() as u64),
        human_bytes(memory.parameters as u64),
        human_bytes(memory.step as u64),
        human_bytes(memory.step_bound as u64),
        human_bytes(memory.step_separate as u64),
        human_bytes(memory.measuring as u64)
    ));
    let space = Space::new(&setup);
    say(&format!(
        "disk: at most {} = {} checkpoints of {}",
        human_bytes(space.bytes()),
        space.files,
        human_bytes(space.checkpoint)
    ));
    let (trial, seconds) = trial::seconds_per_picture(&setup, &device).context("the trial step")?;
    let rate = 1.0 / seconds;
    let total = config.total_steps();
    let time = total as f64 * config.batch as f64 / rate;
    say(&format!(
        "work: {:.2} GFLOP per step; about {rate:.1} images/s (from a trial step of {trial} pictures), so {} for {total} steps",
        memory.flops as f64 / 1e9,
        duration(time)
    ));
    Ok(())
}
