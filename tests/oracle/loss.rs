//! Mean squared error and sums of resampled tensors.

use super::compare::{ROUNDOFF, close};
use super::direct::{Data, Recorded, outputs};
use super::reference::{self, Tensor};
use super::rng::{Rng, seed};
use gmmk::ops::add;
use gmmk::ops::concat::{Axis, concat};
use gmmk::ops::mse::mse;
use gmmk::tape::TensorType;
use gmmk::tape::backward::{Contribution, Resample};

#[test]
fn mse_and_its_gradient() {
    let shapes: [&[usize]; 6] = [
        &[1, 1],
        &[3, 5],
        &[2, 3, 7],
        &[3, 5, 7, 3],
        &[1, 17, 19, 2],
        &[7, 4],
    ];
    for (i, &shape) in shapes.iter().enumerate() {
        let mut rng = Rng::new(seed(50_000 + i as u64));
        let count: usize = shape.iter().product();
        let (y, t) = (rng.normals(count, 0.3, 1.0), rng.normals(count, 0.0, 1.0));
        let got = outputs(|tape| {
            let ty = TensorType::f32(shape);
            let [yv, tv] = ["y", "target"].map(|name| tape.input(name, ty.clone()));
            tape.want_grad(yv);
            let [loss, samples] = mse(tape, yv, tv).unwrap();
            let gradients = tape.backward(&[loss], add::sum).unwrap();
            Recorded {
                inputs: vec![(yv, Data::F32(y.clone())), (tv, Data::F32(t.clone()))],
                outputs: vec![loss, samples, gradients[&yv]],
            }
        });
        let [y, t] = [&y, &t].map(|x| Tensor::from_f32(shape, x));
        let per_sample = count / shape[0];
        let errors = y.data.iter().zip(&t.data).map(|(y, t)| y - t);
        let samples: Vec<f64> = errors
            .clone()
            .collect::<Vec<_>>()
            .chunks(per_sample)
            .map(|e| e.iter().map(|e| e * e).sum::<f64>() / per_sample as f64)
            .collect();
        let gradient: Vec<f64> = errors.map(|e| 2.0 * e / count as f64).collect();
        // Differences are rounded once, sums are f64: a few roundoffs whatever the size.
        let check = |got: &[f32], want: &[f64]| {
            close(got, want, 4.0 * ROUNDOFF, 0.0).unwrap_or_else(|e| panic!("{shape:?}: {e}"))
        };
        check(&got[0], &[reference::mse(&y, &t)]);
        check(&got[1], &samples);
        check(&got[2], &gradient);
    }
}

/// The loss reads a slice of a wider buffer.
#[test]
fn mse_of_slices() {
    let mut rng = Rng::new(seed(51_000));
    let (y, t) = (
        rng.normals(2 * 3 * 5 * 4, 0.0, 1.0),
        rng.normals(2 * 3 * 5 * 4, 0.0, 1.0),
    );
    let got = outputs(|tape| {
        let ty = TensorType::f32(&[2, 3, 5, 4]);
        let [yv, tv] = ["y", "target"].map(|name| tape.input(name, ty.clone()));
        let plain = |var| Contribution {
            var,
            resample: Resample::None,
        };
        let a = add::sum(tape, &[plain(yv)], &ty).unwrap();
        let b = add::sum(tape, &[plain(tv)], &ty).unwrap();
        let whole = concat(tape, Axis::Channels, &[a, b]).unwrap();
        let [loss, samples] = mse(tape, a, b).unwrap();
        Recorded {
            inputs: vec![(yv, Data::F32(y.clone())), (tv, Data::F32(t.clone()))],
            outputs: vec![loss, samples, whole],
        }
    });
    let [y, t] = [&y, &t].map(|x| Tensor::from_f32(&[2, 3, 5, 4], x));
    close(&got[0], &[reference::mse(&y, &t)], 4.0 * ROUNDOFF, 0.0).unwrap();
    let whole = reference::concat_channels(&[&y, &t]);
    close(&got[2], &whole.data, 0.0, 0.0).unwrap();
}

/// What part `x`, resampled, adds to element (n, y, q, c).
fn resampled(x: &Tensor, resample: Resample, [n, y, q, c]: [usize; 4]) -> f64 {
    match resample {
        Resample::None => x.at(n, y, q, c),
        Resample::OfPool => x.at(n, y / 2, q / 2, c) / 4.0,
        Resample::OfUpsample => [(0, 0), (0, 1), (1, 0), (1, 1)]
            .iter()
            .map(|(dy, dq)| x.at(n, 2 * y + dy, 2 * q + dq, c))
            .sum(),
    }
}

#[test]
fn add_with_resampling() {
    for i in 0..30 {
        let number = seed(52_000 + i);
        let mut rng = Rng::new(number);
        let pool = i % 2 == 0;
        let even = 1 + usize::from(pool);
        let shape = [
            rng.between(1, 3),
            even * rng.between(1, 9),
            even * rng.between(1, 9),
            rng.between(1, 5),
        ];
        let kinds = [Resample::None, Resample::OfUpsample, Resample::OfPool];
        let parts: Vec<(Resample, Tensor, Vec<f32>)> = (0..rng.between(1, 4))
            .map(|_| {
                let resample = rng.pick(&kinds[..2 + usize::from(pool)]);
                let [n, h, w, c] = shape;
                let shape = match resample {
                    Resample::None => [n, h, w, c],
                    Resample::OfPool => [n, h / 2, w / 2, c],
                    Resample::OfUpsample => [n, 2 * h, 2 * w, c],
                };
                let values = rng.normals(shape.iter().product(), 0.0, 1.0);
                (resample, Tensor::from_f32(&shape, &values), values)
            })
            .collect();
        let got = outputs(|tape| {
            let inputs = parts.iter().map(|(_, x, values)| {
                let var = tape.input("part", TensorType::f32(&x.shape));
                (var, Data::F32(values.clone()))
            });
            let inputs: Vec<_> = inputs.collect();
            let contributions = inputs
                .iter()
                .zip(&parts)
                .map(|((var, _), part)| Contribution {
                    var: *var,
                    resample: part.0,
                });
            let contributions: Vec<_> = contributions.collect();
            let sum = add::sum(tape, &contributions, &TensorType::f32(&shape)).unwrap();
            Recorded {
                inputs,
                outputs: vec![sum],
            }
        });
        let want = Tensor::build(&shape, |n, y, q, c| {
            parts
                .iter()
                .map(|(r, x, _)| resampled(x, *r, [n, y, q, c]))
                .sum()
        });
        // At most 16 summands.
        close(&got[0], &want.data, 8.0 * ROUNDOFF, 0.0)
            .unwrap_or_else(|e| panic!("seed {number}, {shape:?}: {e}"));
    }
}
