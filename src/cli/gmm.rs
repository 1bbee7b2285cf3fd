//! `gmmk gmm`: mixture expansion of a column of numbers, distances between two.

use super::numbers::read_numbers;
use super::terminal::{say, warn};
use anyhow::{Result, bail};
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
        /// Numbers: text or CSV with one per line (a header is passed over), or a 1-D .npy
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
        /// Numbers: text or CSV with one per line (a header is passed over), or a 1-D .npy
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
    let likelihood = |mode| -> Result<f64> {
        if mode == found.mode {
            return Ok(found.mixture.mean_log_likelihood(&x)?);
        }
        let other = expand(&x, ExpansionSpec { mode, ..spec })?;
        Ok(other.mixture.mean_log_likelihood(&x)?)
    };
    let quality = Quality {
        samples: x.len(),
        likelihoods: [likelihood(Mode::OneStep)?, likelihood(Mode::Em(10))?],
        w1: w1_samples(&found.mixture, &x)?,
    };
    for warning in &found.warnings {
        warn(&format!("warning: {warning}"));
    }
    if json {
        say(&serde_json::to_string_pretty(&quality.json(&found))?);
    } else {
        quality.print(&found);
    }
    if let Some(out) = out {
        draw(&x, &found, file, out)?;
    }
    Ok(())
}

/// How well an expansion fits its samples.
struct Quality {
    samples: usize,
    /// Log-likelihood per sample: of one_step, and of em:10.
    likelihoods: [f64; 2],
    /// W1 between the expansion and the samples.
    w1: f64,
}

impl Quality {
    fn json(&self, found: &Expansion) -> Value {
        let g = &found.mixture;
        let [one_step, em] = self.likelihoods;
        json!({
            "samples": self.samples,
            "mode": found.mode.to_string(),
            "spacing": found.spacing[0],
            "sigma": g.sigma()[0],
            "mean": g.mean()[0],
            "variance": g.variance()[0],
            "log_likelihood": { "one_step": one_step, "em:10": em },
            "w1_to_samples": self.w1,
            "mu": g.mu(),
            "pi": g.pi(),
        })
    }

    fn print(&self, found: &Expansion) {
        let (g, h) = (&found.mixture, found.spacing[0]);
        say(&format!(
            "{:>24}  {:>12}",
            "mean of the component", "weight"
        ));
        for (mu, pi) in g.mu().iter().zip(g.pi()) {
            say(&format!("{mu:>24.10}  {pi:>12.6e}"));
        }
        let [mean, deviation] = [g.mean()[0], g.variance()[0].sqrt()];
        let (count, s) = (g.mu().len(), g.sigma()[0]);
        let [one_step, em] = self.likelihoods;
        say(&format!("samples          {}", self.samples));
        say(&format!(
            "components       {count} of s = {s:.6}, h = {h:.6}"
        ));
        say(&format!("mode             {}", found.mode));
        say(&format!("mean, deviation  {mean:.6}, {deviation:.6}"));
        say(&format!(
            "log-likelihood   {one_step:.6} one_step, {em:.6} em:10 (per sample)"
        ));
        say(&format!("W1 to samples    {:.6}", self.w1));
    }
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
