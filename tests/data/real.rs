//! Real pictures, where they are at hand.

use gmmk::data::{Celeba, Cifar10};

use super::*;

/// The folder of real samples, where there is one.
fn shared(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("GMMK_SHARED").map(PathBuf::from);
    let folder = given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"))
        .join("data")
        .join(name);
    if !folder.is_dir() {
        println!(
            "skipped: {} is not there (set GMMK_SHARED)",
            folder.display()
        );
        return None;
    }
    Some(folder)
}

fn write_sheet(packed: &Packed, name: &str) {
    // Looked at by people; only where they ask for it.
    let Some(folder) = std::env::var_os("GMMK_SHEETS").map(PathBuf::from) else {
        return;
    };
    let size = packed.size();
    let mut sheet = image::RgbImage::new(8 * size, 4 * size);
    for i in 0..32_u32 {
        let picture =
            image::RgbImage::from_raw(size, size, packed.image(i as usize).to_vec()).unwrap();
        image::imageops::replace(
            &mut sheet,
            &picture,
            (i % 8 * size).into(),
            (i / 8 * size).into(),
        );
    }
    sheet.save(folder.join(format!("{name}.png"))).unwrap();
}

#[test]
fn real_samples_of_celeba() {
    let mut means = Vec::new();
    for (name, train, held_out) in [("celeba_sample", 980, 20), ("celeba_half", 7424, 578)] {
        let Some(folder) = shared(name) else {
            return;
        };
        let cache = tempfile::tempdir().unwrap();
        let start = std::time::Instant::now();
        let source = Celeba::open(&folder).unwrap();
        let opened = start.elapsed().as_secs_f64();
        let packed = pack(&source, 64, cache.path());
        let rate = packed.len() as f64 / (start.elapsed().as_secs_f64() - opened);
        println!(
            "{name}: opened in {opened:.3} s, packed {} at {rate:.0} pictures/s",
            packed.len()
        );
        write_sheet(&packed, name);
        let info = packed.info();
        assert_eq!(
            (info.train, info.held_out, info.left_out_count),
            (train, held_out, 0)
        );
        assert_eq!(packed.attribute_names(), gmmk::data::attributes::CELEBA);
        means.extend(info.mean);
        if name == "celeba_sample" {
            let count = |name: &str| {
                info.attribute_counts
                    .iter()
                    .find(|(known, _)| known == name)
                    .unwrap()
                    .1
            };
            let counts = [
                "Male",
                "Smiling",
                "Eyeglasses",
                "Blond_Hair",
                "Black_Hair",
                "Young",
                "Wearing_Hat",
                "Bald",
            ];
            assert_eq!(counts.map(count), [432, 510, 65, 148, 254, 754, 44, 22]);
        }
    }
    // The same part of the face at both sizes.
    assert!(
        (0..3).all(|c| (means[c] - means[3 + c]).abs() < 0.02),
        "{means:?}"
    );
}

#[test]
fn real_sample_of_cifar10() {
    let Some(folder) = shared("cifar10_sample") else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let packed = pack(&Cifar10::open(&folder).unwrap(), 32, cache.path());
    write_sheet(&packed, "cifar10_sample");
    let info = packed.info();
    assert_eq!((info.train, info.held_out), (2000, 500));
    assert!(
        info.attribute_counts.iter().all(|&(_, count)| count == 250),
        "{info:?}"
    );
    // Near the means of all 50,000 training pictures.
    let whole = [0.491, 0.482, 0.447];
    assert!(
        (0..3).all(|c| (info.mean[c] - whole[c]).abs() < 0.02),
        "{:?}",
        info.mean
    );
}
