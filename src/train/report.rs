//! `report.html`: a run on one page that needs no network, readable on a phone.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::levels::Level;
use super::rate::RateSchedule;
use super::runs::{Run, RunState, RunsError};
use crate::diffusion::schedule::Schedule;
use crate::report::files::{human_bytes, human_duration, replace_with_bytes};
use crate::report::html::{Chart, Series, escape, page, table};

mod evaluation;
mod film;

/// Writes the report of the run in `folder` into it.
///
/// # Errors
/// No run, damaged files, or no space.
pub fn write(folder: &Path) -> Result<PathBuf, RunsError> {
    write_run(&Run::open(folder)?)
}

/// Writes the report of a run into its folder.
///
/// # Errors
/// Damaged files, or no space.
pub fn write_run(run: &Run) -> Result<PathBuf, RunsError> {
    let path = run.path.join("report.html");
    replace_with_bytes(&path, html(run)?.as_bytes())?;
    Ok(path)
}

/// The page.
fn html(run: &Run) -> Result<String, RunsError> {
    let mut body = head(run);
    section(&mut body, "samples", "Samples", &film::samples(run)?);
    section(&mut body, "curves", "Curves", &curves(run));
    section(
        &mut body,
        "classifier",
        "Attribute classifier",
        &classifier(run),
    );
    section(&mut body, "continue", "Go on", &commands(run));
    section(
        &mut body,
        "configuration",
        "Configuration",
        &configuration(run)?,
    );
    body.push_str(&foot(run));
    Ok(page(&format!("{}: a run of gmmk", run.name()), &body))
}

fn section(body: &mut String, id: &str, title: &str, content: &str) {
    let _ = write!(
        body,
        "<section id=\"{id}\">\n<h2>{title}</h2>\n{content}</section>\n"
    );
}

