//! Tests of checkpoints: round trips, every kind of damage, folders.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::train::config::DataKind;

/// Value = hash of (part, tensor, place): any mix-up shows.
struct Numbers {
    tensors: Vec<TensorSpec>,
    parts: Vec<Part>,
    fail_at: Option<(Part, usize)>,
}

fn value(part: Part, index: usize, e: usize) -> f32 {
    part as usize as f32 * 1000.0 + index as f32 * 100.0 + e as f32 + 0.25
}

impl TensorSource for Numbers {
    fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    fn parts(&self) -> &[Part] {
        &self.parts
    }

    fn read(
        &mut self,
        part: Part,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.fail_at == Some((part, index)) {
            return Err("device lost".into());
        }
        for (e, out) in out.iter_mut().enumerate() {
            *out = value(part, index, e);
        }
        Ok(())
    }
}

fn numbers() -> Numbers {
    let tensors = [
        ("z.conv.weight", vec![2, 1, 3, 3]),
        ("a.bias", vec![3]),
        ("empty", vec![0, 4]),
        ("scalar", vec![]),
    ];
    Numbers {
        tensors: tensors
            .map(|(name, shape)| TensorSpec {
                name: name.into(),
                shape,
            })
            .to_vec(),
        parts: Part::ALL.to_vec(),
        fail_at: None,
    }
}

fn info(step: u64) -> CheckpointInfo {
    CheckpointInfo {
        config: RunConfig::new(DataKind::Faces, "nano"),
        counters: Counters {
            step,
            images_seen: 16 * step,
            adam_step: step.saturating_sub(1),
            skipped: 1,
        },
        attribute_names: (0..11).map(|i| format!("Name_\"{i}\"")).collect(),
        attribute_rows: (0..5)
            .map(|r| (0..11).map(|k| ((r * k) % 3 == 1) as u8).collect())
            .collect(),
        network: json!({"sample_size": 16, "time_embedding_dim": null}),
    }
}

fn saved(dir: &Path, step: u64) -> PathBuf {
    save(dir, &mut numbers(), &info(step)).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path(), 1000);
    assert_eq!(names(dir.path()), ["latest", "step-00001000.safetensors"]);
    let open = Checkpoint::open(&path).unwrap();
    assert_eq!(open.info(), &info(1000));
    assert_eq!(open.specs().len(), 4);
    open.check_network(&numbers().tensors).unwrap();
    for part in Part::ALL {
        for (index, spec) in numbers().tensors.iter().enumerate() {
            let values = open.tensor(part, &spec.name).unwrap();
            let want: Vec<f32> = (0..spec.len()).map(|e| value(part, index, e)).collect();
            assert_eq!(*values, want, "{part:?} {}", spec.name);
        }
    }
    assert!(matches!(
        open.tensor(Part::Ema, "b"),
        Err(CheckpointError::NoTensor { .. })
    ));
    let again = saved(&dir.path().join("."), 1000);
    assert_eq!(
        fs::read(path).unwrap(),
        fs::read(again).unwrap(),
        "the bytes must be reproducible"
    );
}

#[test]
fn other_readers_of_safetensors_accept_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(saved(dir.path(), 1)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 16);
    let tensor = file.tensor("adam_v.a.bias").unwrap();
    assert_eq!(
        (tensor.dtype(), tensor.shape()),
        (safetensors::Dtype::F32, &[3][..])
    );
    assert_eq!(tensor.data()[..4], value(Part::AdamV, 1, 0).to_le_bytes());
}

#[test]
fn a_model_without_optimizer_state_can_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imported.safetensors");
    let mut source = numbers();
    source.parts = vec![Part::Weight, Part::Ema];
    write_file(&path, &mut source, &info(0)).unwrap();
    let open = Checkpoint::open(&path).unwrap();
    assert_eq!(open.parts(), [Part::Weight, Part::Ema]);
    let missing = open.tensor(Part::AdamM, "a.bias").unwrap_err().to_string();
    assert!(missing.contains("adam_m.a.bias"), "{missing}");
}

