//! Readers of models and runs: checkpoints, configurations, folders of diffusers, compiled kernels.

use std::fs;
use std::path::{Path, PathBuf};

use gmmk::device::Device;
use gmmk::device::pool::Pool;
use gmmk::evaluate::classifier::AttributeClassifier;
use gmmk::model::NetworkConfig;
use gmmk::train::checkpoint::{self, Checkpoint};
use gmmk::train::config::RunConfig;
use gmmk::train::runs::Run;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::load;

use super::change::change;
use super::good::{MIB, copy_of, place, seed, words};
use super::{Reader, formats, fuzz};
use gmmk::device::cuda::{Cache, Image};

fn cpu() -> Device {
    std::sync::Arc::new(Pool::new(1).unwrap()).into()
}

/// Everything that is done with a checkpoint before its network runs.
fn open_checkpoint(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(file)?;
    for spec in checkpoint.specs().iter().take(3) {
        for &part in checkpoint.parts() {
            checkpoint.tensor(part, &spec.name)?;
        }
    }
    let info = checkpoint.info();
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    let part = checkpoint.held(checkpoint::Part::Ema);
    load::<Box<dyn std::error::Error>>(&checkpoint, setup.net.table(), &[part])?;
    Ok(())
}

const CHECKPOINT_WORDS: [&str; 16] = [
    "step\":",
    "images_seen\":",
    "sample_size\":",
    "block_out_channels\":[",
    "layers_per_block\":",
    "attention_head_dim\":",
    "norm_num_groups\":",
    "cross_attention_dim\":",
    "in_channels\":",
    "batch = ",
    "micro_batches = ",
    "latent = \"",
    "schedule = \"",
    "preset = \"",
    "[network]",
    "data_path = \"/etc/passwd\"",
];

#[test]
fn checkpoints() {
    let dir = place();
    let file = dir.path().join("step-00000002.safetensors");
    fuzz(Reader {
        name: "checkpoint",
        seeds: vec![seed("small.safetensors")],
        words: &CHECKPOINT_WORDS,
        change: formats::change_checkpoint,
        seal: formats::checkpoint,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(open_checkpoint(&file))
        }),
        memory: [48 * MIB, 64],
        inputs: 1500,
    });
}

#[test]
fn classifiers() {
    let dir = place();
    let file = dir.path().join("judge.safetensors");
    let device = cpu();
    fuzz(Reader {
        name: "classifier",
        seeds: vec![seed("judge.safetensors")],
        words: &[
            "sample_size\\\":",
            "attributes\\\":",
            "squared_error\\\":[",
            "one_hot\\\":",
            "pictures\\\":",
        ],
        change: formats::change_checkpoint,
        seal: formats::checkpoint,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(AttributeClassifier::open(&file, &device))
        }),
        memory: [64 * MIB, 64],
        inputs: 400,
    });
}

#[test]
fn pointers_to_checkpoints() {
    let dir = place();
    let names = ["step-00000001.safetensors", "step-00000002.safetensors"];
    for name in names {
        fs::write(dir.path().join(name), seed("small.safetensors")).unwrap();
    }
    let latest = dir.path().join("latest");
    fuzz(Reader {
        name: "latest",
        seeds: vec![
            format!("{}\n", names[0]).into(),
            "../../etc/passwd".into(),
            "/etc/passwd".into(),
        ],
        words: &["../", "/", "step-", ".safetensors", "\n"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&latest, input).unwrap();
            let found = checkpoint::resolve(dir.path()).unwrap().path;
            assert!(
                names.iter().any(|name| found == dir.path().join(name)),
                "{found:?}"
            );
            found.display().to_string()
        }),
        memory: [8 * MIB, 64],
        inputs: 500,
    });
}

