//! AdamW with clipping and the moving average, against f64, over several steps.

use super::compare::{ROUNDOFF, close, same_bits};
use super::rng::{Rng, seed};
use crate::{device, on_devices};
use gmmk::device::Device;
use gmmk::ops::adamw::{AdamWConfig, COUNTERS, adamw};
use gmmk::tape::executable::Executable;
use gmmk::tape::state::State;
use gmmk::tape::{Arena, Tape, TensorType, Var};

const MOMENTS: [Arena; 4] = [Arena::Params, Arena::AdamM, Arena::AdamV, Arena::Ema];

/// The optimizer on its own tape.
struct Engine {
    executable: Executable,
    state: State,
    rates: Var,
    norm: Var,
}

impl Engine {
    fn new(weights: &[f32], config: AdamWConfig, device: Device) -> Self {
        let mut tape = Tape::new();
        let rates = tape.input("rates", TensorType::f32(&[2]));
        let norm = adamw(&mut tape, weights.len(), rates, config).unwrap();
        tape.keep(norm);
        let mut state = State::default();
        for arena in MOMENTS.into_iter().chain([Arena::Grads]) {
            state.allocate(arena, weights.len()).unwrap();
        }
        state.allocate(Arena::Counters, COUNTERS).unwrap();
        for arena in [Arena::Params, Arena::Ema] {
            state.get_mut(arena).copy_from_slice(weights);
        }
        Self {
            executable: Executable::new(tape, device).unwrap(),
            state,
            rates,
            norm,
        }
    }

    /// One step; returns [norm, factor].
    fn step(&mut self, gradients: &[f32], rates: [f32; 2]) -> Vec<f32> {
        self.state.get_mut(Arena::Grads).copy_from_slice(gradients);
        self.executable.poison().unwrap();
        self.executable.write(self.rates, &rates).unwrap();
        self.executable.run(&mut self.state, Arena::Params).unwrap();
        self.state.fetch().unwrap();
        self.executable.read(self.norm).unwrap()
    }

    /// Weights, moments and average.
    fn all(&self) -> Vec<Vec<f32>> {
        MOMENTS.map(|a| self.state.get(a).to_vec()).to_vec()
    }

    fn counters(&self) -> &[u32] {
        self.state.get(Arena::Counters)
    }
}

/// The same in f64.
struct Oracle {
    config: AdamWConfig,
    /// Weights, first and second moments, average.
    all: [Vec<f64>; 4],
    /// First moments of the gradients' sizes: what a first moment's rounding is relative to, as
    /// gradients of both signs cancel.
    sizes: Vec<f64>,
    steps: i32,
}

impl Oracle {
    fn new(weights: &[f32], config: AdamWConfig) -> Self {
        let w: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
        let zeros = vec![0.0; w.len()];
        Self {
            config,
            all: [w.clone(), zeros.clone(), zeros.clone(), w],
            sizes: zeros,
            steps: 0,
        }
    }

    fn step(&mut self, gradients: &[f32], rates: [f32; 2]) -> [f64; 2] {
        let [lr, decay] = rates.map(f64::from);
        let [beta1, beta2] = self.config.betas;
        let norm = gradients
            .iter()
            .map(|&g| f64::from(g).powi(2))
            .sum::<f64>()
            .sqrt();
        let factor = self.config.clip.map_or(1.0, |clip| (clip / norm).min(1.0));
        self.steps += 1;
        let [w, m, v, ema] = &mut self.all;
        for i in 0..w.len() {
            let g = factor * f64::from(gradients[i]);
            w[i] *= 1.0 - lr * self.config.weight_decay;
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            self.sizes[i] = beta1 * self.sizes[i] + (1.0 - beta1) * g.abs();
            let mean = m[i] / (1.0 - beta1.powi(self.steps));
            let deviation = (v[i] / (1.0 - beta2.powi(self.steps))).sqrt();
            w[i] -= lr * mean / (deviation + self.config.eps);
            ema[i] = decay * ema[i] + (1.0 - decay) * w[i];
        }
        [norm, factor]
    }
}

const CONFIG: AdamWConfig = AdamWConfig {
    betas: [0.9, 0.999],
    eps: 1e-8,
    weight_decay: 0.01,
    clip: Some(1.0),
};

/// Sizes around a vector and around a task (32,768 elements).
const SIZES: [usize; 7] = [1, 3, 17, 1000, 32_767, 32_769, 70_001];

/// Largest distance of the weights from the oracle's, in learning rates.
fn compare(engine: &Engine, oracle: &Oracle, rate: f64, label: &str) -> f64 {
    let got = engine.all();
    let steps = f64::from(oracle.steps);
    // Each step rounds a moment three times and forgets a tenth, or a thousandth, of what was there;
    // the betas' own roundings, a quarter and a fifth of a roundoff, count once a step too.
    let limit = (8.0 + steps) * ROUNDOFF;
    close(&got[2], &oracle.all[2], limit, 1e-30)
        .unwrap_or_else(|e| panic!("{label}: second moment: {e}"));
    for (at, (&got, &want)) in got[1].iter().zip(&oracle.all[1]).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(
            error <= limit * oracle.sizes[at] + 1e-30,
            "{label}: first moment {at}: {got}, not {want}, of gradients of size {:e}",
            oracle.sizes[at]
        );
    }
    // A step, at most some 3 rates long, is off by 16 roundoffs and 5e-7 from the betas' roundings;
    // the weight is rounded three times.
    let mut worst: f64 = 0.0;
    for (i, name) in [(0, "weight"), (3, "average")] {
        for (at, (&got, &want)) in got[i].iter().zip(&oracle.all[i]).enumerate() {
            let error = (f64::from(got) - want).abs();
            let limit = steps * (1.5e-6 * rate + 3.0 * ROUNDOFF * want.abs());
            assert!(
                error <= limit,
                "{label}: {name} {at}: {got}, not {want}, limit {limit:e}"
            );
            worst = worst.max((error - steps * 3.0 * ROUNDOFF * want.abs()).max(0.0) / rate);
        }
    }
    worst
}

