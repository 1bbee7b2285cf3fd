//! The attribute losses, NGMG and the mean over positions, against their formulas written out again:
//! dense double loops in f64, and difference quotients with frozen NGMG factors.

use super::compare::{ROUNDOFF, close};
use super::direct::{Data, Recorded, outputs};
use super::rng::{Rng, seed};
use gmmk::gmm::entropy::{EntropySpec, Variant};
use gmmk::gmm::ngmg::{Diagonal, Kernel, KernelSpec, Norm, Reach};
use gmmk::ops::add;
use gmmk::ops::attribute_loss::{attribute_loss, entropy_loss};
use gmmk::ops::mean_rows::mean_rows;
use gmmk::ops::mse::mse;
use gmmk::ops::ngmg::{grid_kernel, ngmg};
use gmmk::tape::TensorType;

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// ln(1 + e^z) - y z; the plain formula, for |z| below 700.
fn cross_entropy(z: f64, y: f64) -> f64 {
    let softplus = if z > 40.0 { z } else { z.exp().ln_1p() };
    softplus - y * z
}

/// w_j = floor + gain sum_{i != j} m_ji |e_i| / sum_{i != j} m_ji of one row.
fn gated_weights(spec: &EntropySpec, z: &[f64], y: &[f64]) -> Vec<f64> {
    let k = z.len();
    let error = |i: usize| (y[i] - sigmoid(z[i])).abs();
    let m = |j: usize, i: usize| {
        let d = (j as f64 - i as f64) / spec.sigma;
        (-0.5 * d * d).exp()
    };
    (0..k)
        .map(|j| {
            let others = (0..k).filter(|&i| i != j);
            let mass: f64 = others.clone().map(|i| m(j, i)).sum();
            let pull: f64 = others.map(|i| m(j, i) * error(i)).sum();
            spec.floor + if k > 1 { spec.gain * pull / mass } else { 0.0 }
        })
        .collect()
}

/// Loss of each row (mean over K) and the gradient, 1/(B K) included.
fn oracle(spec: &EntropySpec, k: usize, z: &[f64], y: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let count = z.len() as f64;
    let mut losses = Vec::new();
    let mut gradient = Vec::new();
    for (z, y) in z.chunks(k).zip(y.chunks(k)) {
        let w = match spec.variant {
            Variant::Bce => vec![1.0; k],
            _ => gated_weights(spec, z, y),
        };
        let loss = |z: &[f64]| -> f64 {
            let terms = z.iter().zip(y).zip(&w);
            terms.map(|((z, y), w)| w * cross_entropy(*z, *y)).sum()
        };
        losses.push(loss(z) / k as f64);
        for j in 0..k {
            let exact = w[j] * (sigmoid(z[j]) - y[j]);
            if k <= 50 && z[j].abs() < 10.0 {
                let (mut above, mut below) = (z.to_vec(), z.to_vec());
                above[j] += 1e-5;
                below[j] -= 1e-5;
                let quotient = (loss(&above) - loss(&below)) / 2e-5;
                assert!((quotient - exact).abs() < 1e-7, "{quotient} {exact}");
            }
            gradient.push(exact / count);
        }
    }
    (losses, gradient)
}

struct Case {
    spec: EntropySpec,
    weight: f64,
    shape: [usize; 2],
    spread: f64,
}

/// Loss, losses of the rows and gradient of a case with these logits and labels.
fn run(case: &Case, z: &[f32], y: &[u8]) -> Vec<Vec<f32>> {
    outputs(|tape| {
        let logits = tape.input("logits", TensorType::f32(&case.shape));
        let labels = tape.input("labels", TensorType::u8(&case.shape));
        tape.want_grad(logits);
        let loss = entropy_loss(case.spec, case.shape[1]).unwrap();
        let [loss, rows] = attribute_loss(tape, logits, labels, loss, case.weight).unwrap();
        let gradients = tape.backward(&[loss], add::sum).unwrap();
        Recorded {
            inputs: vec![
                (logits, Data::F32(z.to_vec())),
                (labels, Data::U8(y.to_vec())),
            ],
            outputs: vec![loss, rows, gradients[&logits]],
        }
    })
}

