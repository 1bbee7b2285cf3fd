//! `gmmk train --from`: weights of another run, everything else new.

use super::*;
use gmmk::train::checkpoint::{Checkpoint, Part};

/// Steps that move no weight: a rate that f32 does not feel.
const STILL: [&str; 4] = ["--lr", "1e-30", "--steps", "2"];

/// The options of a run from `from`; it takes over the network.
fn from<'a>(out: &'a str, from: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = training(out, more);
    let preset = args.iter().position(|word| *word == "--preset").unwrap();
    args.drain(preset..preset + 2);
    args.extend(["--from", from]);
    args
}

/// Weights as bits; whether all moments are those of a gradient seen `steps` times is told by the counters.
fn bits(path: &Path, part: Part) -> Vec<u32> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let names: Vec<String> = checkpoint
        .specs()
        .iter()
        .map(|spec| spec.name.clone())
        .collect();
    let tensors = names
        .iter()
        .map(|name| checkpoint.tensor(part, name).unwrap().to_vec());
    tensors.flatten().map(f32::to_bits).collect()
}

#[test]
fn a_run_begins_with_the_averaged_weights_of_another() {
    let dir = place();
    let run = text(finished());
    let ran = done(dir.path(), &from("tuned", &run, &STILL));
    let newest = checkpoint(finished(), STEPS);
    let words = format!(
        "beginning with the weights of {}, trained on 160 images",
        text(&newest)
    );
    assert!(ran.err.contains(&words), "{}", ran.err);
    let tuned = checkpoint(&dir.path().join("tuned"), 2);
    let average = bits(&newest, Part::Ema);
    assert!(average != bits(&newest, Part::Weight));
    assert!(bits(&tuned, Part::Weight) == average);
    let info = Checkpoint::open(&tuned).unwrap().info().clone();
    let counters = [
        info.counters.step,
        info.counters.adam_step,
        info.counters.images_seen,
    ];
    assert_eq!(counters, [2, 2, 8]);
    assert_eq!(info.config.from, Some(newest));
    // An imported model has one copy of the weights.
    let export = ["export", "--checkpoint", &run, "--diffusers", "model"];
    done(dir.path(), &export);
    done(
        dir.path(),
        &[
            "import",
            "--diffusers",
            "model",
            "--out",
            "back.safetensors",
        ],
    );
    done(dir.path(), &from("again", "back.safetensors", &STILL));
    let again = checkpoint(&dir.path().join("again"), 2);
    assert!(bits(&again, Part::Weight) == average);
    assert!(bits(&again, Part::AdamM) == bits(&tuned, Part::AdamM));
}

/// Stopped before its first checkpoint, the run begins with the same weights again.
#[test]
fn it_goes_on_as_if_never_stopped() {
    let dir = place();
    let run = text(finished());
    let more = ["--steps", "20", "--seed", "6"];
    done(dir.path(), &from("whole", &run, &more));
    let parts = dir.path().join("parts");
    fs::create_dir(&parts).unwrap();
    fs::copy(
        dir.path().join("whole/config.toml"),
        parts.join("config.toml"),
    )
    .unwrap();
    let resume = ["train", "faces", "--out", "parts", "--resume"];
    let ran = done(dir.path(), &resume);
    for words in [
        "before its first checkpoint",
        "beginning with the weights of",
    ] {
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    let read = |run: &str, step: u64| fs::read(checkpoint(&dir.path().join(run), step)).unwrap();
    assert!(read("whole", 20) == read("parts", 20));
    fs::remove_file(checkpoint(&parts, 20)).unwrap();
    fs::write(
        parts.join("checkpoints/latest"),
        "step-00000010.safetensors\n",
    )
    .unwrap();
    done(dir.path(), &resume);
    assert!(read("whole", 20) == read("parts", 20));
}

#[test]
fn other_networks_and_attributes_are_told() {
    let dir = place();
    let run = text(finished());
    let asked = from("r", &run, &["--classifier", "bce"]);
    fails(
        dir.path(),
        &asked,
        &["--classifier bce", "the classifier `none`"],
    );
    fails(dir.path(), &from("r", "nowhere", &[]), &["nowhere"]);
    let both = [&from("r", &run, &[])[..], &["--preset", "tiny"]].concat();
    misused(dir.path(), &both, &["--preset", "cannot be used with"]);
    // Own pictures with two attributes of their own.
    let pictures = dir.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    let mut list = "name,round,red\n".to_owned();
    for i in 0..8_u8 {
        let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([30 * i; 3]));
        picture.save(pictures.join(format!("{i}.png"))).unwrap();
        list.push_str(&format!("{i}.png,{},{}\n", i % 2, i / 4));
    }
    fs::write(pictures.join("list.csv"), list).unwrap();
    let mut own = from("own", &run, &STILL);
    own[1] = "folder";
    own.extend(["--data", "pictures"]);
    let ran = done(dir.path(), &own);
    assert!(
        ran.err
            .contains("has learnt other attributes (5_o_Clock_Shadow, ..)"),
        "{}",
        ran.err
    );
    let tuned = checkpoint(&dir.path().join("own"), 2);
    assert!(bits(&tuned, Part::Weight) == bits(&checkpoint(finished(), STEPS), Part::Ema));
    assert_eq!(
        Checkpoint::open(&tuned).unwrap().info().attribute_names,
        ["round", "red"]
    );
}
