//! `gmmk data`: pack a data set, describe it, look at it; and opening one for the other commands.

use super::check_out;
use super::terminal::{Progress, say, warn};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use gmmk::data::{
    self, Celeba, Cifar10, DataSet, Origin, Packed, PictureFolder, ProceduralFaces, Source,
    default_cache_dir, open_or_pack, parse_request,
};
use gmmk::report::grid::Sheet;
use gmmk::report::picture::Picture;
use gmmk::train::config::{DataKind, RunConfig};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Data sets by the names people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DataName {
    /// CelebA (or, where there is none, the built-in faces)
    Celeba,
    /// CIFAR-10
    Cifar10,
    /// Built-in faces, drawn from attributes
    Faces,
    /// Own pictures: a folder or a zip, and a CSV file of attributes
    Folder,
}

impl DataName {
    /// As the configuration names it.
    pub fn kind(self) -> DataKind {
        match self {
            Self::Celeba => DataKind::Celeba,
            Self::Cifar10 => DataKind::Cifar10,
            Self::Faces => DataKind::Faces,
            Self::Folder => DataKind::Folder,
        }
    }
}

/// `gmmk data ...`
#[derive(Subcommand)]
pub enum DataCommand {
    /// Decode, crop and resize all pictures into the cache, once
    Pack {
        #[command(flatten)]
        data: DataArgs,
        /// Attributes of the pictures of `folder`, a CSV file [default: the only one in --data]
        #[arg(long, value_name = "FILE")]
        attributes: Option<PathBuf>,
    },
    /// Show counts, attributes, colours and what was left out
    Info {
        #[command(flatten)]
        data: DataArgs,
        /// Attributes of the pictures of `folder`, a CSV file [default: the only one in --data]
        #[arg(long, value_name = "FILE")]
        attributes: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a sheet of pictures
    Preview {
        #[command(flatten)]
        data: DataArgs,
        /// Only pictures with these attributes, such as "Smiling,-Male"
        #[arg(long, value_name = "LIST")]
        attributes: Option<String>,
        /// Attributes of the pictures of `folder`, a CSV file [default: the only one in --data]
        #[arg(long, value_name = "FILE")]
        attributes_file: Option<PathBuf>,
        /// Pictures on the sheet
        #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..=4096))]
        count: u64,
        /// The sheet
        #[arg(long, default_value = "preview.png", value_name = "PNG")]
        out: PathBuf,
    },
}

/// Which data, at which size.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct DataArgs {
    /// The data set
    #[arg(value_enum)]
    dataset: DataName,
    /// Its folder, or a zip of pictures [default: $GMMK_DATA, ./data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Height and width of the packed pictures [default: 64, CIFAR-10 32]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    size: Option<u32>,
}

impl DataArgs {
    fn open(&self, attributes: Option<&Path>) -> Result<Packed> {
        check_attributes(self.dataset, attributes)?;
        let kind = resolve(self.dataset.kind(), self.data.as_deref())?;
        let size = self
            .size
            .unwrap_or(if kind == DataKind::Cifar10 { 32 } else { 64 });
        open(kind, self.data.as_deref(), attributes, size)
    }
}

/// The data set that `kind` stands for here: the built-in faces take the place of a CelebA that is
/// nowhere to be found.
pub fn resolve(kind: DataKind, path: Option<&Path>) -> Result<DataKind> {
    if kind != DataKind::Celeba || data::locate(path, DataSet::Celeba)?.is_some() {
        return Ok(kind);
    }
    warn(
        "note: no CelebA in $GMMK_DATA or ./data, so these are the built-in procedural faces; give the real ones with --data DIR",
    );
    Ok(DataKind::Faces)
}

/// The source of a data set.
pub fn source(
    kind: DataKind,
    path: Option<&Path>,
    attributes: Option<&Path>,
) -> Result<Box<dyn Source>> {
    let place = |set: DataSet| -> Result<PathBuf> {
        data::locate(path, set)?.with_context(|| {
            format!(
                "found no {} in $GMMK_DATA or ./data; give its folder with --data DIR",
                set.name()
            )
        })
    };
    Ok(match kind {
        DataKind::Celeba => Box::new(Celeba::open(&place(DataSet::Celeba)?)?),
        DataKind::Cifar10 => Box::new(Cifar10::open(&place(DataSet::Cifar10)?)?),
        DataKind::Folder => {
            let folder = path.context(
                "`folder` is pictures of your own; say which: --data DIR (and --attributes FILE)",
            )?;
            Box::new(PictureFolder::open(folder, attributes)?)
        }
        DataKind::Faces => {
            if let Some(path) = path {
                bail!(
                    "the built-in faces have no folder, but --data {} was given; did you mean `celeba`?",
                    path.display()
                );
            }
            Box::new(ProceduralFaces::new(0, ProceduralFaces::COUNT))
        }
    })
}

/// Opens a data set's packed pictures, packing them first where that was not done.
pub fn open(
    kind: DataKind,
    path: Option<&Path>,
    attributes: Option<&Path>,
    size: u32,
) -> Result<Packed> {
    pack(source(kind, path, attributes)?.as_ref(), size)
}

/// The source of a run's pictures.
pub fn source_of(config: &RunConfig) -> Result<Box<dyn Source>> {
    let (path, attributes) = (&config.data_path, &config.attributes);
    source(config.data, path.as_deref(), attributes.as_deref())
}

