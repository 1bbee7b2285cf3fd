//! Seeing runs: report.html, the list, and two beside each other.

use super::*;
use serde_json::Value;

/// The page as XML, without its doctype.
fn page(run: &Path) -> String {
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    html.strip_prefix("<!doctype html>\n").unwrap().to_owned()
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn a_run_leaves_a_report() {
    let text = page(finished());
    let xml = roxmltree::Document::parse(&text).unwrap();
    let chart = |title: &str| -> Value {
        let svg = xml
            .descendants()
            .find(|n| n.attribute("aria-label") == Some(title));
        serde_json::from_str(svg.expect(title).attribute("data-series").unwrap()).unwrap()
    };
    let rows = metrics(finished());
    let logged: Vec<_> = rows
        .iter()
        .map(|r| serde_json::json!([r["images"].as_f64(), r["loss"]]))
        .collect();
    assert_eq!(chart("Loss")[0][2], Value::from(logged));
    // The level's own pictures, not the mean over all, and all levels make up the mean.
    let levels = chart("Loss by noise level");
    let last = |level: &Value| {
        level[2].as_array().unwrap().last().unwrap()[1]
            .as_f64()
            .unwrap()
    };
    let levels: Vec<f64> = levels.as_array().unwrap().iter().map(last).collect();
    let mean = rows.last().unwrap()["held_out_loss"].as_f64().unwrap();
    assert_eq!(levels.len(), 5);
    assert!(
        levels.iter().any(|l| (l / mean - 1.0).abs() > 1e-3),
        "{levels:?}"
    );
    assert!(
        (levels.iter().sum::<f64>() / 5.0 / mean - 1.0).abs() < 0.02,
        "{levels:?} {mean}"
    );
    assert!(
        text.contains("finished</span> at step 40 of 40"),
        "not finished"
    );
    assert_eq!(
        xml.descendants().filter(|n| n.has_tag_name("img")).count(),
        2
    );
    assert!(text.contains("CPU, 1 thread, "), "the device");
}

#[test]
fn a_report_is_made_anew() {
    let dir = place();
    let run = copy_of_finished(dir.path(), "r");
    fs::remove_file(run.join("report.html")).unwrap();
    let ran = done(dir.path(), &["report", "r"]);
    assert_eq!(ran.out, "wrote r/report.html\n");
    assert!(page(&run).contains("gmmk train faces --out r --resume --steps 80"));
    fails(
        dir.path(),
        &["report", "nowhere"],
        &["nowhere", "config.toml"],
    );
    fs::write(run.join("metrics.jsonl"), "{\n{}\n").unwrap();
    fails(dir.path(), &["report", "r"], &["metrics.jsonl:1:"]);
}

#[test]
fn runs_are_listed() {
    let dir = place();
    fails(dir.path(), &["runs"], &["no folder runs"]);
    fs::create_dir(dir.path().join("runs")).unwrap();
    assert_eq!(done(dir.path(), &["runs"]).out, "no runs in runs\n");
    let runs = dir.path().join("runs");
    copy_of_finished(&runs, "b");
    let damaged = copy_of_finished(&runs, "a");
    fs::write(damaged.join("config.toml"), "data = 3").unwrap();
    let listed = done(dir.path(), &["runs"]);
    assert!(listed.err.contains("a/config.toml"), "{}", listed.err);
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 2, "{}", listed.out);
    assert!(
        lines[1].starts_with("b    finished  faces  nano"),
        "{}",
        lines[1]
    );
    assert!(
        lines[1].contains("40 of 40") && lines[1].contains("CPU, 1 thread"),
        "{}",
        lines[1]
    );
    let json: Value = serde_json::from_str(&done(dir.path(), &["runs", "--json"]).out).unwrap();
    let last = metrics(finished()).pop().unwrap();
    for key in ["loss", "held_out_loss", "images", "step", "seconds"] {
        assert_eq!(json[0][key], last[key], "{key}");
    }
    assert_eq!(
        json[0]["bytes"].as_u64(),
        Some(listing(&runs.join("b")).values().sum())
    );
    let one = done(dir.path(), &["runs", "runs/b", "--json"]).out;
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one.as_array(), json.as_array());
}

#[test]
fn two_runs_are_compared() {
    let dir = place();
    fs::create_dir(dir.path().join("runs")).unwrap();
    copy_of_finished(&dir.path().join("runs"), "long");
    done(
        dir.path(),
        &training(
            "short",
            &["--batch", "6", "--steps", "20", "--sample-every", "10"],
        ),
    );
    let args = ["runs", "long", "short", "--json"];
    let json: Value = serde_json::from_str(&done(dir.path(), &args).out).unwrap();
    let keys: Vec<_> = json["config"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d[0].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["steps", "batch", "sample_every"]);
    assert_eq!(json["config"][1], serde_json::json!(["batch", "4", "6"]));
    let losses = json["losses"].as_array().unwrap();
    assert_eq!(
        losses.last().unwrap()["images"].as_u64(),
        Some(120),
        "the shorter run's"
    );
    let held_out = &losses.last().unwrap()["held_out_loss"];
    assert_eq!(
        held_out[1],
        metrics(&dir.path().join("short")).pop().unwrap()["held_out_loss"]
    );
    // Between the measurements at 80 and at 160 images, half way.
    let rows = metrics(finished());
    let at = |row: usize| rows[row]["held_out_loss"].as_f64().unwrap();
    assert!((held_out[0].as_f64().unwrap() - (at(1) + at(3)) / 2.0).abs() < 1e-12);
    let text = done(dir.path(), &["runs", "long", "short"]).out;
    for words in ["batch          4", "images per second as long", "120     "] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    fails(
        dir.path(),
        &["runs", "long", "none"],
        &["none", "config.toml"],
    );
}