#[test]
fn attribute_losses_and_their_gradients() {
    let gated = |floor, gain, sigma| EntropySpec {
        floor,
        gain,
        sigma,
        ..Default::default()
    };
    let bce = EntropySpec {
        variant: Variant::Bce,
        ..Default::default()
    };
    let cases = [
        (bce, 1.0, [3, 40], 3.0),
        (bce, 0.1, [1, 1], 2.0),
        (gated(1.0, 1.0, 5.0), 0.1, [16, 40], 3.0),
        (gated(0.0, 1.0, 5.0), 1.0, [7, 10], 3.0),
        (gated(0.0, 2.5, 0.7), 1.0, [2, 2], 3.0),
        (gated(0.5, 0.0, 5.0), 2.0, [5, 1], 3.0),
        (gated(1.0, 1.0, 5.0), 1.0, [2, 128], 3.0),
        // From here on the kernel is cut at six sigma.
        (gated(1.0, 1.0, 5.0), 1.0, [2, 129], 3.0),
        (gated(0.0, 1.0, 20.0), 0.3, [3, 301], 3.0),
        (gated(1.0, 1.0, 5.0), 1.0, [4, 40], 90.0),
    ];
    for (i, (spec, weight, shape, spread)) in cases.into_iter().enumerate() {
        let case = Case {
            spec,
            weight,
            shape,
            spread,
        };
        let mut rng = Rng::new(seed(60_000 + i as u64));
        let count = shape[0] * shape[1];
        let z = rng.normals(count, 0.0, case.spread);
        let y: Vec<u8> = rng
            .normals(count, 0.0, 1.0)
            .iter()
            .map(|&x| u8::from(x > 0.3))
            .collect();
        let got = run(&case, &z, &y);
        let wide: Vec<f64> = z.iter().map(|&z| f64::from(z)).collect();
        let labels: Vec<f64> = y.iter().map(|&y| f64::from(y)).collect();
        let (rows, gradient) = oracle(&spec, shape[1], &wide, &labels);
        let scaled = |v: &[f64]| -> Vec<f64> { v.iter().map(|v| weight * v).collect() };
        let mean = rows.iter().sum::<f64>() / shape[0] as f64;
        // Computed in f64 and rounded once; the mean adds rounded rows.
        for (name, got, want) in [
            ("loss", &got[0], &scaled(&[mean])),
            ("rows", &got[1], &scaled(&rows)),
            ("gradient", &got[2], &scaled(&gradient)),
        ] {
            close(got, want, 4.0 * ROUNDOFF, 0.0)
                .unwrap_or_else(|e| panic!("case {i}, {shape:?}, {name}: {e}"));
        }
    }
}

/// The whole range that the op is for: the window's cut stays below a roundoff of f32.
#[test]
fn sixty_five_thousand_attributes() {
    let k = 65_536;
    let case = Case {
        spec: EntropySpec::default(),
        weight: 1.0,
        shape: [1, k],
        spread: 3.0,
    };
    let mut rng = Rng::new(seed(61_000));
    let z = rng.normals(k, 0.0, case.spread);
    let y: Vec<u8> = rng
        .normals(k, 0.0, 1.0)
        .iter()
        .map(|&x| u8::from(x > 0.0))
        .collect();
    let got = run(&case, &z, &y);
    let error = |i: usize| (f64::from(y[i]) - sigmoid(f64::from(z[i]))).abs();
    for j in [0_usize, 1, 29, 30, 31, 4_095, 4_096, 32_768, 65_500, 65_535] {
        let near = j.saturating_sub(60)..(j + 61).min(k);
        let m = |i: usize| (-0.5 * ((j as f64 - i as f64) / 5.0).powi(2)).exp();
        let others = near.filter(|&i| i != j);
        let mass: f64 = others.clone().map(m).sum();
        let w = 1.0 + others.map(|i| m(i) * error(i)).sum::<f64>() / mass;
        let want = w * (sigmoid(f64::from(z[j])) - f64::from(y[j])) / k as f64;
        close(&got[2][j..=j], &[want], 2.0 * ROUNDOFF, 0.0).unwrap_or_else(|e| panic!("{j}: {e}"));
    }
}

/// A broken network gives a broken loss, not a wrong one.
#[test]
fn a_logit_that_is_no_number_shows() {
    let case = Case {
        spec: EntropySpec::default(),
        weight: 1.0,
        shape: [2, 5],
        spread: 1.0,
    };
    let mut z = vec![0.5; 10];
    z[3] = f32::NAN;
    let got = run(&case, &z, &[1; 10]);
    assert!(got[0][0].is_nan() && got[1][0].is_nan() && got[1][1].is_finite());
    assert!(got[2][..5].iter().all(|g| g.is_nan()) && got[2][5..].iter().all(|g| g.is_finite()));
    for (spec, k) in [
        (
            EntropySpec {
                floor: 0.0,
                ..case.spec
            },
            1,
        ),
        (case.spec, 0),
    ] {
        assert!(entropy_loss(spec, k).is_err());
    }
}

/// Rows of weights: positive, adding up to one.
fn weights(rng: &mut Rng, [b, n]: [usize; 2], sparse: bool) -> Vec<f32> {
    let mut rows = Vec::new();
    for _ in 0..b {
        let mut row = rng.normals(n, 0.0, 1.0);
        for w in &mut row {
            *w = if sparse && *w < 0.8 { 0.0 } else { w.abs() };
        }
        row[0] += 1e-3;
        let sum: f32 = row.iter().sum();
        rows.extend(row.iter().map(|w| w / sum));
    }
    rows
}

