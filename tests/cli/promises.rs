//! The same seed gives the same bits; a run that was stopped or killed ends as if it never was.

use super::*;

/// Everything in two finished runs that must not depend on how they got there: the last checkpoint
/// and every page. Compared by their bytes.
fn assert_same(a: &Path, b: &Path) {
    assert_eq!((newest(a), newest(b)), (STEPS, STEPS));
    let pages: Vec<_> = fs::read_dir(a.join("samples"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(pages.len() >= 2);
    for page in pages {
        let read = |run: &Path| fs::read(run.join("samples").join(&page)).unwrap();
        assert_eq!(read(a), read(b), "page {page:?}");
    }
    let (left, right) = (tensors(a), tensors(b));
    let differs: Vec<_> = left
        .iter()
        .filter(|(k, v)| right.get(*k) != Some(v))
        .collect();
    assert!(differs.is_empty() && left.len() == right.len());
    assert!(left.len() > 100, "weights, average and both moments");
}

/// The tensors of a run's last checkpoint.
fn tensors(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(checkpoint(run, STEPS)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let each = file.tensors().into_iter();
    each.map(|(name, view)| (name, view.data().to_vec()))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let dir = place();
    done(dir.path(), &training("again", &[]));
    assert_same(finished(), &dir.path().join("again"));
    let (a, b) = (finished(), dir.path().join("again"));
    let file = |run: &Path| fs::read(checkpoint(run, STEPS)).unwrap();
    assert!(file(a) == file(&b), "the whole file, header included");
    done(dir.path(), &training("other", &["--seed", "6"]));
    assert_ne!(tensors(a), tensors(&dir.path().join("other")));
}

/// A run with the NGMG classifier logs what the classifier reads, and goes on after a stop with the
/// same bits, its own two tensors among them.
#[test]
fn a_classifier_is_trained_measured_and_resumed() {
    let dir = place();
    let with = ["--classifier", "ngmg", "--classifier-weight", "0.5"];
    let ran = done(dir.path(), &training("whole", &with));
    assert!(ran.err.contains("classifier, held out: "), "{}", ran.err);
    done(
        dir.path(),
        &training("parts", &[&with[..], &["--steps", "20"]].concat()),
    );
    let on = ["train", "faces", "--out", "parts", "--resume"];
    done(dir.path(), &[&on[..], &["--steps", "40"]].concat());
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    assert_same(&whole, &parts);
    let found = tensors(&whole);
    for part in ["", "ema.", "adam_m.", "adam_v."] {
        for tensor in ["weight", "bias"] {
            let values = &found[&format!("{part}classifier.{tensor}")];
            assert!(
                values.iter().any(|&byte| byte != 0),
                "{part}{tensor} was never trained"
            );
        }
    }
    let metrics = fs::read_to_string(whole.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let value = |key: &str| {
        last[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no {key} in {last}"))
    };
    assert!(value("classifier_loss") < 2.0 * 2.0_f64.ln());
    for key in ["classifier_sse", "classifier_sse_other_tokens"] {
        assert!((0.1..20.0).contains(&value(key)), "{key}: {}", value(key));
    }
    for key in [
        "accuracy/Smiling",
        "accuracy_other_tokens/Male",
        "classifier_follows_tokens",
    ] {
        assert!((0.0..=1.0).contains(&value(key)), "{key}: {}", value(key));
    }
    // Another loss is another run; and the picture's own part of the network draws as ever.
    let other = [&on[..], &["--classifier", "bce"]].concat();
    fails(dir.path(), &other, &["classifier", "ngmg", "bce"]);
    let draw = "sample --checkpoint whole --steps 2 --count 2 --out x.png";
    done(dir.path(), &draw.split(' ').collect::<Vec<_>>());
}

/// Starts a run of the usual length, waits until `when`, sends `signal`, and returns what it said.
#[cfg(unix)]
fn stopped(folder: &Path, more: &[&str], signal: &str, when: impl Fn() -> bool) -> Ran {
    let mut child = gmmk(folder, &training("run", more)).spawn().unwrap();
    wait_for("moment to stop", || {
        when() || child.try_wait().unwrap().is_some()
    });
    if child.try_wait().unwrap().is_none() {
        let pid = child.id().to_string();
        let _ = Command::new("kill").args([signal, &pid]).status();
    }
    child.wait_with_output().unwrap().into()
}

/// Lines of metrics so far.
#[cfg(unix)]
fn lines(run: &Path) -> usize {
    let metrics = fs::read_to_string(run.join("metrics.jsonl"));
    metrics.map_or(0, |m| m.lines().count())
}

#[cfg(unix)]
#[test]
fn a_stopped_run_goes_on_as_if_it_never_was() {
    // The two signals, and two moments: in the middle of the steps, and just before a page, whose
    // drawing is then cut short.
    for (signal, threads, moment) in [("-TERM", "2", 1), ("-INT", "3", 2)] {
        let dir = place();
        let run = dir.path().join("run");
        // Nothing but the stop saves.
        let rarely = &["--save-every", "1000"];
        let ran = stopped(dir.path(), rarely, signal, || lines(&run) >= moment);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let step = newest(&run);
        assert!(step > 0, "the last step is saved");
        if step < STEPS {
            let saved = format!("stopped and saved at step {step} of 40 in run");
            assert!(ran.out.contains(&saved), "{}", ran.out);
            assert!(
                ran.out
                    .contains("go on: gmmk train faces --out run --resume")
            );
        }
        let args = ["train", "faces", "--out", "run", "--resume"];
        let ran = done(dir.path(), &[&args[..], &["--threads", threads]].concat());
        let resuming = format!("resuming at step {step} of 40");
        assert!(ran.err.contains(&resuming), "{}", ran.err);
        assert_same(finished(), &run);
    }
}

#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_as_if_it_never_was() {
    let dir = place();
    let run = dir.path().join("run");
    for kill in 0..4 {
        let resume: &[&str] = if run.join("config.toml").exists() {
            &["--resume"]
        } else {
            &[]
        };
        // At the beginning, in the middle, and twice right when a save begins.
        let saving = || {
            let names = fs::read_dir(run.join("checkpoints")).into_iter().flatten();
            names
                .flatten()
                .any(|e| e.file_name().to_string_lossy().ends_with(".tmp"))
        };
        let known = lines(&run);
        let before = newest(&run);
        stopped(dir.path(), resume, "-KILL", || match kill {
            0 => run.join("config.toml").exists(),
            1 => lines(&run) > known + 1 || lines(&run) > known && newest(&run) > before,
            _ => newest(&run) > before || saving(),
        });
    }
    let ran = done(dir.path(), &training("run", &["--resume"]));
    assert!(ran.out.contains("done: 40 steps"), "{}", ran.out);
    assert!(!listing(&run).keys().any(|n| text(n).ends_with(".tmp")));
    assert_same(finished(), &run);
}

#[test]
fn a_run_without_a_checkpoint_starts_over() {
    let dir = place();
    let run = copy_of_finished(dir.path(), "run");
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let ran = done(dir.path(), &training("run", &["--resume"]));
    assert!(ran.err.contains("starts from the beginning"), "{}", ran.err);
    assert_same(finished(), &run);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 4, "lines of before are cut");
}

#[test]
fn the_last_step_is_saved_and_a_longer_run_goes_on_from_it() {
    let dir = place();
    let run = dir.path().join("run");
    let short = ["--steps", "7", "--save-every", "100"];
    done(dir.path(), &training("run", &short));
    assert_eq!(newest(&run), 7);
    let again = done(dir.path(), &["train", "faces", "--out", "run", "--resume"]);
    assert!(again.err.contains("longer --steps"), "{}", again.err);
    assert!(
        again.out.contains("done: 7 steps"),
        "nothing to do: {}",
        again.out
    );
    let longer = [
        "train", "faces", "--out", "run", "--resume", "--steps", "40",
    ];
    let ran = done(dir.path(), &longer);
    assert!(ran.err.contains("resuming at step 7 of 40"), "{}", ran.err);
    let (left, right) = (tensors(finished()), tensors(&run));
    assert!(left == right, "7 and 33 steps are 40 steps");
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("steps = \"40steps\""), "{config}");
}

#[test]
fn what_may_differ_on_resume_and_what_may_not() {
    let dir = place();
    copy_of_finished(dir.path(), "run");
    let resume = ["train", "faces", "--out", "run", "--resume"];
    for (option, value, key) in [
        ("--lr", "0.01", "lr was 0.003, now 0.01"),
        ("--batch", "5", "batch was 4, now 5"),
        ("--seed", "6", "seed was 5, now 6"),
        ("--preset", "tiny", "preset was \"nano\", now \"tiny\""),
        ("--flip", "off", "flip was true, now false"),
        ("--latent", "fresh", "latent was"),
        ("--feature-code", "none", "feature_code was"),
        ("--schedule", "constant:0.05:100", "schedule was"),
    ] {
        let args = [&resume[..], &[option, value]].concat();
        let message = fails(dir.path(), &args, &["cannot be resumed", key]);
        assert!(message.contains("start a new run"), "{message}");
    }
    let celeba = ["train", "cifar10", "--out", "run", "--resume"];
    fails(
        dir.path(),
        &celeba,
        &["data was \"faces\", now \"cifar10\""],
    );
    let fewer = [&resume[..], &["--steps", "39"]].concat();
    fails(dir.path(), &fewer, &["40 steps already", "longer --steps"]);
    let free = "--steps 42 --device cpu --threads 1 --sample-every 50 --save-every 50";
    let free: Vec<&str> = free.split(' ').collect();
    done(dir.path(), &[&resume[..], &free].concat());
    assert_eq!(newest(&dir.path().join("run")), 42);
}

#[test]
fn a_folder_in_use_is_refused() {
    let dir = place();
    copy_of_finished(dir.path(), "run");
    fails(
        dir.path(),
        &training("run", &[]),
        &["run holds a run already", "--resume"],
    );
    fs::create_dir(dir.path().join("mine")).unwrap();
    fs::write(dir.path().join("mine/notes.txt"), "x").unwrap();
    fails(
        dir.path(),
        &training("mine", &[]),
        &["mine", "not empty", "--out"],
    );
    fails(
        dir.path(),
        &training("mine", &["--resume"]),
        &["mine", "no run to resume"],
    );
    fails(
        dir.path(),
        &training("none", &["--resume"]),
        &["none", "no run to resume"],
    );
    let locked = fs::File::create(dir.path().join("run/.lock")).unwrap();
    locked.lock().unwrap();
    let words = ["run", "another process", "wait for it"];
    fails(dir.path(), &training("run", &["--resume"]), &words);
}
