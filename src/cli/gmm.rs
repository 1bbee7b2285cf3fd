//! `gmmk gmm`: mixture expansion of a column of numbers, distances between two.

use super::terminal::{say, warn};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use gmmk::gmm::distance::{self, Pair};
use gmmk::gmm::expansion::{Expansion, ExpansionSpec, Mode, expand};
use gmmk::gmm::mixture::Mixture;
use gmmk::gmm::wasserstein::w1_samples;
use gmmk::report::figure::{Figure, Mark, Panel, Shape, pale};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Bars of the histogram and points of the density in a picture.
const BARS: usize = 80;
const POINTS: usize = 800;

/// `gmmk gmm ...`
#[derive(Subcommand)]
pub enum GmmCommand {
    /// Expand a column of numbers on Gaussian components
    Fit {
        /// Numbers: text or CSV with one per line, or a 1-D .npy of floats
        file: PathBuf,
        #[command(flatten)]
        expansion: ExpansionArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Draw histogram and density
        #[arg(long, value_name = "PNG")]
        out: Option<PathBuf>,
    },
    /// Distances between two columns of numbers, expanded on a common grid
    Distance {
        /// Numbers: text or CSV with one per line, or a 1-D .npy of floats
        a: PathBuf,
        /// The same, to compare with
        b: PathBuf,
        #[command(flatten)]
        expansion: ExpansionArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The components and how their weights are found.
#[derive(Args)]
pub struct ExpansionArgs {
    /// Number of components
    #[arg(long, default_value_t = 100)]
    n: usize,
    /// Their standard deviation in grid spacings
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    r: f64,
    /// auto, one_step, resp or em:K
    #[arg(long, default_value_t = Mode::Auto)]
    mode: Mode,
    /// Left end of the grid [default: the smallest number]
    #[arg(long, requires = "hi", allow_hyphen_values = true)]
    lo: Option<f64>,
    /// Right end of the grid [default: the largest number]
    #[arg(long, requires = "lo", allow_hyphen_values = true)]
    hi: Option<f64>,
}

impl ExpansionArgs {
    fn spec(&self) -> ExpansionSpec {
        ExpansionSpec {
            n: self.n,
            r: self.r,
            mode: self.mode,
            range: self.lo.zip(self.hi).map(|(lo, hi)| [lo, hi]),
        }
    }
}

/// Runs `gmmk gmm ...`.
pub fn run(command: GmmCommand) -> Result<()> {
    match command {
        GmmCommand::Fit {
            file,
            expansion,
            json,
            out,
        } => fit(&file, expansion.spec(), json, out.as_deref()),
        GmmCommand::Distance {
            a,
            b,
            expansion,
            json,
        } => between([&a, &b], expansion.spec(), json),
    }
}

fn fit(file: &Path, spec: ExpansionSpec, json: bool, out: Option<&Path>) -> Result<()> {
    let x = read_numbers(file)?;
    let found = expand(&x, spec)?;
    let with = |mode| expand(&x, ExpansionSpec { mode, ..spec });
    let likelihood = |g: &Mixture| g.mean_log_likelihood(&x);
    let one_step = likelihood(&with(Mode::OneStep)?.mixture)?;
    let em = likelihood(&with(Mode::Em(10))?.mixture)?;
    let w1 = w1_samples(&found.mixture, &x)?;
    found
        .warnings
        .iter()
        .for_each(|w| warn(&format!("warning: {w}")));
    let (g, h) = (&found.mixture, found.spacing[0]);
    if json {
        let all = json!({
            "samples": x.len(),
            "mode": found.mode.to_string(),
            "spacing": h,
            "sigma": g.sigma()[0],
            "mean": g.mean()[0],
            "variance": g.variance()[0],
            "log_likelihood": { "one_step": one_step, "em:10": em },
            "w1_to_samples": w1,
            "mu": g.mu(),
            "pi": g.pi(),
        });
        say(&serde_json::to_string_pretty(&all)?);
    } else {
        say(&format!(
            "{:>24}  {:>12}",
            "mean of the component", "weight"
        ));
        for (mu, pi) in g.mu().iter().zip(g.pi()) {
            say(&format!("{mu:>24.10}  {pi:>12.6e}"));
        }
        let deviation = g.variance()[0].sqrt();
        say(&format!("samples          {}", x.len()));
        say(&format!(
            "components       {} of s = {:.6}, h = {h:.6}",
            g.mu().len(),
            g.sigma()[0]
        ));
        say(&format!("mode             {}", found.mode));
        say(&format!(
            "mean, deviation  {:.6}, {deviation:.6}",
            g.mean()[0]
        ));
        say(&format!(
            "log-likelihood   {one_step:.6} one_step, {em:.6} em:10 (per sample)"
        ));
        say(&format!("W1 to samples    {w1:.6}"));
    }
    if let Some(out) = out {
        draw(&x, &found, file, out)?;
    }
    Ok(())
}

/// Histogram and density as one picture.
fn draw(x: &[f64], found: &Expansion, file: &Path, out: &Path) -> Result<()> {
    let mu = found.mixture.mu();
    let margin = 3.0 * found.mixture.sigma()[0];
    let low = x.iter().copied().fold(mu[0] - margin, f64::min);
    let high = x.iter().copied().fold(mu[mu.len() - 1] + margin, f64::max);
    let place = |i: usize, n: usize| low + (high - low) * i as f64 / n as f64;
    let mut bars = vec![0_u64; BARS];
    for x in x {
        let bar = (x - low) / (high - low) * BARS as f64;
        bars[(bar as usize).min(BARS - 1)] += 1;
    }
    let width = (high - low) / BARS as f64;
    let samples = bars.iter().enumerate().map(|(i, &count)| {
        let y = count as f64 / (x.len() as f64 * width);
        [place(i, BARS) + width / 2.0, y]
    });
    let samples = Shape::Bars {
        points: samples.collect(),
        width,
    };
    let points: Vec<f64> = (0..=POINTS).map(|i| place(i, POINTS)).collect();
    let density = found.mixture.density(&points)?;
    let density = points.into_iter().zip(density).map(|(x, y)| [x, y]);
    let fitted = format!("{} components, {}", mu.len(), found.mode);
    let panel = Panel {
        x_label: "x".into(),
        y_label: "density".into(),
        legend: true,
        marks: vec![
            Mark {
                name: "samples".into(),
                colour: pale(0),
                shape: samples,
            },
            Mark::line(fitted, 1, density.collect()),
        ],
        ..Panel::default()
    };
    let mut plot = Figure::single(panel, [960, 520]);
    let name = file.file_name().unwrap_or(file.as_os_str());
    plot.title = name.to_string_lossy().into_owned();
    plot.render()?.save_png(out)?;
    warn(&format!("wrote {}", out.display()));
    Ok(())
}

fn between(files: [&Path; 2], mut spec: ExpansionSpec, json: bool) -> Result<()> {
    let [a, b] = [read_numbers(files[0])?, read_numbers(files[1])?];
    let both = a.iter().chain(&b).copied();
    let (low, high) = both.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if low == high && spec.range.is_none() {
        bail!(
            "all numbers of both files are {low}; expected two distinct values, or give --lo and --hi"
        );
    }
    spec.range = spec.range.or(Some([low, high]));
    let [a, b] = [expand(&a, spec)?, expand(&b, spec)?];
    for (file, found) in files.iter().zip([&a, &b]) {
        let file = file.display();
        let lines = found.warnings.iter();
        lines.for_each(|w| warn(&format!("warning: {file}: {w}")));
    }
    let rows = distances(&a.mixture, &b.mixture)?;
    if json {
        // JSON has no infinity.
        let number = |v: f64| {
            if v.is_finite() {
                json!(v)
            } else {
                json!("inf")
            }
        };
        let mut all: serde_json::Map<String, Value> = rows
            .iter()
            .map(|(name, value, _)| ((*name).to_owned(), number(*value)))
            .collect();
        all.insert("w1_signed_is_a_metric".into(), json!(false));
        all.insert(
            "modes".into(),
            json!([a.mode.to_string(), b.mode.to_string()]),
        );
        say(&serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    for (name, value, what) in rows {
        say(&format!("{name:<15} {value:>14.8}  {what}"));
    }
    say(&format!("modes           {}, {}", a.mode, b.mode));
    Ok(())
}

/// Name, value and meaning of every distance.
fn distances(a: &Mixture, b: &Mixture) -> Result<Vec<(&'static str, f64, &'static str)>> {
    let pair = Pair::of(a, b)?;
    let back = Pair::of(b, a)?;
    let (p, q) = (a.pi(), b.pi());
    Ok(vec![
        (
            "w1_exact",
            pair.w1_exact()?,
            "the distance, in units of the numbers",
        ),
        (
            "w1_signed",
            pair.w1_signed(),
            "not a metric: the difference of the means",
        ),
        ("w1_grid", pair.w1_grid(), "the weights placed on the means"),
        ("kl", pair.kl()?, "A against B, densities"),
        ("kl_rev", back.kl()?, "B against A, densities"),
        ("js", pair.js()?, "densities"),
        ("tv", pair.tv()?, "densities"),
        ("kl_weights", distance::kl(p, q)?, "A against B, weights"),
        (
            "kl_rev_weights",
            distance::kl(q, p)?,
            "B against A, weights",
        ),
        ("js_weights", distance::js(p, q)?, "weights"),
        ("tv_weights", distance::tv(p, q)?, "weights"),
    ])
}

/// A column of finite numbers.
fn read_numbers(path: &Path) -> Result<Vec<f64>> {
    let name = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let numbers = match bytes.strip_prefix(b"\x93NUMPY") {
        Some(rest) => parse_npy(rest),
        None => match std::str::from_utf8(&bytes) {
            Ok(text) => parse_text(text),
            Err(_) => bail!("{name} is neither text nor .npy"),
        },
    };
    let numbers = numbers.with_context(|| format!("{name}"))?;
    if numbers.is_empty() {
        bail!("{name} holds no numbers; expected one per line, or a 1-D .npy");
    }
    Ok(numbers)
}

/// One number per line; empty lines and lines from `#` on are passed over.
fn parse_text(text: &str) -> Result<Vec<f64>> {
    let mut numbers = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let field = line.split('#').next().unwrap_or("");
        let field = field.trim().trim_start_matches('\u{feff}');
        let field = field.strip_suffix(',').unwrap_or(field);
        if field.is_empty() {
            continue;
        }
        match field.parse::<f64>() {
            Ok(x) if x.is_finite() => numbers.push(x),
            Ok(x) => bail!("line {} is {x}; expected a finite number", i + 1),
            Err(_) => {
                let short: String = field.chars().take(40).collect();
                bail!(
                    "line {}: `{short}` is not a number; expected one per line",
                    i + 1
                )
            }
        }
    }
    Ok(numbers)
}

/// What follows the magic of a .npy: version, header length, header, numbers.
fn parse_npy(bytes: &[u8]) -> Result<Vec<f64>> {
    let cut = "the .npy ends inside its header";
    let major = *bytes.first().context(cut)?;
    let wide = if major == 1 { 2 } else { 4 };
    let length = bytes.get(2..2 + wide).context(cut)?;
    let length = length.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
    let header = bytes
        .get(2 + wide..)
        .and_then(|b| b.get(..length))
        .context(cut)?;
    let header = String::from_utf8_lossy(header).replace(' ', "");
    let after = |key: &str| header.split_once(key).map_or("", |(_, rest)| rest);
    let shape = after("'shape':(").split(')').next().unwrap_or("");
    let count: usize = match shape.trim_end_matches(',').parse() {
        Ok(count) if shape.ends_with(',') => count,
        _ => bail!("the .npy has shape ({shape}); expected one dimension"),
    };
    let descr = after("'descr':'").split('\'').next().unwrap_or("");
    let size = match descr {
        "<f4" => 4,
        "<f8" => 8,
        other => bail!("the .npy has the type `{other}`; expected <f4 or <f8"),
    };
    let data = &bytes[2 + wide + length..];
    if count.checked_mul(size) != Some(data.len()) {
        bail!(
            "the .npy has {} bytes of numbers; expected {count} x {size}",
            data.len()
        );
    }
    let number = |b: &[u8]| match b {
        &[a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        b => f64::from_le_bytes(b.try_into().unwrap_or([0xff; 8])),
    };
    let numbers: Vec<f64> = data.chunks_exact(size).map(number).collect();
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(i) => bail!("number {i} is {}; expected a finite number", numbers[i]),
        None => Ok(numbers),
    }
}
