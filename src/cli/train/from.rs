//! `gmmk train --from`: the weights of another run, or of an imported model, to begin with.

use crate::cli::drawing;
use crate::cli::terminal::warn;
use anyhow::{Result, bail};
use gmmk::data::Packed;
use gmmk::train::checkpoint::Checkpoint;
use gmmk::train::classifier::ClassifierKind;
use gmmk::train::config::RunConfig;
use gmmk::train::setup::Setup;
use gmmk::train::tensors::specs;
use gmmk::train::trainer::Start;
use std::path::Path;

/// Makes `config` one for the weights in `path`; `asked` is the classifier that the options name.
pub fn configure(config: &mut RunConfig, path: &Path, asked: Option<ClassifierKind>) -> Result<()> {
    let weights = drawing::open(path)?;
    let learnt = weights.info().config.clone();
    let has = |kind: ClassifierKind| kind != ClassifierKind::None;
    if let Some(asked) = asked.filter(|&asked| has(asked) != has(learnt.classifier)) {
        bail!(
            "--classifier {asked}: the weights of {} are of a network with the classifier `{}`; leave the option out",
            path.display(),
            learnt.classifier
        );
    }
    config.suit(&learnt);
    config.from = Some(weights.path().to_path_buf());
    Ok(())
}

/// What a run begins with that has no checkpoint of its own.
pub fn start(setup: &Setup, packed: &Packed) -> Result<Start> {
    let Some(path) = &setup.config.from else {
        return Ok(Start::New);
    };
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.check_network(&specs(setup.net.table()))?;
    let (info, path) = (checkpoint.info(), path.display());
    warn(&format!(
        "beginning with the weights of {path}, trained on {} images",
        info.counters.images_seen
    ));
    if info.attribute_names != packed.attribute_names() {
        warn(&format!(
            "note: {path} has learnt other attributes ({}, ..); what it knows of them means nothing to these",
            info.attribute_names.first().map_or("none", String::as_str)
        ));
    }
    Ok(Start::From(checkpoint))
}