#[test]
fn ngmg_of_a_batch() {
    let specs = [
        (Norm::Density, Diagonal::Zero, 2.0),
        (Norm::Density, Diagonal::Keep, 2.0),
        (Norm::Mass, Diagonal::Keep, 5.0),
        (Norm::Row, Diagonal::Zero, 0.8),
        (Norm::Unit, Diagonal::Zero, 11.0),
    ];
    for (i, (norm, diagonal, sigma)) in specs.into_iter().enumerate() {
        for shape in [[1, 2], [3, 40], [2, 128], [5, 129], [2, 700]] {
            let mut rng = Rng::new(seed(62_000 + i as u64));
            let [b, n] = shape;
            let (c, t) = (
                weights(&mut rng, shape, false),
                weights(&mut rng, shape, true),
            );
            let spec = KernelSpec {
                sigma,
                norm,
                diagonal,
                ..Default::default()
            };
            let got = outputs(|tape| {
                let [current, target] =
                    ["current", "target"].map(|name| tape.input(name, TensorType::f32(&shape)));
                let kernel = grid_kernel(n, spec).unwrap();
                Recorded {
                    inputs: vec![
                        (current, Data::F32(c.clone())),
                        (target, Data::F32(t.clone())),
                    ],
                    outputs: vec![ngmg(tape, current, target, kernel).unwrap()],
                }
            });
            let m = |j: usize, i: usize| match j == i && diagonal == Diagonal::Zero {
                true => 0.0,
                false => (-0.5 * ((j as f64 - i as f64) / sigma).powi(2)).exp(),
            };
            let row_sum = |j: usize| (0..n).map(|i| m(j, i)).sum::<f64>();
            let largest = (0..n).map(row_sum).fold(0.0, f64::max);
            let kappa = |j: usize| match norm {
                Norm::Density => 1.0 / (sigma * (2.0 * std::f64::consts::PI).sqrt()),
                Norm::Unit => 1.0,
                Norm::Mass => 1.0 / largest,
                Norm::Row => 1.0 / row_sum(j),
            };
            let want: Vec<f64> = (0..b * n)
                .map(|at| {
                    let (row, j) = (at / n * n, at % n);
                    let deficit =
                        |i: usize| (f64::from(c[row + i]) - f64::from(t[row + i])).min(0.0);
                    kappa(j) * (0..n).map(|i| m(j, i) * deficit(i)).sum::<f64>()
                })
                .collect();
            // Rounded once; entries of a wide kernel that are cut are below 1.5e-8 of the largest.
            close(&got[0], &want, 2.0 * ROUNDOFF, 0.0)
                .unwrap_or_else(|e| panic!("{norm:?} {diagonal:?} {sigma} {shape:?}: {e}"));
        }
    }
}

/// Positions on no grid, in one dimension (rising) or two; for small sigmas no two of them close.
fn scattered(rng: &mut Rng, n: usize, dims: usize, sigma: f64) -> Vec<f64> {
    if sigma < 0.1 {
        return (0..n)
            .map(|i| i as f64 + 0.15 * (13.0 * i as f64).sin())
            .collect();
    }
    let mut mu: Vec<f64> = rng
        .normals(n * dims, 0.0, 0.3 * n as f64)
        .into_iter()
        .map(f64::from)
        .collect();
    if dims == 1 {
        mu.sort_by(f64::total_cmp);
        // No two at the same place.
        let apart = mu.iter_mut().enumerate();
        apart.for_each(|(i, m)| *m += 1e-3 * i as f64);
    }
    mu
}

