use super::super::classifier::ClassifierKind;
use super::super::config::{DataKind, RunConfig};
use super::super::length::Length;
use super::super::metrics::{self, MetricsRow, MetricsWriter};
use super::*;
use crate::report::picture::Picture;
use roxmltree::{Document, Node};
use std::collections::BTreeSet;

const LEVELS: [&str; 2] = ["held_out_loss/t1-20", "held_out_loss/t21-40"];

/// A stopped run of `rows` lines whose every number is another.
fn run(dir: &Path, rows: u64) -> PathBuf {
    let path = dir.join("a & <b>");
    std::fs::create_dir_all(path.join("samples")).unwrap();
    let mut config = RunConfig::new(DataKind::Faces, "nano");
    (config.batch, config.steps) = (4, Length::Steps(20_000));
    config.classifier = ClassifierKind::Bce;
    config.save(&path.join("config.toml")).unwrap();
    let mut writer = MetricsWriter::create(&path.join("metrics.jsonl")).unwrap();
    for i in 1..=rows {
        let wave = 1.0 + (i as f64 * 0.7).sin() / 2.0;
        let mut values: Vec<(String, f64)> = [
            ("loss", if i == 7 { f64::NAN } else { wave }),
            ("grad_norm", 3.0 * wave),
            ("loss/t1-20", 2.0 * wave),
            ("loss/t21-40", 0.5 * wave),
            ("images_per_s", 90.0 + wave),
            ("data_wait", 0.01 * wave),
            ("skipped", (i / 9) as f64),
            ("lr", 1e-4),
            ("peak_rss_bytes", 1e8 + 1e6 * wave),
            ("gpu_held_bytes", 3e8),
            ("gpu_used_bytes", 5e8 + 1e7 * wave),
            ("classifier_loss", 0.7 * wave),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        if i % 5 == 0 {
            let measured = ["held_out_loss", LEVELS[0], LEVELS[1], "classifier_accuracy"];
            let measured = measured
                .into_iter()
                .chain(["classifier_accuracy_other_tokens", "accuracy/Wavy_Hair"]);
            values.extend(
                measured
                    .zip(1..)
                    .map(|(name, k)| (name.to_owned(), wave / f64::from(3 * k))),
            );
            let picture = Picture::filled(8, 6, [i as u8; 3]).unwrap();
            picture
                .save_png(&path.join(format!("samples/step-{:08}.png", 10 * i)))
                .unwrap();
        }
        let (step, images, seconds) = (10 * i, 40 * i, i as f64);
        writer
            .append(&MetricsRow {
                step,
                images,
                seconds,
                values,
            })
            .unwrap();
    }
    path
}

fn read(path: &Path) -> String {
    let html = std::fs::read_to_string(write(path).unwrap()).unwrap();
    html.strip_prefix("<!doctype html>\n").unwrap().to_owned()
}

fn by_tag<'a, 'i>(xml: &'a Document<'i>, tag: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    xml.descendants().filter(move |n| n.has_tag_name(tag))
}

fn words(node: Node<'_, '_>) -> String {
    node.descendants()
        .filter(Node::is_text)
        .map(|n| n.text().unwrap_or_default())
        .collect()
}

/// The numbers behind the chart called `title`: of each line its name and points.
fn series(xml: &Document<'_>, title: &str) -> Vec<(String, Vec<[f64; 2]>)> {
    let charts = by_tag(xml, "svg");
    let chart = charts
        .into_iter()
        .find(|n| n.attribute("aria-label") == Some(title));
    let json = chart.expect(title).attribute("data-series").unwrap();
    let lines: Vec<(String, String, Vec<[f64; 2]>)> = serde_json::from_str(json).unwrap();
    lines
        .into_iter()
        .map(|(name, _, points)| (name, points))
        .collect()
}

#[test]
fn the_page_is_whole_and_needs_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let path = run(dir.path(), 60);
    let text = read(&path);
    let xml = Document::parse(&text).unwrap();
    let sections: Vec<_> = by_tag(&xml, "section")
        .filter_map(|n| n.attribute("id"))
        .collect();
    assert_eq!(
        sections,
        [
            "samples",
            "curves",
            "classifier",
            "continue",
            "configuration"
        ]
    );
    for node in xml.descendants() {
        for name in ["src", "href", "srcset", "data", "poster", "action"] {
            let value = node.attribute(name).unwrap_or("data:");
            assert!(value.starts_with("data:"), "{name}={value}");
        }
    }
    // The one address is the name space of SVG, which nobody fetches.
    let addresses: Vec<_> = text
        .match_indices("://")
        .map(|(i, _)| &text[i - 4..i + 22])
        .collect();
    assert_eq!(addresses, ["http://www.w3.org/2000/svg"]);
    assert!(!text.contains("url(") && !text.contains("@import") && !text.contains("fetch("));
    assert_eq!(words(by_tag(&xml, "h1").next().unwrap()), "a & <b>");
    assert!(text.contains("prefers-color-scheme: dark"));
    let commands: Vec<_> = by_tag(&xml, "pre").map(words).collect();
    let folder = format!("'{}'", path.display());
    assert_eq!(
        commands[0],
        format!("gmmk train faces --out {folder} --resume")
    );
    let config = by_tag(&xml, "table").find(|n| n.attribute("class") == Some("config"));
    let config = words(config.unwrap());
    for (key, value) in RunConfig::load(&path.join("config.toml"))
        .unwrap()
        .table()
        .unwrap()
    {
        assert!(config.contains(&format!("{key}{}", shown(&value))), "{key}");
    }
}

