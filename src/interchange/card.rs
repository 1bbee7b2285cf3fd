//! `README.md` of an exported folder: the run's facts, in the form of a model card.

use super::mixture::MixtureFile;
use crate::train::checkpoint::TensorSpec;
use crate::train::config::{DataKind, FeatureCode};
use crate::train::setup::Setup;

/// The card of the network `net` of a run.
pub(super) fn text(setup: &Setup, mixture: &MixtureFile, net: &[TensorSpec]) -> String {
    let (start, own) = (HEAD, facts(setup, mixture, net));
    let rows: String = own
        .iter()
        .map(|(what, fact)| format!("| {what} | {fact} |\n"))
        .collect();
    let names = mixture.attributes.join(", ");
    let kind = if mixture.classes {
        "classes"
    } else {
        "attributes"
    };
    format!(
        "{start}| | |\n| --- | --- |\n{rows}\nIts {} {kind}: {names}.\n\n{}",
        mixture.attributes.len(),
        usage(mixture)
    )
}

const HEAD: &str = "---
library_name: diffusers
tags:
- diffusion
- gaussian-mixture
---

# A diffusion model conditioned on a Gaussian mixture

Every attribute that a picture has becomes a random vector, drawn from a Gaussian mixture; the U-Net attends to these
vectors as tokens ([Lu et al., arXiv 2401.11261](https://arxiv.org/abs/2401.11261)). Trained with gmmk.

";

/// What there is to know about the run.
fn facts(setup: &Setup, mixture: &MixtureFile, net: &[TensorSpec]) -> Vec<(&'static str, String)> {
    let (config, shape) = (&setup.config, setup.net.config());
    let counters = mixture.run.counters;
    let data = match config.data {
        DataKind::Celeba => "CelebA, or a folder in its form",
        DataKind::Cifar10 => "CIFAR-10",
        DataKind::Faces => "gmmk's built-in procedural faces",
        DataKind::Folder => "a folder of pictures with a table of attributes",
    };
    let weights = match mixture.run.weights.as_str() {
        "ema" => format!(
            "moving average, half-life {} and at most {} of the images seen",
            config.ema_half_life, config.ema_ramp
        ),
        "raw" => "as the last step left them, not averaged".to_owned(),
        _ => "imported".to_owned(),
    };
    let code = match config.feature_code {
        FeatureCode::On => "with the code of their attribute",
        FeatureCode::None => "without a code",
    };
    vec![
        ("pictures", format!("{0} x {0}, RGB", shape.sample_size)),
        ("data set", data.to_owned()),
        (
            "network",
            format!("UNet2DConditionModel, preset `{}`", config.preset),
        ),
        (
            "parameters",
            format!(
                "{} in {} tensors",
                net.iter().map(TensorSpec::len).sum::<usize>(),
                net.len()
            ),
        ),
        (
            "images trained on",
            format!("{} in {} steps", counters.images_seen, counters.step),
        ),
        (
            "batch, learning rate",
            format!("{}, {} ({})", config.batch, config.lr, config.lr_schedule),
        ),
        ("weights", weights),
        ("noise schedule", format!("`{}`", config.schedule)),
        ("latents", format!("{}; tokens {code}", config.latent)),
        ("attribute classifier", config.classifier.to_string()),
        ("seed", config.seed.to_string()),
        ("program", format!("gmmk {}", config.program)),
    ]
}

fn usage(mixture: &MixtureFile) -> String {
    let wish = match mixture.attributes.as_slice() {
        [one, ..] if mixture.classes => one.clone(),
        [first, .., last] => format!("{first},-{last}"),
        all => all.concat(),
    };
    format!(
        "## Drawing pictures

    pip install torch diffusers numpy
    python sample.py --attributes \"{wish}\" --count 4 --out page.png
    python sample.py --check

The first draws four pictures with the attributes asked for (a minus forbids one; the others come from training
pictures that agree). The second computes the noise for the input in `check.safetensors` and compares it with what
gmmk predicted. In a program of your own:

    from diffusers import DDPMScheduler, UNet2DConditionModel
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder=\"unet\")
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder=\"scheduler\")
    noise = unet(x, timestep, encoder_hidden_states=tokens).sample

with the tokens that `mixture.json` describes and `tokens()` in `sample.py` makes.

## Files

| | |
| --- | --- |
| `unet/`, `scheduler/` | the network and its noise schedule, as diffusers reads them |
| `mixture.json` | from attributes to tokens: names, mixture, codes, attributes of training pictures |
| `config.toml` | the run's configuration; `gmmk train --config config.toml` starts it again |
| `check.safetensors` | an input and the noise predicted for it |
| `classifier.safetensors` | the attribute classifier at the bottleneck, where one was trained |

`gmmk import --diffusers FOLDER --out FILE` makes a checkpoint of the folder, also after training with diffusers.
"
    )
}
