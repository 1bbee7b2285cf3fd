use super::*;

fn spec(sigma: f64, norm: Norm, diagonal: Diagonal, reach: Reach) -> KernelSpec {
    KernelSpec {
        sigma,
        norm,
        diagonal,
        reach,
    }
}

fn weights(n: usize, seed: f64) -> Vec<f64> {
    let raw: Vec<f64> = (0..n)
        .map(|i| 1.0 + (seed * (i + 1) as f64).sin())
        .collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|p| p / sum).collect()
}

const NORMS: [Norm; 4] = [Norm::Density, Norm::Unit, Norm::Mass, Norm::Row];

#[test]
fn windows_agree_with_the_dense_form() {
    let n = 300;
    let uneven: Vec<f64> = (0..n)
        .map(|i| i as f64 + 0.3 * (i as f64 * 1.7).sin())
        .collect();
    let even: Vec<f64> = (0..n).map(|i| i as f64).collect();
    let (c, t) = (weights(n, 0.37), weights(n, 1.93));
    for (mu, diagonal) in [(&uneven, Diagonal::Zero), (&even, Diagonal::Keep)] {
        for norm in NORMS {
            let dense = Kernel::points(mu, 1, spec(2.0, norm, diagonal, Reach::All)).unwrap();
            let exact = ngmg(&dense, &c, &t).unwrap();
            let largest = -dense.bounds()[0];
            for (reach, tol) in [(6.0, 3.1e-8), (9.0, 1e-15)] {
                let reach = Reach::Sigmas(reach);
                let fast = Kernel::line(mu, spec(2.0, norm, diagonal, reach)).unwrap();
                for (a, b) in ngmg(&fast, &c, &t).unwrap().iter().zip(&exact) {
                    assert!((a - b).abs() <= tol * largest, "{norm:?} {a} {b}");
                }
            }
        }
    }
}

#[test]
fn the_bounds_hold_and_are_reached() {
    for norm in NORMS {
        let kernel = Kernel::grid(9, spec(1.5, norm, Diagonal::Zero, Reach::All)).unwrap();
        let [low, high] = kernel.bounds();
        let found = ngmg(&kernel, &weights(9, 0.4), &weights(9, 2.2)).unwrap();
        assert!(found.iter().all(|g| (low..=high).contains(g)));
        let mut lowest: f64 = 0.0;
        for cell in 0..9 {
            let (mut c, mut t) = (vec![0.0; 9], vec![0.0; 9]);
            c[(cell + 5) % 9] = 1.0;
            t[cell] = 1.0;
            let found = ngmg(&kernel, &c, &t).unwrap();
            lowest = found.iter().copied().fold(lowest, f64::min);
        }
        assert!((lowest - low).abs() < 1e-15, "{norm:?} {lowest} {low}");
    }
}

#[test]
fn it_vanishes_only_at_the_target() {
    let kernel = Kernel::grid(5, KernelSpec::default()).unwrap();
    let c = weights(5, 0.7);
    assert!(ngmg(&kernel, &c, &c).unwrap().iter().all(|&g| g == 0.0));
    let t = weights(5, 0.8);
    assert!(ngmg(&kernel, &c, &t).unwrap().iter().all(|&g| g < 0.0));
    let sum: f64 = negative_part(&c, &t).unwrap().iter().sum();
    let tv = crate::gmm::distance::tv(&c, &t).unwrap();
    assert!((sum + tv).abs() < 1e-15);
}

#[test]
fn planes_use_the_euclidean_distance() {
    let mu = [0.0, 0.0, 3.0, 4.0, 0.0, 1.0];
    let kernel = Kernel::points(&mu, 2, spec(2.0, Norm::Density, Diagonal::Keep, Reach::All));
    let matrix = kernel.unwrap().matrix().unwrap();
    let kappa = 1.0 / (4.0 * TAU);
    assert!((matrix[0] - kappa).abs() < 1e-16);
    assert!((matrix[1] - kappa * (-25.0_f64 / 8.0).exp()).abs() < 1e-16);
}

#[test]
fn thread_count_does_not_change_a_bit() {
    let n = 20_000;
    let kernel = Kernel::grid(n, spec(5.0, Norm::Row, Diagonal::Zero, Reach::Sigmas(6.0)));
    let kernel = kernel.unwrap();
    let (c, t) = (weights(n, 0.37), weights(n, 1.93));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| ngmg(&kernel, &c, &t).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bad_input_is_refused_by_name() {
    let good = KernelSpec::default();
    let text = |r: Result<Kernel, NgmgError>| r.unwrap_err().to_string();
    assert!(text(Kernel::grid(1, good)).contains("1 components"));
    assert!(text(Kernel::grid(5, KernelSpec { sigma: 0.0, ..good })).contains("sigma is 0"));
    assert!(text(Kernel::line(&[0.0, f64::NAN], good)).contains("mu[1] is NaN"));
    let near = spec(1.0, Norm::Unit, Diagonal::Zero, Reach::Sigmas(6.0));
    assert!(text(Kernel::line(&[0.0, 2.0, 1.0], near)).contains("position 2"));
    let lone = spec(0.01, Norm::Row, Diagonal::Zero, Reach::All);
    assert!(text(Kernel::grid(4, lone)).contains("row 0 add up to 0"));
    let kernel = Kernel::grid(2, good).unwrap();
    assert!(ngmg(&kernel, &[0.5, 0.5], &[1.0]).is_err());
    assert!(ngmg(&kernel, &[0.5, 0.6], &[0.5, 0.5]).is_err());
    assert!(ngmg(&kernel, &[0.2, 0.3, 0.5], &[0.2, 0.3, 0.5]).is_err());
}
