//! A checkpoint of a stranger is data: what it says is not opened, followed or believed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use gmmk::train::checkpoint::Checkpoint;
use gmmk::train::config::{RunConfig, network_table};
use serde_json::Value;
use tempfile::TempDir;

use super::formats;
use super::good::{place, seed};

/// The good checkpoint with another configuration and network, its checksums right.
fn forged(dir: &Path, change: impl Fn(&mut RunConfig, &mut Value)) {
    let file = dir.join("forged.safetensors");
    fs::write(&file, seed("small.safetensors")).unwrap();
    let info = Checkpoint::open(&file).unwrap().info().clone();
    let (mut config, mut network) = (info.config, info.network);
    change(&mut config, &mut network);
    let texts = [
        ("config", config.to_toml().unwrap()),
        ("network", network.to_string()),
    ];
    fs::write(&file, with_metadata(seed("small.safetensors"), &texts)).unwrap();
}

/// A checkpoint with other texts in its metadata.
fn with_metadata(mut bytes: Vec<u8>, texts: &[(&str, String)]) -> Vec<u8> {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    for (key, text) in texts {
        header["__metadata__"][*key] = text.clone().into();
    }
    let header = header.to_string().into_bytes();
    bytes.splice(8..end, header.iter().copied());
    bytes[..8].copy_from_slice(&(header.len() as u64).to_le_bytes());
    formats::checkpoint(&mut bytes);
    bytes
}

/// `gmmk sample` of the forged checkpoint, with at most 4 GB of addresses.
fn sample(dir: &Path) -> Output {
    let command = format!(
        "ulimit -v 4000000; exec {} sample --checkpoint forged.safetensors --count 1 --steps 2 --threads 1 --out a.png",
        env!("CARGO_BIN_EXE_gmmk")
    );
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(command)
        .current_dir(dir)
        .output()
        .unwrap()
}

fn refused(dir: &TempDir, words: &[&str]) {
    let output = sample(dir.path());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("error: ") && !text.contains("panicked"),
        "{text}"
    );
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    assert!(!dir.path().join("a.png").exists());
}

#[test]
fn paths_in_a_checkpoint_are_not_followed() {
    let dir = place();
    forged(dir.path(), |_, _| {});
    assert!(sample(dir.path()).status.success());
    let plain = fs::read(dir.path().join("a.png")).unwrap();
    // A pipe without a writer: whoever opens it waits for ever.
    let pipe = dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    forged(dir.path(), |config, _| {
        config.data_path = Some(pipe.clone());
        config.attributes = Some(pipe.clone());
    });
    let output = sample(dir.path());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(fs::read(dir.path().join("a.png")).unwrap() == plain);
}

#[test]
fn sizes_in_a_checkpoint_are_not_believed() {
    let dir = place();
    let network = |change: fn(&mut Value)| {
        forged(dir.path(), |config, network| {
            change(network);
            config.network = Some(network_table(network).unwrap());
        });
    };
    // Tensors that the file does not hold: refused before they are allocated.
    network(|n| n["block_out_channels"] = serde_json::json!([1 << 20, 1 << 20]));
    refused(&dir, &["forged.safetensors"]);
    network(|n| n["layers_per_block"] = 64.into());
    refused(&dir, &["forged.safetensors", "is missing"]);
    // Numbers that no network of the family has.
    for (good, bad) in [
        (
            "layers_per_block = 1\n",
            "layers_per_block = 1099511627776\n",
        ),
        ("sample_size = 16\n", "sample_size = 1099511627776\n"),
    ] {
        network(|_| {});
        let file = dir.path().join("forged.safetensors");
        let text = Checkpoint::open(&file)
            .unwrap()
            .info()
            .config
            .to_toml()
            .unwrap();
        assert!(text.contains(good), "{text}");
        let text = text.replace(good, bad);
        fs::write(
            &file,
            with_metadata(fs::read(&file).unwrap(), &[("config", text)]),
        )
        .unwrap();
        refused(&dir, &[good.split(' ').next().unwrap()]);
    }
    // The same tensors draw pictures of any size: what that takes is planned first.
    network(|n| n["sample_size"] = 8192.into());
    refused(&dir, &["memory"]);
}
