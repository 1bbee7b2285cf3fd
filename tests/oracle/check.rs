//! A program's run against its f64 meaning.

use super::compare::{ROUNDOFF, close};
use super::evaluate::evaluate;
use super::execute::{Results, execute};
use super::program::Program;
use super::reference::{self, Tensor};
use super::rng::Rng;
use crate::{on_devices, on_rough_devices, takes};

/// Half the distance of the two points of a difference quotient. Its truncation error, h^2 times the
/// third derivative over six, is some 1e-9 of the gradient here; the rounding of the f64 loss, 1e-16
/// over h, some 1e-8.
const STEP: f64 = 1e-5;

/// Multiply-adds that the finite differences of one case may take.
const BUDGET: u64 = 50_000_000;

/// Directions for each leaf of a case whose elements are too many to vary one by one.
const DIRECTIONS: usize = 3;

/// A sum of K products in f32, one after the other, wanders off by about sqrt(K) / 2 roundoffs of
/// its size; FMA and blocks make it less. Exponential, division, norm and their like cost a few
/// roundoffs each, and a case is a handful of such ops.
fn limit(program: &Program, elements: usize, roundoff: f64) -> f64 {
    if roundoff > ROUNDOFF {
        return rough_limit(program, elements, roundoff);
    }
    let chain = program.steps.len() as f64;
    let sums = 16.0 * chain.sqrt() + (program.longest_sum() as f64).sqrt();
    // One sum may be small by chance, all elements of a large tensor may not.
    let luck = 1.0 + 16.0 / elements as f64;
    program.slack * luck * 2.0 * ROUNDOFF * sums
}

/// Numbers that are stored, or multiplied, with a larger unit roundoff u: rounding errors are u / sqrt(3) on
/// average, each op rounds two operands and a result, forward and twice on the way back; independent errors,
/// in lengths, grow with the root of their number, and a gradient that nearly cancels doubles them.
fn rough_limit(program: &Program, elements: usize, roundoff: f64) -> f64 {
    let roundings = 3.0 * (1.0 + program.steps.len() as f64);
    let luck = 1.0 + 16.0 / elements as f64;
    program.slack * luck * 4.0 * roundoff * roundings.sqrt()
}

/// Checks outputs, losses and gradients of `program` against the oracle, and equal bits of runs on
/// all devices.
///
/// # Panics
/// With the program's label if anything is wrong.
pub fn check(mut program: Program) {
    if !takes() {
        return;
    }
    let targets: Vec<Vec<f32>> = program
        .outputs
        .clone()
        .iter()
        .map(|&o| {
            let count = program.shapes[o].iter().product();
            program.rng.normals(count, 0.0, 1.0)
        })
        .collect();
    let fail = |what: &str, e: String| -> ! {
        panic!("{}: {what}: {e}\n{:#?}", program.label, program.steps)
    };
    let run = |device| execute(&program, &targets, device).unwrap_or_else(|e| fail("run", e));
    let mut all = on_devices(run).into_iter();
    let (_, results) = all.next().unwrap();
    for (name, others) in all {
        if let Err(e) = results.same_bits(&others) {
            fail(&name, e);
        }
    }
    // The same in rougher number formats, where the device has any.
    let mut runs = vec![("f32".to_string(), ROUNDOFF, results)];
    runs.extend(on_rough_devices(run));
    let oracle = Oracle::new(&program, targets);
    let slopes = oracle.slopes(&runs[0].2.gradients);
    for (name, roundoff, results) in &runs {
        let output = outputs(&program, &oracle, results, *roundoff)
            .unwrap_or_else(|e| fail(&format!("{name}: output"), e));
        let gradient = gradients(&program, &slopes, results, *roundoff)
            .unwrap_or_else(|e| fail(&format!("{name}: gradient"), e));
        println!(
            "{:<60} {name} output {output:.1e} gradient {gradient:.1e} limit {:.1e}",
            program.label,
            limit(&program, usize::MAX, *roundoff)
        );
    }
}

/// Largest relative error of the outputs and losses.
fn outputs(
    program: &Program,
    oracle: &Oracle<'_>,
    results: &Results,
    roundoff: f64,
) -> Result<f64, String> {
    let values = evaluate(program, &oracle.leaves);
    let mut worst: f64 = 0.0;
    for (i, &id) in program.outputs.iter().enumerate() {
        let at = |e| format!("{i}: {e}");
        let want = &values[id].data;
        // Half the ops of a gradient, and none of its cancelling means.
        let limit = limit(program, want.len(), roundoff) / 4.0;
        let d = close(&results.outputs[i], want, limit, program.floor).map_err(at)?;
        worst = worst.max(d.relative);
        let loss = reference::mse(&values[id], &oracle.targets[i]);
        close(&results.losses[i..=i], &[loss], limit, program.floor).map_err(at)?;
    }
    Ok(worst)
}

