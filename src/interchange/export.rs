//! Writing the folder that diffusers opens.

use super::folder::{
    CLASSIFIER, CONFIG, MIXTURE, NETWORK, SCHEDULER, WEIGHTS, claim, pretty, remove, weight_files,
};
use super::mixture::{FORMAT, MixtureFile};
use super::weights::write_tensors;
use super::{InterchangeError, card, check, scheduler};
use crate::device::pool::Pool;
use crate::report::files::{io_error, remove_leftovers, replace_with_bytes};
use crate::train::checkpoint::{Checkpoint, Part, TensorSpec};
use crate::train::setup::Setup;
use crate::train::tensors::{arena, load, specs};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// The program that draws pictures from the folder.
const SAMPLE: &str = include_str!("sample.py");
/// How the names of the classifier's tensors begin; they are none of diffusers' network.
pub(super) const CLASSIFIER_PREFIX: &str = "classifier.";

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Tensors of the U-Net.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// What the weights are, see [`label`].
    pub weights: &'static str,
}

/// Writes the weights `part` (the average, or the last step's) of a checkpoint into `folder`; with
/// `force` whatever else lies there. `unet/config.json` comes last: without it nothing opens the folder.
///
/// # Errors
/// A folder that somebody else filled, a checkpoint of another network, the file system's.
pub fn export(
    checkpoint: &Checkpoint,
    part: Part,
    folder: &Path,
    force: bool,
    pool: &Arc<Pool>,
) -> Result<Exported, InterchangeError> {
    let info = checkpoint.info();
    let weights = label(checkpoint, part);
    let part = checkpoint.held(part);
    let setup = Setup::new(info.config.clone(), info.attribute_names.len())?;
    checkpoint.check_network(&specs(setup.net.table()))?;
    let mixture = MixtureFile::new(info, &setup, weights);
    prepare(folder, force)?;
    let write = |name: &str, text: &str| replace_with_bytes(&folder.join(name), text.as_bytes());
    write(MIXTURE, &pretty(&mixture))?;
    let mut config = info.config.clone();
    // The folder may go to other people: where files lay here is none of their business.
    config.data_path = None;
    config.attributes = None;
    config.from = None;
    write(CONFIG, &config.to_toml()?)?;
    write(SCHEDULER, &pretty(&scheduler::to_json(&setup.schedule)))?;
    let net = write_weights(checkpoint, part, &setup, folder)?;
    write_check(checkpoint, part, &setup, folder, pool)?;
    write("sample.py", SAMPLE)?;
    write("README.md", &card::text(&setup, &mixture, &net))?;
    let network = setup.net.config().to_json();
    write(&format!("unet/{NETWORK}"), &pretty(&network))?;
    Ok(Exported {
        tensors: net.len(),
        parameters: net.iter().map(TensorSpec::len).sum(),
        weights,
    })
}

/// What the weights are called in the folder: `ema`, `raw`, or `imported` where there is but one copy.
pub fn label(checkpoint: &Checkpoint, part: Part) -> &'static str {
    match part {
        _ if checkpoint.parts().len() == 1 => "imported",
        Part::Ema => "ema",
        _ => "raw",
    }
}

/// Claims the folder, and removes what an older export left and nothing would replace.
fn prepare(folder: &Path, force: bool) -> Result<(), InterchangeError> {
    claim(folder, MIXTURE, FORMAT, "--diffusers", force)?;
    for inner in ["unet", "scheduler"] {
        let inner = folder.join(inner);
        fs::create_dir_all(&inner).map_err(io_error(&inner, 0, "create the folder"))?;
        remove_leftovers(&inner)?;
    }
    let unet = folder.join("unet");
    remove(&unet.join(NETWORK))?;
    for old in weight_files(&unet) {
        remove(&old)?;
    }
    remove(&folder.join(CLASSIFIER))
}

/// Writes the U-Net's tensors, and the classifier's where there are some; the U-Net's.
fn write_weights(
    checkpoint: &Checkpoint,
    part: Part,
    setup: &Setup,
    folder: &Path,
) -> Result<Vec<TensorSpec>, InterchangeError> {
    let (classifier, net): (Vec<_>, Vec<_>) = specs(setup.net.table())
        .into_iter()
        .partition(|spec| spec.name.starts_with(CLASSIFIER_PREFIX));
    let file = format!("unet/{WEIGHTS}.safetensors");
    for (name, specs) in [(file.as_str(), &net), (CLASSIFIER, &classifier)] {
        if !specs.is_empty() {
            write_tensors(&folder.join(name), specs, |i| {
                Ok(checkpoint.tensor(part, &specs[i].name)?)
            })?;
        }
    }
    Ok(net)
}

fn write_check(
    checkpoint: &Checkpoint,
    part: Part,
    setup: &Setup,
    folder: &Path,
    pool: &Arc<Pool>,
) -> Result<(), InterchangeError> {
    let mut state = load::<InterchangeError>(checkpoint, setup.net.table(), &[part])?;
    let rows = &checkpoint.info().attribute_rows;
    let path = folder.join("check.safetensors");
    check::write(&path, setup, rows, (&mut state, arena(part)), pool)
}
