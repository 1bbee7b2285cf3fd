//! A run from the beginning to pictures, and every other command.

use super::*;

#[test]
fn a_run_leaves_all_its_files() {
    let run = finished();
    let names: Vec<String> = listing(run).keys().map(text).collect();
    let has = |name: &str| names.iter().any(|n| n == name);
    for name in [
        "config.toml",
        "metrics.jsonl",
        "loss.png",
        "machine.json",
        "report.html",
        "checkpoints/latest",
        "checkpoints/step-00000040.safetensors",
        "samples/step-00000020.png",
        "samples/step-00000040.png",
    ] {
        assert!(has(name), "no {name} in {names:?}");
    }
    assert!(names.iter().any(|n| n.starts_with("events.out.tfevents.")));
    assert!(!names.iter().any(|n| n.ends_with(".tmp")), "{names:?}");
    assert_eq!(newest(run), STEPS);
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    assert_eq!(config["data"].as_str(), Some("faces"));
    assert_eq!(config["schedule"].as_str(), Some("constant:0.06:100"));
    assert_eq!(config["seed"].as_integer(), Some(5));
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<_> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [10, 20, 30, 40]);
    for line in &lines {
        assert!(line["loss"].as_f64().is_some_and(f64::is_finite), "{line}");
    }
    assert!(lines[3]["held_out_loss"].as_f64().unwrap() > 0.0);
    for picture in ["samples/step-00000040.png", "loss.png"] {
        let picture = image::open(run.join(picture)).unwrap();
        assert!(picture.width() > 50 && picture.height() > 50);
    }
}

#[test]
fn pictures_are_drawn_with_every_sampler() {
    let dir = place();
    let run = text(finished());
    let draw = |more: &[&str]| {
        let base = ["sample", "--checkpoint", &run, "--count", "3"];
        let out = ["--steps", "6", "--out", "s.png"];
        let args = [&base[..], &out, more].concat();
        let ran = done(dir.path(), &args);
        assert!(ran.out.contains("wrote s.png: 3 pictures"), "{}", ran.out);
        pictures(&dir.path().join("s.png"))
    };
    let mut sheets = vec![draw(&[])];
    for sampler in ["renoise", "ddpm", "ddpm_large"] {
        sheets.push(draw(&["--sampler", sampler]));
    }
    sheets.push(draw(&["--sampler", "ddim", "--eta", "0.5"]));
    sheets.push(draw(&["--attributes", "Smiling,Young,-Male"]));
    sheets.push(draw(&["--attributes", "Bald", "--others", "none"]));
    sheets.push(draw(&["--fixed-z"]));
    sheets.push(draw(&["--seed", "1"]));
    for (i, sheet) in sheets.iter().enumerate() {
        assert!(!sheets[..i].contains(sheet), "sheet {i} is not new");
    }
    assert_eq!(sheets[0], draw(&["--threads", "2"]), "the same again");
    assert_eq!(sheets[0], draw(&["--sampler", "ddim", "--seed", "0"]));
    // A file, and the folder of checkpoints, name the same.
    let file = text(checkpoint(finished(), STEPS));
    let args = ["sample", "--checkpoint", &file, "--count", "3"];
    done(
        dir.path(),
        &[&args[..], &["--steps", "6", "--out", "s.png"]].concat(),
    );
    assert_eq!(sheets[0], pictures(&dir.path().join("s.png")));
}

/// The lower half of a sheet: pictures without the title.
fn pictures(sheet: &Path) -> image::RgbImage {
    let mut sheet = image::open(sheet).unwrap().into_rgb8();
    let (width, height) = sheet.dimensions();
    image::imageops::crop(&mut sheet, 0, height / 2, width, height / 2).to_image()
}

#[cfg(unix)]
#[test]
fn stopped_sampling_writes_nothing() {
    let dir = place();
    let run = text(finished());
    let args = ["sample", "--checkpoint", &run, "--count", "4096"];
    let mut child = gmmk(dir.path(), &[&args[..], &["--out", "a.png"]].concat())
        .spawn()
        .unwrap();
    // Until the handler is there the signal ends the program, which writes nothing either.
    std::thread::sleep(Duration::from_millis(700));
    assert!(child.try_wait().unwrap().is_none(), "too fast to stop");
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert!(ran.code.is_none_or(|code| code == 1), "{ran:?}");
    assert_eq!(listing(dir.path()).len(), 0);
}