#[test]
fn adamw_follows_the_oracle() {
    for (case, &size) in SIZES.iter().enumerate() {
        for clip in [None, Some(1.0), Some(1e6)] {
            let number = seed(70_000 + case as u64);
            let mut rng = Rng::new(number);
            let config = AdamWConfig { clip, ..CONFIG };
            let weights = rng.normals(size, 0.0, 0.1);
            let mut engine = Engine::new(&weights, config, device(case));
            let mut oracle = Oracle::new(&weights, config);
            let label = format!("adamw {size}, clip {clip:?}, seed {number}");
            let mut worst: f64 = 0.0;
            for step in 0..7 {
                let gradients = rng.normals(size, 0.1, 10_f64.powi(step % 3 - 1));
                let rates = [
                    1e-3 * (1.0 - step as f32 / 20.0),
                    0.99 + step as f32 / 1000.0,
                ];
                let got = engine.step(&gradients, rates);
                let want = oracle.step(&gradients, rates);
                // A sum in f64, rounded once.
                close(&got[..1], &want[..1], 2.0 * ROUNDOFF, 0.0).unwrap();
                close(&got[1..], &want[1..], 2.0 * ROUNDOFF, 0.0).unwrap();
                worst = worst.max(compare(&engine, &oracle, 1e-3, &label));
            }
            assert_eq!(engine.counters(), [7, 0]);
            println!("{label}: weights within {worst:.1e} rates");
        }
    }
}

/// A thousand steps: the bias correction fades, rounding errors add up but do not drift.
#[test]
fn adamw_many_steps() {
    let mut rng = Rng::new(seed(71_000));
    let weights = rng.normals(50, 0.0, 1.0);
    let mut engine = Engine::new(&weights, CONFIG, device(0));
    let mut oracle = Oracle::new(&weights, CONFIG);
    for _ in 0..1000 {
        let gradients = rng.normals(50, 0.01, 0.1);
        engine.step(&gradients, [1e-3, 0.999]);
        oracle.step(&gradients, [1e-3, 0.999]);
    }
    let worst = compare(&engine, &oracle, 1e-3, "a thousand steps");
    println!("adamw, a thousand steps: weights within {worst:.1e} rates");
}

/// Zero gradients: only the decay moves the weights.
#[test]
fn adamw_without_gradients() {
    let weights = Rng::new(seed(72_000)).normals(100, 0.0, 1.0);
    let mut engine = Engine::new(&weights, CONFIG, device(1));
    let mut oracle = Oracle::new(&weights, CONFIG);
    for _ in 0..3 {
        let got = engine.step(&[0.0; 100], [1e-2, 0.9]);
        // The oracle's factor is clip / 0.
        assert_eq!(got, [0.0, 1.0]);
        oracle.step(&[0.0; 100], [1e-2, 0.9]);
    }
    compare(&engine, &oracle, 1e-2, "no gradients");
}

#[test]
fn bad_gradients_skip_the_update() {
    for (case, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .enumerate()
    {
        for place in [0, 1, 40_000, 69_999] {
            let mut rng = Rng::new(seed(73_000 + case as u64));
            let weights = rng.normals(70_000, 0.0, 1.0);
            let mut engine = Engine::new(&weights, CONFIG, device(1));
            let mut gradients = rng.normals(70_000, 0.0, 1.0);
            engine.step(&gradients, [1e-3, 0.99]);
            let before = engine.all();
            let good = std::mem::replace(&mut gradients[place], bad);
            let got = engine.step(&gradients, [1e-3, 0.99]);
            assert!(!got[0].is_finite() && got[1] == 0.0, "{got:?}");
            for (a, b) in before.iter().zip(&engine.all()) {
                same_bits(a, b).unwrap();
            }
            assert_eq!(engine.counters(), [1, 1]);
            gradients[place] = good;
            engine.step(&gradients, [1e-3, 0.99]);
            assert_eq!(engine.counters(), [2, 1]);
            assert!(engine.all().iter().flatten().all(|x| x.is_finite()));
        }
    }
}

/// Squares of these overflow f32, their sum does not overflow f64.
#[test]
fn huge_gradients_are_clipped() {
    let weights = [0.5_f32; 10];
    let mut engine = Engine::new(&weights, CONFIG, device(0));
    let mut oracle = Oracle::new(&weights, CONFIG);
    let gradients = [1e30_f32; 10];
    let got = engine.step(&gradients, [1e-3, 0.9]);
    let want = oracle.step(&gradients, [1e-3, 0.9]);
    close(&got[..1], &want[..1], 2.0 * ROUNDOFF, 0.0).unwrap();
    compare(&engine, &oracle, 1e-3, "huge gradients");
}

#[test]
fn every_device_makes_the_same_update() {
    let mut rng = Rng::new(seed(74_000));
    let weights = rng.normals(200_001, 0.0, 1.0);
    let gradients: Vec<_> = (0..3).map(|_| rng.normals(200_001, 0.0, 1.0)).collect();
    let runs = on_devices(|device| {
        let mut engine = Engine::new(&weights, CONFIG, device);
        let norms = gradients.iter().map(|g| engine.step(g, [1e-3, 0.99]));
        let norms: Vec<f32> = norms.collect::<Vec<_>>().concat();
        [engine.all(), vec![norms]].concat()
    });
    for (name, run) in &runs[1..] {
        for (a, b) in runs[0].1.iter().zip(run) {
            same_bits(a, b).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}
