//! The command line: one file per subcommand, what a person types and what they see.

mod batch_size;
mod bench;
mod data;
mod device;
mod devices;
mod drawing;
mod edit;
mod eval;
mod export;
mod gmm;
mod import;
mod numbers;
mod report;
mod reproduce;
mod runs;
mod sample;
mod shell;
mod terminal;
mod train;
mod train_classifier;
mod verify;

use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

/// Trains and samples diffusion models conditioned on Gaussian mixtures.
#[derive(Parser)]
#[command(version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model, or go on with a run
    Train(Box<train::TrainArgs>),
    /// Draw pictures with the attributes asked for
    Sample(Box<sample::SampleArgs>),
    /// Give pictures other attributes
    Edit(Box<edit::EditArgs>),
    /// Measure what a model draws: attributes, likeness, near copies
    Eval(eval::EvalArgs),
    /// Train the attribute classifier that `gmmk eval` judges with
    TrainClassifier(train_classifier::TrainClassifierArgs),
    /// Write a model for diffusers, or pictures and their attributes
    Export(Box<export::ExportArgs>),
    /// Make a checkpoint of a folder of diffusers
    Import(import::ImportArgs),
    /// Pack a data set, describe it, or look at it
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Mixture expansion of a column of numbers, distances between two
    #[command(subcommand)]
    Gmm(gmm::GmmCommand),
    /// Write a run's report.html anew
    Report(report::ReportArgs),
    /// List runs, or compare two
    Runs(runs::RunsArgs),
    /// Make the figures and tables of the paper anew
    Reproduce(reproduce::ReproduceArgs),
    /// Is this build right on this machine? Compares with reference numbers
    Verify(verify::VerifyArgs),
    /// Measure training and sampling speed
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show what was found on this machine
    Devices(devices::DevicesArgs),
    /// Print a shell's completion script
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for every command
    Man(shell::ManArgs),
    /// Print the options of all commands as Markdown
    #[command(hide = true)]
    Options,
}

/// Refuses a picture's path that could not be written to, before the work and not after it.
fn check_out(path: &Path) -> Result<()> {
    check_file(path, "a picture's file name", "faces.png")
}

/// The same for any file; `what` it should be, and an `example`.
fn check_file(path: &Path, what: &str, example: &str) -> Result<()> {
    let shown = path.display();
    if path.is_dir() || path.file_name().is_none() {
        bail!("--out {shown}: that is a folder; expected {what}, such as {shown}/{example}");
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        let folder = folder.display();
        bail!(
            "--out {shown}: there is no folder {folder}; make it first (mkdir -p {folder}), or choose another --out"
        );
    }
    let probe = folder.join(format!(".gmmk.{}.tmp", std::process::id()));
    std::fs::write(&probe, "")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| {
            let folder = folder.display();
            format!("--out {shown}: the folder {folder} cannot be written to; choose another --out")
        })
}

/// Parses the command line and runs it: 0 done, 1 failed, 2 wrong usage.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::TrainClassifier(args) => train_classifier::run(&args),
        Command::Export(args) => export::run(*args),
        Command::Import(args) => import::run(args),
        Command::Sample(args) => sample::run(*args),
        Command::Edit(args) => edit::run(*args),
        Command::Data(command) => data::run(command),
        Command::Gmm(command) => gmm::run(command),
        Command::Report(args) => report::run(args),
        Command::Runs(args) => runs::run(args),
        Command::Reproduce(args) => reproduce::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(command) => bench::run(command),
        Command::Devices(args) => devices::run(args),
        Command::Completions(args) => shell::completions(&args, Cli::command()),
        Command::Man(args) => shell::man(&args, Cli::command()),
        Command::Options => {
            shell::options(Cli::command());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::warn(&format!("error: {}", sentence(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each said once: many messages hold their cause's words already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
