use super::*;
use crate::device::pool::Pool;
use crate::train::classifier::ClassifierKind;
use crate::train::config::DataKind;
use crate::train::setup::Setup;
use crate::train::trial::blank_batch;
use std::sync::Arc;

const BATCH: usize = 7;

fn setup(micro_batches: u64) -> Setup {
    let config = RunConfig {
        batch: BATCH as u64,
        micro_batches,
        classifier: ClassifierKind::Ngmg,
        latent: LatentKind::Fresh,
        ..RunConfig::new(DataKind::Faces, "nano")
    };
    Setup::new(config, 4).unwrap()
}

/// A step from new weights: what the host reads, and the gradients.
fn step(micro_batches: u64) -> (StepResult, Vec<f32>) {
    let setup = setup(micro_batches);
    let device: Device = Arc::new(Pool::new(1).unwrap()).into();
    let mut step = TrainStep::new(&setup.recipe(), BATCH, &device).unwrap();
    let mut state = setup.allocate().unwrap();
    setup
        .net
        .table()
        .initialise(3, state.get_mut(Arena::Params));
    let batch = Batch {
        first_sample: 70,
        ..blank_batch(&setup, BATCH)
    };
    let results: Vec<_> = (0..2)
        // The second step finds the first one's gradients where it begins to add.
        .map(|_| step.run(&mut state, &batch, [0.0, 0.5]).unwrap())
        .collect();
    assert_eq!(results[0].grad_norm, results[1].grad_norm);
    let [_, second] = <[StepResult; 2]>::try_from(results).unwrap();
    (second, state.get::<f32>(Arena::Grads).to_vec())
}

#[test]
fn micro_batches_are_the_same_step() {
    let (whole, gradients) = step(1);
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt()
    };
    let length = norm(&mut gradients.iter().copied());
    assert!((length / f64::from(whole.grad_norm) - 1.0).abs() < 1e-5 && length > 0.1);
    let mean = whole.losses.iter().map(|(_, loss)| loss).sum::<f32>() / BATCH as f32;
    assert!((mean / whole.loss - 1.0).abs() < 1e-6, "{whole:?}");
    for count in [2, 3, 7] {
        let (result, parts) = step(count);
        let near = |a: f32, b: f32| (a / b - 1.0).abs() < 1e-5;
        assert!(
            near(result.loss, whole.loss),
            "{count}: {result:?}, not {whole:?}"
        );
        assert!(
            near(result.grad_norm, whole.grad_norm),
            "{count}: {result:?}, not {whole:?}"
        );
        let [a, b] = [&result, &whole].map(|r| r.classifier_loss.unwrap());
        assert!(near(a, b), "{count}: {a}, not {b}");
        assert_eq!(result.losses.len(), BATCH);
        for (a, b) in result.losses.iter().zip(&whole.losses) {
            assert!(
                a.0 == b.0 && near(a.1, b.1),
                "{count}: {result:?}, not {whole:?}"
            );
        }
        let off = norm(&mut parts.iter().zip(&gradients).map(|(a, b)| a - b));
        assert!(off < 1e-5 * length, "{count}: off by {off} of {length}");
    }
}

/// The step says at which t each of its losses was made: measured there, the loss is the same.
#[test]
fn losses_are_at_the_steps_that_they_name() {
    let mut setup = setup(2);
    setup.config.flip = false;
    let device: Device = Arc::new(Pool::new(1).unwrap()).into();
    let mut state = setup.allocate().unwrap();
    let params = state.get_mut(Arena::Params);
    setup.net.table().initialise(3, params);
    wake(params);
    let recipe = setup.recipe();
    let mut step = TrainStep::new(&recipe, BATCH, &device).unwrap();
    let mut probe = LossProbe::new(&recipe, BATCH, &device).unwrap();
    let [first, second] = [70, 900].map(|first_sample| Batch {
        first_sample,
        ..blank_batch(&setup, BATCH)
    });
    step.start(&mut state, &first, [0.0, 0.5]).unwrap();
    step.start(&mut state, &second, [0.0, 0.5]).unwrap();
    for batch in [&first, &second] {
        let found = step.finish().unwrap().unwrap().losses;
        let (t, losses): (Vec<u32>, Vec<f32>) = found.into_iter().unzip();
        assert!(t.windows(2).any(|w| w[0] != w[1]), "{t:?}");
        let samples: Vec<u64> = (batch.first_sample..).take(BATCH).collect();
        let tokens = Tokens {
            attributes: &batch.attributes,
            latents: &samples,
        };
        let weights = (&mut state, Arena::Params);
        let measured = probe.run(weights, batch, tokens, &t).unwrap().losses;
        for (a, b) in losses.iter().zip(&measured) {
            assert!((a / b - 1.0).abs() < 1e-5, "{losses:?}, not {measured:?}");
        }
    }
}

