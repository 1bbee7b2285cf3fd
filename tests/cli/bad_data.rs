//! Data that is not there, or not what it should be, and disks that are full.

use super::*;

const NAMES: [&str; 3] = ["Bald", "Smiling", "Young"];

/// A CelebA of `count` flat pictures in `folder/faces`; its path for `--data`.
pub fn celeba(folder: &Path, count: usize) -> String {
    let data = folder.join("faces");
    fs::create_dir_all(data.join("img_align_celeba")).unwrap();
    for i in 0..count {
        let colour = image::Rgb([(i * 9 % 256) as u8, 90, (i * 31 % 256) as u8]);
        let picture = image::RgbImage::from_pixel(36, 44, colour);
        picture.save(picture_path(&data, i)).unwrap();
    }
    write_list(&data, count, |_, row| row);
    text(data)
}

fn picture_path(data: &Path, i: usize) -> PathBuf {
    data.join(format!("img_align_celeba/{:06}.jpg", i + 1))
}

/// The attribute list, each row as `change` makes it.
fn write_list(data: &Path, count: usize, change: impl Fn(usize, String) -> String) {
    let rows: String = (0..count)
        .map(|i| {
            let value = |k: usize| {
                if (i >> k).is_multiple_of(2) {
                    "1"
                } else {
                    "-1"
                }
            };
            let row = format!("{:06}.jpg {} {} {}", i + 1, value(0), value(1), value(2));
            change(i, row) + "\n"
        })
        .collect();
    let text = format!("{count}\n{}\n{rows}", NAMES.join(" "));
    fs::write(data.join("list_attr_celeba.txt"), text).unwrap();
}

fn train<'a>(set: &'a str, data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let short = "--preset nano --batch 4 --lr 0.003 --threads 1 --steps 2 --out run";
    let mut args = vec!["train", set, "--data", data];
    args.extend(short.split(' '));
    args.extend(more);
    args
}

#[test]
fn own_pictures_are_trained_on() {
    let dir = place();
    let data = celeba(dir.path(), 60);
    let ran = done(dir.path(), &train("celeba", &data, &[]));
    assert!(
        ran.err
            .contains("59 pictures to train on, 1 held out; 3 attributes")
    );
    let sample = [
        "sample",
        "--checkpoint",
        "run",
        "--count",
        "2",
        "--out",
        "a.png",
    ];
    done(
        dir.path(),
        &[&sample[..], &["--attributes", "smiling,-Young"]].concat(),
    );
}

#[test]
fn a_folder_without_the_data_set_says_what_was_looked_for() {
    let dir = place();
    for set in ["celeba", "cifar10"] {
        let words = ["nowhere", "looked for", "--data"];
        fails(dir.path(), &train(set, "nowhere", &[]), &words);
        fails(
            dir.path(),
            &["data", "info", set, "--data", "nowhere"],
            &words,
        );
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        let words = ["empty", "the folder is empty", "looked for"];
        fails(dir.path(), &train(set, "empty", &[]), &words);
    }
    let none = ["train", "cifar10", "--preset", "nano"];
    fails(
        dir.path(),
        &none,
        &["no cifar10", "$GMMK_DATA", "--data DIR"],
    );
    let words = ["faces have no folder", "did you mean `celeba`?"];
    fails(dir.path(), &train("faces", "empty", &[]), &words);
}

#[test]
fn a_half_unpacked_data_set_is_refused() {
    let dir = place();
    let data = celeba(dir.path(), 40);
    for i in 25..40 {
        fs::remove_file(picture_path(Path::new(&data), i)).unwrap();
    }
    let words = ["15 of the 40 pictures", "000026.jpg (line 28)", "Unpack"];
    fails(dir.path(), &train("celeba", &data, &[]), &words);
    fs::remove_dir_all(Path::new(&data).join("img_align_celeba")).unwrap();
    fails(
        dir.path(),
        &train("celeba", &data, &[]),
        &["img_align_celeba", "looked for"],
    );
    let data = celeba(dir.path(), 4);
    fs::remove_file(Path::new(&data).join("list_attr_celeba.txt")).unwrap();
    fails(
        dir.path(),
        &train("celeba", &data, &[]),
        &["list_attr_celeba.txt"],
    );
}

#[test]
fn a_wrong_row_of_the_attribute_list_is_named() {
    let dir = place();
    let data = celeba(dir.path(), 40);
    let with_row = |row: &'static str| {
        write_list(
            Path::new(&data),
            40,
            |i, old| if i == 9 { row.into() } else { old },
        );
    };
    let line = "list_attr_celeba.txt:12";
    with_row("000010.jpg 1 -1");
    fails(
        dir.path(),
        &train("celeba", &data, &[]),
        &[line, "expected", "3", "found", "2"],
    );
    with_row("000010.jpg 1 -1 7");
    fails(dir.path(), &train("celeba", &data, &[]), &[line, "`7`"]);
    write_list(Path::new(&data), 40, |_, row| row);
    let list = Path::new(&data).join("list_attr_celeba.txt");
    let short = fs::read_to_string(&list).unwrap().replacen("40", "41", 1);
    fs::write(list, short).unwrap();
    fails(
        dir.path(),
        &train("celeba", &data, &[]),
        &["list_attr_celeba.txt", "41", "40"],
    );
}

