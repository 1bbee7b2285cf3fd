//! The attribute classifier, and what it says of a run.

use super::*;
use serde_json::Value;

/// A classifier of the run's pictures, trained once.
fn judge() -> &'static Path {
    static JUDGE: OnceLock<PathBuf> = OnceLock::new();
    JUDGE.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-judge");
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let own = "train-classifier faces --size 16 --steps 60 --threads 1 --seed 1 --out judge.safetensors";
        let ran = done(&base, &own.split(' ').collect::<Vec<_>>());
        assert!(ran.out.contains("Wearing_Hat"), "{}", ran.out);
        assert!(ran.out.contains("mean of 400 pictures"), "{}", ran.out);
        base.join("judge.safetensors")
    })
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn an_evaluation_says_the_same_twice() {
    let dir = place();
    let (run, judge) = (text(finished()), text(judge()));
    let evaluate = |out: &str, more: &[&str]| {
        let args = ["eval", "--checkpoint", &run, "--judge", &judge];
        let rest = [
            "--count",
            "20",
            "--steps",
            "4",
            "--threads",
            "1",
            "--out",
            out,
        ];
        done(dir.path(), &[&args[..], &rest, more].concat())
    };
    let ran = evaluate("a", &[]);
    for words in [
        "Fréchet distance in gmmk classifier features",
        "attributes seen as asked for",
        "no FID",
        "nearest training picture",
    ] {
        assert!(ran.out.contains(words), "no {words:?} in {}", ran.out);
    }
    let found = json(&dir.path().join("a/eval.json"));
    let share = |pointer: &str| {
        let value = found.pointer(pointer).and_then(Value::as_f64);
        let value = value.unwrap_or_else(|| panic!("no {pointer} in {found}"));
        assert!((0.0..=1.0).contains(&value), "{pointer}: {value}");
        value
    };
    for pointer in [
        "/judge/accuracy",
        "/agreement/share/mean",
        "/agreement/attributes/0/judge_on_held_out/accuracy",
        "/features/drawn/precision",
        "/features/drawn/recall",
        "/features/training/coverage",
        "/nearest_training_picture/distance/nearer_than_held_out",
    ] {
        share(pointer);
    }
    // Real pictures are nearer to real ones than what forty steps of training draw.
    let frechet = |whose: &str| {
        let name = "frechet_distance_in_gmmk_classifier_features";
        found["features"][whose][name].as_f64().unwrap()
    };
    assert!(frechet("drawn") > frechet("training"));
    assert!(found["held_out_loss"]["held_out_loss"].as_f64().unwrap() > 0.0);
    let of_each = found["nearest_training_picture"]["of_each"].as_array();
    assert_eq!(of_each.unwrap().len(), 20);
    for sheet in ["samples.png", "nearest.png"] {
        assert!(
            image::open(dir.path().join("a").join(sheet))
                .unwrap()
                .width()
                > 500
        );
    }
    let page = fs::read_to_string(dir.path().join("a/eval.html")).unwrap();
    let page = roxmltree::Document::parse(page.split_once('\n').unwrap().1).unwrap();
    assert_eq!(
        page.descendants().filter(|n| n.has_tag_name("img")).count(),
        2
    );
    let rows = page.descendants().filter(|n| n.has_tag_name("tr"));
    assert!(rows.count() > 40 + 10, "attributes and numbers");
    // The same again; another seed draws others.
    evaluate("b", &[]);
    assert_eq!(found, json(&dir.path().join("b/eval.json")));
    evaluate("c", &["--seed", "1"]);
    let other = json(&dir.path().join("c/eval.json"));
    assert_ne!(found["features"]["drawn"], other["features"]["drawn"]);
    assert_eq!(found["features"]["training"], other["features"]["training"]);
}

#[test]
fn a_run_is_evaluated_as_it_goes() {
    let dir = place();
    let judge = text(judge());
    let every = ["--eval-every", "8", "--judge", &judge, "--eval-count", "16"];
    done(
        dir.path(),
        &training("run", &[&every[..], &["--steps", "20"]].concat()),
    );
    let metrics = fs::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    let lines = metrics
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap());
    let measured: Vec<Value> = lines
        .filter(|l| l.get("eval/agreement").is_some())
        .collect();
    let steps: Vec<_> = measured
        .iter()
        .map(|l| l["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [8, 16, 20]);
    for line in &measured {
        for name in [
            "judge_accuracy",
            "precision",
            "frechet_gmmk_features",
            "near_copies",
        ] {
            assert!(line[&format!("eval/{name}")].is_f64(), "{name}: {line}");
        }
    }
    let report = fs::read_to_string(dir.path().join("run/report.html")).unwrap();
    assert!(report.contains("in gmmk classifier features"));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let dir = place();
    let (run, good) = (text(finished()), text(judge()));
    let evaluate = |judge: &str, words: &[&str]| {
        let args = ["eval", "--checkpoint", &run, "--judge", judge, "--out", "."];
        fails(dir.path(), &args, words);
    };
    evaluate("none.safetensors", &["--judge", "none.safetensors"]);
    let model = text(checkpoint(finished(), STEPS));
    evaluate(
        &model,
        &["no attribute classifier", "`nano`", "train-classifier"],
    );
    let other = dir.path().join("other.safetensors");
    let own = "train-classifier faces --size 8 --steps 1 --threads 1 --out other.safetensors";
    done(dir.path(), &own.split(' ').collect::<Vec<_>>());
    evaluate(&text(&other), &["8 x 8 pixels", "16 x 16", "--size 16"]);
    let args = [
        "eval",
        "--checkpoint",
        &good,
        "--judge",
        &good,
        "--out",
        ".",
    ];
    fails(dir.path(), &args, &["attribute-net"]);
    let args = ["train-classifier", "faces", "--out", "."];
    fails(
        dir.path(),
        &args,
        &["that is a folder", "judge.safetensors"],
    );
    let empty = place();
    let args = ["train", "faces", "--eval-every", "5"];
    misused(empty.path(), &args, &["--judge"]);
    let args = [
        "eval",
        "--checkpoint",
        "x",
        "--judge",
        "y",
        "--out",
        "z",
        "--count",
        "1",
    ];
    misused(empty.path(), &args, &["16.."]);
}