#[test]
fn micro_batches_share_their_memory() {
    let device: Device = Arc::new(Pool::new(1).unwrap()).into();
    let peak = |setup: &Setup, batch| plan(&setup.recipe(), batch, &device).unwrap().peak_bytes;
    let (whole, parts) = (peak(&setup(1), 4 * BATCH), peak(&setup(4), 4 * BATCH));
    // A quarter of the activations; the inputs of all are there from the beginning.
    assert!(parts < whole / 2, "{parts} of {whole}");
    assert!(parts < peak(&setup(1), BATCH) * 3 / 2, "{parts}");
}

#[test]
fn every_picture_is_in_one_part() {
    for (batch, count) in [(1, 1), (1, 9), (7, 3), (16, 4), (5, 5), (0, 1)] {
        let all: Vec<usize> = parts(batch, count).flatten().collect();
        assert_eq!(all, (0..batch).collect::<Vec<_>>());
        assert!(batch == 0 || parts(batch, count).all(|part| !part.is_empty()));
    }
}

/// A new network's last layer is zero, and gives the tokens no part in anything.
fn wake(params: &mut [f32]) {
    for (i, p) in params.iter_mut().enumerate().filter(|(_, p)| **p == 0.0) {
        *p = 0.02 * (i as f32).sin();
    }
}

/// Gradients of one step on pictures with these attributes.
fn gradients(token_dropout: f64, attributes: &[u8], first_sample: u64) -> Vec<f32> {
    let mut setup = setup(1);
    setup.config.token_dropout = token_dropout;
    setup.config.classifier = ClassifierKind::None;
    let setup = Setup::new(setup.config, 4).unwrap();
    let device: Device = Arc::new(Pool::new(1).unwrap()).into();
    let mut step = TrainStep::new(&setup.recipe(), BATCH, &device).unwrap();
    let mut state = setup.allocate().unwrap();
    let params = state.get_mut(Arena::Params);
    setup.net.table().initialise(3, params);
    wake(params);
    let batch = Batch {
        first_sample,
        attributes: attributes.to_vec(),
        ..blank_batch(&setup, BATCH)
    };
    step.run(&mut state, &batch, [0.0, 0.5]).unwrap();
    state.get::<f32>(Arena::Grads).to_vec()
}

/// A step that drops tokens is the step on samples some of which have no attributes; which ones, the
/// seed and the sample's number say.
#[test]
fn dropped_tokens_are_null_tokens() {
    let (probability, first) = (0.5, 70);
    let attributes = [1, 0, 1, 1].repeat(BATCH);
    let mut without = attributes.clone();
    let seed = setup(1).config.seed;
    let dropped: Vec<bool> = (first..first + BATCH as u64)
        .map(|sample| drops_tokens(seed, sample, probability))
        .collect();
    assert!(dropped.contains(&true) && dropped.contains(&false));
    for (row, _) in without.chunks_mut(4).zip(&dropped).filter(|(_, d)| **d) {
        row.fill(0);
    }
    let own = gradients(probability, &attributes, first);
    assert!(own == gradients(0.0, &without, first));
    assert!(own != gradients(0.0, &attributes, first));
    // The share of a long run.
    let count = (0..20_000).filter(|&i| drops_tokens(seed, i, 0.1)).count();
    assert!((1800..2200).contains(&count), "{count} of 20000");
}

/// The classifier is asked for the picture's attributes, whatever the tokens say.
#[test]
fn labels_are_not_dropped() {
    let mut setup = setup(1);
    setup.config.token_dropout = 0.999_999;
    let device: Device = Arc::new(Pool::new(1).unwrap()).into();
    let loss = |attributes: &[u8]| {
        let mut step = TrainStep::new(&setup.recipe(), BATCH, &device).unwrap();
        let mut state = setup.allocate().unwrap();
        let params = state.get_mut(Arena::Params);
        setup.net.table().initialise(3, params);
        wake(params);
        let attributes = attributes.repeat(BATCH);
        let batch = Batch {
            attributes,
            ..blank_batch(&setup, BATCH)
        };
        step.run(&mut state, &batch, [0.0, 0.5]).unwrap()
    };
    let [a, b] = [loss(&[1, 0, 0, 0]), loss(&[1, 1, 1, 0])];
    assert_eq!(a.loss, b.loss, "the tokens of all pictures are dropped");
    assert_ne!(a.classifier_loss, b.classifier_loss);
}
