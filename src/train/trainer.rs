//! The training loop.

use super::checkpoint::{self, CheckpointError, CheckpointInfo, Counters};
use super::held_out::{HeldOut, Measurement};
use super::history::History;
use super::levels::Levels;
use super::machine::Machine;
use super::metrics::{MetricsError, MetricsRow, MetricsWriter};
use super::page::Page;
use super::report;
use super::run_dir::RunDir;
use super::runs::{Run, RunState};
use super::setup::{Setup, page_batch};
use super::step::{StepError, StepResult, TrainStep};
use super::tensorboard::EventWriter;
use super::tensors::StateTensors;
use crate::data::{DataError, Loader, Packed, RequestError};
use crate::device::{Device, Gpu};
use crate::diffusion::generate::{GenerateError, Generator};
use crate::diffusion::sampler::{Sampler, SamplerError, SamplerPlan};
use crate::report::files::FileError;
use crate::report::picture::PictureError;
use crate::tape::Arena;
use crate::tape::executable::{DeviceError, NotFinite};
use crate::tape::state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

mod health;
mod memory;
mod plot;
mod start;

pub use start::Start;

/// Training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The metrics file.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A sample page.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The sampler of the pages.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The attributes of the pages.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What is measured along with the run.
    #[error("the evaluation: {0}")]
    Probe(#[source] ProbeError),
    /// The run was trained on other attributes.
    #[error(
        "the run was trained on {expected} attributes ({first}, ..), but the data has {found} or others; expected the data set that it began with"
    )]
    Attributes {
        /// How many the run has.
        expected: usize,
        /// The first of them.
        first: String,
        /// How many the data has.
        found: usize,
    },
    /// The gradient was not finite too often in a row.
    #[error(
        "the gradient was not finite in {count} steps in a row, up to step {step}: the run has diverged{fault}; {dump}; what was saved before stays: start a new run with a lower --lr, a --warmup or a lower clip, or check the data"
    )]
    Diverged {
        /// Steps in a row.
        count: u64,
        /// The last of them.
        step: u64,
        /// The first tensor that was not finite, in words.
        fault: String,
        /// Where the dump is, in words.
        dump: String,
    },
}

/// What a run tells while it goes.
pub trait Observer {
    /// A step is done; `loss` is the mean since the last line of metrics.
    fn step(&mut self, step: u64, total: u64, images_per_s: f64, loss: f64);
    /// A line of metrics was written.
    fn logged(&mut self, row: &MetricsRow);
    /// Something worth a sentence.
    fn note(&mut self, text: &str);
}

/// Why a [`Probe`] failed.
pub type ProbeError = Box<dyn std::error::Error + Send + Sync>;

/// Something more that is measured every so often; it may take longer than steps do.
pub trait Probe {
    /// Steps from one measurement to the next.
    fn every(&self) -> u64;

    /// Measures the averaged weights in `state`: names and values for a line of metrics, none if it was
    /// stopped.
    ///
    /// # Errors
    /// Training cannot go on.
    fn measure(
        &mut self,
        state: &mut State,
        stop: &AtomicBool,
    ) -> Result<Vec<(String, f64)>, ProbeError>;
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Steps taken in all.
    pub step: u64,
    /// The run has its full length; otherwise it was asked to stop.
    pub finished: bool,
}

/// A line of metrics every so many steps.
const LOG_EVERY: u64 = 10;
/// Steps without a finite gradient that are told one by one.
const NAMED_SKIPS: u64 = 10;
/// Steps of the sampler on the pages.
const PAGE_STEPS: u32 = 50;
/// Training rows that a checkpoint keeps.
const ROWS: usize = 1000;

/// A run in memory.
pub struct Trainer<'a> {
    setup: &'a Setup,
    run: &'a RunDir,
    data: Arc<Packed>,
    gpu: Option<Gpu>,
    state: State,
    step: TrainStep,
    held_out: Option<HeldOut>,
    pages: Pages,
    probe: Option<Box<dyn Probe>>,
    loader: Loader,
    counters: Counters,
    metrics: MetricsWriter,
    history: History,
    events: EventWriter,
    window: Window,
    seconds: f64,
    skipped_in_a_row: u64,
    /// The first of the steps in a row without a finite gradient, until it is looked into.
    suspect: Option<u64>,
    /// What was not finite when one was last looked into.
    fault: Option<NotFinite>,
}

