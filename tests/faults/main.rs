//! Every change that the program makes to its files, made to go wrong in every way: nothing that was
//! there is lost, the message names the place, and the same command (or `--resume`) makes good what failed.
//!
//! `shim.c` stands between the built program and the C library. A command is run once to list its
//! changes; then once for every change and every way to fail. Of these `cargo test` tries a few;
//! `GMMK_FAULTS=all cargo test --release --test faults -- --nocapture` tries all (docs/robustness.md).
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

#[path = "../common/folder.rs"]
mod folder;
mod kernels;
mod outputs;
mod training;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, ensure};
use folder::copy;
use tempfile::TempDir;

/// Ways to fail; `shim.c` says what they are.
const WAYS: [&str; 8] = [
    "eio", "eintr", "short", "enospc", "erofs", "eacces", "kill", "torn",
];
const SIGKILL: i32 = 9;

/// Files by their names, and their bytes.
type Files = BTreeMap<String, Vec<u8>>;

/// A change to a file below the root.
#[derive(Debug)]
struct Change {
    kind: String,
    path: PathBuf,
}

/// What goes wrong: change number `at`, from 1, in the way `how`.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: usize,
    how: &'static str,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    err: String,
    changes: Vec<Change>,
}

/// Something that a person starts, and what it should leave.
trait Scenario: Sync {
    /// Makes what is there before, in the empty folder `root`.
    fn prepare(&self, root: &Path);
    /// The command, and the one that makes good a failed one.
    fn command(&self, root: &Path, again: bool) -> Command;
    /// What must be the same in the end, whatever went wrong.
    fn outcome(&self, root: &Path) -> Result<Files>;
    /// Whether the next time removes the temporary file of a process that died: only in a folder that is
    /// the program's own.
    fn cleans_up(&self) -> bool;
    /// Checks what a fault left: nothing of the past is lost. `before` holds the changes that were made.
    fn check_left(&self, root: &Path, before: &[Change]) -> Result<()>;
}

/// The C library's stand-in, compiled by the compiler that links Rust programs.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.c");
        let shim = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-shim.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&shim);
        assert!(compiler.arg(source).arg("-ldl").status().unwrap().success());
        shim
    })
}

/// The program, with nothing of the caller's surroundings; packed pictures are kept in `root`.
fn gmmk(root: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmmk"));
    command
        .args(args.split(' '))
        .current_dir(root)
        .env("GMMK_CACHE", root.join("cache"))
        .env_remove("GMMK_DATA")
        .stdin(Stdio::null());
    command
}

/// Runs a command, with a fault if there is one.
fn run(mut command: Command, root: &Path, fault: Option<Fault>) -> Ended {
    let log = root.with_extension("log");
    command
        .env("LD_PRELOAD", shim())
        .env("SHIM_ROOT", root)
        .env("SHIM_LOG", &log);
    if let Some(Fault { at, how }) = fault {
        command.env("SHIM_AT", at.to_string()).env("SHIM_HOW", how);
    }
    let output = command.output().unwrap();
    let lines = fs::read_to_string(&log).unwrap();
    let change = |line: &str| {
        let (kind, path) = line.split_once('\t').unwrap();
        let (kind, path) = (kind.to_owned(), PathBuf::from(path));
        Change { kind, path }
    };
    Ended {
        code: output.status.code(),
        signal: output.status.signal(),
        err: String::from_utf8(output.stderr).unwrap(),
        changes: lines.lines().map(change).collect(),
    }
}

/// The name that a file will have: `.NAME.PID.tmp` and `NAME.PID.tmp` are on their way to `NAME`.
fn final_name(path: &Path) -> String {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    match name.strip_suffix(".tmp").and_then(|n| n.rsplit_once('.')) {
        Some((name, _)) => name.trim_start_matches('.').to_owned(),
        None => name,
    }
}

fn temporaries(root: &Path) -> Vec<PathBuf> {
    let names = walk(root).into_iter();
    names
        .filter(|n| n.to_string_lossy().ends_with(".tmp"))
        .collect()
}

