//! Own pictures on the command line; completions, manual pages and the list of options.

use super::*;

#[test]
fn a_folder_of_own_pictures_is_trained_on() {
    let dir = place();
    let own = dir.path().join("own");
    fs::create_dir_all(own.join("more")).unwrap();
    let mut table = String::from("file,Red Hat,Glasses\n");
    for i in 0..30_u8 {
        let name = format!("more/{i}.png");
        let picture = image::RgbImage::from_pixel(20, 24, image::Rgb([i * 8, 90, 7]));
        picture.save(own.join(&name)).unwrap();
        if i < 28 {
            table += &format!("{name},{},{}\n", i % 2, i / 2 % 2);
        }
    }
    table += "lost.png,0,0\n";
    fs::write(dir.path().join("own.csv"), table).unwrap();
    let data = ["folder", "--data", "own", "--attributes", "own.csv"];
    let short = "--preset nano --batch 4 --threads 1 --steps 2 --out run";
    let short: Vec<&str> = short.split(' ').collect();
    let ran = done(dir.path(), &[&["train"], &data[..], &short].concat());
    for part in [
        "27 pictures to train on, 1 held out; 2 attributes",
        "1 pictures were left out",
        "lost.png: the picture file is missing",
        "2 pictures have no row of attributes and are not used, the first is more/28.png",
    ] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let config = fs::read_to_string(dir.path().join("run/config.toml")).unwrap();
    assert!(config.contains("constant:0.06:100") && config.contains("own.csv"));
    let more = [
        "train", "folder", "--data", "own", "--out", "run", "--resume", "--steps", "3",
    ];
    done(dir.path(), &more);
    let info = [&["data", "info"], &data[..], &["--size", "16"]].concat();
    assert!(done(dir.path(), &info).out.contains("Red Hat"));
    let preview = [
        "data",
        "preview",
        "folder",
        "--data",
        "own",
        "--attributes-file",
        "own.csv",
    ];
    let only = ["--attributes", "red_hat", "--size", "16"];
    let shown = done(dir.path(), &[&preview[..], &only].concat());
    assert!(shown.out.contains("14 of 14 pictures"), "{}", shown.out);
    fails(dir.path(), &["data", "info", "folder"], &["--data DIR"]);
    let other = ["data", "info", "faces", "--attributes", "own.csv"];
    fails(dir.path(), &other, &["only `folder`"]);
}

#[test]
fn completions_and_manual_pages() {
    let dir = place();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = done(dir.path(), &["completions", shell]).out;
        assert!(script.contains("micro-batches"), "{shell}");
    }
    assert!(done(dir.path(), &["man"]).out.contains(".TH gmmk"));
    done(dir.path(), &["man", "--out", "pages"]);
    let page = fs::read_to_string(dir.path().join("pages/gmmk-train.1")).unwrap();
    assert!(page.contains("warmup"));
}

#[test]
fn docs_list_every_option() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let found = fs::read_to_string(path).unwrap().replace("\r\n", "\n");
    let now = done(place().path(), &["options"]).out;
    assert!(
        found == now,
        "docs/options.md is old; make it anew: cargo run -- options > docs/options.md"
    );
}
