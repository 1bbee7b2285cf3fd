//! Options that cannot be: one message that says what was found and expected, and nothing is written.

use super::*;

#[test]
fn values_out_of_range_are_refused() {
    let dir = place();
    for (option, value, words) in [
        ("--steps", "0", &["`steps` is 0steps", "at least 1"][..]),
        ("--save-every", "0", &["`save_every` is 0steps"]),
        ("--lr", "nan", &["`lr` is NaN", "a finite number above 0"]),
        ("--lr", "-1", &["`lr` is -1", "a finite number above 0"]),
        ("--lr", "inf", &["`lr` is inf", "a finite number above 0"]),
        (
            "--preset",
            "celeba63",
            &["celeba63", "did you mean `celeba64`?"],
        ),
        ("--preset", "x", &["no preset `x`", "tiny, nano"]),
        (
            "--classifier-weight",
            "0.1",
            &["without a classifier", "--classifier bce or ngmg"],
        ),
        ("--ngmg-floor", "0", &["`none`", "--classifier ngmg"]),
        (
            "--micro-batches",
            "5",
            &["`micro_batches` is 5", "1 to the images"],
        ),
        ("--max-skipped", "0", &["`max_skipped` is 0", "at least 1"]),
        ("--ema-half-life", "0", &["`ema_half_life` is 0steps"]),
    ] {
        fails(dir.path(), &training("run", &[option, value]), words);
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let dir = place();
    misused(dir.path(), &[], &["Usage: gmmk"]);
    misused(dir.path(), &["trian"], &["trian", "train"]);
    misused(dir.path(), &["train"], &["<DATASET>"]);
    misused(
        dir.path(),
        &["train", "mnist"],
        &["mnist", "celeba, cifar10, faces"],
    );
    misused(
        dir.path(),
        &["sample", "--checkpoint", "x"],
        &["--out <PNG>"],
    );
    for (option, value, words) in [
        ("--stpes", "5", &["--stpes", "--steps"][..]),
        ("--steps", "many", &["`many`", "64kimg"]),
        ("--steps", "-5", &["`-5`", "64kimg"]),
        ("--batch", "0", &["0", "1..="]),
        ("--batch", "automatic", &["`automatic`", "expected auto"]),
        (
            "--lr-schedule",
            "linear",
            &["`linear`", "constant or cosine"],
        ),
        ("--batch", "-3", &["-3", "--batch"]),
        ("--seed", "-1", &["-1", "--seed"]),
        ("--lr", "fast", &["fast", "--lr"]),
        ("--device", "tpu", &["tpu", "auto, cpu"]),
        ("--flip", "maybe", &["maybe", "on, off"]),
        ("--classifier", "softmax", &["softmax", "none, bce, ngmg"]),
        ("--latent", "sometimes", &["sometimes", "fixed"]),
        (
            "--schedule",
            "constant:1.5",
            &["beta is 1.5", "above 0 and below 1"],
        ),
        ("--schedule", "cosine", &["cosine", "constant:B[:T]"]),
        (
            "--schedule",
            "linear:0.1",
            &["linear:0.1", "linear:B0:B1[:T]"],
        ),
        ("--name", "x", &["--name", "--out"]),
    ] {
        misused(dir.path(), &training("run", &[option, value]), words);
    }
    let both = ["train", "faces", "--resume", "--config", "x.toml"];
    misused(dir.path(), &both, &["--resume", "--config"]);
    let data = ["data", "preview", "faces"];
    misused(
        dir.path(),
        &[&data[..], &["--size", "0"]].concat(),
        &["--size"],
    );
    misused(
        dir.path(),
        &[&data[..], &["--count", "0"]].concat(),
        &["--count"],
    );
}

#[test]
fn what_does_not_fit_into_memory_is_refused_with_what_would() {
    let dir = place();
    // Enough for any machine's memory.
    let big = ["train", "faces", "--preset", "celeba64", "--out", "run"];
    let args = [&big[..], &["--batch", "1000000", "--dry-run"]].concat();
    let message = fails(dir.path(), &args, &["batch 1000000", "are free"]);
    let largest = message.split("(--batch ").nth(1);
    match largest.and_then(|rest| rest.split(')').next()) {
        Some(number) => assert!(number.parse::<u64>().unwrap() < 1_000_000, "{message}"),
        None => assert!(message.contains("not even batch 1 fits"), "{message}"),
    }
}

#[test]
fn samples_that_cannot_be_drawn_are_refused() {
    let dir = place();
    let run = text(finished());
    let sample = [
        "sample",
        "--checkpoint",
        &run,
        "--count",
        "1",
        "--steps",
        "2",
    ];
    let fail = |more: &[&str], words: &[&str]| {
        let out: &[&str] = if more.contains(&"--out") {
            &[]
        } else {
            &["--out", "a.png"]
        };
        let base = if more.contains(&"--steps") {
            &sample[..5]
        } else {
            &sample
        };
        fails(dir.path(), &[base, out, more].concat(), words);
    };
    fail(
        &["--attributes", "Smilling"],
        &["`Smilling`", "did you mean Smiling?"],
    );
    fail(&["--attributes", "Zebra"], &["`Zebra`", "Eyeglasses"]);
    fail(
        &["--attributes", "Male,-Male"],
        &["Male", "keep one of them"],
    );
    fail(&["--steps", "101"], &["101", "100"]);
    fail(&["--eta", "2"], &["eta is 2", "0 (no noise) to 1"]);
    fail(&["--eta", "-1"], &["eta is -1"]);
    fail(
        &["--out", "no/a.png"],
        &["no/a.png", "no folder no", "mkdir -p no"],
    );
    fs::create_dir(dir.path().join("folder")).unwrap();
    fail(&["--out", "folder"], &["folder", "file name"]);
    let preview = [
        "data", "preview", "faces", "--size", "16", "--out", "no/a.png",
    ];
    fails(dir.path(), &preview, &["no/a.png", "no folder no"]);
    let never = ["data", "preview", "faces", "--size", "16"];
    let args = [&never[..], &["--attributes", "Smilling"]].concat();
    fails(dir.path(), &args, &["did you mean Smiling?"]);
}

#[test]
fn a_rate_that_cannot_work_is_told() {
    let dir = place();
    let ran = done(
        dir.path(),
        &training("run", &["--lr", "1e30", "--steps", "4"]),
    );
    assert!(ran.err.contains("is not finite"), "{}", ran.err);
    assert!(ran.err.contains("note: it begins in "), "{}", ran.err);
}

#[test]
fn a_run_that_diverges_gives_up_and_leaves_a_dump() {
    let dir = place();
    let more = ["--lr", "1e30", "--max-skipped", "3", "--save-every", "1"];
    let ran = run(dir.path(), &training("run", &more));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    for words in [
        "in 3 steps in a row",
        "it began in",
        "run/dump/step-",
        "--warmup",
    ] {
        assert!(ran.message().contains(words), "no {words:?} in {}", ran.err);
    }
    let run = dir.path().join("run");
    let dump = fs::read_dir(run.join("dump"))
        .unwrap()
        .map(|e| e.unwrap().path());
    let dump: Vec<PathBuf> = dump.collect();
    assert_eq!(dump.len(), 2);
    let json = dump
        .iter()
        .find(|path| path.extension() == Some("json".as_ref()));
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(json.unwrap()).unwrap()).unwrap();
    assert_eq!(json["skipped_in_a_row"].as_u64(), Some(3));
    assert_eq!(json["pictures"].as_array().unwrap().len(), 4);
    let first = json["first_not_finite"].as_str().unwrap();
    assert!(ran.message().contains(first), "{first}");
    let sum = |key: &str| -> f64 {
        let tensors = json["tensors"].as_array().unwrap().iter();
        tensors.map(|t| t[key].as_f64().unwrap()).sum()
    };
    assert_eq!(sum("weights_not_finite"), 0.0, "an update was made");
    assert!(sum("gradients_not_finite") > 0.0 && sum("largest_weight") > 1e20);
    // The last checkpoint is of a step before it gave up, and can be read; so can the dump's state.
    let step = json["step"].as_u64().unwrap();
    assert!(
        (1..step).contains(&newest(&run)),
        "{} of {step}",
        newest(&run)
    );
    let state = text(
        dump.iter()
            .find(|path| path.extension() != Some("json".as_ref()))
            .unwrap(),
    );
    for checkpoint in [text(&run), state] {
        let args = [
            "sample",
            "--checkpoint",
            &checkpoint,
            "--count",
            "1",
            "--steps",
            "1",
            "--out",
            "a.png",
        ];
        done(dir.path(), &args);
    }
}

/// The superuser may write anywhere: then a file in the folder's place must do.
#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = place();
    fs::write(dir.path().join("file"), "x").unwrap();
    fails(dir.path(), &training("file", &[]), &["file", "cannot"]);
    fails(
        dir.path(),
        &training("file/run", &[]),
        &["file/run", "cannot"],
    );
    #[cfg(target_os = "linux")]
    fails(
        dir.path(),
        &training("/proc/run", &[]),
        &["/proc/run", "create the run's folder"],
    );
    let mut command = gmmk(dir.path(), &["data", "pack", "faces", "--size", "16"]);
    let cache = dir.path().join("file/cache");
    let ran = Ran::from(command.env("GMMK_CACHE", cache).output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert!(ran.message().contains("file/cache"), "{}", ran.err);
}