/// No single changed byte may pass, wherever it is; the message names the file.
#[test]
fn every_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(saved(dir.path(), 7)).unwrap();
    let path = dir.path().join("bad.safetensors");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let error = Checkpoint::open(&path).expect_err("a flipped byte passed");
        let message = error.to_string();
        assert!(message.contains("bad.safetensors"), "byte {at}: {message}");
    }
}

#[test]
fn every_truncation_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let good = fs::read(saved(dir.path(), 7)).unwrap();
    let path = dir.path().join("bad.safetensors");
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        let error = Checkpoint::open(&path).expect_err("a truncated file passed");
        let message = error.to_string();
        assert!(
            matches!(error, CheckpointError::Damaged { .. }) && message.contains("expected"),
            "{len}: {message}"
        );
    }
    fs::write(&path, [&good[..], &[0; 4]].concat()).unwrap();
    let longer = Checkpoint::open(&path).unwrap_err().to_string();
    let want = format!("expected {} bytes", good.len());
    assert!(
        longer.contains(&want) && longer.contains("another checkpoint"),
        "{longer}"
    );
}

#[test]
fn foreign_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path).unwrap_err()
    };
    let png = open(b"\x89PNG\r\n\x1a\n and more of a picture");
    assert!(matches!(png, CheckpointError::Foreign { .. }), "{png}");
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  "#;
    let diffusers = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let diffusers = open(&diffusers).to_string();
    assert!(diffusers.contains("gmmk import"), "{diffusers}");
    let good = fs::read(saved(dir.path(), 7)).unwrap();
    let newer = String::from_utf8_lossy(&good[8..])
        .find("\"format_version\":\"1\"")
        .unwrap();
    let mut bytes = good;
    bytes[8 + newer + "\"format_version\":\"".len()] = b'2';
    assert!(matches!(open(&bytes), CheckpointError::Version { .. }));
    assert!(Checkpoint::open(&dir.path().join("none")).is_err());
    assert!(Checkpoint::open(dir.path()).is_err());
}

