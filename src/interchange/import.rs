//! Reading the folder that diffusers opens: everything is checked before anything is allocated.

use super::error::wrong;
use super::export::CLASSIFIER_PREFIX;
use super::folder::{CLASSIFIER, CONFIG, MIXTURE, NETWORK, SCHEDULER, read_text};
use super::mixture::MixtureFile;
use super::stored::Stored;
use super::{InterchangeError, scheduler};
use crate::model::NetworkConfig;
use crate::train::checkpoint::{
    CheckpointInfo, Part, TensorSource, TensorSpec, differences, write_file,
};
use crate::train::classifier::ClassifierKind;
use crate::train::config::{RunConfig, network_table};
use crate::train::setup::{Setup, network};
use crate::train::tensors::specs;
use std::path::{Path, PathBuf};

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Tensors.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Number formats they were stored in.
    pub formats: Vec<String>,
    /// The variant of the weights, such as `fp16`.
    pub variant: Option<String>,
    /// What a person should know, if anything.
    pub note: Option<String>,
}

/// Makes the checkpoint `out` of `folder`, which holds `unet/` (or is that folder itself), `mixture.json`
/// and `config.toml`. The checkpoint has weights, no average and no optimizer state. Of weights in several
/// variants `variant` is read; without it those without a variant, or the only ones.
///
/// # Errors
/// A file that is missing, damaged, or of a model that a checkpoint cannot hold.
pub fn import(
    folder: &Path,
    variant: Option<&str>,
    out: &Path,
) -> Result<Imported, InterchangeError> {
    let unet = unet_folder(folder)?;
    let shape = read_network(&unet.join(NETWORK))?;
    let mut weights = vec![Stored::in_folder(&unet, variant)?];
    check_depth(&unet, &shape, &weights[0])?;
    let mixture_path = folder.join(MIXTURE);
    let mixture = MixtureFile::read(&mixture_path)?;
    let config_path = folder.join(CONFIG);
    let text = read_text(
        &config_path,
        "the config.toml that `gmmk export --diffusers` writes",
    )?;
    let mut config = RunConfig::parse(&text, &config_path)?;
    if network(&config).ok().as_ref() != Some(&shape) {
        config.network = Some(network_table(&shape.to_json())?);
    }
    let note = read_classifier(folder, &mut config, &mut weights)?;
    let setup = Setup::new(config, mixture.attributes.len())?;
    check_tensors(&setup, &weights, &unet)?;
    let schedule = folder.join(SCHEDULER);
    if schedule.exists() {
        scheduler::check(&schedule, &setup.schedule)?;
    }
    let info = CheckpointInfo {
        config: setup.config.clone(),
        counters: mixture.run.counters,
        attribute_names: mixture.attributes.clone(),
        attribute_rows: mixture.attribute_rows(&mixture_path)?,
        network: shape.to_json(),
    };
    mixture.check(
        &MixtureFile::new(&info, &setup, &mixture.run.weights),
        &mixture_path,
    )?;
    let mut formats = Vec::new();
    for stored in &weights {
        formats.extend(stored.formats()?);
    }
    formats.sort();
    formats.dedup();
    let specs = specs(setup.net.table());
    let imported = Imported {
        tensors: specs.len(),
        parameters: specs.iter().map(TensorSpec::len).sum(),
        formats,
        variant: weights[0].variant().map(str::to_owned),
        note,
    };
    write_file(out, &mut Source { specs, weights }, &info)?;
    Ok(imported)
}

/// The folder of the U-Net: `unet`, or `folder` itself.
fn unet_folder(folder: &Path) -> Result<PathBuf, InterchangeError> {
    let inner = folder.join("unet");
    if inner.is_dir() {
        return Ok(inner);
    }
    if folder.join(NETWORK).is_file() {
        return Ok(folder.to_path_buf());
    }
    let found = match (folder.is_dir(), folder.exists()) {
        (true, _) => "neither",
        (_, true) => "a file",
        _ => "no such folder",
    };
    let expected = "a folder of diffusers with unet/config.json, or with config.json";
    Err(wrong(folder, "the folder", expected, found))
}

fn read_network(path: &Path) -> Result<NetworkConfig, InterchangeError> {
    let text = read_text(path, "the configuration of a UNet2DConditionModel")?;
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| wrong(path, "JSON", "a network's configuration", e.to_string()))?;
    let class = &value["_class_name"];
    if !class.is_null() && class != "UNet2DConditionModel" {
        return Err(wrong(
            path,
            "_class_name",
            "\"UNet2DConditionModel\"",
            class.to_string(),
        ));
    }
    NetworkConfig::from_json(&value).map_err(|source| InterchangeError::Network {
        path: path.to_path_buf(),
        source,
    })
}

/// Refuses a configuration of more blocks than there are tensors, before its tensors are even listed.
fn check_depth(
    unet: &Path,
    shape: &NetworkConfig,
    weights: &Stored,
) -> Result<(), InterchangeError> {
    let (blocks, tensors) = (
        shape.levels() * shape.layers_per_block,
        weights.specs().len(),
    );
    if blocks > tensors {
        let expected = format!(
            "blocks for the {tensors} tensors of {}",
            weights.path().display()
        );
        return Err(wrong(
            &unet.join(NETWORK),
            "layers_per_block",
            expected,
            format!("{blocks} blocks"),
        ));
    }
    Ok(())
}

/// Adds the classifier's file where the configuration has a classifier; without the file the model is
/// one without a classifier, and the note says so.
fn read_classifier(
    folder: &Path,
    config: &mut RunConfig,
    weights: &mut Vec<Stored>,
) -> Result<Option<String>, InterchangeError> {
    let path = folder.join(CLASSIFIER);
    match (config.classifier, path.exists()) {
        (ClassifierKind::None, true) => {
            let expected = "none, as config.toml has classifier = \"none\"";
            Err(wrong(&path, "the classifier", expected, "a file"))
        }
        (ClassifierKind::None, false) => Ok(None),
        (_, true) => {
            weights.push(Stored::one(&path)?);
            Ok(None)
        }
        (kind, false) => {
            config.classifier = ClassifierKind::None;
            Ok(Some(format!(
                "{} has no {CLASSIFIER}: the checkpoint is without the {kind} classifier of its run",
                folder.display()
            )))
        }
    }
}

/// Compares the files' tensors with the network's, file by file.
fn check_tensors(setup: &Setup, weights: &[Stored], unet: &Path) -> Result<(), InterchangeError> {
    let all = specs(setup.net.table());
    let (classifier, net): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|spec| spec.name.starts_with(CLASSIFIER_PREFIX));
    let config = unet.join(NETWORK);
    for (stored, expected) in weights.iter().zip([net, classifier]) {
        if let Some(differences) = differences(&expected, &stored.specs()) {
            return Err(InterchangeError::Tensors {
                path: stored.path().to_path_buf(),
                config,
                differences,
            });
        }
    }
    Ok(())
}

/// The stored tensors as a checkpoint's.
struct Source {
    specs: Vec<TensorSpec>,
    weights: Vec<Stored>,
}

impl TensorSource for Source {
    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn parts(&self) -> &[Part] {
        &[Part::Weight]
    }

    fn read(
        &mut self,
        _part: Part,
        index: usize,
        out: &mut [f32],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let name = &self.specs[index].name;
        let file = usize::from(name.starts_with(CLASSIFIER_PREFIX));
        Ok(self.weights[file].read(name, out)?)
    }
}
