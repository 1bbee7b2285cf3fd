//! `gmmk edit`.

use super::check_out;
use super::drawing::{DrawingArgs, Model, changed, wanted};
use super::terminal::{counted, say, warn};
use anyhow::{Context, Result, bail};
use clap::Args;
use gmmk::data::picture::decode_picture;
use gmmk::diffusion::generate::Request;
use gmmk::diffusion::schedule::Schedule;
use gmmk::report::grid::{ORANGE, Sheet};
use gmmk::report::picture::Picture;
use gmmk::train::checkpoint::CheckpointInfo;
use gmmk::train::config::DataKind;
use std::path::{Path, PathBuf};

/// Options of `gmmk edit`.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct EditArgs {
    #[command(flatten)]
    drawing: DrawingArgs,
    /// The picture, JPEG or PNG; may be given several times, for a row each
    #[arg(long, value_name = "FILE", required = true)]
    image: Vec<PathBuf>,
    /// Attributes to change, on, or off with a minus; may be given several times, for a column each
    #[arg(long, value_name = "LIST", required = true, allow_hyphen_values = true)]
    attributes: Vec<String>,
    /// Attributes that the picture has [default: the opposite of those to change]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    from: Option<String>,
    /// Share of noise that the picture is mixed with, 0 (it stays) to 1 (nothing is left of it)
    #[arg(long, value_name = "S", default_value_t = 0.6)]
    strength: f64,
    /// The page: original, own attributes, changed attributes
    #[arg(long, value_name = "PNG")]
    out: PathBuf,
}

/// Runs `gmmk edit`.
pub fn run(args: EditArgs) -> Result<()> {
    check_out(&args.out)?;
    let strength = args.strength;
    if !(0.0..=1.0).contains(&strength) {
        bail!("--strength {strength}: expected 0 (the picture stays) to 1 (all noise)");
    }
    let checkpoint = args.drawing.open()?;
    let info = checkpoint.info();
    let edits: Vec<_> = args
        .attributes
        .iter()
        .map(|list| asked(info, list))
        .collect::<Result<_>>()?;
    let own = own_attributes(&args, info, &edits)?;
    let mut model = args.drawing.load(&checkpoint)?;
    let size = model.setup.net.config().sample_size;
    let faces = model.info.config.data == DataKind::Celeba;
    let mut originals = Vec::new();
    for path in &args.image {
        let bytes = read(path, size, faces)?;
        originals.extend(bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0));
    }
    let mut columns = vec![own.clone()];
    for edit in &edits {
        columns.push(own.iter().map(|own| changed(own, edit)).collect());
    }
    let start = noised_to(&model.setup.schedule, strength);
    let drawn = draw(&args, &mut model, &originals, &columns, start)?;
    page(&args, &drawn, size, start)?.save_png(&args.out)?;
    say(&format!(
        "wrote {}: {}, {}",
        args.out.display(),
        counted(args.image.len(), "picture"),
        counted(edits.len(), "edit")
    ));
    Ok(())
}

/// The attributes of a list that must name one at least.
fn asked(info: &CheckpointInfo, list: &str) -> Result<Vec<Option<bool>>> {
    let asked = wanted(info, list)?;
    if asked.iter().all(Option::is_none) {
        bail!("--attributes \"{list}\": expected at least one attribute to change");
    }
    Ok(asked)
}

/// The attributes that the pictures are taken to have.
fn own_attributes(
    args: &EditArgs,
    info: &CheckpointInfo,
    edits: &[Vec<Option<bool>>],
) -> Result<Vec<Vec<u8>>> {
    let own = match &args.from {
        Some(list) => wanted(info, list)?,
        None if info.config.data == DataKind::Cifar10 => {
            bail!("the attributes are classes: add --from with the picture's own class")
        }
        None => {
            warn(
                "note: without --from the pictures are taken to have the opposite of what is changed",
            );
            let k = info.attribute_names.len();
            let first = |i: usize| edits.iter().find_map(|edit| edit[i]);
            (0..k).map(|i| first(i).map(|on| !on)).collect()
        }
    };
    let count = args.image.len() as u64;
    args.drawing.style.attributes(info, &own, count)
}

/// The pixels of a picture file, cropped and resized.
fn read(path: &Path, size: usize, faces: bool) -> Result<Vec<u8>> {
    let name = path.display();
    let file = std::fs::read(path).with_context(|| format!("--image {name}: cannot be read"))?;
    decode_picture(&file, size as u32, faces)
        .with_context(|| format!("--image {name}: expected a JPEG or PNG picture"))
}

/// The step whose share of noise, sqrt(1 - ab_t), is nearest; 0 for a picture that stays.
fn noised_to(schedule: &Schedule, share: f64) -> u32 {
    let off = |ab: &f64| ((1.0 - ab).sqrt() - share).abs();
    let steps = (0..).zip(schedule.alpha_bar());
    let nearest = steps.min_by(|a, b| off(a.1).total_cmp(&off(b.1)));
    nearest.map_or(0, |(t, _)| t)
}

/// The pictures themselves, and then, for each of `columns`, drawn from `start` on with its attributes;
/// all of the same noise and Z.
fn draw(
    args: &EditArgs,
    model: &mut Model,
    originals: &[f32],
    columns: &[Vec<Vec<u8>>],
    start: u32,
) -> Result<Vec<Vec<f32>>> {
    let mut drawn = vec![originals.to_vec()];
    if start == 0 {
        drawn.resize(1 + columns.len(), originals.to_vec());
        return Ok(drawn);
    }
    let plan = args.drawing.style.plan(&model.setup, Some(start))?;
    let requests = |column: &Vec<Vec<u8>>| -> Vec<Request> {
        let pictures = (0..).zip(column);
        pictures.map(|(i, own)| Request::new(own, i)).collect()
    };
    let first = columns.first().map(requests).unwrap_or_default();
    let mut drawing = model.drawing(&first, columns.len(), &plan)?;
    for column in columns {
        let requests = requests(column);
        drawn.push(drawing.set(Some(originals), &plan, &requests, &mut |_, _| ())?);
    }
    Ok(drawn)
}

fn page(args: &EditArgs, drawn: &[Vec<f32>], size: usize, start: u32) -> Result<Picture> {
    let rows = args.image.len();
    let columns: Vec<Vec<Picture>> = drawn
        .iter()
        .map(|column| Picture::from_batch(column, [rows, size, size, 3]))
        .collect::<Result<_, _>>()?;
    let pictures: Vec<Picture> = (0..rows)
        .flat_map(|row| columns.iter().map(move |column| column[row].clone()))
        .collect();
    let mut sheet = Sheet::new(columns.len(), size);
    sheet.title = Some(format!("strength {} (from t = {start})", args.strength));
    sheet.column_captions = ["original", "own attributes"].map(String::from).into();
    let edits = args.attributes.iter();
    let captions = edits.map(|list| list.replace(',', ", ").replace('_', " "));
    sheet.column_captions.extend(captions);
    sheet.frames = (0..rows).map(|row| (row * columns.len(), ORANGE)).collect();
    Ok(sheet.render(&pictures)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_the_share_of_noise() {
        let schedule = Schedule::new("constant:0.06:100".parse().unwrap()).unwrap();
        // sqrt(1 - 0.94^t): 0.245 at 1, 0.341 at 2, 0.593 at 7, 0.625 at 8.
        for (share, t) in [
            (0.0, 0),
            (0.1, 0),
            (0.2, 1),
            (0.6, 7),
            (0.62, 8),
            (1.0, 100),
        ] {
            assert_eq!(noised_to(&schedule, share), t, "{share}");
        }
    }
}
