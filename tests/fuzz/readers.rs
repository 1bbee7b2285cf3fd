//! The readers, their good files and their words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gmmk::data::picture::decode_picture;
use gmmk::data::{Celeba, Cifar10, DataError, Packed, PictureFolder, Source, open_or_pack};
use gmmk::device::Device;
use gmmk::device::pool::Pool;
use gmmk::evaluate::classifier::AttributeClassifier;
use gmmk::model::NetworkConfig;
use gmmk::tape::Arena;
use gmmk::tape::state::State;
use gmmk::train::checkpoint::{self, Checkpoint};
use gmmk::train::config::RunConfig;
use gmmk::train::runs::Run;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::{restore, specs};
use tempfile::TempDir;

use super::change::change;
use super::outside::cache::Cache;
use super::outside::numbers::read_numbers;
use super::outside::nvrtc::Image;
use super::{Reader, formats, fuzz};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

pub fn place() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What a result says, in words.
fn words<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "good".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A picture of 16x16 pixels.
fn picture(i: usize) -> image::RgbImage {
    let colour =
        |x: u32, y: u32| image::Rgb([x, y, x * y].map(|v| (v as usize * 13 + 31 * i) as u8));
    image::RgbImage::from_fn(16, 16, colour)
}

fn encoded(i: usize, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(i).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Twelve pictures, `000001.png` and so on, in `folder`.
fn pictures(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for i in 1..=12 {
        let bytes = encoded(i, image::ImageFormat::Png);
        fs::write(folder.join(format!("{i:06}.png")), bytes).unwrap();
    }
}

/// The table of their attributes, as a CSV file.
fn table() -> String {
    let row = |i: usize| format!("{i:06}.png,{},{}\n", i % 2, i / 2 % 2);
    let rows: String = (1..=12).map(row).collect();
    format!("image_id,Smiling,Young\n{rows}")
}

/// What `gmmk` makes: a run, a classifier, and a model of diffusers.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let new = || {
        let dir = place();
        pictures(&dir.path().join("pictures"));
        fs::write(dir.path().join("pictures/attributes.csv"), table()).unwrap();
        for command in [
            "train folder --data pictures --preset nano --batch 2 --steps 2 --sample-every 1 --threads 1 --out run",
            "train-classifier folder --data pictures --size 16 --steps 1 --threads 1 --out judge.safetensors",
            "export --checkpoint run --diffusers model",
            "import --diffusers model --out small.safetensors",
        ] {
            let mut gmmk = Command::new(env!("CARGO_BIN_EXE_gmmk"));
            gmmk.args(command.split(' ')).current_dir(dir.path());
            let output = gmmk.env("GMMK_CACHE", dir.path()).output().unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
        }
        dir
    };
    MADE.get_or_init(new).path()
}

/// A good file that `gmmk` made.
pub fn seed(name: &str) -> Vec<u8> {
    fs::read(made().join(name)).unwrap()
}

/// A copy of a folder that `gmmk` made.
fn copy_of(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &target);
            } else {
                fs::copy(&path, target).unwrap();
            }
        }
    }
    let dir = place();
    copy(&made().join(name), dir.path());
    dir
}

fn cpu() -> Device {
    std::sync::Arc::new(Pool::new(1).unwrap()).into()
}

/// Every picture of an opened data set, decoded.
fn look<S: Source>(source: Result<S, DataError>) -> String {
    let source = match source {
        Ok(source) => source,
        Err(error) => return error.to_string(),
    };
    let mut told = "good".to_owned();
    for i in 0..source.len().min(20) {
        let record = source.record(i);
        assert_eq!(record.attributes.len(), source.attribute_names().len());
        if let Err(error) = source.read(i, 8) {
            told = format!("{}: {error}", source.picture_name(i));
        }
    }
    told
}