#[test]
fn a_trajectory_comes_beside_the_pictures() {
    let dir = place();
    let run = text(finished());
    let args = ["sample", "--checkpoint", &run, "--count", "2"];
    let more = ["--trajectory", "--out", "a.png"];
    let ran = done(dir.path(), &[&args[..], &more].concat());
    assert!(ran.out.contains("a-trajectory.png"), "{}", ran.out);
    let strip = image::open(dir.path().join("a-trajectory.png")).unwrap();
    assert!(strip.width() > 12 * 16, "12 steps of 16 pixels");
    assert_eq!(listing(dir.path()).len(), 2);
}

#[test]
fn data_is_packed_once_described_and_shown() {
    let dir = place();
    let pack = ["data", "pack", "faces", "--size", "16"];
    done(dir.path(), &pack);
    let again = done(dir.path(), &pack);
    assert!(again.out.starts_with("already packed: 20000 pictures"));
    let info = done(dir.path(), &["data", "info", "faces", "--size", "16"]);
    assert!(info.out.contains("Smiling"), "{}", info.out);
    let json = [&["data", "info", "faces"][..], &["--size", "16", "--json"]].concat();
    let json: serde_json::Value = serde_json::from_str(&done(dir.path(), &json).out).unwrap();
    assert_eq!(json["count"].as_u64(), Some(20_000));
    let preview = ["data", "preview", "faces", "--size", "16", "--count", "9"];
    let more = ["--attributes", "Eyeglasses,-Male", "--out", "p.png"];
    let ran = done(dir.path(), &[&preview[..], &more].concat());
    assert!(ran.out.contains("wrote p.png: 9 of "), "{}", ran.out);
    assert!(image::open(dir.path().join("p.png")).is_ok());
    assert_eq!(listing(dir.path()).len(), 1);
}

#[test]
fn the_build_is_right_and_the_machine_is_described() {
    let dir = place();
    let verify = done(dir.path(), &["verify"]);
    assert!(verify.out.contains("comparisons passed"), "{}", verify.out);
    let json = done(dir.path(), &["verify", "--json"]).out;
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    let devices = done(dir.path(), &["devices"]);
    assert!(devices.out.contains("cpu "), "{}", devices.out);
    assert!(devices.out.contains("cli-cache"), "{}", devices.out);
    let json = done(dir.path(), &["devices", "--json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["cpu"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(listing(dir.path()).len(), 0);
}

#[test]
fn the_rate_rises_and_falls_with_the_images() {
    let dir = place();
    let more = [
        "--warmup",
        "80img",
        "--lr-schedule",
        "cosine",
        "--ema-half-life",
        "2kimg",
    ];
    let first = ["--steps", "40", "--sample-every", "90"];
    done(dir.path(), &training("run", &[&more[..], &first].concat()));
    let run = dir.path().join("run");
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    for line in [
        "warmup = \"80img\"",
        "lr_schedule = \"cosine\"",
        "ema_half_life = \"2kimg\"",
    ] {
        assert!(config.contains(line), "no {line} in {config}");
    }
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rates: Vec<f64> = metrics
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["lr"]
                .as_f64()
                .unwrap()
        })
        .collect();
    // The 10th step ends at 40 of 80 images; the 40th begins at 76 of the 80 that are left.
    let last = 0.5 * (1.0 + (std::f64::consts::PI * 76.0 / 80.0).cos());
    for (rate, share) in rates.iter().zip([
        0.5,
        1.0,
        0.5 * (1.0 + (std::f64::consts::PI * 0.45).cos()),
        last,
    ]) {
        assert!((rate / 0.003 - share).abs() < 1e-12, "{rates:?}");
    }
    // A batch in parts is the same work.
    let parts = ["--steps", "40", "--micro-batches", "3", "--resume"];
    done(dir.path(), &training("run", &[&more[..], &parts].concat()));
    let longer = training("run", &[&more[..], &["--steps", "50", "--resume"]].concat());
    fails(dir.path(), &longer, &["steps", "40steps", "50steps"]);
}