/// What happened since the last line of metrics.
#[derive(Default)]
struct Window {
    steps: u64,
    loss: f64,
    /// Samples' losses; `None` before the first step.
    levels: Option<Levels>,
    classifier_loss: Option<f64>,
    grad_norm: f64,
    wait: f64,
    seconds: f64,
}

/// The sample pages.
struct Pages {
    page: Page,
    generator: Generator,
    plan: SamplerPlan,
}

impl<'a> Trainer<'a> {
    /// Prepares a run that begins with `start`.
    ///
    /// # Errors
    /// See [`TrainError`].
    pub fn new(
        setup: &'a Setup,
        run: &'a RunDir,
        data: Arc<Packed>,
        start: &Start,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let batch = setup.config.batch as usize;
        if let Start::Resume(checkpoint) = start {
            same_attributes(&checkpoint.info().attribute_names, data.attribute_names())?;
        }
        let (state, counters) = start.state(setup)?;
        let (metrics, history) = MetricsWriter::resume(&run.metrics(), counters.step)?;
        Ok(Self {
            step: TrainStep::new(&setup.recipe(), batch, device)?,
            held_out: HeldOut::new(setup, &data, device)?,
            pages: Pages::new(setup, &data, device)?,
            probe: None,
            loader: Loader::new(data.clone(), batch, setup.config.seed, counters.images_seen)?,
            metrics,
            events: EventWriter::resume(run.path(), counters.step)?,
            window: Window::default(),
            seconds: history.last().map_or(0.0, |row| row.seconds),
            history,
            skipped_in_a_row: 0,
            suspect: None,
            fault: None,
            gpu: device.gpu.clone(),
            setup,
            run,
            data,
            state,
            counters,
        })
    }

    /// Measures `probe` too, from now on.
    pub fn attach(&mut self, probe: Box<dyn Probe>) {
        self.probe = Some(probe);
    }

    /// Trains to the end of the run, or until `stop` is set; the last step is saved either way.
    ///
    /// # Errors
    /// See [`TrainError`]; what was saved before stays good.
    pub fn train(
        &mut self,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let config = &self.setup.config;
        let total = config.total_steps();
        let save_every = config.save_every.steps(config.batch);
        let sample_every = config.sample_every.steps(config.batch);
        // A run shorter than that has no page: drawing it could take longer than the run.
        let page_due = |step: u64| {
            step.is_multiple_of(sample_every) || (step == total && total > sample_every)
        };
        let step = self.counters.step;
        if step > 0 && page_due(step) && !self.run.sample_page(step).exists() {
            // The run was stopped while it drew this page.
            self.draw_page(stop, observer)?;
        }
        // Whoever asks to stop between two looks at the flag is heard at the second, and the step is saved.
        let mut stopped = stop.load(Ordering::Relaxed);
        while self.counters.step < total && !stopped {
            self.one_step(total, observer)?;
            let step = self.counters.step;
            stopped = stop.load(Ordering::Relaxed);
            let saves = stopped || step == total || step.is_multiple_of(save_every);
            let samples = page_due(step);
            let probes = self.probe_due(total);
            if saves || samples || probes || step.is_multiple_of(LOG_EVERY) {
                self.settle(observer)?;
                let measured = if samples { self.measure()? } else { None };
                let probed = probes.then(|| self.probe(stop)).transpose()?;
                let probed = probed.unwrap_or_default();
                self.log(measured, probed, observer)?;
            }
            self.check_health(observer)?;
            if samples {
                self.draw_page(stop, observer)?;
            }
            // Pages and probes take long enough to be stopped in their middle.
            stopped |= (samples || probes) && stop.load(Ordering::Relaxed);
            if saves || stopped {
                self.save(save_every)?;
            }
            if saves || samples {
                self.report(RunState::Running, observer);
            }
        }
        let finished = self.counters.step >= total;
        let state = if finished {
            RunState::Finished
        } else {
            RunState::Stopped
        };
        self.report(state, observer);
        Ok(Outcome {
            step: self.counters.step,
            finished,
        })
    }

    /// The run as others see it.
    fn as_run(&self, state: RunState) -> Run {
        Run {
            path: self.run.path().to_path_buf(),
            config: self.setup.config.clone(),
            rows: self.history.rows().cloned().collect(),
            machine: Machine::load(&self.run.machine()),
            state,
        }
    }