#[test]
fn a_picture_that_cannot_be_read_is_left_out_and_named() {
    let dir = place();
    let data = celeba(dir.path(), 40);
    let cut = picture_path(Path::new(&data), 6);
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(picture_path(Path::new(&data), 8), "no picture").unwrap();
    let ran = done(dir.path(), &train("celeba", &data, &[]));
    assert!(ran.err.contains("2 pictures were left out"), "{}", ran.err);
    assert!(ran.err.contains("000007.jpg: truncated"), "{}", ran.err);
    assert!(ran.err.contains("000009.jpg: "), "{}", ran.err);
    let info = ["data", "info", "celeba", "--size", "16", "--data", &data];
    let info = done(dir.path(), &info).out;
    assert!(info.contains("left out: 2"), "{info}");
    assert!(info.contains("000007.jpg (row 6): truncated"), "{info}");
    for i in 0..40 {
        fs::write(picture_path(Path::new(&data), i), "no picture").unwrap();
    }
    let words = ["none of the 40 pictures can be read", "000001.jpg"];
    let mut args = train("celeba", &data, &[]);
    args.retain(|a| !["--out", "run"].contains(a));
    fails(dir.path(), &args, &words);
}

#[test]
fn damaged_cifar10_is_refused() {
    let dir = place();
    let data = dir.path().join("cifar");
    fs::create_dir(&data).unwrap();
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
    fs::write(data.join("batches.meta.txt"), names).unwrap();
    let record = |label: u8| [&[label][..], &[label * 20; 3072]].concat();
    let batch: Vec<u8> = (0..10).flat_map(record).collect();
    for i in 1..=5 {
        fs::write(data.join(format!("data_batch_{i}.bin")), &batch).unwrap();
    }
    let data = text(data);
    let file = Path::new(&data).join("data_batch_3.bin");
    fails(
        dir.path(),
        &train("cifar10", &data, &[]),
        &["test_batch.bin"],
    );
    fs::write(Path::new(&data).join("test_batch.bin"), &batch).unwrap();
    fs::write(&file, &batch[..batch.len() - 7]).unwrap();
    fails(
        dir.path(),
        &train("cifar10", &data, &[]),
        &["data_batch_3.bin", "3073"],
    );
    let mut wrong = batch.clone();
    wrong[3073] = 10;
    fs::write(&file, &wrong).unwrap();
    let words = ["data_batch_3.bin", "offset 3073", "10"];
    fails(dir.path(), &train("cifar10", &data, &[]), &words);
    fs::write(&file, &batch).unwrap();
    let one = "--schedule constant:0.06:10".split(' ').collect::<Vec<_>>();
    done(dir.path(), &train("cifar10", &data, &one));
    let sample = [
        "sample",
        "--checkpoint",
        "run",
        "--count",
        "1",
        "--out",
        "a.png",
    ];
    let class = |name| [&sample[..], &["--attributes", name]].concat();
    done(dir.path(), &class("frog"));
    fails(
        dir.path(),
        &class("forg"),
        &["`forg`", "did you mean frog?"],
    );
    fails(dir.path(), &class("frog,cat"), &["exactly one class name"]);
}

/// A small disk of its own, where the system lets us have one.
#[cfg(target_os = "linux")]
struct Disk(TempDir);

#[cfg(target_os = "linux")]
impl Disk {
    fn new(kib: u32) -> Option<Self> {
        let dir = place();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "gmmk-test"])
            .arg(dir.path());
        if !mount.output().is_ok_and(|o| o.status.success()) {
            println!("skipped: no right to mount a small disk, so a full one was not tried");
            return None;
        }
        Some(Self(dir))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_a_run_and_harms_nothing() {
    // Room for one or two checkpoints of about 0.9 MiB, not for three.
    let Some(disk) = Disk::new(2500) else { return };
    let disk = disk.0.path();
    let ran = run(disk, &training("run", &["--save-every", "5"]));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let message = ran.message();
    for word in [
        "run/checkpoints/step-",
        "no space left",
        "needed",
        "free some space",
    ] {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
    let names = listing(disk);
    assert!(
        !names.keys().any(|n| text(n).ends_with(".tmp")),
        "{names:?}"
    );
    let newest = newest(&disk.join("run"));
    assert!(newest > 0);
    done(
        disk,
        &[
            "sample",
            "--checkpoint",
            "run",
            "--count",
            "1",
            "--steps",
            "2",
            "--out",
            "a.png",
        ],
    );
    // With room again it goes on.
    let more = Command::new("mount")
        .args(["-o", "remount,size=9000k"])
        .arg(disk)
        .status();
    assert!(more.unwrap().success());
    done(disk, &training("run", &["--resume"]));
    let bytes = |run: &Path| fs::read(checkpoint(run, STEPS)).unwrap();
    assert!(!bytes(&disk.join("run")).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_stops_packing_and_leaves_nothing() {
    let Some(disk) = Disk::new(1000) else { return };
    let dir = place();
    let mut command = gmmk(dir.path(), &["data", "pack", "faces", "--size", "16"]);
    let ran = Ran::from(command.env("GMMK_CACHE", disk.0.path()).output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let message = ran.message();
    for word in ["the disk is full", "bytes", "GMMK_CACHE"] {
        assert!(message.contains(word), "no {word:?} in {message}");
    }
    let left: Vec<_> = listing(disk.0.path())
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect();
    assert_eq!(left, [], "nothing but the lock");
}
