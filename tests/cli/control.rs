//! Guidance, strength, ways between attributes, and edits.

use super::*;

/// Picture number `column` of the last row of a sheet, enlarged as it is there (96 x 96, 4 apart).
fn picture(sheet: &Path, column: u32) -> image::RgbImage {
    let sheet = image::open(sheet).unwrap().into_rgb8();
    let (x, y) = (4 + 100 * column, sheet.height() - 100);
    image::imageops::crop_imm(&sheet, x, y, 96, 96).to_image()
}

#[test]
fn guidance_needs_token_dropout() {
    let dir = place();
    let run = text(finished());
    let args = [
        "sample",
        "--checkpoint",
        &run,
        "--guidance",
        "2",
        "--out",
        "s.png",
    ];
    fails(dir.path(), &args, &["--guidance 2", "--token-dropout"]);
    let dropped = training("dropped", &["--token-dropout", "0.2", "--steps", "10"]);
    done(dir.path(), &dropped);
    let draw = |name: &str, more: &[&str]| {
        let base = [
            "sample",
            "--checkpoint",
            "dropped",
            "--count",
            "2",
            "--sampler",
            "dpm++2m",
        ];
        let rest = ["--steps", "4", "--out", name];
        done(dir.path(), &[&base[..], &rest, more].concat());
        picture(&dir.path().join(name), 1)
    };
    let plain = draw("a.png", &[]);
    assert!(plain == draw("b.png", &["--guidance", "1"]));
    assert!(plain != draw("c.png", &["--guidance", "3"]));
}

#[test]
fn ways_end_where_they_should() {
    let dir = place();
    let run = text(finished());
    let draw = |name: &str, column: u32, more: &[&str]| {
        let base = [
            "sample",
            "--checkpoint",
            &run,
            "--count",
            "1",
            "--others",
            "none",
        ];
        let rest = ["--steps", "4", "--out", name];
        done(dir.path(), &[&base[..], &rest, more].concat());
        picture(&dir.path().join(name), column)
    };
    let end = draw("a.png", 0, &["--attributes", "Smiling,Male"]);
    let way = ["--attributes", "Smiling", "--to", "Male", "--frames", "3"];
    assert!(end == draw("b.png", 2, &way));
    assert!(end != draw("b.png", 0, &way));
    let strong = ["--attributes", "Smiling", "--strength", "0"];
    assert!(draw("c.png", 0, &strong) == draw("d.png", 0, &["--attributes", "-Smiling"]));
    let args = [
        "sample",
        "--checkpoint",
        &run,
        "--strength",
        "2",
        "--out",
        "s.png",
    ];
    fails(dir.path(), &args, &["--strength 2", "--attributes"]);
}

#[test]
fn an_edit_of_strength_0_is_the_picture() {
    let dir = place();
    let run = text(finished());
    let small =
        image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([x as u8 * 16, y as u8 * 16, 90]));
    small.save(dir.path().join("p.png")).unwrap();
    let edit = |strength: &str| {
        let base = [
            "edit",
            "--checkpoint",
            &run,
            "--image",
            "p.png",
            "--attributes",
            "Smiling",
        ];
        let rest = ["--strength", strength, "--threads", "1", "--out", "e.png"];
        done(dir.path(), &[&base[..], &rest].concat());
        picture(&dir.path().join("e.png"), 2)
    };
    let large = image::imageops::resize(&small, 96, 96, image::imageops::FilterType::Nearest);
    assert!(edit("0") == large);
    assert!(edit("0.6") != large);
    let args = [
        "edit",
        "--checkpoint",
        &run,
        "--image",
        "none.png",
        "--attributes",
        "Smiling",
    ];
    fails(
        dir.path(),
        &[&args[..], &["--out", "x.png"]].concat(),
        &["none.png"],
    );
}