    /// Writes report.html. A run does not end because nobody can look at it.
    fn report(&self, state: RunState, observer: &mut dyn Observer) {
        if let Err(error) = report::write_run(&self.as_run(state)) {
            observer.note(&format!("warning: no report: {error}"));
        }
    }

    fn one_step(&mut self, total: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let config = &self.setup.config;
        let start = Instant::now();
        let rates = config.rates(self.counters.images_seen);
        let batch = self.loader.next()?;
        self.step.start(&mut self.state, batch, rates)?;
        self.counters.step += 1;
        self.counters.images_seen += config.batch;
        self.window.wait += self.loader.wait_seconds();
        if self.step.under_way() > 1 {
            self.account(observer)?;
        }
        let window = &mut self.window;
        window.seconds += start.elapsed().as_secs_f64();
        if window.steps > 0 {
            let rate = (window.steps * config.batch) as f64 / window.seconds.max(1e-9);
            let loss = window.loss / window.steps as f64;
            observer.step(self.counters.step, total, rate, loss);
        }
        Ok(())
    }

    /// Waits for all steps under way.
    fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let start = Instant::now();
        while self.step.under_way() > 0 {
            self.account(observer)?;
        }
        self.window.seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Waits for the oldest step under way and counts its results in.
    fn account(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let step = self.counters.step + 1 - self.step.under_way() as u64;
        let Some(StepResult {
            loss,
            losses,
            classifier_loss,
            grad_norm,
            updated,
        }) = self.step.finish()?
        else {
            return Ok(());
        };
        if updated {
            self.counters.adam_step += 1;
            self.skipped_in_a_row = 0;
        } else {
            self.counters.skipped += 1;
            self.skipped_in_a_row += 1;
            if self.counters.skipped <= NAMED_SKIPS {
                observer.note(&format!(
                    "note: the gradient of step {step} is not finite; the weights stay as they are"
                ));
                if self.skipped_in_a_row == 1 {
                    self.suspect = Some(step);
                }
            }
        }
        let window = &mut self.window;
        let t_max = self.setup.schedule.t_max();
        let levels = window.levels.get_or_insert_with(|| Levels::new(t_max));
        for (t, loss) in losses {
            levels.add(t, loss);
        }
        window.steps += 1;
        window.loss += f64::from(loss);
        if let Some(loss) = classifier_loss {
            *window.classifier_loss.get_or_insert(0.0) += f64::from(loss);
        }
        window.grad_norm += f64::from(grad_norm);
        Ok(())
    }

    /// Writes a line of metrics and starts a new window.
    fn log(
        &mut self,
        measured: Option<Measurement>,
        probed: Vec<(String, f64)>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let window = std::mem::take(&mut self.window);
        self.seconds += window.seconds;
        let config = &self.setup.config;
        let steps = window.steps.max(1) as f64;
        let rate = window.steps as f64 * config.batch as f64 / window.seconds.max(1e-9);
        let mut values = vec![
            ("loss".to_string(), window.loss / steps),
            ("grad_norm".into(), window.grad_norm / steps),
            (
                "lr".into(),
                config.lr_at(self.counters.images_seen.saturating_sub(config.batch)),
            ),
            (
                "ema_decay".into(),
                config.ema_decay(self.counters.images_seen),
            ),
            ("images_per_s".into(), rate),
            ("data_wait".into(), window.wait / window.seconds.max(1e-9)),
            ("skipped".into(), self.counters.skipped as f64),
        ];
        let levels = window.levels.iter().flat_map(Levels::means);
        values.extend(levels.map(|(level, loss)| (level.metric("loss"), loss)));
        let classifier_loss = window.classifier_loss.map(|loss| loss / steps);
        values.extend(classifier_loss.map(|loss| ("classifier_loss".to_string(), loss)));
        if let Some(measured) = &measured {
            values.push(("held_out_loss".into(), measured.loss));
            let levels = measured.levels.iter();
            values.extend(levels.map(|(level, loss)| (level.metric("held_out_loss"), *loss)));
            if let Some(scores) = &measured.classifier {
                values.extend(scores.metrics(self.data.attribute_names()));
                observer.note(&format!("classifier, held out: {scores}"));
            }
        }
        values.extend(probed);
        values.extend(memory::measured(self.gpu.as_ref()));
        let row = MetricsRow {
            step: self.counters.step,
            images: self.counters.images_seen,
            seconds: self.seconds,
            values,
        };
        self.metrics.append(&row)?;
        self.events
            .scalars(row.step, row.values.iter().map(|(k, v)| (k.as_str(), *v)))?;
        observer.logged(&row);
        self.history.push(row);
        Ok(())
    }