/// Opens a run's packed pictures.
pub fn open_run(config: &RunConfig, size: u32) -> Result<Packed> {
    pack(source_of(config)?.as_ref(), size)
}

/// Refuses a file of attributes for a data set that has its own.
pub fn check_attributes(data: DataName, attributes: Option<&Path>) -> Result<()> {
    match attributes {
        Some(path) if data != DataName::Folder => bail!(
            "{}: only `folder` takes a file of attributes; {} has its own",
            path.display(),
            data.kind()
        ),
        _ => Ok(()),
    }
}

/// Opens the packed pictures of `source`.
pub fn pack(source: &dyn Source, size: u32) -> Result<Packed> {
    let unlisted = source.unlisted();
    if let Some(first) = unlisted.first() {
        warn(&format!(
            "note: {} pictures have no row of attributes and are not used, the first is {first}",
            unlisted.len()
        ));
    }
    let mut bar: Option<Progress> = None;
    let packed = open_or_pack(
        source,
        size,
        &default_cache_dir()?,
        &mut |progress| match progress {
            data::Progress::Waiting => {
                warn("waiting for another process that packs the same pictures")
            }
            data::Progress::Packing {
                done,
                total,
                left_out,
            } => {
                let bar = bar.get_or_insert_with(|| {
                    Progress::new("packing", total as u64, Duration::from_secs(10))
                });
                bar.update(done as u64, total as u64, || {
                    format!("pictures, {left_out} left out")
                });
            }
            data::Progress::Verifying => {}
        },
    )?;
    if let Some(bar) = bar {
        bar.finish();
    }
    if let Origin::Rebuilt { reason } = packed.origin() {
        warn(&format!(
            "note: the packed pictures were made anew: {reason}"
        ));
    }
    let (count, named) = packed.left_out();
    if count > 0 {
        warn(&format!("note: {count} pictures were left out:"));
        for bad in named.iter().take(5) {
            warn(&format!("  {}: {}", bad.name, bad.reason));
        }
        if count > 5 {
            warn("  ... (`gmmk data info` names more)");
        }
    }
    Ok(packed)
}

/// Runs `gmmk data`.
pub fn run(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Pack { data, attributes } => {
            let packed = data.open(attributes.as_deref())?;
            let verb = match packed.origin() {
                Origin::Reused => "already packed",
                _ => "packed",
            };
            let (count, size) = (packed.len(), packed.size());
            say(&format!(
                "{verb}: {count} pictures of {size}x{size} in {}",
                packed.path().display()
            ));
            Ok(())
        }
        DataCommand::Info {
            data,
            attributes,
            json,
        } => info(&data.open(attributes.as_deref())?, json),
        DataCommand::Preview {
            data,
            attributes,
            attributes_file,
            count,
            out,
        } => {
            check_out(&out)?;
            let packed = data.open(attributes_file.as_deref())?;
            preview(&packed, attributes.as_deref(), count as usize, &out)
        }
    }
}

fn info(packed: &Packed, json: bool) -> Result<()> {
    let info = packed.info();
    if json {
        say(&serde_json::to_string_pretty(&info)?);
        return Ok(());
    }
    say(&format!(
        "{}: {} pictures of {}x{}",
        info.data_set, info.count, info.size, info.size
    ));
    say(&format!(
        "  {} to train on, {} held out, {} for tests",
        info.train, info.held_out, info.test
    ));
    say(&format!(
        "  file {} ({} bytes)",
        info.path.display(),
        info.bytes
    ));
    say(&format!(
        "  mean {:.4?}, deviation {:.4?}",
        info.mean, info.std
    ));
    say("attributes:");
    for (name, count) in &info.attribute_counts {
        let share = 100.0 * *count as f64 / info.count.max(1) as f64;
        say(&format!("  {name:<22} {count:>7}  {share:5.1} %"));
    }
    if info.left_out_count > 0 {
        say(&format!("left out: {}", info.left_out_count));
        for bad in &info.left_out {
            say(&format!("  {} (row {}): {}", bad.name, bad.row, bad.reason));
        }
    }
    Ok(())
}

fn preview(packed: &Packed, attributes: Option<&str>, count: usize, out: &Path) -> Result<()> {
    let names = packed.attribute_names();
    let request = match attributes {
        Some(text) => parse_request(text, names, packed.one_hot())?,
        None => vec![None; names.len()],
    };
    let fits = |i: &usize| {
        let row = packed.attributes(*i);
        request
            .iter()
            .zip(row)
            .all(|(want, &has)| want.is_none_or(|w| u8::from(w) == has))
    };
    let found: Vec<usize> = (0..packed.len()).filter(fits).collect();
    if found.is_empty() {
        bail!("none of the {} pictures has these attributes", packed.len());
    }
    let shown = count.min(found.len());
    let size = packed.size() as usize;
    let pictures = (0..shown)
        .map(|i| {
            Picture::from_rgb(
                size,
                size,
                packed.image(found[i * found.len() / shown]).to_vec(),
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut sheet = Sheet::new(shown.min(12), size);
    let what = attributes.unwrap_or("all attributes");
    sheet.title = Some(format!(
        "{}: {} of {} pictures, {what}",
        packed.data_set(),
        shown,
        found.len()
    ));
    sheet.render(&pictures)?.save_png(out)?;
    say(&format!(
        "wrote {}: {shown} of {} pictures",
        out.display(),
        found.len()
    ));
    Ok(())
}
