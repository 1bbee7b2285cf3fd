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

/// A .npy of any header entries and bytes.
fn npy_of(descr: &str, fortran: bool, shape: &str, data: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.into_bytes());
    bytes.extend(data);
    bytes
}

fn npy(x: &[f64], wide: bool) -> Vec<u8> {
    let shape = format!("({},)", x.len());
    if wide {
        return npy_of(
            "'<f8'",
            false,
            &shape,
            x.iter().flat_map(|x| x.to_le_bytes()),
        );
    }
    let narrow = x.iter().flat_map(|&x| (x as f32).to_le_bytes());
    npy_of("'<f4'", false, &shape, narrow)
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

/// One column however it is written gives the same weights.
#[test]
fn every_way_to_write_a_column_is_read() {
    let dir = TempDir::new().unwrap();
    let x = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0];
    let fit = |name: &str, content: &[u8]| {
        let file = write(&dir, name, content);
        let (code, out, error) = gmmk(&["fit", text(&file), "--n", "9", "--json"]);
        assert_eq!(code, 0, "{name}: {error}");
        (out, error)
    };
    let plain = lines(&x);
    let (want, quiet) = fit("plain.txt", plain.as_bytes());
    assert_eq!(quiet, "");
    let same =
        |name: &str, content: &[u8]| assert_eq!(fit(name, content), (want.clone(), quiet.clone()));
    same("windows.txt", plain.replace('\n', "\r\n").as_bytes());
    same("bom.txt", format!("\u{feff}{plain}").as_bytes());
    same("commas.csv", plain.replace('\n', ", \n").as_bytes());
    same("no-end.txt", plain.trim_end().as_bytes());
    same(
        "exponents.txt",
        b"30e-1\n-1.\n+4\n.1E1\n-5.0\n9e0\n2\n-6 # low\n",
    );
    let big = x.iter().flat_map(|x| x.to_be_bytes());
    same("big.npy", &npy_of("'>f8'", false, "(8,)", big));
    let big = x.iter().flat_map(|&x| (x as f32).to_be_bytes());
    same("big-f4.npy", &npy_of("'>f4'", false, "(8,)", big));
    let whole = x.iter().flat_map(|&x| (x as i64).to_le_bytes());
    same("i8.npy", &npy_of("'<i8'", false, "(8,)", whole));
    let whole = x.iter().flat_map(|&x| (x as i32).to_be_bytes());
    same("i4.npy", &npy_of("'>i4'", false, "(8,)", whole));
    let fortran = x.iter().flat_map(|x| x.to_le_bytes());
    same("fortran.npy", &npy_of("'<f8'", true, "(8,)", fortran));
    for header in ["height", "\"height (m)\"", "_x1 "] {
        let (out, note) = fit(
            "header.csv",
            format!("# made\n{header}\n{plain}").as_bytes(),
        );
        assert_eq!(out, want);
        assert!(
            note.contains("header.csv: `") && note.contains("taken for a header"),
            "{note}"
        );
    }
}

#[test]
fn files_that_are_no_column_are_refused() {
    let dir = TempDir::new().unwrap();
    let fail = |name: &str, content: &[u8], want: &str| {
        let file = write(&dir, name, content);
        let good = write(&dir, "good.txt", "1\n2\n");
        for args in [
            &["fit", text(&file)][..],
            &["distance", text(&good), text(&file)],
        ] {
            let (code, out, error) = gmmk(args);
            assert_eq!((code, out.as_str()), (1, ""), "{name}: {error}");
            assert!(error.contains(name) && error.contains(want), "{error}");
        }
    };
    fail("table.csv", b"a,b\n1,2\n", "line 1: `a,b` is not a number");
    fail("two.csv", b"1,2\n3,4\n", "line 1: `1,2` is not a number");
    fail("heads.csv", b"a\nb\n1\n", "line 2: `b` is not a number");
    fail(
        "late.csv",
        b"1\n2\nheight\n",
        "line 3: `height` is not a number",
    );
    fail("head-only.csv", b"height\n", "holds no numbers");
    fail("nan.txt", b"NaN\n1\n2\n", "line 1 is NaN");
    fail(
        "huge.txt",
        b"1\n1e999\n",
        "line 2 is 1e999; expected a finite number",
    );
    fail("hex.txt", b"0x10\n", "line 1: `0x10` is not a number");
    fail("comma.txt", b"1\n2,5\n", "line 2: `2,5` is not a number");
    fail(
        "utf16.txt",
        &[0xff, 0xfe, b'1', 0, b'\n', 0],
        "neither text",
    );
    fail("comments.txt", b"# nothing\n\n", "holds no numbers");
    let numbers = |n: usize| (0..n).flat_map(|i| (i as f64).to_le_bytes());
    fail(
        "plane.npy",
        &npy_of("'<f8'", false, "(3, 2)", numbers(6)),
        "shape (3,2); expected one",
    );
    fail(
        "scalar.npy",
        &npy_of("'<f8'", false, "()", numbers(1)),
        "expected one dimension",
    );
    fail(
        "none.npy",
        &npy_of("'<f8'", false, "(0,)", []),
        "holds no numbers",
    );
    fail(
        "complex.npy",
        &npy_of("'<c16'", false, "(1,)", numbers(2)),
        "type `<c16`",
    );
    fail(
        "fields.npy",
        &npy_of("[('a', '<f8')]", false, "(1,)", numbers(1)),
        "the type",
    );
    fail(
        "long.npy",
        &npy_of("'<f8'", false, "(1,)", numbers(2)),
        "16 bytes of numbers; expected 1 x 8",
    );
    let odd = [1.0, f64::NAN].into_iter().flat_map(f64::to_le_bytes);
    fail(
        "nan.npy",
        &npy_of("'<f8'", false, "(2,)", odd),
        "x[1] is NaN",
    );
    for cut in [7, 9, 40] {
        let whole = npy(&[1.0, 2.0], true);
        fail("cut.npy", &whole[..cut], "ends inside its header");
    }
}

#[test]
fn huge_tiny_and_signed_zero_get_an_answer_or_a_reason() {
    let dir = TempDir::new().unwrap();
    let fit = |content: &str, more: &[&str]| {
        let file = write(&dir, "x.txt", content);
        gmmk(&[&["fit", text(&file), "--json"], more].concat())
    };
    for content in [
        "1e300\n-1e300\n",
        "0\n1e-300\n",
        "1e-300\n2e-300\n",
        "1e17\n100000000000000016\n",
    ] {
        let (code, _, error) = fit(content, &[]);
        assert!(
            code == 1 && error.contains("rescale or shift"),
            "{content} {error}"
        );
    }
    let (code, _, error) = fit("0\n-0\n", &[]);
    assert!(code == 1 && error.contains("one distinct value"), "{error}");
    assert_eq!(fit("0\n-0\n", &["--lo", "-1", "--hi", "1"]).0, 0);
    // What is asked in other units is answered in them.
    let number = |out: &str, name: &str| {
        let found: Value = serde_json::from_str(out).unwrap();
        found[name].as_f64().unwrap()
    };
    let at = |scale: &str| fit(&format!("1{scale}\n2{scale}\n7{scale}\n9{scale}\n"), &[]).1;
    for (scale, unit) in [("e100", 1e100), ("e-100", 1e-100)] {
        for name in ["mean", "w1_to_samples"] {
            let ratio = number(&at(scale), name) / unit / number(&at(""), name);
            assert!((ratio - 1.0).abs() < 1e-9, "{name} {scale}: {ratio}");
        }
    }
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
