//! `gmmk gmm` as a person uses it: files in, numbers and one clear error out.

use gmmk::gmm::mixture::Mixture;
use gmmk::rng::{Philox, Stream};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn gmmk(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gmmk"))
        .arg("gmm")
        .args(args)
        .output();
    let output = output.expect("gmmk starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code().expect("an exit code"),
        text(output.stdout),
        text(output.stderr),
    )
}

fn write(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a writable folder");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn normals(mean: f64, sigma: f64, index: u64) -> Vec<f64> {
    let g = Mixture::common(&[1.0], &[mean], sigma).expect("a mixture");
    g.sample(&mut Philox::new(2, Stream::Noise, index).sequence(), 5000)
}

fn lines(x: &[f64]) -> String {
    x.iter().map(|x| format!("{x}\n")).collect()
}

fn npy(x: &[f64], wide: bool) -> Vec<u8> {
    let kind = if wide { "<f8" } else { "<f4" };
    let n = x.len();
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({n},), }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    for &x in x {
        if wide {
            bytes.extend(x.to_le_bytes());
        } else {
            bytes.extend((x as f32).to_le_bytes());
        }
    }
    bytes
}

#[test]
fn fit_prints_weights_likelihoods_and_the_distance() {
    let dir = TempDir::new().unwrap();
    let x = normals(3.0, 2.0, 0);
    let column = write(&dir, "x.csv", format!("# heights\n\n{}", lines(&x)));
    let png = dir.path().join("x.png");
    let (code, out, error) = gmmk(&["fit", text(&column), "--json", "--out", text(&png)]);
    assert_eq!(code, 0, "{error}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let number = |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap();
    assert!((number("/mean") - 3.0).abs() < 0.1 && (number("/variance") - 4.0).abs() < 0.3);
    // Entropy of a normal of deviation 2.
    assert!((number("/log_likelihood/one_step") + 2.112).abs() < 0.05);
    assert!(number("/log_likelihood/em:10") > number("/log_likelihood/one_step"));
    assert!((0.0..0.1).contains(&number("/w1_to_samples")));
    assert_eq!(found["pi"].as_array().unwrap().len(), 100);
    assert!(std::fs::metadata(&png).unwrap().len() > 1000);
    for (wide, tol) in [(true, 1e-12), (false, 1e-5)] {
        let file = write(&dir, "x.npy", npy(&x, wide));
        let (_, out, _) = gmmk(&["fit", text(&file), "--json"]);
        let same: Value = serde_json::from_str(&out).unwrap();
        let w1 = same["w1_to_samples"].as_f64().unwrap();
        assert!((w1 - number("/w1_to_samples")).abs() < tol);
    }
    let (code, out, error) = gmmk(&[
        "fit",
        text(&column),
        "--n",
        "7",
        "--r",
        "0.4",
        "--mode",
        "em:3",
        "--lo",
        "-1",
        "--hi",
        "5",
    ]);
    assert_eq!((code, out.contains("em:3")), (0, true), "{out}");
    assert!(
        error.contains("r = 0.4") && error.contains("outside the given range"),
        "{error}"
    );
}

#[test]
fn distance_names_the_one_that_is_no_metric() {
    let dir = TempDir::new().unwrap();
    let a = write(&dir, "a.txt", lines(&normals(0.0, 1.0, 1)));
    let b = write(&dir, "b.txt", lines(&normals(0.0, 2.0, 2)));
    let (code, out, _) = gmmk(&["distance", text(&a), text(&b)]);
    assert_eq!(code, 0);
    assert!(out.contains("not a metric"), "{out}");
    let (_, out, _) = gmmk(&["distance", text(&a), text(&b), "--json", "--mode", "em:10"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    // E|z| (2 - 1).
    assert!((found["w1_exact"].as_f64().unwrap() - 0.798).abs() < 0.05);
    assert!(found["w1_signed"].as_f64().unwrap() < 0.1);
    assert_eq!(found["w1_signed_is_a_metric"], false);
}

#[test]
fn bad_input_gets_one_clear_error() {
    let dir = TempDir::new().unwrap();
    let good = write(&dir, "good.txt", "1\n2\n3\n");
    let cases = [
        ("", "holds no numbers"),
        ("1\n2\nthree\n", "line 3: `three` is not a number"),
        ("1\n2,3\n", "line 2: `2,3` is not a number"),
        ("1\nNaN\n", "line 2 is NaN"),
        ("1\ninf\n", "line 2 is inf"),
        ("4\n4\n", "one distinct value (4)"),
    ];
    let check = |args: &[&str], want: &str| {
        let (code, out, error) = gmmk(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?} {error}");
        assert!(
            error.starts_with("error: ") && error.contains(want),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    for (content, want) in cases {
        check(&["fit", text(&write(&dir, "bad.txt", content))], want);
    }
    let good = text(&good);
    check(&["fit", good, "--n", "1"], "N is 1");
    check(&["fit", good, "--r", "0"], "r is 0");
    check(&["fit", good, "--r", "-2"], "r is -2");
    check(&["fit", good, "--lo", "2", "--hi", "1"], "2 to 1");
    check(&["fit", "missing.txt"], "cannot read missing.txt");
    check(
        &["distance", good, "missing.txt"],
        "cannot read missing.txt",
    );
    let mut short = npy(&[1.0, 2.0], true);
    short.pop();
    check(
        &["fit", text(&write(&dir, "short.npy", short))],
        "expected 2 x 8",
    );
    let header = npy(&[1.0], true)[..30].to_vec();
    check(
        &["fit", text(&write(&dir, "cut.npy", header))],
        "ends inside its header",
    );
    assert_eq!(gmmk(&["fit", good, "--mode", "best"]).0, 2);
    assert_eq!(gmmk(&["fit", good, "--lo", "1"]).0, 2);
}

/// How long large problems take: `cargo test --release --test gmm -- --ignored --nocapture`.
#[test]
#[ignore = "prints timings"]
fn timings() {
    use gmmk::gmm::distance::Pair;
    use gmmk::gmm::entropy::{EntropyLoss, EntropySpec};
    use gmmk::gmm::expansion::{ExpansionSpec, Mode, expand};
    use gmmk::gmm::ngmg::{Kernel, KernelSpec, Reach, ngmg};
    use gmmk::gmm::wasserstein::w1_samples;
    use std::time::Instant;
    fn timed<T>(what: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = f();
        println!(
            "{what:<44} {:>10.2} ms",
            start.elapsed().as_secs_f64() * 1e3
        );
        value
    }
    let g = Mixture::common(&[0.3, 0.7], &[-1.0, 2.0], 1.0).unwrap();
    let x = g.sample(&mut Philox::new(2, Stream::Noise, 0).sequence(), 1_000_000);
    let spec = |n, mode| ExpansionSpec {
        n,
        mode,
        range: Some([-6.0, 7.0]),
        ..ExpansionSpec::default()
    };
    let one = timed("one_step, 1e6 samples, N 100", || {
        expand(&x, spec(100, Mode::OneStep))
    });
    let em = timed("em(10), 1e6 samples, N 100", || {
        expand(&x, spec(100, Mode::Em(10)))
    });
    let (one, em) = (one.unwrap().mixture, em.unwrap().mixture);
    timed("log-likelihood, 1e6 samples, N 100", || {
        em.mean_log_likelihood(&x)
    })
    .unwrap();
    timed("W1 to 1e6 samples, N 100", || w1_samples(&em, &x)).unwrap();
    let pair = Pair::of(&one, &em).unwrap();
    timed("w1_exact, N 100", || pair.w1_exact()).unwrap();
    timed("w1_fast, N 100", || pair.w1_fast()).unwrap();
    timed("KL, N 100", || pair.kl()).unwrap();
    let k = 65_536;
    let many = |mode| expand(&x, spec(k, mode)).unwrap().mixture;
    let (a, b) = (many(Mode::OneStep), many(Mode::Resp));
    timed("w1_exact, N 65536", || Pair::of(&a, &b).unwrap().w1_exact()).unwrap();
    for (sigma, reach) in [(2.0, 6.0), (5.0, 6.0), (5.0, 9.0)] {
        let reach = Reach::Sigmas(reach);
        let kernel = KernelSpec {
            sigma,
            reach,
            ..KernelSpec::default()
        };
        let kernel = Kernel::grid(k, kernel).unwrap();
        let what = format!("NGMG, K 65536, sigma {sigma}, {reach:?}");
        timed(&what, || ngmg(&kernel, a.pi(), b.pi())).unwrap();
    }
    let loss = EntropyLoss::new(EntropySpec::default(), 40).unwrap();
    let z: Vec<f64> = x[..400_000].to_vec();
    let y: Vec<f64> = z.iter().map(|z| f64::from(u8::from(*z > 0.0))).collect();
    let (mut grad, mut space) = (vec![0.0; z.len()], loss.workspace());
    let what = "gated loss, B 10000, K 40";
    timed(what, || loss.evaluate(&z, &y, &mut grad, &mut space)).unwrap();
}