/// What the run is, how far it has come, and its numbers at a glance.
fn head(run: &Run) -> String {
    let (config, state) = (&run.config, run.state);
    let (step, total) = (run.step(), config.total_steps());
    let images = run.rows.last().map_or(0, |row| row.images);
    let mut out = format!("<header>\n<h1>{}</h1>\n", escape(&run.name()));
    let _ = writeln!(
        out,
        "<p>{} on {}, {}</p>",
        escape(&config.preset),
        config.data,
        escape(run.device())
    );
    let _ = writeln!(
        out,
        "<p><span class=\"state {0}\">{0}</span> at step {1} of {2}, after {3} images</p>\n<progress value=\"{4}\" max=\"{5}\"></progress>\n</header>",
        state.name(),
        grouped(step),
        grouped(total),
        grouped(images),
        step.min(total),
        total.max(1)
    );
    out.push_str("<dl class=\"tiles\">\n");
    for (name, value) in tiles(run) {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    out.push_str("</dl>\n");
    out
}

fn tiles(run: &Run) -> Vec<(&'static str, String)> {
    let some =
        |value: Option<f64>, text: &dyn Fn(f64) -> String| value.map_or("\u{2013}".into(), text);
    let number = |v: f64| significant(v, 4);
    let smoothed = run
        .smooth("loss")
        .last()
        .map(|p| p[1])
        .filter(|y| y.is_finite());
    let seconds = run.rows.last().map(|row| row.seconds);
    let planned = run.machine.as_ref().map(|m| m.planned_bytes as f64);
    let bytes = |v: f64| human_bytes(v as u64);
    let mut tiles = vec![
        ("loss, smoothed", some(smoothed, &number)),
        ("loss, held out", some(run.last("held_out_loss"), &number)),
        (
            "images per second",
            some(run.images_per_s(), &|v| significant(v, 3)),
        ),
        ("training time", some(seconds, &human_duration)),
        ("planned memory", some(planned, &bytes)),
        ("peak host memory", some(run.last("peak_rss_bytes"), &bytes)),
        (
            "waiting for data",
            some(mean(run, "data_wait"), &|v| format!("{:.2} %", 100.0 * v)),
        ),
        (
            "skipped steps",
            grouped(run.last("skipped").unwrap_or(0.0) as u64),
        ),
    ];
    let used = run.last("gpu_used_bytes");
    tiles.extend(used.map(|used| ("GPU memory in use", bytes(used))));
    tiles
}

fn mean(run: &Run, metric: &str) -> Option<f64> {
    let points = run.points(metric);
    let finite: Vec<f64> = points
        .iter()
        .map(|p| p[1])
        .filter(|y| y.is_finite())
        .collect();
    (!finite.is_empty()).then(|| finite.iter().sum::<f64>() / finite.len() as f64)
}

/// MiB per byte.
const MIB: f64 = 1.0 / 1_048_576.0;

/// Charts of one line from zero: title, note, metric, factor, and whether it is drawn where it never changes.
const PLAIN: [(&str, &str, &str, f64, bool); 5] = [
    (
        "Images per second",
        "training alone, without pages and saves",
        "images_per_s",
        1.0,
        true,
    ),
    (
        "Waiting for data",
        "per cent of the training time",
        "data_wait",
        100.0,
        true,
    ),
    (
        "Host memory",
        "largest so far, MiB",
        "peak_rss_bytes",
        MIB,
        true,
    ),
    ("Learning rate", "of AdamW", "lr", 1.0, false),
    (
        "Skipped steps",
        "whose gradient was not finite, so far",
        "skipped",
        1.0,
        false,
    ),
];

/// All charts; those of what was not measured, or never changed, are left out.
fn curves(run: &Run) -> String {
    let mut charts = vec![
        losses(run),
        levels(
            run,
            "held_out_loss",
            Run::points,
            ["Loss by noise level", "held-out pictures"],
        ),
        // Few samples of a line of training's log are of one level.
        levels(
            run,
            "loss",
            Run::smooth,
            ["Training loss by noise level", "smoothed"],
        ),
        raw_and_smooth(
            run,
            [
                "Classifier's loss",
                "of the attribute classifier at the bottleneck",
            ],
            "classifier_loss",
        ),
        accuracy(run),
        raw_and_smooth(
            run,
            ["Gradient norm", "before clipping, over all weights"],
            "grad_norm",
        ),
    ];
    charts.extend(evaluation::charts(run));
    charts.push(gpu_memory(run));
    for (title, note, metric, factor, constant) in PLAIN {
        let points = scaled(run, metric, factor);
        if constant || changes(&points) {
            charts.push(from_zero(title, note, points));
        }
    }
    // All over the same images, so that eyes can go from one to the other.
    let images = run.rows.last().map_or(0, |row| row.images);
    for chart in &mut charts {
        chart.x_range = Some([0.0, images as f64]);
    }
    let drawn: String = charts.iter().map(Chart::html).collect();
    match drawn.is_empty() {
        true => "<p class=\"soft\">Nothing is logged yet.</p>\n".into(),
        false => format!("<div class=\"charts\">\n{drawn}</div>\n"),
    }
}

fn scaled(run: &Run, metric: &str, factor: f64) -> Vec<[f64; 2]> {
    let points = run.points(metric).into_iter();
    points.map(|[x, y]| [x, y * factor]).collect()
}

fn raw_and_smooth(run: &Run, [title, note]: [&str; 2], metric: &str) -> Chart {
    Chart {
        log_y: true,
        series: vec![
            line("as logged", "raw", run.points(metric)),
            line("smoothed", "c0", run.smooth(metric)),
        ],
        ..chart(title, note)
    }
}

fn from_zero(title: &str, note: &str, points: Vec<[f64; 2]>) -> Chart {
    Chart {
        y_range: Some([0.0, 1.08 * highest(&points)]),
        series: vec![line(title, "c0", points)],
        ..chart(title, note)
    }
}

fn chart(title: &str, note: &str) -> Chart {
    Chart {
        title: title.into(),
        note: note.into(),
        x_label: "images".into(),
        ..Chart::default()
    }
}

fn line(name: impl Into<String>, class: &'static str, points: Vec<[f64; 2]>) -> Series {
    Series {
        name: name.into(),
        class,
        points,
    }
}

fn highest(points: &[[f64; 2]]) -> f64 {
    let finite = points.iter().map(|p| p[1]).filter(|y| y.is_finite());
    let highest = finite.fold(0.0, f64::max);
    if highest > 0.0 { highest } else { 1.0 }
}

/// What the run's buffers take and what the driver says is in use, beside the plan.
fn gpu_memory(run: &Run) -> Chart {
    let [held, used] = ["gpu_held_bytes", "gpu_used_bytes"].map(|name| scaled(run, name, MIB));
    let plan = run.machine.as_ref().map(|m| m.planned_bytes as f64 * MIB);
    let ends = held.first().into_iter().chain(held.last());
    let planned: Vec<[f64; 2]> = ends.filter_map(|end| Some([end[0], plan?])).collect();
    let highest = [&held, &used, &planned].map(|points| highest(points));
    Chart {
        y_range: Some([0.0, 1.08 * highest.into_iter().fold(0.0, f64::max)]),
        series: vec![
            line("in use, by everybody", "c1", used),
            line("this run's buffers", "c0", held),
            line("planned", "c2", planned),
        ],
        ..chart("GPU memory", "MiB; in use: as the driver says")
    }
}

fn changes(points: &[[f64; 2]]) -> bool {
    points.windows(2).any(|w| w[0][1] != w[1][1])
}

fn losses(run: &Run) -> Chart {
    Chart {
        log_y: true,
        series: vec![
            line("training", "raw", run.points("loss")),
            line("smoothed", "c0", run.smooth("loss")),
            line(
                "held out, averaged weights",
                "c1",
                run.points("held_out_loss"),
            ),
        ],
        ..chart("Loss", "mean squared error of the predicted noise")
    }
}

/// `loss` by noise level; what is left of a picture is its scale in the noisy one.
fn levels(
    run: &Run,
    loss: &str,
    points: impl Fn(&Run, &str) -> Vec<[f64; 2]>,
    [title, note]: [&str; 2],
) -> Chart {
    const CLASSES: [&str; 5] = ["c4", "c1", "c3", "c2", "c0"];
    let schedule = Schedule::new(run.config.schedule).ok();
    let scale = |t: u32| Some(100.0 * schedule.as_ref()?.alpha_bar().get(t as usize)?.sqrt());
    let named = run.rows.iter().flat_map(|row| &row.values);
    let mut levels: Vec<(Level, &str)> = Vec::new();
    for (name, _) in named {
        if let Some(level) = Level::parse(loss, name)
            && !levels.iter().any(|(known, _)| *known == level)
        {
            levels.push((level, name));
        }
    }
    let series = levels
        .iter()
        .zip(CLASSES.iter().cycle())
        .map(|((level, metric), class)| {
            let scales = scale(level.first).zip(scale(level.last));
            let scales = scales.map_or(String::new(), |(a, b)| format!(": {a:.0} to {b:.0} %"));
            let name = format!("t {}\u{2013}{}{scales}", level.first, level.last);
            line(name, class, points(run, metric))
        });
    Chart {
        log_y: true,
        series: series.collect(),
        ..chart(
            title,
            &format!("{note}; per cent: what is left of the picture at t"),
        )
    }
}

fn accuracy(run: &Run) -> Chart {
    let percent = |metric: &str| scaled(run, metric, 100.0);
    Chart {
        series: vec![
            line("picture's own tokens", "c0", percent("classifier_accuracy")),
            line(
                "another picture's tokens",
                "c1",
                percent("classifier_accuracy_other_tokens"),
            ),
        ],
        ..chart(
            "Classifier's accuracy",
            "per cent of held-out attributes told right",
        )
    }
}

/// Accuracy of every attribute at the last measurement.
fn classifier(run: &Run) -> String {
    let measured = run
        .rows
        .iter()
        .rev()
        .find(|row| row.get("classifier_accuracy").is_some());
    let Some(row) = measured else {
        let why = match run.config.classifier {
            super::classifier::ClassifierKind::None => {
                "The network has none; <code>--classifier bce</code> or <code>ngmg</code> adds one."
            }
            _ => "It is measured with the first page of samples.",
        };
        return format!("<p class=\"soft\">{why}</p>\n");
    };
    let percent = |metric: &str| {
        let value = row.get(metric).filter(|v| v.is_finite());
        value.map_or("\u{2013}".to_owned(), |v| format!("{:.1} %", 100.0 * v))
    };
    let pair =
        |name: &str, own: &str, other: &str| vec![name.to_owned(), percent(own), percent(other)];
    let names = row
        .values
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("accuracy/"));
    let each = names.map(|name| {
        let keys = [
            format!("accuracy/{name}"),
            format!("accuracy_other_tokens/{name}"),
        ];
        pair(&name.replace('_', " "), &keys[0], &keys[1])
    });
    let all = pair(
        "all attributes",
        "classifier_accuracy",
        "classifier_accuracy_other_tokens",
    );
    let head = ["told right", "own tokens", "another's tokens"];
    format!(
        "<p class=\"soft\">Held-out pictures at step {}. The classifier also sees the tokens that it should read off the picture: only with another picture's tokens does its accuracy tell what it sees.</p>\n{}",
        grouped(row.step),
        table("accuracies", &head, std::iter::once(all).chain(each))
    )
}