#[test]
fn another_network_is_described() {
    let dir = tempfile::tempdir().unwrap();
    let open = Checkpoint::open(&saved(dir.path(), 7)).unwrap();
    let mut tensors = numbers().tensors;
    tensors[1].shape = vec![4];
    tensors[2].name = "full".into();
    let message = open.check_network(&tensors).unwrap_err().to_string();
    for part in [
        "`a.bias` is [3], expected [4]",
        "`full` [0, 4] is missing",
        "`empty` [0, 4] is not expected",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_cannot_be_stored_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let try_save = |change: &dyn Fn(&mut Numbers, &mut CheckpointInfo)| {
        let (mut source, mut info) = (numbers(), info(3));
        change(&mut source, &mut info);
        let message = save(dir.path(), &mut source, &info)
            .unwrap_err()
            .to_string();
        assert!(names(dir.path()).is_empty(), "{message}");
        message
    };
    assert!(
        try_save(&|s, _| s.fail_at = Some((Part::AdamM, 1)))
            .contains("`adam_m.a.bias` failed: device lost")
    );
    assert!(try_save(&|s, _| s.tensors[0].name = "a.bias".into()).contains("`a.bias`"));
    assert!(try_save(&|s, _| s.tensors[0].name = "ema.x".into()).contains("`ema.x`"));
    assert!(try_save(&|s, _| s.parts = vec![Part::Ema]).contains("Weight"));
    assert!(try_save(&|_, i| i.attribute_rows[2][0] = 2).contains("row 2"));
    assert!(try_save(&|_, i| i.attribute_rows[2] = vec![0]).contains("11 values"));
    assert!(try_save(&|_, i| i.attribute_rows = vec![vec![0; 11]; 1001]).contains("at most 1000"));
    assert!(try_save(&|_, i| i.config.lr = -1.0).contains("`lr`"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_says_how_much_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let size = fs::metadata(saved(dir.path(), 7)).unwrap().len();
    let mut full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let path = dir.path().join("x.safetensors");
    let metadata = serde_json::Map::new();
    let error = write::write_to(&mut full, &path, &mut numbers(), &metadata).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("no space left") && message.contains("needed"),
        "{message}"
    );
    assert!(size > 1000);
}

#[test]
fn the_latest_is_found_and_a_missing_one_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path();
    assert!(matches!(
        resolve(run),
        Err(CheckpointError::NoneFound { .. })
    ));
    assert!(resolve(&run.join("nothing")).is_err());
    let folder = run.join("checkpoints");
    fs::create_dir(&folder).unwrap();
    let paths: Vec<_> = [1, 2, 3].map(|step| saved(&folder, step)).into();
    let found = |want: &Path, noted: bool| {
        for place in [run, &folder] {
            let resolved = resolve(place).unwrap();
            assert_eq!(
                (resolved.path.as_path(), resolved.note.is_some()),
                (want, noted)
            );
        }
    };
    found(&paths[2], false);
    assert_eq!(resolve(&paths[0]).unwrap().path, paths[0]);
    fs::write(folder.join("latest"), "step-00000002.safetensors").unwrap();
    found(&paths[1], false);
    for pointer in ["step-00000009.safetensors\n", "../x", "", "\u{0}\u{0}"] {
        fs::write(folder.join("latest"), pointer).unwrap();
        found(&paths[2], true);
    }
    fs::remove_file(folder.join("latest")).unwrap();
    fs::write(&paths[2], b"half a checkpoint").unwrap();
    found(&paths[1], true);
    let note = resolve(run).unwrap().note.unwrap();
    assert!(
        note.contains("refused") && note.contains("step-00000003"),
        "{note}"
    );
    for path in &paths {
        fs::write(path, b"half a checkpoint").unwrap();
    }
    let none = resolve(run).unwrap_err().to_string();
    assert!(none.contains("step-00000001"), "{none}");
}

#[test]
fn pruning_keeps_the_newest_the_milestones_and_the_latest() {
    let dir = tempfile::tempdir().unwrap();
    for step in 0..=25 {
        fs::write(dir.path().join(file_name(step * 100)), b"").unwrap();
    }
    fs::write(dir.path().join("latest"), file_name(1500)).unwrap();
    fs::write(dir.path().join("step-5.safetensors"), b"not ours").unwrap();
    assert_eq!(prune(dir.path(), 100).unwrap().len(), 20);
    let kept: Vec<u64> = list(dir.path())
        .unwrap()
        .into_iter()
        .map(|(step, _)| step)
        .collect();
    assert_eq!(kept, [1000, 1500, 2000, 2300, 2400, 2500]);
    assert!(dir.path().join("step-5.safetensors").exists());
    assert!(prune(&dir.path().join("none"), 100).unwrap().is_empty());
    fs::write(dir.path().join(".step-00000007.safetensors.44.tmp"), b"").unwrap();
    assert_eq!(clean(dir.path()).unwrap().len(), 1);
}

#[test]
fn rows_of_any_width_come_back() {
    for width in [0, 1, 7, 8, 9, 40] {
        let rows: Vec<Vec<u8>> = (0..9)
            .map(|r| {
                (0..width)
                    .map(|k| ((r * 7 + k * 5) % 3 == 0) as u8)
                    .collect()
            })
            .collect();
        let text = rows::encode(&rows, width, MAX_ROWS).unwrap();
        assert_eq!(rows::decode(&text, width).unwrap(), rows, "{text}");
    }
    for (text, width) in [
        ("0", 4),
        ("ff", 4),
        ("gg", 8),
        ("00,", 8),
        ("\u{e9}", 8),
        ("+1", 8),
    ] {
        assert_eq!(rows::decode(text, width), None, "{text}");
    }
}
