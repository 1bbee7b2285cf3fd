//! The separately trained attribute network that judges what a denoiser draws.

use super::data::Data;
use super::{Context, ReproduceError, Scale};
use crate::evaluate::classifier::{self, AttributeClassifier};
use crate::evaluate::statistics::{Estimate, Pictures};
use crate::report::files::io_error;
use crate::tape::executable::DeviceError;
use serde_json::{Value, json};

/// Steps of its training.
pub fn steps(scale: Scale) -> u64 {
    match scale {
        Scale::Quick => 2000,
        Scale::Full => 20_000,
    }
}

/// The network for `data`, from `OUT/models` or trained now and kept there.
///
/// # Errors
/// See [`ReproduceError`].
pub fn judge(
    data: &Data,
    steps: u64,
    context: &mut Context<'_>,
) -> Result<AttributeClassifier, ReproduceError> {
    let mut config = classifier::config(data.kind, data.path.as_deref(), steps, context.seed);
    config.attributes = data.attributes.clone();
    let name = format!(
        "classifier-{}-{}.safetensors",
        data.kind,
        data.packed.size()
    );
    let path = context.out.join("models").join(name);
    let device = context.device.clone();
    let classifier = match AttributeClassifier::load(&path, &config, &data.packed, &device)? {
        Some(classifier) => classifier,
        None => {
            context.progress.say(&format!(
                "training the attribute network that judges the pictures, {steps} steps, into {}",
                path.display()
            ));
            if let Some(folder) = path.parent() {
                let fail = io_error(folder, 0, "create the folder");
                std::fs::create_dir_all(folder).map_err(fail)?;
            }
            let progress = &mut *context.progress;
            let mut watch = |step, total, _| {
                progress.at(step, total, "training the attribute network");
                true
            };
            let trained = AttributeClassifier::train(&config, &data.packed, &device, &mut watch)?;
            trained.save(&path)?;
            trained
        }
    };
    context.progress.say(&quality(&classifier));
    Ok(classifier)
}

/// How good it is, in a sentence.
pub fn quality(classifier: &AttributeClassifier) -> String {
    let held_out = classifier.held_out();
    format!(
        "the attribute network names {:.1} % of the attributes of {} held-out pictures right ({:.1} % by always naming the commoner value); SSE per picture {:.3}",
        100.0 * held_out.mean_accuracy(),
        held_out.pictures,
        100.0 * held_out.mean_base(),
        held_out.sse()
    )
}

/// Its quality on the attributes `chosen`, for a report's numbers.
pub fn quality_json(classifier: &AttributeClassifier, names: &[String], chosen: &[usize]) -> Value {
    let held_out = classifier.held_out();
    let each: Vec<Value> = chosen
        .iter()
        .map(|&k| {
            json!({
                "attribute": names[k],
                "accuracy": held_out.attributes[k].accuracy(),
                "commoner_value": held_out.attributes[k].base(),
                "squared_error": held_out.squared_error[k],
            })
        })
        .collect();
    json!({
        "held_out_pictures": held_out.pictures,
        "mean_accuracy": held_out.mean_accuracy(),
        "sse": held_out.sse(),
        "requested": each,
    })
}

/// Share of the requested attributes that the network sees in each of the pictures; the error is over
/// pictures. `request` has an entry per attribute, `None` where nothing is asked.
pub fn agreement(
    classifier: &mut AttributeClassifier,
    pictures: &Pictures,
    request: &[Option<bool>],
) -> Result<Estimate, DeviceError> {
    let seen = classifier.look_at_samples(&pictures.data)?;
    let named = classifier.attributes(&seen.probabilities);
    let asked = request.iter().flatten().count().max(1) as f64;
    let share = |row: &[bool]| {
        let agree = row.iter().zip(request);
        agree
            .filter(|(seen, asked)| **asked == Some(**seen))
            .count() as f64
            / asked
    };
    let shares: Vec<f64> = named.chunks(request.len()).map(share).collect();
    Ok(Estimate::of(&shares))
}
