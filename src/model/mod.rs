//! The denoiser: its configurations, its parameters, and how it is recorded on a tape.

pub mod attribute_net;
pub mod classifier;
pub mod config;
pub mod params;
pub mod preset;
pub mod unet;

pub use config::{ConfigError, NetworkConfig};
pub use params::{Param, ParamTable};
pub use unet::UNet;
