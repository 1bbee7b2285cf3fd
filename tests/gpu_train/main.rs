//! Training and sampling on a CUDA device: as on the CPU, within what roundoff explains; with the same bits
//! however the device is driven; from checkpoints of either. On a real device where there is one, else on
//! the virtual GPU.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod bits;
mod run;
mod sharing;

use gmmk::data::Batch;
use gmmk::device::cuda::{Cuda, Precision};
use gmmk::device::pool::Pool;
use gmmk::device::{Device, Gpu};
use gmmk::gmm::latent::LatentKind;
use gmmk::rng::{Philox, Stream};
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::classifier::ClassifierKind;
use gmmk::train::config::{DataKind, RunConfig};
use gmmk::train::setup::Setup;
use gmmk::train::step::{StepResult, TrainStep};
use std::cell::OnceCell;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    /// Each test has a stream of its own.
    static CUDA: OnceCell<Arc<Cuda>> = const { OnceCell::new() };
}

/// The CPU.
fn cpu() -> Device {
    Arc::new(Pool::new(1).unwrap()).into()
}

/// The device under test.
fn gpu(precision: Precision, graph: bool) -> Device {
    let test = vgpu::harness::device();
    // That every access is right is tests/gpu.rs's and tests/verify_gpu.rs's to see.
    test.set("check", "fast");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels");
    let open = || Cuda::open(0, Some(&cache)).unwrap_or_else(|e| panic!("{e}"));
    let cuda = CUDA.with(|cuda| cuda.get_or_init(open).clone());
    Device {
        pool: Arc::new(Pool::new(1).unwrap()),
        gpu: Some(Gpu {
            cuda,
            precision,
            graph,
            nvtx: None,
            progress: Arc::new(|_, _| ()),
        }),
    }
}

/// Options of the virtual GPU hold for the whole process: tests that set them take turns with all others.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attributes of a picture.
const ATTRIBUTES: usize = 4;

/// A run of nano.
fn setup(classifier: ClassifierKind, latent: LatentKind, batch: u64) -> Setup {
    let config = RunConfig {
        batch,
        classifier,
        latent,
        seed: 5,
        ..RunConfig::new(DataKind::Faces, "nano")
    };
    Setup::new(config, ATTRIBUTES).unwrap()
}

/// New weights.
fn begin(setup: &Setup) -> State {
    let mut state = setup.allocate().unwrap();
    let table = setup.net.table();
    table.initialise(setup.config.seed, state.get_mut(Arena::Params));
    let weights = state.get::<f32>(Arena::Params).to_vec();
    state.get_mut::<f32>(Arena::Ema).copy_from_slice(&weights);
    state
}

/// The batch of step number `step`.
fn batch(setup: &Setup, step: u64) -> Batch {
    let (count, size) = (setup.config.batch, setup.net.config().sample_size);
    let words = |index: u64, n: usize| -> Vec<u32> {
        let philox = Philox::new(17, Stream::Faces, index);
        (0..n.div_ceil(4))
            .flat_map(|block| philox.block(block as u32))
            .take(n)
            .collect()
    };
    let pictures = words(2 * step, count as usize * size * size * 3);
    let attributes = words(2 * step + 1, count as usize * ATTRIBUTES);
    Batch {
        images: pictures.iter().map(|w| (w >> 24) as u8).collect(),
        attributes: attributes.iter().map(|w| (w >> 31) as u8).collect(),
        rows: (0..count).map(|i| (step * count + i) % 7).collect(),
        first_sample: step * count,
    }
}

/// Takes the steps `steps` of a run.
fn train(setup: &Setup, device: &Device, state: &mut State, steps: Range<u64>) -> Vec<StepResult> {
    let mut step = TrainStep::new(&setup.recipe(), setup.config.batch as usize, device).unwrap();
    steps
        .map(|i| take(setup, &mut step, state, i))
        .collect::<Vec<_>>()
}

fn take(setup: &Setup, step: &mut TrainStep, state: &mut State, i: u64) -> StepResult {
    let decay = setup.config.ema_decay(i * setup.config.batch);
    step.run(state, &batch(setup, i), [setup.config.lr, decay])
        .unwrap()
}

/// Arenas that outlive a step, as they are on the host after a fetch.
const ARENAS: [Arena; 5] = [
    Arena::Params,
    Arena::AdamM,
    Arena::AdamV,
    Arena::Ema,
    Arena::Counters,
];