/// All files below `root`.
fn walk(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Checks how the command ended, against what it was made to meet.
fn check_end(ended: &Ended, fault: Fault, change: &Change) -> Result<()> {
    let err = &ended.err;
    ensure!(!err.contains("panicked"), "it panicked: {err}");
    match fault.how {
        "kill" | "torn" => ensure!(ended.signal == Some(SIGKILL), "it was not killed: {err}"),
        // Nothing is wrong: the rest is to be written too.
        "short" | "eintr" => ensure!(ended.code == Some(0), "it failed: {err}"),
        _ if ended.code == Some(0) => {}
        how => {
            ensure!(
                ended.code == Some(1),
                "{:?} {:?}: {err}",
                ended.code,
                ended.signal
            );
            let errors: Vec<&str> = err.lines().filter(|l| l.starts_with("error: ")).collect();
            ensure!(errors.len() == 1, "not one error: {err}");
            // A lasting fault is told where it first hurts, which may be later.
            let later = if how == "eio" {
                &[][..]
            } else {
                &ended.changes[fault.at..]
            };
            let named = later.iter().chain([change]).any(|change| {
                let folder = change.path.parent().and_then(Path::to_str);
                [final_name(&change.path).as_str(), folder.unwrap()]
                    .iter()
                    .any(|name| errors[0].contains(name))
            });
            ensure!(named, "neither file nor folder is named: {}", errors[0]);
        }
    }
    Ok(())
}

/// One fault: the failure, what it left, and the second try. Whether the program went on.
fn try_fault(scenario: &dyn Scenario, fault: Fault, whole: &Files) -> Result<bool> {
    let dir = place();
    let root = dir.path().join("root");
    fs::create_dir(&root)?;
    scenario.prepare(&root);
    let older = temporaries(&root);
    let ended = run(scenario.command(&root, false), &root, Some(fault));
    let Fault { at, how } = fault;
    let change = &ended.changes[at - 1];
    let path = change.path.strip_prefix(&root)?.display();
    let check = || {
        check_end(&ended, fault, change)?;
        scenario.check_left(&root, &ended.changes[..at - 1])?;
        let mut left = temporaries(&root);
        left.retain(|path| !older.contains(path));
        let cleans = ["eio", "enospc"].contains(&how) && change.kind != "remove";
        ensure!(!cleans || left.is_empty(), "it left {left:?}");
        let went_on = ended.code == Some(0);
        if !went_on {
            let again = run(scenario.command(&root, true), &root, None);
            ensure!(again.code == Some(0), "the second time: {}", again.err);
            let left = temporaries(&root);
            let clean = !scenario.cleans_up() || left.is_empty();
            ensure!(clean, "the second time left {left:?}");
        }
        let found = scenario.outcome(&root)?;
        let names = || found.keys().chain(whole.keys());
        let other = names().find(|name| found.get(*name) != whole.get(*name));
        ensure!(
            other.is_none(),
            "{other:?} is another in the end: {}",
            ended.err
        );
        Ok(went_on)
    };
    check().with_context(|| format!("change {at} ({} {path}), {how}", change.kind))
}

/// Tries faults: all, or one of every `stride` and the same ones every time.
fn inject(name: &str, scenario: &dyn Scenario, stride: usize) {
    let dir = place();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    scenario.prepare(&root);
    let ended = run(scenario.command(&root, false), &root, None);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let whole = scenario.outcome(&root).unwrap();
    let sensible =
        |how: &str, change: &Change| !["short", "eintr"].contains(&how) || change.kind == "write";
    let all = ended.changes.iter().enumerate().flat_map(|(i, change)| {
        let ways = WAYS.into_iter().filter(move |how| sensible(how, change));
        ways.map(move |how| Fault { at: i + 1, how })
    });
    let stride = match std::env::var("GMMK_FAULTS").as_deref() {
        Ok("all") => 1,
        _ => stride,
    };
    let faults: Vec<Fault> = all.step_by(stride).collect();
    let (next, went_on) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let problems = Mutex::new(Vec::new());
    let work = || {
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            match try_fault(scenario, *fault, &whole) {
                Ok(on) => _ = went_on.fetch_add(on.into(), Ordering::Relaxed),
                Err(error) => problems.lock().unwrap().push(format!("{error:#}")),
            }
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| _ = scope.spawn(work)));
    let problems = problems.into_inner().unwrap();
    assert!(
        problems.is_empty(),
        "{}: {}",
        problems.len(),
        problems.join("\n")
    );
    let (count, on) = (faults.len(), went_on.into_inner());
    println!(
        "{name}: {} changes, {count} faults: {on} went on, {} failed and were made good",
        ended.changes.len(),
        count - on
    );
}