#[test]
fn ngmg_off_a_grid() {
    let near = Reach::Sigmas(3.0);
    let specs = [
        (1, Norm::Density, Diagonal::Zero, 2.0, Reach::All),
        (2, Norm::Density, Diagonal::Keep, 3.0, Reach::All),
        (1, Norm::Row, Diagonal::Keep, 0.8, near),
        (2, Norm::Mass, Diagonal::Zero, 5.0, Reach::All),
        (1, Norm::Unit, Diagonal::Keep, 11.0, near),
        // Entries below f32's range, whose sum is one.
        (1, Norm::Row, Diagonal::Zero, 0.08, Reach::All),
    ];
    for (i, (dims, norm, diagonal, sigma, reach)) in specs.into_iter().enumerate() {
        for shape in [[1, 2], [3, 3], [2, 40], [9, 129], [2, 700]] {
            let mut rng = Rng::new(seed(64_000 + i as u64));
            let [b, n] = shape;
            let mu = scattered(&mut rng, n, dims, sigma);
            let (c, t) = (
                weights(&mut rng, shape, false),
                weights(&mut rng, shape, true),
            );
            let spec = KernelSpec {
                sigma,
                norm,
                diagonal,
                reach,
            };
            let got = outputs(|tape| {
                let [current, target] =
                    ["current", "target"].map(|name| tape.input(name, TensorType::f32(&shape)));
                let kernel = match dims {
                    1 => Kernel::line(&mu, spec),
                    _ => Kernel::points(&mu, dims, spec),
                };
                let kernel = kernel.unwrap();
                // Two positions are a grid of their own.
                assert_eq!(kernel.taps().is_some(), n == 2 && dims == 1);
                Recorded {
                    inputs: vec![
                        (current, Data::F32(c.clone())),
                        (target, Data::F32(t.clone())),
                    ],
                    outputs: vec![ngmg(tape, current, target, kernel).unwrap()],
                }
            });
            let m = |j: usize, i: usize| {
                let at = |i: usize| &mu[i * dims..(i + 1) * dims];
                let axes = at(j).iter().zip(at(i));
                let square: f64 = axes.map(|(a, b)| (a - b).powi(2)).sum();
                let far = match reach {
                    Reach::All => false,
                    Reach::Sigmas(r) => square.sqrt() > r * sigma,
                };
                match far || (j == i && diagonal == Diagonal::Zero) {
                    true => 0.0,
                    false => (-0.5 * square / (sigma * sigma)).exp(),
                }
            };
            let row_sum = |j: usize| (0..n).map(|i| m(j, i)).sum::<f64>();
            let largest = (0..n).map(row_sum).fold(0.0, f64::max);
            let kappa = |j: usize| match norm {
                Norm::Density => (sigma * (2.0 * std::f64::consts::PI).sqrt()).powi(-(dims as i32)),
                Norm::Unit => 1.0,
                Norm::Mass => 1.0 / largest,
                Norm::Row => 1.0 / row_sum(j),
            };
            let deficit = |at: usize| (f64::from(c[at]) - f64::from(t[at])).min(0.0);
            let want: Vec<f64> = (0..b * n)
                .map(|at| {
                    let (row, j) = (at / n * n, at % n);
                    kappa(j) * (0..n).map(|i| m(j, i) * deficit(row + i)).sum::<f64>()
                })
                .collect();
            close(&got[0], &want, 2.0 * ROUNDOFF, 0.0)
                .unwrap_or_else(|e| panic!("{norm:?} {diagonal:?} {sigma} {shape:?}: {e}"));
        }
    }
}

#[test]
fn mean_over_positions_and_its_gradient() {
    let shapes: [&[usize]; 5] = [
        &[1, 1, 1, 1],
        &[2, 3, 7],
        &[3, 5, 4, 6],
        &[1, 8, 8, 64],
        &[4, 1, 9],
    ];
    for (i, &shape) in shapes.iter().enumerate() {
        let mut rng = Rng::new(seed(63_000 + i as u64));
        let (n, c) = (shape[0], shape[shape.len() - 1]);
        let rows = shape[1..shape.len() - 1].iter().product::<usize>();
        let x = rng.normals(n * rows * c, 0.3, 1.0);
        let t = rng.normals(n * c, 0.0, 1.0);
        let got = outputs(|tape| {
            let xv = tape.input("x", TensorType::f32(shape));
            let tv = tape.input("target", TensorType::f32(&[n, c]));
            tape.want_grad(xv);
            let y = mean_rows(tape, xv).unwrap();
            let [loss, _] = mse(tape, y, tv).unwrap();
            let gradients = tape.backward(&[loss], add::sum).unwrap();
            Recorded {
                inputs: vec![(xv, Data::F32(x.clone())), (tv, Data::F32(t.clone()))],
                outputs: vec![y, gradients[&xv]],
            }
        });
        let at = |n: usize, r: usize, k: usize| f64::from(x[(n * rows + r) * c + k]);
        let mean: Vec<f64> = (0..n * c)
            .map(|i| (0..rows).map(|r| at(i / c, r, i % c)).sum::<f64>() / rows as f64)
            .collect();
        let gradient: Vec<f64> = (0..n * rows * c)
            .map(|i| {
                let y = i / (rows * c) * c + i % c;
                2.0 * (mean[y] - f64::from(t[y])) / (n * c * rows) as f64
            })
            .collect();
        // A sum of up to 64 f32 numbers of size 1.
        let limit = (4.0 + (rows as f64).sqrt()) * ROUNDOFF;
        close(&got[0], &mean, 2.0 * limit, 0.0).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
        close(&got[1], &gradient, 4.0 * limit, 0.0).unwrap_or_else(|e| panic!("{shape:?}: {e}"));
    }
    let mut tape = gmmk::tape::Tape::new();
    let flat = tape.input("x", TensorType::f32(&[3, 4]));
    assert!(mean_rows(&mut tape, flat).is_err());
}