#[test]
fn its_numbers_are_those_of_the_metrics() {
    let dir = tempfile::tempdir().unwrap();
    // More lines than a chart draws points.
    let path = run(dir.path(), 1500);
    let text = read(&path);
    let xml = Document::parse(&text).unwrap();
    let rows = metrics::read(&path.join("metrics.jsonl")).unwrap();
    let logged = |metric: &str, factor: f64| -> BTreeSet<String> {
        let points = rows
            .iter()
            .filter_map(|row| Some((row.images, factor * row.get(metric)?)));
        points.map(|(x, y)| format!("{x} {y:.10e}")).collect()
    };
    for (title, line, metric, factor) in [
        ("Loss", "training", "loss", 1.0),
        ("Loss", "held out, averaged weights", "held_out_loss", 1.0),
        (
            "Loss by noise level",
            "t 1\u{2013}20: 97 to 54 %",
            LEVELS[0],
            1.0,
        ),
        ("Gradient norm", "as logged", "grad_norm", 1.0),
        (
            "Images per second",
            "Images per second",
            "images_per_s",
            1.0,
        ),
        ("Waiting for data", "Waiting for data", "data_wait", 100.0),
        (
            "Host memory",
            "Host memory",
            "peak_rss_bytes",
            1.0 / f64::from(1 << 20),
        ),
        (
            "GPU memory",
            "in use, by everybody",
            "gpu_used_bytes",
            1.0 / f64::from(1 << 20),
        ),
        (
            "GPU memory",
            "this run's buffers",
            "gpu_held_bytes",
            1.0 / f64::from(1 << 20),
        ),
        ("Skipped steps", "Skipped steps", "skipped", 1.0),
        ("Classifier's loss", "as logged", "classifier_loss", 1.0),
        (
            "Classifier's accuracy",
            "picture's own tokens",
            "classifier_accuracy",
            100.0,
        ),
    ] {
        let all = series(&xml, title);
        let found = all.into_iter().find(|(name, _)| name == line);
        let points = found.unwrap_or_else(|| panic!("no {line} in {title}")).1;
        let logged = logged(metric, factor);
        assert!(
            points.len() >= logged.len().min(150),
            "{metric}: {}",
            points.len()
        );
        for [x, y] in points {
            assert!(
                logged.contains(&format!("{x} {y:.10e}")),
                "{metric} at {x}: {y}"
            );
        }
    }
    let smoothed = series(&xml, "Training loss by noise level");
    let names: Vec<_> = smoothed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["t 1\u{2013}20: 97 to 54 %", "t 21\u{2013}40: 52 to 29 %"]
    );
    // The wave's mean is 1.
    for ((_, points), mean) in smoothed.iter().zip([2.0, 0.5]) {
        assert!(points.len() > 100);
        let settled = points.iter().skip(20);
        assert!(
            settled
                .into_iter()
                .all(|p| (p[1] / mean - 1.0).abs() < 0.15)
        );
    }
    assert!(
        by_tag(&xml, "svg").all(|n| n.attribute("aria-label") != Some("Learning rate")),
        "constant"
    );
    let tiles: Vec<String> = by_tag(&xml, "dd").map(words).collect();
    let last = rows.last().unwrap();
    assert_eq!(tiles[1], significant(last.get("held_out_loss").unwrap(), 4));
    assert_eq!(tiles[3], human_duration(last.seconds));
    assert_eq!(tiles[7], "166");
    let used = last.get("gpu_used_bytes").unwrap();
    assert_eq!(tiles[8], human_bytes(used as u64));
    // Without a machine.json there is no plan to draw.
    assert_eq!(series(&xml, "GPU memory").len(), 2);
    let table = by_tag(&xml, "table").find(|n| n.attribute("class") == Some("accuracies"));
    let percent = format!("{:.1} %", 100.0 * last.get("accuracy/Wavy_Hair").unwrap());
    assert!(
        words(table.unwrap()).contains(&format!("Wavy Hair{percent}")),
        "{percent}"
    );
    let images: Vec<_> = by_tag(&xml, "img")
        .filter_map(|n| n.attribute("alt"))
        .collect();
    assert_eq!(images.len(), 10);
    assert_eq!(
        [images[0], images[1], images[9]],
        [15_000, 50, 14_950].map(|s| format!("samples at step {s}"))
    );
}