/// The loss as a function of the leaves, in f64.
struct Oracle<'a> {
    program: &'a Program,
    leaves: Vec<Tensor>,
    targets: Vec<Tensor>,
}

impl<'a> Oracle<'a> {
    fn new(program: &'a Program, targets: Vec<Vec<f32>>) -> Self {
        let leaves = program.leaves.iter();
        Self {
            program,
            leaves: leaves
                .map(|l| Tensor::from_f32(&l.shape, &l.values))
                .collect(),
            targets: targets
                .iter()
                .zip(&program.outputs)
                .map(|(t, &o)| Tensor::from_f32(&program.shapes[o], t))
                .collect(),
        }
    }

    fn loss(&self, leaves: &[Tensor]) -> f64 {
        let values = evaluate(self.program, leaves);
        let outputs = self.program.outputs.iter().zip(&self.targets);
        outputs
            .map(|(&o, target)| reference::mse(&values[o], target))
            .sum()
    }

    /// Change of the loss along `direction` of leaf `leaf`, per unit.
    fn slope(&self, leaf: usize, direction: &[(usize, f64)]) -> f64 {
        let moved = |by: f64| {
            let mut leaves = self.leaves.clone();
            for &(i, d) in direction {
                leaves[leaf].data[i] += by * d;
            }
            self.loss(&leaves)
        };
        (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
    }

    /// The slopes that tell about the gradient of each leaf.
    fn slopes(&self, gradients: &[Vec<f32>]) -> Vec<Slopes> {
        let before = reference::work();
        self.loss(&self.leaves);
        let cost = 2 * (reference::work() - before);
        let elements: usize = self.leaves.iter().map(|l| l.data.len()).sum();
        let each = elements as u64 * cost <= BUDGET;
        let leaves = gradients.iter().enumerate();
        leaves
            .map(|(leaf, got)| match each {
                true => Slopes::Each(
                    (0..got.len())
                        .map(|i| self.slope(leaf, &[(i, 1.0)]))
                        .collect(),
                ),
                false => Slopes::Along(self.along_directions(leaf, got.len())),
            })
            .collect()
    }

    /// Along random directions d: got . d against the slope. Every third element moves alone in one
    /// direction, so that errors elsewhere do not hide behind each other.
    fn along_directions(&self, leaf: usize, length: usize) -> Vec<(Vec<(usize, f64)>, f64)> {
        let mut rng = Rng::new(length as u64);
        (0..=DIRECTIONS)
            .map(|turn| {
                let chosen = (0..length).filter(|i| turn == 0 || i % DIRECTIONS == turn - 1);
                let direction: Vec<(usize, f64)> = chosen.map(|i| (i, rng.normal())).collect();
                let slope = self.slope(leaf, &direction);
                (direction, slope)
            })
            .collect()
    }
}

/// Slopes of the loss in one leaf.
enum Slopes {
    /// In every element.
    Each(Vec<f64>),
    /// Along directions, with them.
    Along(Vec<(Vec<(usize, f64)>, f64)>),
}

/// Largest relative error of the gradients.
fn gradients(
    program: &Program,
    slopes: &[Slopes],
    results: &Results,
    roundoff: f64,
) -> Result<f64, String> {
    let mut worst: f64 = 0.0;
    for (leaf, (got, slopes)) in results.gradients.iter().zip(slopes).enumerate() {
        let error = match slopes {
            Slopes::Each(want) => {
                let limit = limit(program, got.len(), roundoff);
                close(got, want, limit, program.floor).map(|d| d.relative)
            }
            Slopes::Along(directions) => along(program, got, directions, roundoff),
        };
        worst = worst.max(error.map_err(|e| format!("of leaf {leaf}: {e}"))?);
    }
    Ok(worst)
}

/// The error of got . d is normal with the deviation of the error's length, so four times the limit is fair.
fn along(
    program: &Program,
    got: &[f32],
    directions: &[(Vec<(usize, f64)>, f64)],
    roundoff: f64,
) -> Result<f64, String> {
    let square = |&g: &f32| f64::from(g) * f64::from(g);
    let length = got.iter().map(square).sum::<f64>().sqrt();
    let scale = length.max(program.floor);
    let mut worst: f64 = 0.0;
    for (turn, (direction, want)) in directions.iter().enumerate() {
        let products = direction.iter().map(|&(i, d)| f64::from(got[i]) * d);
        let got: f64 = products.sum();
        let error = (got - want).abs() / scale;
        let limit = 4.0 * limit(program, direction.len(), roundoff);
        if error.is_nan() || error > limit {
            return Err(format!(
                "direction {turn}: slope {got:e} instead of {want:e}: {error:.3e} of the \
                 gradient's length, limit {limit:.3e}"
            ));
        }
        worst = worst.max(error);
    }
    Ok(worst)
}
