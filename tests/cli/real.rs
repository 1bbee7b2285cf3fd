//! A few steps on real pictures, where they are at hand.

use super::*;

fn shared(name: &str) -> Option<String> {
    let given = std::env::var_os("GMMK_SHARED").map(PathBuf::from);
    let folder = given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"))
        .join("data")
        .join(name);
    if !folder.is_dir() {
        let folder = folder.display();
        println!("skipped: {folder} is not there (set GMMK_SHARED), so no run on {name}");
        return None;
    }
    Some(text(folder.canonicalize().unwrap()))
}

/// Trains on `set` in the folder `name`, resumes, and draws one picture.
fn trains(set: &str, name: &str, counts: &str, attributes: &str, more: &[&str]) {
    let Some(data) = shared(name) else { return };
    let dir = place();
    let base = [
        "train", set, "--data", &data, "--preset", "nano", "--out", "run",
    ];
    let args = [&base[..], &["--threads", "1", "--steps", "20"], more].concat();
    let ran = done(dir.path(), &args);
    assert!(ran.err.contains(counts), "{}", ran.err);
    assert!(!ran.err.contains("left out"), "{}", ran.err);
    let longer = ["train", set, "--out", "run", "--resume", "--steps", "24"];
    done(dir.path(), &longer);
    assert_eq!(newest(&dir.path().join("run")), 24);
    let sample = [
        "sample",
        "--checkpoint",
        "run",
        "--count",
        "2",
        "--steps",
        "5",
    ];
    let more = ["--attributes", attributes, "--out", "a.png"];
    done(dir.path(), &[&sample[..], &more].concat());
    assert!(image::open(dir.path().join("a.png")).is_ok());
}

#[test]
fn celeba_sample() {
    let counts = "980 pictures to train on, 20 held out; 40 attributes";
    trains("celeba", "celeba_sample", counts, "Smiling,-Male", &[]);
}

#[test]
fn celeba_half() {
    let counts = "7424 pictures to train on, 578 held out; 40 attributes";
    trains("celeba", "celeba_half", counts, "Eyeglasses", &[]);
}

#[test]
fn cifar10_sample() {
    // The data set's schedule has a thousand steps.
    let counts = "pictures to train on";
    trains(
        "cifar10",
        "cifar10_sample",
        counts,
        "frog",
        &["--schedule", "linear:0.001:0.2:50"],
    );
}
