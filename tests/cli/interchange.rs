//! Models for diffusers and pictures for other programs, written and read back.

use super::*;

#[test]
fn an_imported_model_draws_the_same_pictures() {
    let dir = place();
    let run = text(finished());
    let ran = done(
        dir.path(),
        &["export", "--checkpoint", &run, "--diffusers", "model"],
    );
    let words = "wrote model: 54939 numbers in 176 tensors (ema weights); try: python model/sample.py --check";
    assert_eq!(ran.out.trim(), words);
    for name in ["README.md", "sample.py", "unet/config.json"] {
        assert!(dir.path().join("model").join(name).is_file(), "{name}");
    }
    let import = [
        "import",
        "--diffusers",
        "model",
        "--out",
        "back.safetensors",
    ];
    let ran = done(dir.path(), &import);
    let words = "wrote back.safetensors: 54939 numbers in 176 tensors (from F32)";
    assert_eq!(ran.out.trim(), words);
    for (checkpoint, out) in [(run.as_str(), "a.png"), ("back.safetensors", "b.png")] {
        let sample = ["sample", "--checkpoint", checkpoint, "--count", "3"];
        let more = ["--steps", "6", "--out", out];
        done(dir.path(), &[&sample[..], &more].concat());
    }
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("a.png") == read("b.png"));
    fails(dir.path(), &import, &["back.safetensors", "--force"]);
    done(dir.path(), &[&import[..], &["--force"]].concat());
    // The last step's weights are others, and the folder is ours to replace.
    let raw = ["export", "--checkpoint", &run, "--diffusers", "model"];
    done(dir.path(), &[&raw[..], &["--weights", "raw"]].concat());
    done(dir.path(), &[&import[..], &["--force"]].concat());
    let sample = ["sample", "--checkpoint", "back.safetensors", "--count", "3"];
    let more = ["--steps", "6", "--out", "b.png"];
    done(dir.path(), &[&sample[..], &more].concat());
    assert!(read("a.png") != read("b.png"));
}

#[test]
fn a_folder_of_pictures_does_not_depend_on_the_batch() {
    let dir = place();
    let run = text(finished());
    let draw = |out: &str, more: &[&str]| {
        let base = ["export", "--checkpoint", &run, "--images", out];
        let own = ["--count", "5", "--steps", "4", "--threads", "1"];
        let ran = done(dir.path(), &[&base[..], &own, more].concat());
        let words = format!("wrote {out}: 5 pictures and attributes.csv");
        assert_eq!(ran.out.trim(), words);
        contents(&dir.path().join(out))
    };
    let whole = draw("whole", &["--attributes", "Smiling,-Male"]);
    let names: Vec<&str> = whole.keys().map(String::as_str).collect();
    let pictures = [
        "000000.png",
        "000001.png",
        "000002.png",
        "000003.png",
        "000004.png",
    ];
    assert_eq!(
        names,
        [&pictures[..], &["attributes.csv", "export.json"]].concat()
    );
    let parts = draw("parts", &["--attributes", "Smiling,-Male", "--batch", "2"]);
    assert!(whole == parts);
    let picture = image::open(dir.path().join("whole/000004.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (16, 16));
    let list = String::from_utf8(whole["attributes.csv"].clone()).unwrap();
    let rows: Vec<Vec<&str>> = list.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!((rows.len(), rows[0].len(), rows[0][0]), (6, 41, "image_id"));
    let column = |name: &str| rows[0].iter().position(|n| *n == name).unwrap();
    for (row, picture) in rows[1..].iter().zip(pictures) {
        assert_eq!(row[0], picture);
        assert_eq!([row[column("Smiling")], row[column("Male")]], ["1", "0"]);
        assert!(row[1..].iter().all(|value| ["0", "1"].contains(value)));
    }
    // Again into the same folder, with every option that makes other pictures.
    for more in [
        &["--seed", "1"][..],
        &["--weights", "raw"],
        &["--sampler", "ddpm"],
        &["--fixed-z"],
        &["--others", "none"],
    ] {
        assert!(draw("whole", more) != draw("parts", &[]), "{more:?}");
    }
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = listing(folder).into_keys();
    files
        .map(|name| (text(&name), fs::read(folder.join(name)).unwrap()))
        .collect()
}

#[test]
fn export_and_import_refuse_what_they_cannot_do() {
    let dir = place();
    let run = text(finished());
    let export = |more: &'static [&'static str]| {
        let base: Vec<String> = ["export", "--checkpoint", &run].map(str::to_owned).to_vec();
        base.into_iter()
            .chain(more.iter().map(|&m| m.to_owned()))
            .collect::<Vec<String>>()
    };
    for (more, words) in [
        (&[][..], &["--diffusers <DIR>|--images <DIR>"][..]),
        (
            &["--diffusers", "a", "--images", "b", "--count", "1"],
            &["cannot be used with"],
        ),
        (
            &["--diffusers", "a", "--seed", "1"],
            &["cannot be used with", "--seed"],
        ),
        (
            &["--diffusers", "a", "--device", "cpu"],
            &["cannot be used with", "--device"],
        ),
        (&["--images", "a"], &["--count"]),
        (&["--images", "a", "--count", "0"], &["1..=1000000"]),
        (
            &["--images", "a", "--count", "2", "--batch", "0"],
            &["1..=4096"],
        ),
    ] {
        let args = export(more);
        misused(
            dir.path(),
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            words,
        );
    }
    fs::write(dir.path().join("letter.txt"), "dear").unwrap();
    for (more, words) in [
        (
            &["--diffusers", "."][..],
            &["`letter.txt`", "--diffusers"][..],
        ),
        (
            &["--images", ".", "--count", "1", "--threads", "1"],
            &["`letter.txt`", "--images"],
        ),
        (
            &["--images", "a", "--count", "1", "--attributes", "Smilin"],
            &["did you mean Smiling"],
        ),
        (
            &["--images", "a", "--count", "1", "--steps", "101"],
            &["1 to 100"],
        ),
        (
            &["--images", "letter.txt", "--count", "1"],
            &["letter.txt", "cannot create the folder"],
        ),
    ] {
        let args = export(more);
        fails(
            dir.path(),
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            words,
        );
    }
    let import = ["import", "--diffusers", ".", "--out"];
    fails(
        dir.path(),
        &[&import[..], &["m"]].concat(),
        &["unet/config.json", "neither"],
    );
    fails(
        dir.path(),
        &[&import[..], &["no/m"]].concat(),
        &["there is no folder no"],
    );
    fails(
        dir.path(),
        &[&import[..], &["."]].concat(),
        &["a checkpoint's file name"],
    );
}