#[test]
fn lists_of_celeba() {
    let dir = place();
    pictures(&dir.path().join("img_align_celeba"));
    let row = |i: usize| format!("{i:06}.jpg {} {}\n", 1 - 2 * (i as i32 % 2), "-1");
    let rows: String = (1..=12).map(row).collect();
    let text = format!("12\nSmiling Young\n{rows}");
    let split = |i: usize| format!("{i:06}.jpg {}\n", i % 3);
    let split: String = (1..=12).map(split).collect();
    let files = [
        "list_attr_celeba.txt",
        "list_attr_celeba.csv",
        "list_eval_partition.txt",
    ];
    let files = files.map(|name| dir.path().join(name));
    fs::write(&files[0], &text).unwrap();
    let good = [text.clone(), table(), split.clone()].map(String::into_bytes);
    let mut turn = 0;
    fuzz(Reader {
        name: "celeba-lists",
        seeds: good.to_vec(),
        words: &[".jpg", "-1", "image_id", ",", "\r\n", "\t", "\u{feff}"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            // In the place of each of the three in turn; the others are good, or not there.
            turn += 1;
            let (own, at) = (&files[turn % 3], turn % 3);
            for (file, text) in files.iter().zip([&text, "", &split]) {
                let _ = fs::remove_file(file);
                if file != own
                    && !text.is_empty()
                    && (at != 1 || !file.ends_with("list_attr_celeba.txt"))
                {
                    fs::write(file, text).unwrap();
                }
            }
            fs::write(own, input).unwrap();
            look(Celeba::open(dir.path()))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn tables_of_own_pictures() {
    let dir = place();
    pictures(dir.path());
    let file = dir.path().join("attributes.csv");
    fuzz(Reader {
        name: "csv-table",
        seeds: vec![
            table().into(),
            table().replace(',', ";").into(),
            table().replace(",1", ",-1").into(),
        ],
        words: &[".png", "split", "train", "test", "\"", ",", ";", "\u{feff}"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            look(PictureFolder::open(dir.path(), None))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn batches_of_cifar10() {
    let dir = place();
    let record = |i: usize| [vec![i as u8 % 10], vec![i as u8; 3072]].concat();
    let batch: Vec<u8> = (0..3).flat_map(record).collect();
    for name in [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ] {
        fs::write(dir.path().join(format!("{name}.bin")), &batch).unwrap();
    }
    let classes = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let files = ["data_batch_2.bin", "batches.meta.txt"].map(|name| dir.path().join(name));
    let mut turn = 0;
    fuzz(Reader {
        name: "cifar10",
        seeds: vec![batch.clone(), classes.into()],
        words: &["airplane", "\n"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            turn += 1;
            fs::write(&files[0], &batch).unwrap();
            fs::write(&files[1], classes).unwrap();
            fs::write(&files[turn % 2], input).unwrap();
            look(Cifar10::open(dir.path()))
        }),
        memory: [4 * MIB, 200],
        inputs: 3000,
    });
}

#[test]
fn packed_files() {
    let dir = place();
    pictures(dir.path());
    fs::write(dir.path().join("attributes.csv"), table()).unwrap();
    let source = PictureFolder::open(dir.path(), None).unwrap();
    let cache = place();
    let good = open_or_pack(&source, 8, cache.path(), &mut |_| {}).unwrap();
    let good = fs::read(good.path()).unwrap();
    let file = dir.path().join("packed");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    fuzz(Reader {
        name: "packed",
        seeds: vec![good],
        words: &[
            "count\":",
            "height\":",
            "width\":",
            "channels\":",
            "one_hot\":",
            "attribute_names\":[",
            "splits\":[",
        ],
        change,
        seal: formats::packed,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            let packed = match Packed::open(&file) {
                Ok(packed) => packed,
                Err(error) => return error.to_string(),
            };
            let info = pool.install(|| packed.info());
            assert_eq!(info.train + info.held_out + info.test, packed.len());
            for i in [0, packed.len() - 1] {
                assert!(packed.attributes(i).iter().all(|&value| value <= 1));
                assert_eq!(packed.image(i).len() % packed.channels() as usize, 0);
                packed.row(i);
            }
            "good".to_owned()
        }),
        memory: [4 * MIB, 64],
        inputs: 6000,
    });
}

/// Everything that is done with a checkpoint before its network runs.
fn open_checkpoint(file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(file)?;
    for spec in checkpoint.specs().iter().take(3) {
        for &part in checkpoint.parts() {
            checkpoint.tensor(part, &spec.name)?;
        }
    }
    let info = checkpoint.info();
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    checkpoint.check_network(&specs(setup.net.table()))?;
    let mut state = State::default();
    let part = checkpoint.held(checkpoint::Part::Ema);
    for arena in [Arena::Params, gmmk::train::tensors::arena(part)] {
        state.allocate(arena, setup.net.table().elements())?;
    }
    restore(&checkpoint, setup.net.table(), &mut state, &[part])?;
    Ok(())
}

const CHECKPOINT_WORDS: [&str; 16] = [
    "step\":",
    "images_seen\":",
    "sample_size\":",
    "block_out_channels\":[",
    "layers_per_block\":",
    "attention_head_dim\":",
    "norm_num_groups\":",
    "cross_attention_dim\":",
    "in_channels\":",
    "batch = ",
    "micro_batches = ",
    "latent = \"",
    "schedule = \"",
    "preset = \"",
    "[network]",
    "data_path = \"/etc/passwd\"",
];

#[test]
fn checkpoints() {
    let dir = place();
    let file = dir.path().join("step-00000002.safetensors");
    fuzz(Reader {
        name: "checkpoint",
        seeds: vec![seed("small.safetensors")],
        words: &CHECKPOINT_WORDS,
        change: formats::change_checkpoint,
        seal: formats::checkpoint,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(open_checkpoint(&file))
        }),
        memory: [8 * MIB, 64],
        inputs: 1500,
    });
}

#[test]
fn classifiers() {
    let dir = place();
    let file = dir.path().join("judge.safetensors");
    let device = cpu();
    fuzz(Reader {
        name: "classifier",
        seeds: vec![seed("judge.safetensors")],
        words: &[
            "sample_size\\\":",
            "attributes\\\":",
            "squared_error\\\":[",
            "one_hot\\\":",
            "pictures\\\":",
        ],
        change: formats::change_checkpoint,
        seal: formats::checkpoint,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(AttributeClassifier::open(&file, &device))
        }),
        memory: [64 * MIB, 64],
        inputs: 400,
    });
}

#[test]
fn pointers_to_checkpoints() {
    let dir = place();
    let names = ["step-00000001.safetensors", "step-00000002.safetensors"];
    for name in names {
        fs::write(dir.path().join(name), seed("small.safetensors")).unwrap();
    }
    let latest = dir.path().join("latest");
    fuzz(Reader {
        name: "latest",
        seeds: vec![
            format!("{}\n", names[0]).into(),
            "../../etc/passwd".into(),
            "/etc/passwd".into(),
        ],
        words: &["../", "/", "step-", ".safetensors", "\n"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&latest, input).unwrap();
            let found = checkpoint::resolve(dir.path()).unwrap().path;
            assert!(
                names.iter().any(|name| found == dir.path().join(name)),
                "{found:?}"
            );
            found.display().to_string()
        }),
        memory: [8 * MIB, 64],
        inputs: 500,
    });
}

