//! Whole runs with their checkpoints: stopped, resumed, and carried from device to device.

use super::{alone, cpu, gpu, weights_are_near};
use gmmk::data::{Packed, ProceduralFaces, open_or_pack};
use gmmk::device::Device;
use gmmk::device::cuda::Precision;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::{Checkpoint, Part, file_name, resolve};
use gmmk::train::config::{DataKind, RunConfig};
use gmmk::train::length::Length;
use gmmk::train::metrics::MetricsRow;
use gmmk::train::run_dir::RunDir;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::restore;
use gmmk::train::trainer::{Observer, Start, Trainer};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Steps of a run.
const STEPS: u64 = 4;

/// Hears nothing worth a word.
struct Quiet;

impl Observer for Quiet {
    fn step(&mut self, _: u64, _: u64, _: f64, _: f64) {}

    fn logged(&mut self, _: &MetricsRow) {}

    fn note(&mut self, text: &str) {
        panic!("{text}");
    }
}

fn config(steps: u64) -> RunConfig {
    RunConfig {
        batch: 1,
        steps: Length::Steps(steps),
        ..RunConfig::new(DataKind::Faces, "nano")
    }
}

struct Runs {
    setup: Setup,
    data: Arc<Packed>,
    folder: tempfile::TempDir,
}

impl Runs {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let faces = ProceduralFaces::new(1, 12);
        let data = open_or_pack(&faces, 16, folder.path(), &mut |_| ()).unwrap();
        Self {
            setup: Setup::for_data(config(STEPS), &data).unwrap(),
            data: Arc::new(data),
            folder,
        }
    }

    /// Trains run `name` on each device up to the step named with it, which ends it until it is made longer.
    fn train(&self, name: &str, parts: &[(&Device, u64)]) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        for (i, &(device, until)) in parts.iter().enumerate() {
            let run = match i {
                0 => RunDir::create(&path).unwrap(),
                _ => RunDir::resume(&path).unwrap(),
            };
            if i == 0 {
                self.setup.config.save(&run.config()).unwrap();
            }
            let start = match i {
                0 => Start::New,
                _ => Start::Resume(Checkpoint::open(&resolve(&path).unwrap().path).unwrap()),
            };
            let data = self.data.clone();
            let setup = Setup::for_data(config(until), &data).unwrap();
            let mut trainer = Trainer::new(&setup, &run, data, &start, device).unwrap();
            let outcome = trainer.train(&AtomicBool::new(false), &mut Quiet).unwrap();
            assert_eq!(outcome.step, until);
        }
        path.join("checkpoints").join(file_name(STEPS))
    }

    fn state(&self, checkpoint: &Path) -> State {
        let checkpoint = Checkpoint::open(checkpoint).unwrap();
        let mut state = self.setup.allocate().unwrap();
        restore(&checkpoint, self.setup.net.table(), &mut state, &Part::ALL).unwrap();
        state
    }
}

#[test]
fn runs_go_on_from_checkpoints_of_any_device() {
    let _alone = alone();
    let runs = Runs::new();
    let (host, device) = (cpu(), gpu(Precision::F32, true));
    let whole = runs.train("whole", &[(&device, STEPS)]);
    let halves = runs.train("halves", &[(&device, 2), (&device, STEPS)]);
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert!(
        bytes(&whole) == bytes(&halves),
        "a resumed run has other bits"
    );
    let plain = runs.train("plain", &[(&host, STEPS)]);
    let mixed = runs.train("mixed", &[(&host, 1), (&device, 3), (&host, STEPS)]);
    let [plain, mixed] = [plain, mixed].map(|path| runs.state(&path));
    weights_are_near(&runs.setup, STEPS, [&plain, &mixed]);
    vgpu::harness::device().assert_clean();
}

/// Every line of metrics, and TensorBoard's, tells what the run holds on the device (all that was planned, and
/// little more: tables of constants) and what the driver says is in use, which the report draws.
#[test]
fn memory_of_the_device_is_logged() {
    let _alone = alone();
    let runs = Runs::new();
    let device = gpu(Precision::F32, true);
    let checkpoint = runs.train("logged", &[(&device, STEPS)]);
    let folder = checkpoint.ancestors().nth(2).unwrap();
    let planned = runs.setup.memory(1, &device).unwrap();
    let rows = gmmk::train::metrics::read(&folder.join("metrics.jsonl")).unwrap();
    assert!(!rows.is_empty());
    for row in &rows {
        let [held, used] = ["gpu_held_bytes", "gpu_used_bytes"].map(|name| row.get(name).unwrap());
        let planned = planned.total() as f64;
        println!("held {held}, planned {planned}, in use {used}");
        assert!(held >= planned && held < planned + f64::from(1 << 20));
        assert!(used >= held);
    }
    let left = device.gpu.as_ref().unwrap().cuda.held();
    assert_eq!(left, 0, "the run is over");
    let events = std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name()?.to_str()?;
        name.starts_with("events.")
            .then(|| std::fs::read(&path).unwrap())
    });
    for name in ["gpu_held_bytes", "gpu_used_bytes"] {
        let tag = events.as_ref().unwrap().windows(name.len());
        assert_eq!(
            tag.filter(|part| *part == name.as_bytes()).count(),
            rows.len()
        );
    }
    let report = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(report.contains("aria-label=\"GPU memory\""));
    vgpu::harness::device().assert_clean();
}

#[test]
fn a_bf16_run_resumes_with_the_same_bits() {
    let _alone = alone();
    let runs = Runs::new();
    let device = gpu(Precision::Bf16, true);
    let whole = runs.train("whole", &[(&device, STEPS)]);
    let halves = runs.train("halves", &[(&device, 1), (&device, STEPS)]);
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert!(
        bytes(&whole) == bytes(&halves),
        "a resumed run has other bits"
    );
    vgpu::harness::device().assert_clean();
}
