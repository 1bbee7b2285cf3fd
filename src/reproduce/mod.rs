//! The paper's figures and tables, computed anew: each a picture, the numbers behind it, and what
//! they say about the paper's claims.
//!
//! One file per figure, with a `run` that writes `OUT/NAME.png` and returns a [`Report`]; [`write()`]
//! puts the report beside it as `OUT/NAME.json`.

pub mod control;
mod data;
pub mod fig10;
pub mod fig11;
pub mod fig12;
pub mod fig2;
pub mod fig4;
pub mod fig5;
pub mod fig6;
pub mod fig7;
pub mod fig9;
mod groups;
mod judge;
mod mlp;
pub mod samplers;
mod seeds;
pub mod trained;
pub mod w1;
mod workers;

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::data::{DataError, RequestError};
use crate::device::Device;
use crate::device::pool::PoolError;
use crate::diffusion::generate::GenerateError;
use crate::diffusion::sampler::SamplerError;
use crate::diffusion::schedule::ScheduleError;
use crate::evaluate::classifier::AttributeError;
use crate::gmm::distance::DistanceError;
use crate::gmm::expansion::ExpansionError;
use crate::gmm::mixture::MixtureError;
use crate::gmm::ngmg::NgmgError;
use crate::report::figure::Figure;
use crate::report::files::{FileError, replace_with_bytes};
use crate::report::picture::{Picture, PictureError};
use crate::tape::executable::DeviceError;
use crate::train::checkpoint::CheckpointError;
use crate::train::config::ConfigError;
use crate::train::metrics::MetricsError;
use crate::train::run_dir::RunDirError;
use crate::train::setup::SetupError;
use crate::train::step::StepError;
use crate::train::trainer::TrainError;

/// How much is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Minutes on a CPU at most.
    Quick,
    /// What the paper ran, where that is known.
    Full,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scale::Quick => "quick",
            Scale::Full => "full",
        })
    }
}

/// Told how the work goes.
pub trait Progress {
    /// A line worth reading.
    fn say(&mut self, line: &str);
    /// `done` of `total` parts of `what` are done.
    fn at(&mut self, done: u64, total: u64, what: &str);
}

/// What every figure gets.
pub struct Context<'a> {
    /// The folder that the files are written to; it exists.
    pub out: PathBuf,
    /// How much is computed.
    pub scale: Scale,
    /// All randomness follows from it.
    pub seed: u64,
    /// The threads to compute with.
    pub device: Device,
    /// The folder with data sets, where one was named.
    pub data: Option<PathBuf>,
    /// Told how the work goes.
    pub progress: &'a mut dyn Progress,
}

impl Context<'_> {
    /// Draws `figure` into `OUT/NAME.png` and returns the file's name.
    ///
    /// # Errors
    /// The figure cannot be drawn or the file not written.
    pub fn save_figure(&self, name: &str, figure: &Figure) -> Result<String, ReproduceError> {
        self.save_picture(name, &figure.render()?)
    }

    /// Writes `picture` to `OUT/NAME.png` and returns the file's name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_picture(&self, name: &str, picture: &Picture) -> Result<String, ReproduceError> {
        let file = format!("{name}.png");
        picture.save_png(&self.out.join(&file))?;
        Ok(file)
    }
}

/// What the numbers say about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is so.
    Holds,
    /// It is not so.
    Fails,
    /// The numbers do not decide.
    Unclear,
}

impl Verdict {
    /// [`Verdict::Holds`] or [`Verdict::Fails`].
    pub fn of(holds: bool) -> Self {
        if holds {
            Verdict::Holds
        } else {
            Verdict::Fails
        }
    }
}

impl From<Option<bool>> for Verdict {
    /// Holds, fails, or is not decided.
    fn from(holds: Option<bool>) -> Self {
        holds.map_or(Self::Unclear, Self::of)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Holds => "holds",
            Verdict::Fails => "does not hold",
            Verdict::Unclear => "unclear",
        })
    }
}

