//! Compiled kernels on disk, written by the program on the virtual GPU: an entry is whole or not there, and a
//! folder that cannot be written costs time alone.

use super::training::finished;
use super::*;
use gmmk::device::cuda::Cache;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

/// Entries that the program finds missing.
const MISSING: usize = 2;

/// Where the picture goes: beside `root`, as it is the cache that is to fail.
fn picture(root: &Path) -> PathBuf {
    root.with_file_name("picture.png")
}

/// Draws the picture on the virtual GPU.
fn draw(root: &Path) -> Command {
    let (run, out) = (finished().join("run"), picture(root));
    let (run, out) = (run.display(), out.display());
    let mut command = gmmk(
        root,
        &format!(
            "sample --checkpoint {run} --device cuda --precision f32 --count 1 --steps 1 --threads 1 --out {out}"
        ),
    );
    command
        .env("LD_LIBRARY_PATH", driver())
        .env("VGPU_CHECK", "fast")
        // One after the other, so that a change's number means the same every time.
        .env("RAYON_NUM_THREADS", "1");
    command
}

/// A folder where programs find the virtual GPU's driver.
fn driver() -> &'static Path {
    static DRIVER: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        let library = vgpu::harness::library_path().unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            symlink(&library, dir.path().join(name)).unwrap();
        }
        dir
    };
    DRIVER.get_or_init(new).path()
}

/// The folder of compiled kernels.
fn kernels(root: &Path) -> PathBuf {
    root.join("cache/packed/kernels")
}

/// Names of the kernels in the cache below `root`, all of which are whole. (The compiler gives other bytes every
/// time.) What is half written has another name.
fn entries(root: &Path) -> Result<BTreeSet<String>> {
    let cache = Cache::new(&kernels(root));
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(cache.folder())? {
        let name = entry?.file_name().into_string().unwrap();
        if let Some(key) = name.strip_suffix(".kernel") {
            ensure!(cache.get(key).is_some(), "{name} is damaged");
            found.insert(name);
        }
    }
    Ok(found)
}

/// All kernels that the picture takes, in a folder like the root.
struct Kernels {
    dir: TempDir,
    all: BTreeSet<String>,
}

impl Kernels {
    fn new() -> Self {
        let dir = place();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let ended = run(draw(&root), &root, None);
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        let all = entries(&root).unwrap();
        assert!(all.len() > MISSING);
        Self { dir, all }
    }
}

impl Scenario for Kernels {
    fn prepare(&self, root: &Path) {
        let (from, to) = (kernels(&self.dir.path().join("root")), kernels(root));
        fs::create_dir_all(&to).unwrap();
        for name in self.all.iter().skip(MISSING) {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }

    fn command(&self, root: &Path, _: bool) -> Command {
        draw(root)
    }

    /// The picture, and the kernels after the next run: what could not be kept is compiled again.
    fn outcome(&self, root: &Path) -> Result<Files> {
        let drawn = fs::read(picture(root))?;
        let next = run(draw(root), root, None);
        ensure!(next.code == Some(0), "the next time: {}", next.err);
        ensure!(fs::read(picture(root))? == drawn, "another picture");
        let names = entries(root)?.into_iter();
        let mut found: Files = names.map(|name| (name, Vec::new())).collect();
        found.insert("the picture".into(), drawn);
        Ok(found)
    }

    /// Another process may be writing: what one left goes after an hour.
    fn cleans_up(&self) -> bool {
        false
    }

    fn check_left(&self, root: &Path, _: &[Change]) -> Result<()> {
        let found = entries(root)?;
        ensure!(found.is_subset(&self.all), "another kernel: {found:?}");
        Ok(())
    }
}

#[test]
fn compiled_kernels_are_whole_or_not_there() {
    inject("kernel cache", &Kernels::new(), 17);
}
