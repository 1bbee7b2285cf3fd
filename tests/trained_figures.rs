//! The figures that need a trained model, whole, with the smallest network and a few steps.
#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

use gmmk::data::{ProceduralFaces, Source};
use gmmk::device::pool::Pool;
use gmmk::reproduce::trained::Training;
use gmmk::reproduce::{Context, Progress, Report, Scale, control, fig4, fig5, fig6, fig7};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Keeps what is said.
#[derive(Default)]
struct Lines(Vec<String>);

impl Progress for Lines {
    fn say(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }

    fn at(&mut self, done: u64, total: u64, _: &str) {
        assert!(done <= total);
    }
}

const NANO: Training = Training {
    preset: "nano",
    steps: 8,
    batch: 4,
    lr: 3e-3,
};

/// A folder in CelebA's form, with built-in faces in it.
fn celeba(folder: &Path, count: usize) {
    let faces = ProceduralFaces::new(1, count);
    fs::create_dir_all(folder.join("img_align_celeba")).unwrap();
    let mut list = format!("{count}\n{}\n", faces.attribute_names().join(" "));
    for i in 0..count {
        let name = format!("{:06}.jpg", i + 1);
        let picture = image::RgbImage::from_raw(40, 40, faces.read(i, 40).unwrap()).unwrap();
        picture
            .save(folder.join("img_align_celeba").join(&name))
            .unwrap();
        let values = faces.record(i).attributes;
        let values: Vec<&str> = values.iter().map(|&v| ["-1", "1"][v as usize]).collect();
        list += &format!("{name} {}\n", values.join(" "));
    }
    fs::write(folder.join("list_attr_celeba.txt"), list).unwrap();
}

/// Every finding says something, every number is one, every picture is there.
fn check(report: &Report, out: &Path) {
    assert!(!report.findings.is_empty() && !report.pictures.is_empty());
    for finding in &report.findings {
        assert!(
            !finding.evidence.contains("NaN") && !finding.evidence.contains("inf"),
            "{}",
            finding.evidence
        );
    }
    for picture in &report.pictures {
        let size = image::image_dimensions(out.join(picture)).unwrap();
        assert!(size.0 >= 100 && size.1 >= 40, "{picture}: {size:?}");
    }
    assert!(report.numbers.is_object() || report.numbers.is_array());
}

fn number(value: &Value, path: &str) -> f64 {
    value
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no number at {path} in {value}"))
}

#[test]
fn figures_of_trained_models() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    // SAFETY: this is the only test of its process, and no thread has been started.
    unsafe {
        std::env::set_var("GMMK_CACHE", &cache);
        std::env::remove_var("GMMK_DATA");
    }
    let (data, out) = (folder.path().join("faces"), folder.path().join("out"));
    celeba(&data, 150);
    fs::create_dir(&out).unwrap();
    let mut lines = Lines::default();
    let mut context = Context {
        out: out.clone(),
        scale: Scale::Quick,
        seed: 3,
        device: Arc::new(Pool::new(2).unwrap()).into(),
        data: Some(data.clone()),
        progress: &mut lines,
    };

    let settings = fig4::Settings {
        training: NANO,
        judge: 20,
        pictures: 6,
        spread: 4,
        steps: Some(3),
    };
    let four = fig4::run(&mut context, &settings, None, Some("Smiling,-Male")).unwrap();
    check(&four, &out);
    let agreement = number(&four.numbers, "/agreement/renoise/mean");
    assert!((0.0..=1.0).contains(&agreement));
    assert!(number(&four.numbers, "/pairwise_distance/one_z/mean") > 0.0);

    // The trained model and the judge are used again, and give the same numbers.
    let again = fig4::run(&mut context, &settings, None, Some("Smiling,-Male")).unwrap();
    assert_eq!(again.numbers, four.numbers);
    let unknown = fig4::run(&mut context, &settings, None, Some("Smilng")).unwrap_err();
    assert!(unknown.to_string().contains("Smiling"), "{unknown}");

    let settings = fig5::Settings {
        training: NANO,
        owners: 3,
        drawings: 3,
        steps: Some(3),
    };
    let checkpoint = out.join("models/features-nano");
    let five = fig5::run(&mut context, &settings, Some(&checkpoint)).unwrap();
    check(&five, &out);

    let settings = fig6::Settings {
        training: NANO,
        pictures: 3,
        steps: Some(10),
    };
    let six = fig6::run(&mut context, &settings, Some(&checkpoint)).unwrap();
    check(&six, &out);
    let course = six.numbers.pointer("/1/distance_to_end").unwrap();
    assert_eq!(number(course, "/9"), 0.0, "the last estimate is the end");
    assert!(number(course, "/0") > number(course, "/8"));

    let settings = fig7::Settings {
        features: NANO,
        classes: NANO,
        pictures: 4,
        drawings: 2,
        steps: Some(3),
    };
    let seven = fig7::run(&mut context, &settings, Some(&checkpoint)).unwrap();
    check(&seven, &out);
    assert!(number(&seven.numbers, "/classes/mse_own_z/mean") > 0.0);

    let settings = control::Settings {
        training: NANO,
        judge: 20,
        pictures: 12,
        real: 60,
        steps: Some(3),
    };
    let fair = control::run(&mut context, &settings).unwrap();
    check(&fair, &out);
    let active = |arm: usize| number(&fair.numbers, &format!("/conditioning/{arm}/active_latent"));
    assert!(
        (active(1) / active(0) - 1.0).abs() < 0.02,
        "{} and {}",
        active(1),
        active(0)
    );

    // The cluster model's run is an ordinary one, but goes on with its classes only.
    let run = out.join("models/clusters-nano");
    let resume = Command::new(env!("CARGO_BIN_EXE_gmmk"))
        .args(["train", "celeba", "--resume", "--steps", "9", "--data"])
        .args([data.as_path(), Path::new("--out"), run.as_path()])
        .output()
        .unwrap();
    let told = String::from_utf8(resume.stderr).unwrap();
    assert!(
        !resume.status.success() && told.contains("trained on 10 attributes"),
        "{told}"
    );

    let trained = lines.0.iter().filter(|l| l.starts_with("training first"));
    assert_eq!(
        trained.count(),
        5,
        "each model is trained once: {:#?}",
        lines.0
    );
}
