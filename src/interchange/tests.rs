//! Round trips, and what is written where.

mod refused;

use super::export::label;
use super::folder::{CLASSIFIER, CONFIG, MIXTURE, SCHEDULER};
use super::*;
use crate::device::pool::Pool;
use crate::diffusion::generate::Request;
use crate::model::UNet;
use crate::report::picture::Picture;
use crate::tape::Arena;
use crate::tape::state::State;
use crate::train::checkpoint::{Checkpoint, CheckpointInfo, Counters, Part, write_file};
use crate::train::classifier::ClassifierKind;
use crate::train::config::{DataKind, RunConfig, network_table};
use crate::train::setup::Setup;
use crate::train::tensors::StateTensors;
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize_to_file};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";
const NETWORK: &str = "unet/config.json";

fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(1).unwrap())
}

/// A checkpoint of `config` with three attributes, whose parts all differ.
fn checkpoint(folder: &Path, config: RunConfig) -> Checkpoint {
    let setup = Setup::new(config.clone(), 3).unwrap();
    let table = setup.net.table();
    let mut state = State::default();
    let arenas = [Arena::Params, Arena::Ema, Arena::AdamM, Arena::AdamV];
    for (seed, arena) in (1..).zip(arenas) {
        state.allocate(arena, table.elements()).unwrap();
        table.initialise(seed, state.get_mut(arena));
    }
    let info = CheckpointInfo {
        config,
        counters: Counters {
            step: 7,
            images_seen: 112,
            adam_step: 6,
            skipped: 1,
        },
        attribute_names: ["Smiling", "Young, or so", "Male"]
            .map(str::to_owned)
            .to_vec(),
        attribute_rows: vec![vec![1, 0, 1], vec![0, 0, 1], vec![1, 1, 0]],
        network: setup.net.config().to_json(),
    };
    let path = folder.join("c.safetensors");
    write_file(&path, &mut StateTensors::new(table, &state), &info).unwrap();
    Checkpoint::open(&path).unwrap()
}

fn nano(classifier: ClassifierKind) -> RunConfig {
    let mut config = RunConfig::new(DataKind::Faces, "nano");
    config.seed = u64::MAX;
    config.lr = 0.1 + 0.2;
    config.classifier = classifier;
    config.data_path = Some("/home/somebody/celeba".into());
    config.attributes = Some("/home/somebody/list.csv".into());
    config.from = Some("/home/somebody/runs/older".into());
    config
}

/// A folder with a checkpoint's export.
fn exported(config: RunConfig, part: Part) -> (TempDir, Checkpoint, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path(), config);
    let folder = dir.path().join("model");
    export(&checkpoint, part, &folder, false, &pool()).unwrap();
    (dir, checkpoint, folder)
}

fn bits(checkpoint: &Checkpoint, part: Part) -> Vec<(String, Vec<u32>)> {
    let tensor = |spec: &crate::train::checkpoint::TensorSpec| {
        let values = checkpoint.tensor(part, &spec.name).unwrap();
        (
            spec.name.clone(),
            values.iter().map(|v| v.to_bits()).collect(),
        )
    };
    checkpoint.specs().iter().map(tensor).collect()
}

#[test]
fn what_is_exported_and_imported_keeps_every_bit() {
    let mut projected = nano(ClassifierKind::None);
    let mut network = UNet::new(crate::model::preset::PRESETS[4].config())
        .config()
        .clone();
    network.token_projection = Some(3 * network.cross_attention_dim);
    projected.network = Some(network_table(&network.to_json()).unwrap());
    projected.latent = crate::gmm::latent::LatentKind::Gaussian;
    projected.schedule = "linear:0.001:0.03:50".parse().unwrap();
    for (config, part) in [
        (nano(ClassifierKind::None), Part::Ema),
        (nano(ClassifierKind::Ngmg), Part::Weight),
        (projected, Part::Ema),
    ] {
        let (dir, before, folder) = exported(config.clone(), part);
        let out = dir.path().join("back.safetensors");
        let imported = import(&folder, None, &out).unwrap();
        assert_eq!(
            (imported.formats, imported.note),
            (vec!["F32".to_owned()], None)
        );
        let after = Checkpoint::open(&out).unwrap();
        assert_eq!(after.parts(), [Part::Weight]);
        assert_eq!(bits(&after, Part::Weight), bits(&before, part));
        let mut info = before.info().clone();
        let config = &mut info.config;
        (config.data_path, config.attributes, config.from) = (None, None, None);
        assert_eq!(*after.info(), info);
        // Where files lay stays at home.
        assert!(
            !fs::read_to_string(folder.join(CONFIG))
                .unwrap()
                .contains("somebody")
        );
        // The one copy stands for the average too.
        assert_eq!(
            (after.held(Part::Ema), label(&after, Part::Ema)),
            (Part::Weight, "imported")
        );
        let again = dir.path().join("again");
        export(&after, Part::Ema, &again, false, &pool()).unwrap();
        for file in [WEIGHTS, NETWORK, SCHEDULER, CONFIG, "check.safetensors"] {
            assert!(
                fs::read(folder.join(file)).unwrap() == fs::read(again.join(file)).unwrap(),
                "{file}"
            );
        }
    }
}

