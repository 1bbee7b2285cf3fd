//! The program as a person runs it: the built binary in folders of its own, no terminal.
#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

mod bad_data;
mod bad_files;
mod bad_options;
mod control;
mod evaluation;
#[path = "../common/folder.rs"]
mod folder;
mod forms;
mod interchange;
mod promises;
mod real;
mod run;
mod seeing;
mod tuning;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
#[cfg(unix)]
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Steps of the runs below; several saves and pages.
const STEPS: u64 = 40;

/// Packed pictures are shared by all tests, and by the next time they run.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache")
}

/// The same for data sets that tests make, emptied once by every process.
fn own_cache() -> PathBuf {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    let new = || {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-cache-own");
        let _ = fs::remove_dir_all(&cache);
        cache
    };
    CACHE.get_or_init(new).clone()
}

/// The program in `folder`, with nothing of the caller's surroundings.
fn gmmk(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmmk"));
    let cache = if args.contains(&"--data") {
        own_cache()
    } else {
        cache()
    };
    command.current_dir(folder).args(args);
    // Tests run beside each other: one thread each, where a test does not ask for more.
    if matches!(args, ["train" | "sample", ..]) && !args.contains(&"--threads") {
        command.args(["--threads", "1"]);
    }
    command
        .env("GMMK_CACHE", cache)
        .env_remove("GMMK_DATA")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a command left: its exit code and both streams.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let ran = Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }
}

impl Ran {
    /// The message of a command that failed: one line that begins with `error: `.
    fn message(&self) -> &str {
        let mut lines = self.err.lines().filter(|l| l.starts_with("error: "));
        let first = lines.next().expect(&self.err);
        assert_eq!(lines.next(), None, "more than one error:\n{}", self.err);
        assert!(self.err.trim_end().ends_with(first), "{}", self.err);
        first
    }
}

fn run(folder: &Path, args: &[&str]) -> Ran {
    gmmk(folder, args).output().unwrap().into()
}

/// Runs a command that must succeed; its standard output.
fn done(folder: &Path, args: &[&str]) -> Ran {
    let ran = run(folder, args);
    assert_eq!(ran.code, Some(0), "{args:?}\n{}\n{}", ran.out, ran.err);
    ran
}

/// Runs a command that must fail with one message that has all of `words`, and that must leave
/// `folder` as it was.
fn fails(folder: &Path, args: &[&str], words: &[&str]) -> String {
    let before = listing(folder);
    let ran = run(folder, args);
    assert_eq!(ran.code, Some(1), "{args:?}\n{}\n{}", ran.out, ran.err);
    let message = ran.message().to_owned();
    for word in words {
        assert!(message.contains(word), "no {word:?} in:\n{message}");
    }
    assert_eq!(before, listing(folder), "{args:?} left something behind");
    message
}

/// Runs a command that is wrong usage: exit code 2, and words that must be in the message.
fn misused(folder: &Path, args: &[&str], words: &[&str]) {
    let ran = run(folder, args);
    assert_eq!(ran.code, Some(2), "{args:?}\n{}\n{}", ran.out, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in:\n{}", ran.err);
    }
    assert_eq!(listing(folder), BTreeMap::new());
}

/// Every file below `folder` and its length; folders too.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let length = if path.is_dir() {
                left.push(path.clone());
                0
            } else {
                fs::metadata(&path).unwrap().len()
            };
            found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), length);
        }
    }
    found
}

fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The options of a short run on the built-in faces, except those that `more` gives another value.
fn training<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = "--preset nano --batch 4 --lr 0.003 --threads 1 --seed 5 --save-every 10 --sample-every 20 --steps 40";
    let own: Vec<&str> = own.split(' ').collect();
    let kept = own.chunks(2).filter(|option| !more.contains(&option[0]));
    let mut args = vec!["train", "faces", "--out", out];
    args.extend(kept.flatten().copied());
    args.extend(more);
    args
}

/// A finished run, trained once; tests read it, or copy it and damage the copy.
fn finished() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-run");
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(&base).unwrap();
        let ran = done(&base, &training("finished", &[]));
        assert!(ran.out.contains("done: 40 steps"), "{}", ran.out);
        base.join("finished")
    })
}

/// A copy of the finished run, in `folder`.
fn copy_of_finished(folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    folder::copy(finished(), &to);
    to
}

fn text(path: impl AsRef<OsStr>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

/// `checkpoints/step-N.safetensors` of a run.
fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}.safetensors"))
}

/// The step that `latest` names, 0 before the first save.
fn newest(run: &Path) -> u64 {
    let latest = fs::read_to_string(run.join("checkpoints/latest")).unwrap_or_default();
    let digits = latest.trim().strip_prefix("step-");
    let digits = digits.and_then(|d| d.strip_suffix(".safetensors"));
    digits.map_or(0, |d| d.parse().unwrap())
}

/// Waits for something to become true.
#[cfg(unix)]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "no {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
