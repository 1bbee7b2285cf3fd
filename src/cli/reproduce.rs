//! `gmmk reproduce`: the paper's figures and tables.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use gmmk::reproduce::{self, Context, Report, Scale};
use gmmk::reproduce::{
    control, fig2, fig4, fig5, fig6, fig7, fig9, fig10, fig11, fig12, samplers, w1,
};

use super::device::DeviceArgs;
use super::terminal::{self, duration, say, warn};

/// What can be reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Sets as conditions: samples outside the support, by condition
    Fig2,
    /// Pictures with the attributes asked for, beside real ones (also the paper's figures 13 to 16)
    Fig4,
    /// One picture's Z, many noises
    Fig5,
    /// The estimate of the picture along the sampling steps (or the samplers on exact mixtures)
    Fig6,
    /// Training pictures drawn again from their own Z: features and classes
    Fig7,
    /// Training loss with and without a classifier at the bottleneck
    Fig9,
    /// NGMG: from two expansions to a gradient
    Fig10,
    /// Algorithm 1: one mixture turned into another, by three rules
    Fig11,
    /// NGMG entropy against binary cross-entropy
    Fig12,
    /// Wasserstein distances: exact, signed, and what NGMG sees of them
    W1,
    /// Every one of them, and a page that lists what was found
    All,
}

impl Name {
    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_owned())
    }
}

/// One picture with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    name: Name,
    /// The figure's second form: fig6 --samplers, fig7 --control.
    variant: bool,
}

/// Options of `gmmk reproduce`.
#[derive(Args)]
pub struct ReproduceArgs {
    /// Which figure or table
    name: Name,
    /// Folder for pictures and numbers; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "reproduce")]
    out: PathBuf,
    /// Small and fast: minutes on a CPU at most (the default)
    #[arg(long)]
    quick: bool,
    /// As large as the paper's, where that is known
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Seed of all randomness
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder with data sets (fig4, fig5, fig6, fig7, fig9, fig12)
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A trained model: a checkpoint or a run (fig4, fig5, fig6, fig7)
    #[arg(long, value_name = "FILE|RUN")]
    checkpoint: Option<PathBuf>,
    /// Attributes to ask for, as in `gmmk sample` (fig4)
    #[arg(long, value_name = "LIST")]
    attributes: Option<String>,
    /// The fair comparison of features and classes on one data set, with models of its own (fig7)
    #[arg(long, conflicts_with = "checkpoint")]
    control: bool,
    /// The samplers on exact mixtures, without a model (fig6)
    #[arg(long, conflicts_with_all = ["checkpoint", "data"])]
    samplers: bool,
}