#[test]
fn columns_of_numbers() {
    let dir = place();
    let file = dir.path().join("x");
    let npy = |head: &str, data: &[u8]| {
        let head = format!("{head:<118}");
        [
            b"\x93NUMPY\x01\x00",
            &118_u16.to_le_bytes()[..],
            head.as_bytes(),
            data,
        ]
        .concat()
    };
    let f8 = npy(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        &[0; 24],
    );
    let i4 = npy(
        "{'descr': '>i4', 'fortran_order': False, 'shape': (2,), }",
        &[1; 8],
    );
    fuzz(Reader {
        name: "numbers",
        seeds: vec![f8, i4, b"x\n1\n2.5e3 # more\n-0.25,\n".to_vec()],
        words: &["'shape': (", "'descr': '", "f4", "i8", "\u{feff}", "#"],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            words(read_numbers(&file).map_err(|error| format!("{error:#}")))
        }),
        memory: [MIB, 64],
        inputs: 5000,
    });
}

#[test]
fn configurations() {
    let toml = seed("run/config.toml");
    let network = seed("model/unet/config.json");
    let file = place();
    let path = file.path().join("network.json");
    fuzz(Reader {
        name: "configuration",
        seeds: vec![toml, network],
        words: &[
            "batch = ",
            "micro_batches = ",
            "steps = ",
            "latent = \"",
            "schedule = \"",
            "seed = ",
            "lr = ",
            "preset = \"",
            "classifier = \"ngmg\"",
            "[network]",
            "\"sample_size\": ",
            "\"layers_per_block\": ",
            "\"block_out_channels\": [",
            "\"attention_head_dim\": ",
            "\"cross_attention_dim\": ",
            "\"norm_num_groups\": ",
            "\"in_channels\": ",
            "constant:",
            "linear:",
            "cosine:",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            let setup = |config: RunConfig| -> Result<(), Box<dyn std::error::Error>> {
                config.to_toml()?;
                config.total_steps();
                Setup::new(config, 40)?;
                Ok(())
            };
            if text.trim_start().starts_with('{') {
                fs::write(&path, input).unwrap();
                return words(NetworkConfig::load(&path));
            }
            match RunConfig::parse(&text, Path::new("config.toml")) {
                Ok(config) => words(setup(config)),
                Err(error) => error.to_string(),
            }
        }),
        memory: [8 * MIB, 500],
        inputs: 6000,
    });
}

#[test]
fn kernels_on_disk() {
    let dir = place();
    let cache = Cache::new(dir.path());
    let image = Image {
        cubin: (0..200).collect(),
        ptx: b".version 8.0\0".to_vec(),
    };
    cache.put("a", &image);
    let file = dir.path().join("a.kernel");
    let good = fs::read(&file).unwrap();
    fuzz(Reader {
        name: "kernel-cache",
        seeds: vec![good],
        words: &[],
        change,
        seal: formats::kernel,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            format!("{:?}", cache.get("a").is_some())
        }),
        memory: [MIB, 16],
        inputs: 5000,
    });
}