    /// The averaged weights on held-out pictures.
    fn measure(&mut self) -> Result<Option<Measurement>, TrainError> {
        let Some(held_out) = self.held_out.as_mut() else {
            return Ok(None);
        };
        Ok(Some(held_out.measure(&mut self.state, Arena::Ema)?))
    }

    fn probe_due(&self, total: u64) -> bool {
        let step = self.counters.step;
        let due = |probe: &dyn Probe| step == total || step.is_multiple_of(probe.every().max(1));
        self.probe.as_deref().is_some_and(due)
    }

    fn probe(&mut self, stop: &AtomicBool) -> Result<Vec<(String, f64)>, TrainError> {
        match &mut self.probe {
            Some(probe) => probe
                .measure(&mut self.state, stop)
                .map_err(TrainError::Probe),
            None => Ok(Vec::new()),
        }
    }

    fn draw_page(
        &mut self,
        stop: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let Pages {
            page,
            generator,
            plan,
        } = &mut self.pages;
        let seed = self.setup.config.seed;
        let go_on = |_: usize, _: &[f32], _: usize| !stop.load(Ordering::Relaxed);
        let weights = (&mut self.state, Arena::Ema);
        let pictures = match generator.draw(weights, plan, (seed, 0), &page.requests, go_on) {
            Ok(pictures) => pictures,
            Err(GenerateError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let size = self.setup.net.config().sample_size;
        let title = format!(
            "step {}, {} images",
            self.counters.step, self.counters.images_seen
        );
        let path = self.run.sample_page(self.counters.step);
        let page = page.render(&pictures, size, title)?;
        let png = page.save_png(&path)?;
        let size = [page.width(), page.height()];
        self.events
            .picture(self.counters.step, "samples", size, &png)?;
        self.plot()?;
        observer.note(&format!("wrote {}", path.display()));
        Ok(())
    }

    fn info(&self) -> CheckpointInfo {
        CheckpointInfo {
            config: self.setup.config.clone(),
            counters: self.counters,
            attribute_names: self.data.attribute_names().to_vec(),
            attribute_rows: training_rows(&self.data).map(<[u8]>::to_vec).collect(),
            network: self.setup.net.config().to_json(),
        }
    }

    fn save(&mut self, save_every: u64) -> Result<(), TrainError> {
        self.metrics.sync()?;
        self.state.fetch()?;
        let info = self.info();
        let mut tensors = StateTensors::new(self.setup.net.table(), &self.state);
        checkpoint::save(&self.run.checkpoints(), &mut tensors, &info)?;
        checkpoint::prune(&self.run.checkpoints(), save_every)?;
        Ok(())
    }
}

/// A run goes on with the attributes that it began with: the network itself would take any.
fn same_attributes(run: &[String], data: &[String]) -> Result<(), TrainError> {
    if run == data {
        return Ok(());
    }
    Err(TrainError::Attributes {
        expected: run.len(),
        first: run.first().cloned().unwrap_or_default(),
        found: data.len(),
    })
}

/// Attributes of up to [`ROWS`] training pictures, evenly spread.
fn training_rows(data: &Packed) -> impl Iterator<Item = &[u8]> {
    let indices = data.train_indices();
    let count = indices.len().min(ROWS);
    (0..count).map(move |i| data.attributes(indices[i * indices.len() / count] as usize))
}

impl Pages {
    fn new(setup: &Setup, data: &Packed, device: &Device) -> Result<Self, TrainError> {
        let rows: Vec<u8> = training_rows(data).flatten().copied().collect();
        let page = Page::new(
            data.attribute_names(),
            data.one_hot(),
            &rows,
            setup.config.seed,
        )?;
        let batch = page_batch(setup.config.batch as usize);
        let generator = Generator::new(&setup.net, &setup.conditioning, batch, device)?;
        let steps = setup.schedule.t_max().min(PAGE_STEPS);
        // Early in a run ancestral sampling is the cleanest: its fresh noise covers old mistakes.
        let plan = SamplerPlan::new(&setup.schedule, Sampler::Ddpm, steps, Some(1.0))?;
        Ok(Self {
            page,
            generator,
            plan,
        })
    }
}