fn contents(state: &mut State) -> Vec<Vec<u32>> {
    state.fetch().unwrap();
    ARENAS.map(|a| state.get::<u32>(a).to_vec()).to_vec()
}

/// Two runs of `steps` steps from the same weights, one on the CPU.
fn follows_the_cpu(classifier: ClassifierKind, latent: LatentKind, steps: u64) {
    follows(&setup(classifier, latent, 1), 1, steps);
}

/// [`follows_the_cpu`], where the GPU takes its batches in parts.
fn follows(setup: &Setup, micro_batches: u64, steps: u64) {
    let _alone = alone();
    let classifier = setup.config.classifier;
    let config = RunConfig {
        micro_batches,
        ..setup.config.clone()
    };
    let in_parts = Setup::new(config, ATTRIBUTES).unwrap();
    let (mut host, mut device) = (begin(setup), begin(setup));
    let want = train(setup, &cpu(), &mut host, 0..steps);
    let got = train(&in_parts, &gpu(Precision::F32, true), &mut device, 0..steps);
    device.fetch().unwrap();
    vgpu::harness::device().assert_clean();
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        // As in `gmmk verify`: a pass is off by some roundoffs of f32 for each layer; later steps begin from
        // weights that Adam may have moved apart.
        let limit = if i == 0 { 1e-5 } else { 1e-4 };
        let near = |a: f32, b: f32| f64::from(a - b).abs() <= limit * f64::from(b.abs());
        assert!(near(got.loss, want.loss), "step {i}: {got:?}, not {want:?}");
        assert_eq!(got.losses.len(), setup.config.batch as usize);
        for (a, b) in got.losses.iter().zip(&want.losses) {
            assert!(
                a.0 == b.0 && near(a.1, b.1),
                "step {i}: {got:?}, not {want:?}"
            );
        }
        assert_eq!(
            got.classifier_loss.is_some(),
            classifier != ClassifierKind::None
        );
        if let (Some(a), Some(b)) = (got.classifier_loss, want.classifier_loss) {
            assert!(near(a, b), "step {i}: {got:?}, not {want:?}");
        }
        assert!(got.updated && want.updated);
    }
    weights_are_near(setup, steps, [&host, &device]);
    let counters = device.get::<u32>(Arena::Counters);
    assert_eq!(counters, host.get::<u32>(Arena::Counters));
    assert_eq!(counters, [steps as u32, 0]);
}

/// Adam moves a weight by at most (1 - b1) / sqrt(1 - b2) rates a step (Kingma & Ba, section 2.1), and nearly
/// all gradients are so far from zero that roundoff does not turn them.
fn weights_are_near(setup: &Setup, steps: u64, states: [&State; 2]) {
    let [b1, b2] = setup.config.betas;
    let most = 2.0 * steps as f64 * setup.config.lr * ((1.0 - b1) / (1.0 - b2).sqrt()).max(1.0);
    for arena in [Arena::Params, Arena::Ema] {
        let [a, b] = states.map(|s| s.get::<f32>(arena));
        let off: Vec<f64> = a
            .iter()
            .zip(b)
            .map(|(a, b)| f64::from(a - b).abs())
            .collect();
        let far = off.iter().filter(|&&d| d > 0.01 * setup.config.lr).count();
        let worst = off.iter().copied().fold(0.0, f64::max);
        println!(
            "{arena:?}: worst {:.2e} rates, {far} of {} weights more than 0.01 rates off",
            worst / setup.config.lr,
            off.len()
        );
        assert!(worst <= most, "{arena:?}: a weight is off by {worst}");
        assert!(
            far * 100 <= off.len(),
            "{arena:?}: {far} weights of {} are off",
            off.len()
        );
    }
}

#[test]
fn ten_steps_follow_the_cpu() {
    follows_the_cpu(ClassifierKind::None, LatentKind::Fixed, 10);
}

#[test]
fn steps_with_a_classifier_follow_the_cpu() {
    follows_the_cpu(ClassifierKind::Bce, LatentKind::Fixed, 3);
}

#[test]
fn batches_in_parts_follow_the_cpu() {
    follows(&setup(ClassifierKind::Bce, LatentKind::Fixed, 3), 2, 2);
}

#[test]
fn steps_with_ngmg_and_fresh_latents_follow_the_cpu() {
    follows_the_cpu(ClassifierKind::Ngmg, LatentKind::Fresh, 3);
}
