//! Commands that write files beside a run: the old file or the new one is there, never half of one.

use super::training::{finished, pictures};
use super::*;

/// A command that writes into the folder `out`, where an older one has written before.
struct Output {
    command: String,
    older: Files,
    newer: Files,
    cleans_up: bool,
}

/// The files below `folder`.
fn contents(folder: &Path) -> Files {
    let name = |path: &Path| {
        path.strip_prefix(folder)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let files = walk(folder).into_iter();
    files
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect()
}

/// The command, with `RUN` for a finished run, `MODEL` for one of diffusers, `JUDGE` for a classifier,
/// `DATA` for pictures, `OUT` for the folder to write to.
fn start(root: &Path, command: &str) -> Command {
    let places = [
        ("RUN", finished().join("run")),
        ("MODEL", finished().join("model")),
        ("JUDGE", finished().join("judge.safetensors")),
        ("DATA", pictures(120).to_path_buf()),
        ("OUT", root.join("out")),
    ];
    let put =
        |text: String, (name, path): (&str, PathBuf)| text.replace(name, path.to_str().unwrap());
    let mut command = gmmk(root, &places.into_iter().fold(command.to_owned(), put));
    // The pictures are packed once, outside of the root: packing belongs to the tests of training.
    command.env("GMMK_CACHE", finished().join("cache"));
    command
}

impl Output {
    /// `command`, after a first time with the options `older`.
    fn new(command: &str, older: &str) -> Self {
        let dir = place();
        let once = |command: &str| {
            let ended = run(start(dir.path(), command), dir.path(), None);
            assert_eq!(ended.code, Some(0), "{command}: {}", ended.err);
            contents(&dir.path().join("out"))
        };
        fs::create_dir(dir.path().join("out")).unwrap();
        let older = once(&format!("{command}{older}"));
        let newer = once(command);
        assert!(!newer.is_empty());
        Self {
            command: command.to_owned(),
            older,
            newer,
            cleans_up: false,
        }
    }

    /// The program's own folder, of which it removes what a process left that died.
    fn own(self) -> Self {
        let cleans_up = true;
        Self { cleans_up, ..self }
    }

    /// The same without an older output.
    fn first(self) -> Self {
        let older = Files::new();
        Self { older, ..self }
    }
}

impl Scenario for Output {
    fn prepare(&self, root: &Path) {
        let out = root.join("out");
        fs::create_dir(&out).unwrap();
        for (name, bytes) in &self.older {
            let path = out.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn command(&self, root: &Path, _: bool) -> Command {
        start(root, &self.command)
    }

    fn outcome(&self, root: &Path) -> Result<Files> {
        let mut found = contents(&root.join("out"));
        found.retain(|name, _| !name.ends_with(".tmp"));
        Ok(found)
    }

    fn cleans_up(&self) -> bool {
        self.cleans_up
    }

    fn check_left(&self, root: &Path, _: &[Change]) -> Result<()> {
        for (name, bytes) in contents(&root.join("out")) {
            let known = [&self.older, &self.newer].map(|files| files.get(&name));
            let whole = name.ends_with(".tmp") || known.contains(&Some(&bytes));
            ensure!(whole, "{name} is neither the old file nor the new one");
        }
        Ok(())
    }
}

#[test]
fn pictures_are_whole_or_not_there() {
    let sample = "sample --checkpoint RUN --count 2 --steps 2 --threads 1 --out OUT/s.png";
    inject("sample", &Output::new(sample, " --seed 1"), 11);
    let export = "export --checkpoint RUN --count 2 --steps 2 --threads 1 --images OUT/pictures";
    let export = Output::new(export, " --seed 1").own();
    inject("export --images", &export, 23);
    inject("export --images, new", &export.first(), 29);
}

#[test]
fn models_are_whole_or_not_there() {
    let export = "export --checkpoint RUN --diffusers OUT/model";
    let export = Output::new(export, " --weights raw").own();
    inject("export --diffusers", &export, 53);
    inject("export --diffusers, new", &export.first(), 67);
    let import = "import --diffusers MODEL --out OUT/model.safetensors --force";
    inject("import", &Output::new(import, "").first(), 17);
    let train = "train-classifier folder --data DATA --size 16 --steps 2 --threads 1 --out OUT/judge.safetensors";
    inject("train-classifier", &Output::new(train, " --seed 1"), 47);
}

#[test]
fn pages_are_whole_or_not_there() {
    let eval = "eval --checkpoint RUN --judge JUDGE --data DATA --count 16 --steps 2 --threads 1 --out OUT/eval";
    inject("eval", &Output::new(eval, " --seed 1"), 37);
    inject("man", &Output::new("man --out OUT", "").first(), 97);
}
