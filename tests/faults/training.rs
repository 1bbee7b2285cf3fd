//! A run of training, from packing its pictures to its last report, and one that goes on.

use super::*;
use gmmk::train::checkpoint::Checkpoint;
use std::sync::OnceLock;

const STEPS: &str =
    "--preset nano --batch 4 --seed 5 --threads 1 --steps 10 --save-every 2 --sample-every 6";

/// So many small pictures and their attributes; the same folder every time.
pub fn pictures(count: u32) -> &'static Path {
    static FEW: OnceLock<TempDir> = OnceLock::new();
    static MANY: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        let mut list = "name,round,red\n".to_owned();
        for i in 0..count {
            let name = format!("{i:03}.png");
            let colour = |x: u32, y: u32| image::Rgb([x, y, i].map(|v| (v * 29 + i * x * y) as u8));
            let picture = image::RgbImage::from_fn(16, 16, colour);
            picture.save(dir.path().join(&name)).unwrap();
            list.push_str(&format!("{name},{},{}\n", i % 2, i / 2 % 2));
        }
        fs::write(dir.path().join("attributes.csv"), list).unwrap();
        dir
    };
    let folder = if count < 100 { &FEW } else { &MANY };
    folder.get_or_init(new).path()
}

/// The command that trains in `root/run`, or goes on there.
fn train(root: &Path, resume: bool) -> Command {
    let out = root.join("run");
    let (data, out) = (pictures(16).display(), out.display());
    let mut command = gmmk(
        root,
        &format!("train folder --data {data} --out {out} {STEPS}"),
    );
    if resume {
        command.arg("--resume");
    }
    command
}

/// Before there is a config.toml there is no run.
fn train_again(root: &Path) -> Command {
    train(root, root.join("run/config.toml").is_file())
}

/// The last checkpoint, the pages, and the metrics without their times.
fn outcome(root: &Path) -> Result<Files> {
    let run = root.join("run");
    let files = [
        "checkpoints/step-00000010.safetensors",
        "checkpoints/latest",
        "samples/step-00000006.png",
        "samples/step-00000010.png",
        "config.toml",
    ];
    let read = |name: &str| Some((name.to_owned(), fs::read(run.join(name)).ok()?));
    let mut found: Files = files.into_iter().filter_map(read).collect();
    let metrics = fs::read_to_string(run.join("metrics.jsonl"))?;
    let row = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let values =
            ["step", "images", "loss", "grad_norm", "held_out_loss"].map(|k| line[k].clone());
        format!("{values:?}\n")
    };
    let rows: String = metrics.lines().map(row).collect();
    found.insert("metrics.jsonl".into(), rows.into());
    Ok(found)
}

/// Checks that every checkpoint is sound and the newest not older than the last one that was completed; the
/// newest's step, 0 if there is none.
fn check_left(root: &Path, before: &[Change]) -> Result<u64> {
    let folder = root.join("run/checkpoints");
    let mut newest = 0;
    for (step, path) in gmmk::train::checkpoint::list(&folder)? {
        let found = Checkpoint::open(&path)?.info().counters.step;
        ensure!(found == step, "{} is of step {found}", path.display());
        newest = newest.max(step);
    }
    let steps = before
        .iter()
        .filter(|c| c.kind == "rename")
        .filter_map(|c| {
            let name = c.path.file_name()?.to_str()?.strip_prefix("step-")?;
            name.strip_suffix(".safetensors")?.parse::<u64>().ok()
        });
    let saved = steps.max().unwrap_or(0);
    ensure!(newest >= saved, "step {saved} was saved, {newest} is there");
    if let Ok(latest) = fs::read_to_string(folder.join("latest")) {
        ensure!(
            folder.join(latest.trim()).is_file(),
            "latest names {latest}"
        );
    }
    Ok(newest)
}

/// A run from the beginning, or one that was killed in the middle of its fourth save and goes on.
struct Training {
    resumed: bool,
}

/// What the killed run left: half a checkpoint, and a line of metrics for it.
fn killed() -> &'static Path {
    static KILLED: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let half =
            |c: &Change| c.kind == "write" && final_name(&c.path) == "step-00000008.safetensors";
        let whole = place();
        let changes = run(train(whole.path(), false), whole.path(), None).changes;
        let at = changes.iter().position(half).unwrap() + 1;
        let ended = run(train(&root, false), &root, Some(Fault { at, how: "torn" }));
        assert_eq!(ended.signal, Some(SIGKILL), "{}", ended.err);
        assert_eq!(temporaries(&root).len(), 1);
        dir
    };
    KILLED.get_or_init(new).path()
}

impl Scenario for Training {
    fn prepare(&self, root: &Path) {
        if self.resumed {
            copy(&killed().join("root"), root);
        }
    }
    fn command(&self, root: &Path, again: bool) -> Command {
        if again {
            train_again(root)
        } else {
            train(root, self.resumed)
        }
    }
    fn outcome(&self, root: &Path) -> Result<Files> {
        outcome(root)
    }
    fn cleans_up(&self) -> bool {
        true
    }
    fn check_left(&self, root: &Path, before: &[Change]) -> Result<()> {
        let newest = check_left(root, before)?;
        if self.resumed {
            ensure!(root.join("run/config.toml").is_file(), "no config.toml");
            ensure!(newest >= 6, "step 6 was saved, {newest} is there");
        }
        Ok(())
    }
}

/// The folder of a finished run of the same kind (`run`), for the commands that take one, of the model
/// that it gave (`model`) and of a classifier (`judge.safetensors`).
pub fn finished() -> &'static Path {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        let data = pictures(16).display();
        let judge = format!(
            "train-classifier folder --data {data} --size 16 --steps 2 --threads 1 --out judge.safetensors"
        );
        for command in [
            train(dir.path(), false),
            gmmk(dir.path(), "export --checkpoint run --diffusers model"),
            gmmk(dir.path(), &judge),
        ] {
            let ended = run(command, dir.path(), None);
            assert_eq!(ended.code, Some(0), "{}", ended.err);
        }
        dir
    };
    RUN.get_or_init(new).path()
}

#[test]
fn a_run_survives_every_fault() {
    inject("train", &Training { resumed: false }, 83);
}

#[test]
fn a_resumed_run_survives_every_fault() {
    inject("train --resume", &Training { resumed: true }, 41);
}
