//! Damaged and foreign checkpoints and configurations: refused by name, and left as they are.

use super::*;

/// A copy of the finished run whose newest checkpoint was changed.
fn with_checkpoint(change: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let dir = place();
    let run = copy_of_finished(dir.path(), "run");
    let file = checkpoint(&run, STEPS);
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    fs::write(&file, bytes).unwrap();
    (dir, run)
}

/// Neither sampling nor resuming takes the checkpoint; both name it.
fn refused(dir: &TempDir, words: &[&str]) {
    let name = &["step-00000040.safetensors"];
    let words = [&name[..], words].concat();
    let sample = ["sample", "--checkpoint", "run", "--out", "a.png"];
    fails(dir.path(), &sample, &words);
    fails(
        dir.path(),
        &training("run", &["--resume", "--steps", "41"]),
        &words,
    );
}

#[test]
fn a_damaged_checkpoint_is_refused() {
    for at in [20, 9000, 400_000] {
        let (dir, _) = with_checkpoint(|bytes| bytes[at] ^= 4);
        refused(
            &dir,
            &["damaged at", "found", "expected", "another checkpoint"],
        );
    }
    let (dir, _) = with_checkpoint(|bytes| bytes.truncate(bytes.len() - 1000));
    refused(
        &dir,
        &["damaged at the end of the file", "as its header says"],
    );
    let (dir, _) = with_checkpoint(|bytes| bytes.truncate(5000));
    refused(&dir, &["damaged at the header", "the file ends after"]);
    let (dir, _) = with_checkpoint(|bytes| bytes.extend([0; 8]));
    refused(&dir, &["damaged", "found", "expected"]);
    let (dir, run) = with_checkpoint(Vec::clear);
    refused(&dir, &["an empty file", "delete this file"]);
    // As the message says: without it the one before it is taken, and said so.
    fs::remove_file(checkpoint(&run, STEPS)).unwrap();
    let ran = done(dir.path(), &training("run", &["--resume"]));
    assert!(ran.err.contains("newest valid checkpoint"), "{}", ran.err);
    assert!(ran.err.contains("resuming at step 30 of 40"), "{}", ran.err);
    let whole = fs::read(checkpoint(finished(), STEPS)).unwrap();
    assert!(whole == fs::read(checkpoint(&run, STEPS)).unwrap());
}

#[test]
fn a_foreign_file_is_no_checkpoint() {
    let (dir, _) = with_checkpoint(|bytes| *bytes = b"\x89PNG\r\n\x1a\nand so on".to_vec());
    refused(&dir, &["not a gmmk checkpoint", "safetensors"]);
    let (dir, _) = with_checkpoint(|bytes| {
        *bytes = [&16_u64.to_le_bytes()[..], b"{}              "].concat();
    });
    refused(&dir, &["not a gmmk checkpoint", "without a format"]);
    let sample = |name| ["sample", "--checkpoint", name, "--out", "a.png"];
    fails(
        dir.path(),
        &sample("nowhere"),
        &["nowhere", "no usable checkpoint"],
    );
    fails(
        dir.path(),
        &sample("run/config.toml"),
        &["config.toml", "not a gmmk checkpoint"],
    );
    fails(
        dir.path(),
        &sample("run/samples"),
        &["run/samples", "no usable checkpoint"],
    );
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let dir = place();
    let network = finished_network(|network| {
        network["block_out_channels"] = serde_json::json!([12, 16]);
    });
    fs::write(dir.path().join("wide.json"), network).unwrap();
    let steps = ["--config", "wide.json", "--steps", "2"];
    let mut args = training("wide", &steps);
    args.retain(|a| !["--preset", "nano"].contains(a));
    done(dir.path(), &args);
    // A checkpoint of another run in this run's folder.
    copy_of_finished(dir.path(), "run");
    let from = checkpoint(&dir.path().join("wide"), 2);
    fs::copy(from, checkpoint(&dir.path().join("run"), STEPS)).unwrap();
    let resume = [
        "train", "faces", "--out", "run", "--resume", "--steps", "50",
    ];
    let message = fails(
        dir.path(),
        &resume,
        &["another run", "preset was \"wide\", now \"nano\""],
    );
    assert!(message.contains("step-00000040.safetensors"), "{message}");
}

/// The network's config.json of the finished run, changed.
fn finished_network(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let bytes = fs::read(checkpoint(finished(), STEPS)).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let entries = metadata.metadata().clone().unwrap();
    let mut network = serde_json::from_str(&entries["network"]).unwrap();
    change(&mut network);
    network.to_string()
}