fn commands(run: &Run) -> String {
    let folder = quoted(&run.path.display().to_string());
    let longer = match run.state {
        RunState::Finished => format!(" --steps {}", 2 * run.config.total_steps()),
        RunState::Running | RunState::Stopped => String::new(),
    };
    // A rate that has fallen to nothing has nowhere to go.
    let ended = run.state == RunState::Finished && run.config.lr_schedule == RateSchedule::Cosine;
    let title = match run.state {
        RunState::Running => "Should it stop, this goes on with it:",
        RunState::Stopped => "Go on with it:",
        RunState::Finished => "Train it longer:",
    };
    let block =
        |title: &str, command: &str| format!("<p>{title}</p>\n<pre>{}</pre>\n", escape(command));
    let train = format!(
        "gmmk train {} --out {folder} --resume{longer}",
        run.config.data
    );
    let train = if ended {
        String::new()
    } else {
        block(title, &train)
    };
    train
        + &block(
            "Draw from it:",
            &format!("gmmk sample --checkpoint {folder} --out samples.png"),
        )
        + &block("This page anew:", &format!("gmmk report {folder}"))
}

/// A word of a POSIX shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@\\".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

fn configuration(run: &Run) -> Result<String, RunsError> {
    let mut rows = Vec::new();
    for (key, value) in run.config.table()? {
        match value {
            toml::Value::Table(table) => {
                rows.extend(
                    table
                        .into_iter()
                        .map(|(k, v)| vec![format!("{key}.{k}"), shown(&v)]),
                );
            }
            value => rows.push(vec![key, shown(&value)]),
        }
    }
    Ok(table("config", &[], rows))
}

fn shown(value: &toml::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn foot(run: &Run) -> String {
    let written = std::fs::metadata(run.path.join("metrics.jsonl")).and_then(|m| m.modified());
    let written = written
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let written = written.map_or(String::new(), |time| {
        format!("Last logged {}. ", utc(time.as_secs()))
    });
    format!(
        "<footer>{written}Made by gmmk {}; the numbers are in metrics.jsonl beside this page.</footer>\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// `2026-11-26 18:05 UTC`, from seconds since 1970 (days to a date: Hinnant's civil calendar).
fn utc(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{date:02} {hour:02}:{minute:02} UTC")
}

/// `48,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with so many significant digits.
pub fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let decimals = digits - 1 - value.abs().log10().floor() as i32;
    if value.abs() < 1e-4 {
        return format!("{value:.*e}", digits.max(1) as usize - 1);
    }
    format!("{value:.*}", decimals.clamp(0, 12) as usize)
}

#[cfg(test)]
mod tests;
