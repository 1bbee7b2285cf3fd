//! Several programs on one state: training, measuring and drawing take turns, and each sees the weights as
//! they are.

use super::{ATTRIBUTES, alone, batch, begin, cpu, gpu, setup, take};
use gmmk::device::Device;
use gmmk::device::cuda::Precision;
use gmmk::diffusion::generate::{Generator, Request};
use gmmk::diffusion::sampler::{Sampler, SamplerPlan};
use gmmk::gmm::latent::LatentKind;
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::classifier::ClassifierKind;
use gmmk::train::setup::Setup;
use gmmk::train::step::{LossProbe, Tokens, TrainStep};

/// The programs that look at weights.
struct Watchers {
    probe: LossProbe,
    generator: Generator,
    plan: SamplerPlan,
}

impl Watchers {
    fn new(setup: &Setup, device: &Device) -> Self {
        let sampler = Sampler::Ddim { eta: 0.0 };
        Self {
            probe: LossProbe::new(&setup.recipe(), 1, device).unwrap(),
            generator: Generator::new(&setup.net, &setup.conditioning, 1, device).unwrap(),
            plan: SamplerPlan::new(&setup.schedule, sampler, 2, Some(1.0)).unwrap(),
        }
    }

    /// The loss of a batch under the weights, logits under their average, and a picture of it.
    fn look(&mut self, setup: &Setup, state: &mut State) -> Vec<f32> {
        let batch = batch(setup, 90);
        let tokens = Tokens {
            attributes: &batch.attributes,
            latents: &[3],
        };
        let mut measure = |weights| {
            let seen = self
                .probe
                .run((&mut *state, weights), &batch, tokens, &[40]);
            let seen = seen.unwrap();
            [seen.losses, seen.logits.unwrap()].concat()
        };
        let mut all = [measure(Arena::Params), measure(Arena::Ema)].concat();
        let request = Request::new(&[1; ATTRIBUTES], 2);
        let weights = (state, Arena::Ema);
        let picture = self
            .generator
            .draw(weights, &self.plan, (8, 0), &[request], |_, _, _| true);
        all.extend(picture.unwrap());
        all
    }
}

/// The host's copy of a state, on no device yet.
fn copy(setup: &Setup, state: &mut State) -> State {
    state.fetch().unwrap();
    let mut new = setup.allocate().unwrap();
    for arena in super::ARENAS {
        let numbers = state.get::<u32>(arena).to_vec();
        new.get_mut::<u32>(arena).copy_from_slice(&numbers);
    }
    new
}

fn take_turns(precision: Precision) {
    let _alone = alone();
    let setup = setup(ClassifierKind::Bce, LatentKind::Fixed, 1);
    let device = gpu(precision, true);
    let mut state = begin(&setup);
    let mut step = TrainStep::new(&setup.recipe(), 1, &device).unwrap();
    let mut watchers = Watchers::new(&setup, &device);
    let mut seen = Vec::new();
    for i in 0..3 {
        take(&setup, &mut step, &mut state, i);
        let look = watchers.look(&setup, &mut state);
        let mut fresh = copy(&setup, &mut state);
        let again = watchers.look(&setup, &mut fresh);
        assert!(look == again, "after step {i}: old weights were seen");
        assert!(!seen.contains(&look), "step {i} has changed nothing");
        seen.push(look);
    }
    vgpu::harness::device().assert_clean();
    if precision == Precision::F32 {
        let on_cpu = Watchers::new(&setup, &cpu()).look(&setup, &mut copy(&setup, &mut state));
        let worst = on_cpu.iter().zip(&seen[2]).map(|(a, b)| (a - b).abs());
        let worst = worst.fold(0.0, f32::max);
        println!("worst difference of the CPU {worst:.2e}");
        // Losses, logits and pixels are of size 1; the sampler's first step divides the error of the noise
        // by the root of alpha bar, 0.05 at the least.
        assert!(worst < 2e-4, "the CPU is {worst} off");
    }
}

#[test]
fn programs_share_weights_in_f32() {
    take_turns(Precision::F32);
}

#[test]
fn programs_share_weights_in_bf16() {
    take_turns(Precision::Bf16);
}