/// A tensor in a file.
struct Tensor {
    name: String,
    kind: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Rewrites a safetensors file, every tensor as `change` wants it; without those for which it is false.
fn rewrite(path: &Path, change: impl Fn(&mut Tensor) -> bool) {
    let bytes = fs::read(path).unwrap();
    let mut kept = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let mut tensor = Tensor {
            name,
            kind: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        if change(&mut tensor) {
            kept.push(tensor);
        }
    }
    let views = kept.iter().map(|t| {
        let view = TensorView::new(t.kind, t.shape.clone(), &t.data);
        (&t.name, view.unwrap())
    });
    serialize_to_file(views, None, path).unwrap();
}

fn floats(data: &[u8]) -> impl Iterator<Item = f32> {
    let values = data.chunks_exact(4);
    values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[test]
fn halves_are_widened_and_other_formats_refused() {
    let (dir, before, folder) = exported(nano(ClassifierKind::None), Part::Ema);
    let out = dir.path().join("back.safetensors");
    rewrite(&folder.join(WEIGHTS), |tensor| {
        let values = floats(&tensor.data);
        (tensor.kind, tensor.data) = if tensor.name.ends_with("bias") {
            let halves = values.flat_map(|x| f16::from_f32(x).to_le_bytes());
            (Dtype::F16, halves.collect())
        } else {
            let halves = values.flat_map(|x| bf16::from_f32(x).to_le_bytes());
            (Dtype::BF16, halves.collect())
        };
        true
    });
    assert_eq!(
        import(&folder, None, &out).unwrap().formats,
        ["BF16", "F16"]
    );
    let after = Checkpoint::open(&out).unwrap();
    for spec in before.specs() {
        let before = before.tensor(Part::Ema, &spec.name).unwrap();
        let after = after.tensor(Part::Weight, &spec.name).unwrap();
        for (a, b) in after.iter().zip(before.iter()) {
            let wanted = if spec.name.ends_with("bias") {
                f16::from_f32(*b).to_f32()
            } else {
                bf16::from_f32(*b).to_f32()
            };
            assert_eq!(a.to_bits(), wanted.to_bits(), "{}", spec.name);
        }
    }
    rewrite(&folder.join(WEIGHTS), |tensor| {
        if tensor.name == "conv_in.bias" {
            tensor.kind = Dtype::F64;
            tensor.data = vec![0; 8 * 8];
        }
        true
    });
    refused(
        &dir,
        &folder,
        &[
            "tensor `conv_in.bias`",
            "expected F32, F16 or BF16, found F64",
        ],
    );
}

/// Splits the weights into two files behind an index.
fn split(folder: &Path) {
    let whole = folder.join(WEIGHTS);
    let mut map = serde_json::Map::new();
    for number in 0..2 {
        let name = format!(
            "diffusion_pytorch_model-0000{}-of-00002.safetensors",
            number + 1
        );
        let part = folder.join("unet").join(&name);
        fs::copy(&whole, &part).unwrap();
        rewrite(&part, |tensor| {
            usize::from(tensor.name.starts_with("up_blocks")) == number
        });
        for (tensor, _) in SafeTensors::deserialize(&fs::read(&part).unwrap())
            .unwrap()
            .tensors()
        {
            map.insert(tensor, name.clone().into());
        }
    }
    fs::remove_file(whole).unwrap();
    fs::write(
        folder.join(INDEX),
        json!({"metadata": {}, "weight_map": map}).to_string(),
    )
    .unwrap();
}

#[test]
fn weights_in_several_files_are_read_by_their_index() {
    let (dir, before, folder) = exported(nano(ClassifierKind::Bce), Part::Ema);
    split(&folder);
    let out = dir.path().join("back.safetensors");
    import(&folder, None, &out).unwrap();
    let after = Checkpoint::open(&out).unwrap();
    assert_eq!(bits(&after, Part::Weight), bits(&before, Part::Ema));
    let index = folder.join(INDEX);
    let good = fs::read_to_string(&index).unwrap();
    let change = |from: &str, to: &str| fs::write(&index, good.replace(from, to)).unwrap();
    change("diffusion_pytorch_model-00002", "../elsewhere");
    refused(
        &dir,
        &folder,
        &["weight_map", "names of files beside it", "`../elsewhere"],
    );
    change("\"up_blocks.0.resnets.0.norm1.bias\"", "\"another\"");
    refused(
        &dir,
        &folder,
        &["tensor `up_blocks.0.resnets.0.norm1.bias`", "found nothing"],
    );
    change(
        "\"weight_map\":{",
        "\"weight_map\":{\"more\":\"diffusion_pytorch_model-00001-of-00002.safetensors\",",
    );
    refused(
        &dir,
        &folder,
        &[
            "00001-of-00002.safetensors: tensor `more`",
            "index.json says",
        ],
    );
    change("weight_map", "other");
    refused(&dir, &folder, &["index.json", "missing field `weight_map`"]);
    change("", "");
    fs::write(folder.join(WEIGHTS), "").unwrap();
    refused(
        &dir,
        &folder,
        &["both", "remove the one that is out of date"],
    );
    fs::remove_file(folder.join(WEIGHTS)).unwrap();
    fs::remove_file(folder.join("unet/diffusion_pytorch_model-00002-of-00002.safetensors"))
        .unwrap();
    refused(
        &dir,
        &folder,
        &["00002-of-00002.safetensors: cannot read it"],
    );
}

/// Names of one variant's files, in the forms that diffusers has written: the weights, or an index and its parts.
#[test]
fn variants_are_read() {
    let (dir, before, folder) = exported(nano(ClassifierKind::None), Part::Ema);
    let unet = folder.join("unet");
    let out = dir.path().join("back.safetensors");
    let whole = folder.join(WEIGHTS);
    let rename = |from: &str, to: &str| fs::rename(unet.join(from), unet.join(to)).unwrap();
    let variant_of = |wanted: Option<&str>| {
        let imported = import(&folder, wanted, &out).unwrap();
        let after = Checkpoint::open(&out).unwrap();
        (
            imported.variant,
            bits(&after, Part::Weight) == bits(&before, Part::Ema),
        )
    };
    let named = |name: &str| Some(name.to_owned());
    // Beside the weights of no variant, a variant is read only where it is asked for.
    let fp16 = "diffusion_pytorch_model.fp16.safetensors";
    fs::copy(&whole, unet.join(fp16)).unwrap();
    rewrite(&whole, |tensor| {
        tensor.data[0] ^= 1;
        true
    });
    assert_eq!(variant_of(None), (None, false));
    assert_eq!(variant_of(Some("fp16")), (named("fp16"), true));
    let message = import(&folder, Some("bf16"), &out).unwrap_err().to_string();
    for word in ["expected diffusion_pytorch_model.bf16.safetensors", fp16] {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    // Alone it is the one.
    fs::remove_file(&whole).unwrap();
    assert_eq!(variant_of(None), (named("fp16"), true));
    fs::copy(
        unet.join(fp16),
        unet.join("diffusion_pytorch_model.bf16.safetensors"),
    )
    .unwrap();
    refused(&dir, &folder, &["--variant NAME", "found bf16, fp16"]);
    assert_eq!(variant_of(Some("bf16")), (named("bf16"), true));
    fs::remove_file(unet.join("diffusion_pytorch_model.bf16.safetensors")).unwrap();
    // In several files.
    rename(fp16, "diffusion_pytorch_model.safetensors");
    split(&folder);
    let part = |number: usize| format!("-0000{number}-of-00002.safetensors");
    for number in [1, 2] {
        let name = format!("diffusion_pytorch_model{}", part(number));
        rename(
            &name,
            &format!("diffusion_pytorch_model.fp16{}", part(number)),
        );
    }
    let text = fs::read_to_string(folder.join(INDEX)).unwrap();
    fs::remove_file(folder.join(INDEX)).unwrap();
    for index in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        let index = unet.join(index);
        let text = text.replace("diffusion_pytorch_model-", "diffusion_pytorch_model.fp16-");
        fs::write(&index, text).unwrap();
        assert_eq!(variant_of(None), (named("fp16"), true));
        fs::remove_file(index).unwrap();
    }
    // Parts without their index are nothing.
    refused(
        &dir,
        &folder,
        &[
            "expected diffusion_pytorch_model.safetensors",
            "fp16-00001-of",
        ],
    );
}

/// The folder is refused with a message that has all of `words`, and nothing is written.
fn refused(dir: &TempDir, folder: &Path, words: &[&str]) {
    let out = dir.path().join("refused.safetensors");
    let message = import(folder, None, &out).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    assert!(!out.exists(), "{message}");
}

#[test]
fn a_folder_of_diffusers_alone_is_read_with_the_two_files_of_the_run() {
    let (dir, before, folder) = exported(nano(ClassifierKind::None), Part::Weight);
    let alone = dir.path().join("alone");
    fs::rename(folder.join("unet"), &alone).unwrap();
    refused(&dir, &alone, &["alone/mixture.json: cannot read it"]);
    for file in [MIXTURE, CONFIG] {
        fs::copy(folder.join(file), alone.join(file)).unwrap();
    }
    let out = dir.path().join("back.safetensors");
    import(&alone, None, &out).unwrap();
    let after = Checkpoint::open(&out).unwrap();
    assert_eq!(bits(&after, Part::Weight), bits(&before, Part::Weight));
}

#[test]
fn only_empty_folders_and_our_own_are_written_to() {
    let (dir, checkpoint, folder) = exported(nano(ClassifierKind::Bce), Part::Ema);
    // Ours: what an older export left does not stay to be opened in the new one's place.
    split(&folder);
    export(&checkpoint, Part::Weight, &folder, false, &pool()).unwrap();
    let unet: Vec<_> = fs::read_dir(folder.join("unet"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(unet.len(), 2, "{unet:?}");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "years").unwrap();
    let message = export(&checkpoint, Part::Ema, &other, false, &pool())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`thesis.txt`") && message.contains("--force"),
        "{message}"
    );
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    export(&checkpoint, Part::Ema, &other, true, &pool()).unwrap();
    assert_eq!(fs::read(other.join("thesis.txt")).unwrap(), b"years");
    assert!(other.join(NETWORK).exists());
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let message = export(&checkpoint, Part::Ema, &file, true, &pool())
        .unwrap_err()
        .to_string();
    assert!(message.contains("cannot create the folder"), "{message}");
}

#[test]
fn pictures_of_an_older_export_go_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["Smiling", "Young, or so"].map(str::to_owned);
    let requests = |count: usize| {
        let request = |i: usize| Request::new(&[1, (i % 2) as u8], 0);
        (0..count).map(request).collect::<Vec<_>>()
    };
    let facts = |count: usize| ImageFacts {
        step: 1,
        images_seen: 16,
        weights: "ema",
        attributes: String::new(),
        sampler: "ddim".into(),
        steps: 10,
        seed: 0,
        count,
    };
    let picture = Picture::filled(2, 2, [1, 2, 3]).unwrap();
    let folder = dir.path().join("pictures");
    for count in [3, 2] {
        let (requests, facts) = (requests(count), facts(count));
        let out = ImageFolder::create(&folder, &names, &requests, &facts, false).unwrap();
        for i in 0..count {
            out.save(i, &picture).unwrap();
        }
    }
    let mut found: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(
        found,
        ["000000.png", "000001.png", "attributes.csv", "export.json"]
    );
    let list = fs::read_to_string(folder.join("attributes.csv")).unwrap();
    assert_eq!(
        list,
        "image_id,Smiling,\"Young, or so\"\n000000.png,1,0\n000001.png,1,1\n"
    );
    fs::write(folder.join("export.json"), "{}").unwrap();
    let create = |force| ImageFolder::create(&folder, &names, &requests(1), &facts(1), force);
    let message = create(false).unwrap_err().to_string();
    assert!(message.contains("gmmk export --images"), "{message}");
    // By force: somebody else's pictures stay.
    create(true).unwrap();
    assert!(folder.join("000001.png").exists());
}