/// The options that only some figures take: option, whether it was given, figures.
type Restricted = (&'static str, bool, &'static [&'static str]);

impl ReproduceArgs {
    fn restricted(&self) -> [Restricted; 5] {
        [
            (
                "--data",
                self.data.is_some(),
                &["fig4", "fig5", "fig6", "fig7", "fig9", "fig12", "all"],
            ),
            (
                "--checkpoint",
                self.checkpoint.is_some(),
                &["fig4", "fig5", "fig6", "fig7", "all"],
            ),
            ("--attributes", self.attributes.is_some(), &["fig4"]),
            ("--control", self.control, &["fig7"]),
            ("--samplers", self.samplers, &["fig6"]),
        ]
    }

    /// What was asked for; `all` is every figure in all its forms.
    fn works(&self) -> Vec<Work> {
        let forms = |name: Name| -> &[bool] {
            match name {
                Name::All => &[],
                Name::Fig6 | Name::Fig7 => &[false, true],
                _ => &[false],
            }
        };
        let work = |name, variant| Work { name, variant };
        if self.name != Name::All {
            return vec![work(self.name, self.samplers || self.control)];
        }
        let all = Name::value_variants().iter().copied();
        all.flat_map(|name| forms(name).iter().map(move |&v| work(name, v)))
            .collect()
    }

    /// Refuses what the figure does not take.
    fn check(&self) -> Result<()> {
        let name = self.name.text();
        for (option, given, figures) in self.restricted() {
            if given && !figures.contains(&name.as_str()) {
                let figures = figures.join(", ");
                bail!("{option} belongs to {figures}; {name} does not take it");
            }
        }
        Ok(())
    }
}

/// Runs `gmmk reproduce`.
pub fn run(args: ReproduceArgs) -> Result<()> {
    args.check()?;
    let (device, _) = args.device.wish().open()?;
    let out = args.out.display();
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {out}: cannot make it"))?;
    let mut reports = Vec::new();
    for work in args.works() {
        let mut shown = Shown::default();
        let mut context = Context {
            out: args.out.clone(),
            scale: if args.full { Scale::Full } else { Scale::Quick },
            seed: args.seed,
            device: device.clone(),
            data: args.data.clone(),
            progress: &mut shown,
        };
        let start = Instant::now();
        let mut report = figure(work, &args, &mut context)?;
        report.seconds = start.elapsed().as_secs_f64();
        let file = reproduce::write(&context, &report)?;
        if args.name == Name::All {
            reports.push(report.clone());
            reproduce::write_overview(&context, &reports)?;
        }
        shown.finish();
        print(&report, &args.out, &file);
    }
    if args.name == Name::All {
        say(&format!("wrote {}", args.out.join("README.md").display()));
    }
    Ok(())
}

/// Makes one figure.
fn figure(work: Work, args: &ReproduceArgs, context: &mut Context<'_>) -> Result<Report> {
    let checkpoint = args.checkpoint.as_deref();
    let scale = context.scale;
    let report = match work.name {
        Name::Fig2 => fig2::run(context),
        Name::Fig4 => {
            let list = args.attributes.as_deref();
            fig4::run(context, &fig4::Settings::of(scale), checkpoint, list)
        }
        Name::Fig5 => fig5::run(context, &fig5::Settings::of(scale), checkpoint),
        Name::Fig6 if work.variant => samplers::run(context),
        Name::Fig6 => fig6::run(context, &fig6::Settings::of(scale), checkpoint),
        Name::Fig7 if work.variant => control::run(context, &control::Settings::of(scale)),
        Name::Fig7 => fig7::run(context, &fig7::Settings::of(scale), checkpoint),
        Name::Fig9 => fig9::run(context, &fig9::Settings::of(scale)),
        Name::Fig10 => fig10::run(context),
        Name::Fig11 => fig11::run(context),
        Name::Fig12 => fig12::run(context),
        Name::W1 => w1::run(context),
        // `works` never yields it.
        Name::All => Ok(Report::default()),
    };
    Ok(report?)
}

/// The findings, the files and the time.
fn print(report: &Report, out: &Path, json: &str) {
    say(&format!("{}: {}", report.name, report.title));
    for finding in &report.findings {
        say(&format!(
            "  {:<14} {}",
            finding.verdict.to_string(),
            finding.claim
        ));
        say(&format!("  {:<14} {}", "", finding.evidence));
    }
    let files = report.pictures.iter().map(String::as_str).chain([json]);
    let files: Vec<_> = files.map(|f| out.join(f).display().to_string()).collect();
    say(&format!(
        "wrote {} ({})",
        files.join(", "),
        duration(report.seconds)
    ));
}

/// Progress on the terminal.
#[derive(Default)]
struct Shown {
    bar: Option<terminal::Progress>,
}

impl Shown {
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

impl reproduce::Progress for Shown {
    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.line(line),
            None => warn(line),
        }
    }

    fn at(&mut self, done: u64, total: u64, what: &str) {
        let every = Duration::from_secs(5);
        let bar = self
            .bar
            .get_or_insert_with(|| terminal::Progress::new("", total, every));
        bar.update(done, total, || what.to_owned());
        if done >= total {
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ReproduceArgs,
    }

    fn check(line: &str) -> Result<(), String> {
        let words = ["gmmk"].into_iter().chain(line.split(' '));
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        line.args.check().map_err(|e| e.to_string())
    }

    #[test]
    fn options_of_other_figures_are_refused_by_name() {
        for good in [
            "fig11",
            "fig6",
            "fig6 --samplers",
            "all --full --data d --seed 3",
            "w1 --quick",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let refused = check("fig11 --samplers").unwrap_err();
        assert_eq!(
            refused,
            "--samplers belongs to fig6; fig11 does not take it"
        );
        assert!(check("w1 --data d").unwrap_err().contains("fig9"));
        assert!(
            check("w1 --quick --full")
                .unwrap_err()
                .contains("cannot be used with")
        );
        assert!(
            check("fig6 --samplers --checkpoint x")
                .unwrap_err()
                .contains("cannot be used with")
        );
        assert!(
            check("w1 --control")
                .unwrap_err()
                .contains("belongs to fig7")
        );
    }

    #[test]
    fn all_is_every_figure_in_all_its_forms() {
        let args = |line: &str| Line::try_parse_from(line.split(' ')).unwrap().args;
        let all = args("gmmk all").works();
        for name in Name::value_variants() {
            let forms = all.iter().filter(|work| work.name == *name).count();
            let want = match name {
                Name::All => 0,
                Name::Fig6 | Name::Fig7 => 2,
                _ => 1,
            };
            assert_eq!(forms, want, "{name:?}");
        }
        let control = args("gmmk fig7 --control").works();
        assert!(matches!(
            control[..],
            [Work {
                name: Name::Fig7,
                variant: true
            }]
        ));
        assert_eq!(Name::W1.text(), "w1");
    }
}