/// One claim, and what was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The claim in plain words.
    pub claim: String,
    /// Whether it holds.
    pub verdict: Verdict,
    /// The numbers that say so.
    pub evidence: String,
}

impl Finding {
    /// A finding that is decided by `holds`.
    pub fn new(claim: impl Into<String>, holds: bool, evidence: impl Into<String>) -> Self {
        Self {
            claim: claim.into(),
            verdict: Verdict::of(holds),
            evidence: evidence.into(),
        }
    }
}

/// What a figure's `run` returns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The command's name: `fig11`.
    pub name: String,
    /// The figure's subject.
    pub title: String,
    /// Everything that was chosen.
    pub settings: Value,
    /// The claims.
    pub findings: Vec<Finding>,
    /// The numbers behind the picture.
    pub numbers: Value,
    /// Names of the pictures in the folder.
    pub pictures: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a figure could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReproduceError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The attributes asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The model's set-up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The trial step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] DeviceError),
    /// A run's folder.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A run's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A run's metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Training.
    #[error(transparent)]
    Train(Box<TrainError>),
    /// Drawing.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The attribute network.
    #[error(transparent)]
    Attributes(Box<AttributeError>),
    /// A data set that is nowhere.
    #[error("found no {set} in $GMMK_DATA or ./data; give its folder with --data DIR")]
    NoData {
        /// Its name.
        set: &'static str,
    },
    /// A checkpoint of other attributes than the data's.
    #[error("{}: it was trained on other attributes than those of {data}; expected the data set that it was trained on", checkpoint.display())]
    OtherAttributes {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// The data.
        data: String,
    },
    /// A folder in the way of the figure's model.
    #[error("{}: it holds another run than this figure's model ({reason}); choose another --out, or remove it", folder.display())]
    OtherRun {
        /// The folder.
        folder: PathBuf,
        /// What differs.
        reason: String,
    },
    /// No picture has a Z of its own.
    #[error(
        "the model was trained with a fresh Z at every visit, so no picture owns one; expected a run with --latent fixed or gaussian"
    )]
    NoAssignedLatents,
    /// A class of pictures cannot be told from others.
    #[error("the data set has no {what}, which this figure needs")]
    Missing {
        /// What is missing.
        what: &'static str,
    },
    /// A picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A mixture.
    #[error(transparent)]
    Mixture(#[from] MixtureError),
    /// An expansion.
    #[error(transparent)]
    Expansion(#[from] ExpansionError),
    /// NGMG or Algorithm 1.
    #[error(transparent)]
    Ngmg(#[from] NgmgError),
    /// A distance.
    #[error(transparent)]
    Distance(#[from] DistanceError),
    /// A noise schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// A model of fig2's toy.
    #[error(transparent)]
    Toy(#[from] fig2::ToyError),
    /// A classifier of fig12.
    #[error(transparent)]
    Study(#[from] fig12::StudyError),
    /// The threads.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The report cannot be written as JSON.
    #[error("{name}.json: {source}")]
    Json {
        /// The figure.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// The findings as lines of text, for below a figure.
pub fn caption(findings: &[Finding]) -> String {
    let line = |f: &Finding| {
        let verdict = match f.verdict {
            Verdict::Holds => "\u{2713} Holds",
            Verdict::Fails => "\u{2717} Does not hold",
            Verdict::Unclear => "? Unclear",
        };
        format!("{verdict}: {} ({}).", f.claim, f.evidence)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl From<TrainError> for ReproduceError {
    /// Boxed: it is large.
    fn from(error: TrainError) -> Self {
        Self::Train(Box::new(error))
    }
}

impl From<AttributeError> for ReproduceError {
    /// Boxed: it is large.
    fn from(error: AttributeError) -> Self {
        Self::Attributes(Box::new(error))
    }
}

/// The report as JSON: program, command, scale, seed, seconds, findings, numbers.
pub fn to_json(report: &Report, scale: Scale, seed: u64) -> Value {
    let finding = |f: &Finding| {
        json!({
            "claim": f.claim,
            "verdict": f.verdict.to_string(),
            "evidence": f.evidence,
        })
    };
    json!({
        "program": concat!("gmmk ", env!("CARGO_PKG_VERSION")),
        "name": report.name,
        "title": report.title,
        "scale": scale.to_string(),
        "seed": seed,
        "seconds": (report.seconds * 1000.0).round() / 1000.0,
        "settings": report.settings,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "pictures": report.pictures,
        "numbers": report.numbers,
    })
}

/// Writes `OUT/NAME.json` and returns the file's name.
///
/// # Errors
/// The file cannot be written.
pub fn write(context: &Context<'_>, report: &Report) -> Result<String, ReproduceError> {
    let value = to_json(report, context.scale, context.seed);
    let text = serde_json::to_string_pretty(&value).map_err(|source| ReproduceError::Json {
        name: report.name.clone(),
        source,
    })?;
    let file = format!("{}.json", report.name);
    replace_with_bytes(&context.out.join(&file), (text + "\n").as_bytes())?;
    Ok(file)
}

/// Writes `OUT/README.md`: every claim with its verdict and evidence, and the pictures.
///
/// # Errors
/// The file cannot be written.
pub fn write_overview(context: &Context<'_>, reports: &[Report]) -> Result<String, ReproduceError> {
    let file = "README.md";
    let text = overview(reports, context.scale, context.seed);
    replace_with_bytes(&context.out.join(file), text.as_bytes())?;
    Ok(file.to_owned())
}

fn overview(reports: &[Report], scale: Scale, seed: u64) -> String {
    let mut text = format!(
        "# The paper's figures, computed anew\n\nMade by `gmmk reproduce all --{scale} --seed {seed}`, gmmk {}.\n",
        env!("CARGO_PKG_VERSION")
    );
    let cell = |s: &str| s.replace('|', "\\|").replace('\n', " ");
    text += "\n| | claim | verdict | evidence |\n| --- | --- | --- | --- |\n";
    for report in reports {
        for f in &report.findings {
            let (claim, evidence) = (cell(&f.claim), cell(&f.evidence));
            text += &format!(
                "| [{0}](#{0}) | {claim} | {1} | {evidence} |\n",
                report.name, f.verdict
            );
        }
    }
    for report in reports {
        let (name, title) = (&report.name, &report.title);
        text += &format!("\n## {name}\n\n{title}. Numbers: [{name}.json]({name}.json).\n");
        for picture in &report.pictures {
            text += &format!("\n![{}]({picture})\n", report.title);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Progress for Silent {
        fn say(&mut self, _: &str) {}
        fn at(&mut self, _: u64, _: u64, _: &str) {}
    }

    fn report() -> Report {
        Report {
            name: "fig0".into(),
            title: "A figure".into(),
            settings: json!({ "n": 100 }),
            findings: vec![
                Finding::new("a | b", true, "1 -> 2"),
                Finding::new("never", false, "0"),
            ],
            numbers: json!([1.0]),
            pictures: vec!["fig0.png".into()],
            seconds: 0.12345,
        }
    }

    #[test]
    fn reports_are_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut silent = Silent;
        let context = Context {
            out: dir.path().to_path_buf(),
            scale: Scale::Full,
            seed: 7,
            device: std::sync::Arc::new(crate::device::pool::Pool::new(1).unwrap()).into(),
            data: None,
            progress: &mut silent,
        };
        let file = write(&context, &report()).unwrap();
        assert_eq!(file, "fig0.json");
        let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&back["scale"], &back["seed"]), (&json!("full"), &json!(7)));
        assert_eq!(back["findings"][1]["verdict"], "does not hold");
        assert_eq!(back["settings"]["n"], 100);
        let file = write_overview(&context, &[report()]).unwrap();
        let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(
            text.contains("| [fig0](#fig0) | a \\| b | holds | 1 -> 2 |"),
            "{text}"
        );
        assert!(text.contains("![A figure](fig0.png)") && text.contains("[fig0.json](fig0.json)"));
    }
}
