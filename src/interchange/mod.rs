//! Models and pictures for other programs: the folder that diffusers opens, written and read back, and
//! folders of pictures with their attributes.
//!
//! ```text
//! unet/config.json                                   diffusers' UNet2DConditionModel
//! unet/diffusion_pytorch_model.safetensors           its weights, F32
//! scheduler/scheduler_config.json                    diffusers' DDPMScheduler
//! mixture.json                                       from attributes to tokens
//! config.toml                                        the run's configuration, without its data's folder
//! classifier.safetensors                             the attribute classifier, where the run has one
//! check.safetensors                                  an input, and the noise that this program predicts
//! sample.py, README.md                               draws pictures with diffusers; says what the model is
//! ```

mod card;
mod check;
mod error;
mod export;
mod folder;
mod images;
mod import;
mod mixture;
mod scheduler;
mod stored;
#[cfg(test)]
mod tests;
mod weights;

pub use error::InterchangeError;
pub use export::{Exported, export, label};
pub use images::{ImageFacts, ImageFolder, MOST_PICTURES};
pub use import::{Imported, import};
pub use mixture::MixtureFile;