#[test]
fn a_wrong_network_configuration_is_refused() {
    let dir = place();
    let file = dir.path().join("net.json");
    let fail = |text: &str, words: &[&str]| {
        fs::write(&file, text).unwrap();
        let args = ["train", "faces", "--config", "net.json", "--out", "run"];
        fails(dir.path(), &args, &[&["net.json"], words].concat());
    };
    let json = |change: fn(&mut serde_json::Value)| finished_network(change);
    fail("{\"sample_size\": 16,", &["not JSON", "line 1"]);
    fail("[]", &["expected a JSON object"]);
    fail("{}", &["mid_block_type", "UNetMidBlock2DSimpleCrossAttn"]);
    fail(
        &json(|n| n["act_fn"] = "relu".into()),
        &["act_fn", "silu", "relu"],
    );
    fail(
        &json(|n| n["block_out_channels"] = "x".into()),
        &["block_out_channels"],
    );
    fail(
        &json(|n| n["norm_num_groups"] = 5.into()),
        &["multiples of 5 groups"],
    );
    fail(
        &json(|n| n["sample_size"] = 15.into()),
        &["sample_size", "15"],
    );
    fail(
        &json(|n| n["sample_size"] = (-4).into()),
        &["sample_size", "-4"],
    );
    let args = ["train", "faces", "--config", "none.json", "--out", "run"];
    fails(dir.path(), &args, &["none.json", "No such file"]);
}

#[test]
fn a_network_that_does_not_fit_the_data_is_refused() {
    let dir = place();
    let fail = |change: fn(&mut serde_json::Value), words: &[&str]| {
        fs::write(dir.path().join("net.json"), finished_network(change)).unwrap();
        let args = ["train", "faces", "--config", "net.json", "--out", "run"];
        fails(dir.path(), &args, words);
    };
    fail(
        |n| n["in_channels"] = 1.into(),
        &["input channels", "expected 3, found 1"],
    );
    fail(
        |n| n["out_channels"] = 6.into(),
        &["output channels", "expected 3, found 6"],
    );
}

#[test]
fn a_wrong_configuration_names_line_and_key() {
    let dir = place();
    let fail = |text: &str, words: &[&str]| {
        fs::write(dir.path().join("c.toml"), text).unwrap();
        let args = ["train", "faces", "--config", "c.toml", "--out", "run"];
        fails(dir.path(), &args, words);
    };
    fail(
        "data = \"faces\"\nlearning_rate = 1",
        &["c.toml:2", "unknown key `learning_rate`"],
    );
    fail(
        "data = \"faces\"\nbacth = 1",
        &["c.toml:2", "`bacth`", "did you mean `batch`?"],
    );
    fail(
        "data = \"faces\"\nbatch = \"x\"",
        &["c.toml:2", "`batch`", "expected a whole number"],
    );
    fail(
        "data = \"faces\"\nbatch = 0",
        &["c.toml:2", "`batch`", "1 to 1048576"],
    );
    fail("data = \"faces\"\nlr = nan", &["c.toml:2", "`lr`", "NaN"]);
    fail(
        "data = \"faces\"\nschedule = \"constant:1.5\"",
        &["c.toml:2", "`schedule`", "1.5"],
    );
    fail("data = \"faces\"\nlr = ", &["c.toml:2", "not valid TOML"]);
    fail("batch = 3", &["c.toml", "`data` is missing"]);
    fail(
        "data = \"mnist\"",
        &["c.toml:1", "`data`", "mnist", "celeba"],
    );
    fail(
        "data = \"cifar10\"",
        &["c.toml", "is for cifar10, but this run is on faces"],
    );
    fail(
        "data = \"faces\"\npreset = \"nanno\"",
        &["`nanno`", "did you mean `nano`?"],
    );
    fail("data = \"faces\"\ndevice = \"cuda\"", &["device", "cuda"]);
    let args = ["train", "faces", "--config", "none.toml", "--out", "run"];
    fails(dir.path(), &args, &["none.toml", "No such file"]);
    copy_of_finished(dir.path(), "run");
    let config = dir.path().join("run/config.toml");
    let changed = fs::read_to_string(&config)
        .unwrap()
        .replace("lr = 0.003", "lr = 0.1");
    fs::write(config, changed).unwrap();
    let words = ["another run", "config.toml", "lr was 0.003, now 0.1"];
    let resume = [
        "train", "faces", "--out", "run", "--resume", "--steps", "50",
    ];
    fails(dir.path(), &resume, &words);
}

#[test]
fn a_damaged_packed_file_is_made_anew() {
    let dir = place();
    let data = crate::bad_data::celeba(dir.path(), 20);
    let cache = dir.path().join("cache");
    let pack = |words: &str| {
        let args = ["data", "pack", "celeba", "--size", "16", "--data", &data];
        let mut command = gmmk(dir.path(), &args);
        let ran = Ran::from(command.env("GMMK_CACHE", &cache).output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!((ran.out.clone() + &ran.err).contains(words), "{ran:?}");
    };
    pack("packed: 20 pictures");
    pack("already packed");
    let files = listing(&cache.join("packed"));
    let name = files
        .keys()
        .find(|n| text(n).ends_with(".gmmkdata"))
        .unwrap();
    let file = cache.join("packed").join(name);
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, &bytes).unwrap();
    pack("made anew: ");
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    pack("made anew: ");
    pack("already packed");
}
