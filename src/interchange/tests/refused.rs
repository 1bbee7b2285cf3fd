//! Folders that are not imported: every message names the file and the place.

use super::*;

#[test]
fn damaged_weights_are_refused() {
    let (dir, _, folder) = exported(nano(ClassifierKind::None), Part::Ema);
    let path = folder.join(WEIGHTS);
    let good = fs::read(&path).unwrap();
    let bad = |bytes: &[u8], words: &[&str]| {
        fs::write(&path, bytes).unwrap();
        refused(
            &dir,
            &folder,
            &[&["diffusion_pytorch_model.safetensors"], words].concat(),
        );
    };
    bad(b"", &["less than 8 bytes"]);
    bad(
        &good[..good.len() - 4],
        &["the header: expected a safetensors file"],
    );
    bad(&good[..100], &["the header"]);
    bad(&[&good[..], &[0; 8]].concat(), &["the header"]);
    bad(&[u8::MAX; 64], &["the header"]);
    let mut lies = good.clone();
    lies[..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    bad(&lies, &["the header"]);
    let rewritten = |change: fn(&mut Tensor) -> bool, words: &[&str]| {
        fs::write(&path, &good).unwrap();
        rewrite(&path, |tensor| {
            tensor.name != "conv_in.bias" || change(tensor)
        });
        refused(&dir, &folder, words);
    };
    rewritten(|_| false, &["`conv_in.bias` [8] is missing"]);
    rewritten(
        |tensor| {
            tensor.name = "conv_inn.bias".into();
            true
        },
        &[
            "`conv_in.bias` [8] is missing",
            "`conv_inn.bias` [8] is not expected",
        ],
    );
    rewritten(
        |tensor| {
            tensor.shape = vec![2, 4];
            true
        },
        &["`conv_in.bias` is [2, 4], expected [8]", "unet/config.json"],
    );
    rewritten(
        |tensor| {
            tensor.data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
            true
        },
        &["tensor `conv_in.bias`, value 2: expected a finite number, found NaN"],
    );
}

/// Changes one value of a JSON file.
fn set(path: &Path, pointer: &str, value: Value) {
    let mut json: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn configurations_that_say_something_else_are_refused() {
    let (dir, _, folder) = exported(nano(ClassifierKind::Bce), Part::Ema);
    for (file, pointer, value, words) in [
        (
            NETWORK,
            "/_class_name",
            json!("UNet2DModel"),
            ["_class_name", "found \"UNet2DModel\""],
        ),
        (
            NETWORK,
            "/act_fn",
            json!("gelu"),
            ["act_fn", "gmmk's family"],
        ),
        (
            NETWORK,
            "/layers_per_block",
            json!(1 << 20),
            ["layers_per_block", "1 to 64"],
        ),
        (
            NETWORK,
            "/layers_per_block",
            json!(2),
            ["is missing", "more"],
        ),
        (
            NETWORK,
            "/block_out_channels",
            json!([8, 1 << 20]),
            ["expected [1048576", "unet/config.json"],
        ),
        (
            NETWORK,
            "/sample_size",
            json!(17),
            ["sample_size", "unet/config.json"],
        ),
        (
            NETWORK,
            "/in_channels",
            json!(4),
            ["input channels", "found 4"],
        ),
        (
            SCHEDULER,
            "/beta_end",
            json!(0.07),
            ["beta_end", "found 0.07"],
        ),
        (
            SCHEDULER,
            "/num_train_timesteps",
            json!(1000),
            ["num_train_timesteps", "constant:0.06:100"],
        ),
        (
            SCHEDULER,
            "/prediction_type",
            json!("v_prediction"),
            ["prediction_type", "found \"v_prediction\""],
        ),
        (
            SCHEDULER,
            "/trained_betas",
            json!([0.1]),
            ["trained_betas", "found [0.1]"],
        ),
        (
            MIXTURE,
            "/format",
            json!("x"),
            ["format and version", "gmmk-mixture"],
        ),
        (
            MIXTURE,
            "/version",
            json!(2),
            ["format and version", "version 2"],
        ),
        (
            MIXTURE,
            "/attributes",
            json!([]),
            ["attributes", "found none"],
        ),
        (
            MIXTURE,
            "/attributes/1",
            json!("Male"),
            ["different names", "`Male` as name 3"],
        ),
        (
            MIXTURE,
            "/classes",
            json!(true),
            ["classes: expected false", "config.toml"],
        ),
        (
            MIXTURE,
            "/width",
            json!(13),
            ["width: expected 12", "found 13"],
        ),
        (
            MIXTURE,
            "/means/0",
            json!(-2.0),
            ["the mixture", "means [-2.0, 0.0, 1.0]"],
        ),
        (
            MIXTURE,
            "/weights",
            json!([1.0]),
            ["the mixture", "weights [1.0]"],
        ),
        (MIXTURE, "/sigma", json!(0.3), ["the mixture", "sigma 0.3"]),
        (
            MIXTURE,
            "/code_scale",
            json!(0),
            ["the mixture", "code_scale 0"],
        ),
        (
            MIXTURE,
            "/codes/2",
            json!("++++++++++++"),
            ["codes, number 2", "`++++++++++++`"],
        ),
        (
            MIXTURE,
            "/codes",
            json!([]),
            ["codes: expected 3 codes", "found 0 codes"],
        ),
        (
            MIXTURE,
            "/rows/1",
            json!("012"),
            ["rows, number 1", "expected 3 digits 0 or 1"],
        ),
        (
            MIXTURE,
            "/rows/1",
            json!("01"),
            ["rows, number 1", "found `01`"],
        ),
        (
            MIXTURE,
            "/rows",
            json!(vec!["010"; 1001]),
            ["rows: expected at most 1000", "found 1001"],
        ),
        (MIXTURE, "/run", json!(1), ["mixture.json", "JSON"]),
    ] {
        let path = folder.join(file);
        let good = fs::read(&path).unwrap();
        set(&path, pointer, value);
        refused(&dir, &folder, &words);
        fs::write(path, good).unwrap();
    }
    import(&folder, None, &dir.path().join("back.safetensors")).unwrap();
}

#[test]
fn missing_files_are_named() {
    let (dir, _, folder) = exported(nano(ClassifierKind::Bce), Part::Ema);
    for (file, words) in [
        (NETWORK, "config.json: cannot read it"),
        (
            WEIGHTS,
            "expected diffusion_pytorch_model.safetensors, or its index",
        ),
        (MIXTURE, "mixture.json: cannot read it"),
        (CONFIG, "config.toml: cannot read it"),
    ] {
        let path = folder.join(file);
        let good = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        refused(&dir, &folder, &[words]);
        fs::write(&path, [&[0xff], &good[..]].concat()).unwrap();
        refused(
            &dir,
            &folder,
            &[path.file_name().unwrap().to_str().unwrap()],
        );
        fs::write(path, good).unwrap();
    }
    refused(
        &dir,
        &dir.path().join("nowhere"),
        &["nowhere", "no such folder"],
    );
    refused(&dir, &folder.join(MIXTURE), &["found a file"]);
    refused(&dir, dir.path(), &["found neither"]);
    // What can be done without is done without: the classifier and the scheduler.
    fs::remove_file(folder.join(SCHEDULER)).unwrap();
    fs::remove_file(folder.join(CLASSIFIER)).unwrap();
    let out = dir.path().join("back.safetensors");
    let note = import(&folder, None, &out).unwrap().note.unwrap();
    assert!(note.contains("without the bce classifier"), "{note}");
    let info = Checkpoint::open(&out).unwrap().info().clone();
    assert_eq!(info.config.classifier, ClassifierKind::None);
    // A classifier of a run that had none belongs to another model.
    let config = folder.join(CONFIG);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("classifier = \"bce\"", "classifier = \"none\""),
    )
    .unwrap();
    fs::write(folder.join(CLASSIFIER), "").unwrap();
    refused(&dir, &folder, &["classifier.safetensors", "expected none"]);
}
