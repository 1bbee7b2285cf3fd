//! The bits of a run depend on its seed alone, and a broken gradient changes nothing.

use super::{alone, batch, begin, contents, cpu, gpu, setup, train};
use gmmk::device::cuda::Precision;
use gmmk::gmm::latent::LatentKind;
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::classifier::ClassifierKind;
use gmmk::train::step::TrainStep;

/// Steps: the first is launched plainly, the second becomes a graph, the third replays it.
const STEPS: u64 = 3;

fn same_bits(precision: Precision, ways: &[(&str, &str)]) {
    let _alone = alone();
    let test = vgpu::harness::device();
    let setup = setup(ClassifierKind::Ngmg, LatentKind::Fixed, 1);
    let run = |graph: bool| {
        let mut state = begin(&setup);
        let results = train(&setup, &gpu(precision, graph), &mut state, 0..STEPS);
        let losses: Vec<u32> = results.iter().map(|r| r.loss.to_bits()).collect();
        (losses, contents(&mut state))
    };
    let first = run(true);
    assert!(first == run(false), "a graph and plain launches differ");
    for &(option, value) in ways {
        let before = match option {
            "order" => "forward",
            "threads" => "1",
            _ => "now",
        };
        test.set(option, value);
        let again = run(true);
        test.set(option, before);
        assert!(first == again, "{option} = {value}: other bits");
    }
    test.assert_clean();
}

#[test]
fn f32_runs_have_one_result() {
    let ways = [("order", "random:5"), ("threads", "2"), ("streams", "late")];
    same_bits(Precision::F32, &ways);
}

#[test]
fn bf16_runs_have_one_result() {
    same_bits(
        Precision::Bf16,
        &[("order", "reverse"), ("streams", "late")],
    );
}

/// Weights that overflow are found at the same op, whatever computes.
#[test]
fn the_first_bad_tensor_is_found_on_every_device() {
    let _alone = alone();
    let setup = setup(ClassifierKind::None, LatentKind::Fixed, 1);
    let mut params = setup.net.table().params().iter();
    let param = params.rfind(|p| p.shape.len() == 4 && p.name.starts_with("mid_block"));
    let param = param.unwrap();
    let devices = [cpu(), gpu(Precision::F32, true), gpu(Precision::Bf16, true)];
    let found = devices.map(|device| {
        let mut state = begin(&setup);
        let mut step = TrainStep::new(&setup.recipe(), 1, &device).unwrap();
        let mut look = |state: &mut State| {
            step.first_not_finite(state, &batch(&setup, 0), [1e-4, 0.5])
                .unwrap()
        };
        let before = contents(&mut state);
        assert_eq!(look(&mut state), None);
        assert!(
            contents(&mut state) == before,
            "looking changes nothing that lasts"
        );
        let window = param.offset..param.offset + param.len();
        state.get_mut::<f32>(Arena::Params)[window].fill(f32::MAX);
        let found = look(&mut state).unwrap();
        (found.scope, found.op, found.tensor)
    });
    assert!(
        param.name.starts_with(&found[0].0),
        "{} was blown up, {found:?}",
        param.name
    );
    assert!(found.iter().all(|f| *f == found[0]), "{found:?}");
    vgpu::harness::device().assert_clean();
}

/// A weight that is no number makes the gradient so: nothing but the count of such steps changes.
#[test]
fn a_broken_gradient_skips_the_update() {
    let _alone = alone();
    let setup = setup(ClassifierKind::None, LatentKind::Fixed, 1);
    let devices = [cpu(), gpu(Precision::F32, true), gpu(Precision::Bf16, true)];
    let results = devices.map(|device| {
        let mut state = begin(&setup);
        let whole = state.get::<f32>(Arena::Params)[0];
        state.get_mut::<f32>(Arena::Params)[0] = f32::INFINITY;
        let mut want = contents(&mut state);
        let steps = train(&setup, &device, &mut state, 0..2);
        assert!(steps.iter().all(|s| !s.updated && !s.grad_norm.is_finite()));
        want[4][1] = 2;
        let got = contents(&mut state);
        assert!(got == want, "the state has changed");
        // With the weight repaired on the host, training goes on.
        state.get_mut::<f32>(Arena::Params)[0] = whole;
        let steps = train(&setup, &device, &mut state, 2..3);
        assert!(steps[0].updated && steps[0].loss.is_finite());
        state.fetch().unwrap();
        state.get::<u32>(Arena::Counters).to_vec()
    });
    assert!(results.iter().all(|counters| counters == &[1, 2]));
    vgpu::harness::device().assert_clean();
}