#[test]
fn configurations() {
    let toml = seed("run/config.toml");
    let network = seed("model/unet/config.json");
    let file = place();
    let path = file.path().join("network.json");
    fuzz(Reader {
        name: "configuration",
        seeds: vec![toml, network],
        words: &[
            "batch = ",
            "micro_batches = ",
            "steps = ",
            "latent = \"",
            "schedule = \"",
            "seed = ",
            "lr = ",
            "preset = \"",
            "classifier = \"ngmg\"",
            "[network]",
            "\"sample_size\": ",
            "\"layers_per_block\": ",
            "\"block_out_channels\": [",
            "\"attention_head_dim\": ",
            "\"cross_attention_dim\": ",
            "\"norm_num_groups\": ",
            "\"in_channels\": ",
            "constant:",
            "linear:",
            "cosine:",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            let setup = |config: RunConfig| -> Result<(), Box<dyn std::error::Error>> {
                config.to_toml()?;
                config.total_steps();
                Setup::new(config, 40)?;
                Ok(())
            };
            if text.trim_start().starts_with('{') {
                fs::write(&path, input).unwrap();
                return words(NetworkConfig::load(&path));
            }
            match RunConfig::parse(&text, Path::new("config.toml")) {
                Ok(config) => words(setup(config)),
                Err(error) => error.to_string(),
            }
        }),
        // A schedule of the most steps, 2^20, takes 16 MiB.
        memory: [48 * MIB, 500],
        inputs: 6000,
    });
}

#[test]
fn kernels_on_disk() {
    let dir = place();
    let cache = Cache::new(dir.path());
    let image = Image {
        cubin: (0..200).collect(),
        ptx: b".version 8.0\0".to_vec(),
    };
    cache.put("a", &image);
    let file = dir.path().join("a.kernel");
    let good = fs::read(&file).unwrap();
    fuzz(Reader {
        name: "kernel-cache",
        seeds: vec![good],
        words: &[],
        change,
        seal: |bytes| formats::kernel(bytes),
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            format!("{:?}", cache.get("a").is_some())
        }),
        memory: [MIB, 16],
        inputs: 5000,
    });
}

#[test]
fn folders_of_diffusers() {
    let dir = copy_of("model");
    let out = place();
    let names = [
        "mixture.json",
        "config.toml",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .map(|name| (dir.path().join(name), seed(&format!("model/{name}"))))
        .to_vec();
    let kinds: Vec<u8> = files.iter().map(|(_, bytes)| bytes[0]).collect();
    fuzz(Reader {
        name: "diffusers",
        seeds: files.iter().map(|(_, bytes)| bytes.clone()).collect(),
        words: &[
            "\"shape\":[",
            "\"data_offsets\":[",
            "\"F32\"",
            "\"BF16\"",
            "\"attributes\": [",
            "\"rows\": ",
            "\"sample_size\": ",
            "\"layers_per_block\": ",
            "\"block_out_channels\": [",
            "\"step\": ",
            "\"num_train_timesteps\": ",
            "\"trained_betas\": [",
            "\"means\": [",
            "\"sigma\": ",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            // In the place of the file that begins like it; else of all in turn, by its length.
            let like = input
                .first()
                .and_then(|b| kinds.iter().position(|k| k == b));
            let at = match like {
                Some(0) | None => [0, 2, 3][input.len() % 3],
                Some(at) => at,
            };
            fs::write(&files[at].0, input).unwrap();
            let result = words(gmmk::interchange::import(
                dir.path(),
                None,
                &out.path().join("a.safetensors"),
            ));
            fs::write(&files[at].0, &files[at].1).unwrap();
            result
        }),
        memory: [48 * MIB, 500],
        inputs: 1000,
    });
}

#[test]
fn folders_of_runs() {
    let dir = copy_of("run");
    let pages: Vec<PathBuf> = fs::read_dir(dir.path().join("samples"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let names = ["metrics.jsonl", "config.toml", "machine.json"].map(|name| dir.path().join(name));
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .into_iter()
        .chain(pages)
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    let mut turn = 0;
    fuzz(Reader {
        name: "run",
        seeds: files.iter().map(|(_, bytes)| bytes.clone()).collect(),
        words: &[
            "\"step\":",
            "\"images\":",
            "\"seconds\":",
            "\"loss\":",
            "\"held_out_loss\":",
            "\n",
            "null",
            "batch = ",
            "steps = ",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            turn += 1;
            let (path, good) = &files[turn % files.len()];
            fs::write(path, input).unwrap();
            let told = words(Run::open(dir.path()).and_then(|run| run.summary()));
            let report = words(gmmk::train::report::write(dir.path()));
            let cut = words(gmmk::train::metrics::cut(&files[0].0, 1));
            fs::write(path, good).unwrap();
            fs::write(&files[0].0, &files[0].1).unwrap();
            format!("{told} {report} {cut}")
        }),
        memory: [48 * MIB, 500],
        inputs: 600,
    });
}