#[test]
fn a_run_that_just_began_has_a_page_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = run(dir.path(), 0);
    let text = read(&path);
    let xml = Document::parse(&text).unwrap();
    assert!(words(xml.root_element()).contains("Nothing is logged yet."));
    std::fs::remove_dir(path.join("samples")).unwrap();
    std::fs::remove_file(path.join("metrics.jsonl")).unwrap();
    assert!(Document::parse(&read(&path)).is_ok());
    let state = RunState::Finished;
    let run = Run::open(&path).unwrap();
    write_run(&Run { state, ..run }).unwrap();
    let text = std::fs::read_to_string(path.join("report.html")).unwrap();
    assert!(text.contains("finished</span>") && text.contains("--steps 40000"));
    assert!(matches!(write(dir.path()), Err(RunsError::Dir(_))));
}

#[test]
fn texts_are_exact() {
    for (seconds, text) in [
        (0, "1970-01-01 00:00 UTC"),
        (951_782_400, "2000-02-29 00:00 UTC"),
        (1_709_251_199, "2024-02-29 23:59 UTC"),
        (1_798_761_600, "2027-01-01 00:00 UTC"),
        (4_107_542_400, "2100-03-01 00:00 UTC"),
    ] {
        assert_eq!(utc(seconds), text);
    }
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(grouped),
        ["0", "999", "1,000", "1,234,567"]
    );
    for (value, text) in [
        (0.0, "0"),
        (0.123456, "0.1235"),
        (1234.5, "1234"),
        (1.0, "1.000"),
        (1.2e-7, "1.200e-7"),
    ] {
        assert_eq!(significant(value, 4), text);
    }
    assert_eq!(
        [quoted("runs/a-1"), quoted("it's"), quoted("")],
        ["runs/a-1", "'it'\\''s'", "''"]
    );
}