#[test]
fn the_batch_is_what_the_memory_holds() {
    let dir = place();
    // Nano's largest batch fits everywhere.
    let ran = done(
        dir.path(),
        &training("run", &["--batch", "auto", "--dry-run"]),
    );
    assert!(
        ran.err.contains("--batch auto: 256 pictures per step"),
        "{}",
        ran.err
    );
    assert!(ran.out.contains("batch = 256"), "{}", ran.out);
    copy_of_finished(dir.path(), "r");
    fails(
        dir.path(),
        &training("r", &["--batch", "auto", "--resume"]),
        &["--batch auto", "its batch, 4"],
    );
}

#[test]
fn help_and_version_are_there() {
    let dir = place();
    for args in [
        &["--help"][..],
        &["--version"],
        &["train", "--help"],
        &["sample", "--help"],
        &["data", "--help"],
        &["data", "preview", "--help"],
        &["bench", "--help"],
        &["verify", "--help"],
        &["devices", "--help"],
        &["report", "--help"],
        &["runs", "--help"],
    ] {
        assert!(!done(dir.path(), args).out.is_empty());
    }
}

#[test]
fn a_dry_run_touches_nothing() {
    let dir = place();
    let cache = dir.path().join("cache");
    let dry = |args: &[&str]| {
        let output = gmmk(dir.path(), args).env("GMMK_CACHE", &cache).output();
        let ran = Ran::from(output.unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(ran.out.contains("memory: "), "{}", ran.out);
        assert!(ran.out.contains("preset = \"nano\""), "{}", ran.out);
    };
    dry(&training("x/y", &["--dry-run"]));
    assert_eq!(listing(dir.path()).len(), 0);
    let run = copy_of_finished(dir.path(), "r");
    fs::remove_dir_all(run.join("samples")).unwrap();
    fs::remove_file(run.join(".lock")).unwrap();
    let before = listing(dir.path());
    dry(&training("r", &["--resume", "--dry-run", "--steps", "90"]));
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn celeba_that_is_nowhere_becomes_the_built_in_faces() {
    let dir = place();
    let short = [
        "train",
        "celeba",
        "--preset",
        "nano",
        "--steps",
        "2",
        "--threads",
        "1",
    ];
    let ran = done(dir.path(), &short);
    assert!(ran.err.contains("note: no CelebA"), "{}", ran.err);
    assert_eq!(newest(&dir.path().join("runs/faces-nano")), 2);
    let more = [
        "train", "celeba", "--preset", "nano", "--steps", "3", "--resume",
    ];
    done(dir.path(), &more);
    assert_eq!(newest(&dir.path().join("runs/faces-nano")), 3);
}

#[test]
fn a_run_starts_from_another_runs_configuration() {
    let dir = place();
    let config = text(finished().join("config.toml"));
    let args = ["train", "faces", "--config", &config, "--steps", "2"];
    done(
        dir.path(),
        &[&args[..], &["--name", "n", "--lr", "0.01"]].concat(),
    );
    let saved = fs::read_to_string(dir.path().join("runs/n/config.toml")).unwrap();
    for line in ["lr = 0.01", "seed = 5", "batch = 4", "steps = \"2steps\""] {
        assert!(saved.contains(line), "no {line} in {saved}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = place();
    let exe = env!("CARGO_BIN_EXE_gmmk");
    let script = format!("set -o pipefail; '{exe}' data info faces --size 16 | head -1");
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("GMMK_CACHE", cache())
        .current_dir(dir.path())
        .output()
        .unwrap();
    let ran = Ran::from(output);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out.lines().count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let dir = place();
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = gmmk(dir.path(), &["devices"]);
    let ran = Ran::from(command.stdout(full.unwrap()).output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.message().contains("standard output"), "{}", ran.err);
}