#[test]
fn picture_files() {
    let png = encoded(1, image::ImageFormat::Png);
    let grey = image::DynamicImage::from(picture(2)).into_luma16();
    let mut wide = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut wide, image::ImageFormat::Png).unwrap();
    fuzz(Reader {
        name: "pictures",
        seeds: vec![png, encoded(3, image::ImageFormat::Jpeg), wide.into_inner()],
        words: &[
            "IHDR",
            "IDAT",
            "PLTE",
            "tRNS",
            "iCCP",
            "eXIf",
            "IEND",
            "\u{0}\u{0}",
        ],
        change,
        seal: formats::png,
        read: Box::new(|input| words(decode_picture(input, 8, false))),
        memory: [32 * MIB, 128 * KIB],
        inputs: 6000,
    });
}

#[test]
fn zips_of_pictures() {
    use std::io::Write;
    use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};
    let mut zip = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for i in 1..=4 {
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][i % 2];
        let options = SimpleFileOptions::default().compression_method(method);
        zip.start_file(format!("a/{i:06}.png"), options).unwrap();
        zip.write_all(&encoded(i, image::ImageFormat::Png)).unwrap();
    }
    let good = zip.finish().unwrap().into_inner();
    let dir = place();
    let (file, list) = (dir.path().join("a.zip"), dir.path().join("a.csv"));
    let rows: String = (1..=4).map(|i| format!("{i:06}.png,{}\n", i % 2)).collect();
    fs::write(&list, format!("image_id,Smiling\n{rows}")).unwrap();
    fuzz(Reader {
        name: "zip",
        seeds: vec![good],
        words: &[
            "PK\u{1}\u{2}",
            "PK\u{3}\u{4}",
            "PK\u{5}\u{6}",
            "PK\u{6}\u{6}",
            ".png",
            "../",
            "/",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            fs::write(&file, input).unwrap();
            look(PictureFolder::open(&file, Some(&list)))
        }),
        memory: [32 * MIB, 128 * KIB],
        inputs: 4000,
    });
}

#[test]
fn folders_of_diffusers() {
    let dir = copy_of("model");
    let out = place();
    let names = [
        "mixture.json",
        "config.toml",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ];
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .map(|name| (dir.path().join(name), seed(&format!("model/{name}"))))
        .to_vec();
    let kinds: Vec<u8> = files.iter().map(|(_, bytes)| bytes[0]).collect();
    fuzz(Reader {
        name: "diffusers",
        seeds: files.iter().map(|(_, bytes)| bytes.clone()).collect(),
        words: &[
            "\"shape\":[",
            "\"data_offsets\":[",
            "\"F32\"",
            "\"BF16\"",
            "\"attributes\": [",
            "\"rows\": ",
            "\"sample_size\": ",
            "\"layers_per_block\": ",
            "\"block_out_channels\": [",
            "\"step\": ",
            "\"num_train_timesteps\": ",
            "\"trained_betas\": [",
            "\"means\": [",
            "\"sigma\": ",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            // In the place of the file that begins like it; else of all in turn, by its length.
            let like = input
                .first()
                .and_then(|b| kinds.iter().position(|k| k == b));
            let at = match like {
                Some(0) | None => [0, 2, 3][input.len() % 3],
                Some(at) => at,
            };
            fs::write(&files[at].0, input).unwrap();
            let result = words(gmmk::interchange::import(
                dir.path(),
                &out.path().join("a.safetensors"),
            ));
            fs::write(&files[at].0, &files[at].1).unwrap();
            result
        }),
        memory: [16 * MIB, 500],
        inputs: 1000,
    });
}

#[test]
fn folders_of_runs() {
    let dir = copy_of("run");
    let pages: Vec<PathBuf> = fs::read_dir(dir.path().join("samples"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let names = ["metrics.jsonl", "config.toml", "machine.json"].map(|name| dir.path().join(name));
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .into_iter()
        .chain(pages)
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    let mut turn = 0;
    fuzz(Reader {
        name: "run",
        seeds: files.iter().map(|(_, bytes)| bytes.clone()).collect(),
        words: &[
            "\"step\":",
            "\"images\":",
            "\"seconds\":",
            "\"loss\":",
            "\"held_out_loss\":",
            "\n",
            "null",
            "batch = ",
            "steps = ",
        ],
        change,
        seal: formats::plain,
        read: Box::new(|input| {
            turn += 1;
            let (path, good) = &files[turn % files.len()];
            fs::write(path, input).unwrap();
            let told = words(Run::open(dir.path()).and_then(|run| run.summary()));
            let report = words(gmmk::train::report::write(dir.path()));
            let cut = words(gmmk::train::metrics::cut(&files[0].0, 1));
            fs::write(path, good).unwrap();
            fs::write(&files[0].0, &files[0].1).unwrap();
            format!("{told} {report} {cut}")
        }),
        memory: [16 * MIB, 500],
        inputs: 600,
    });
}
