//! `machine.json`: what a run was last trained on. A record for people; nothing depends on it.

use serde::{Deserialize, Serialize};
use std::path::Path;

use super::setup::Memory;
use crate::device::Device;
use crate::report::files::{FileError, replace_with_bytes};

/// What a run was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The device in words.
    pub device: String,
    /// The program's version.
    pub program: String,
    /// Bytes that weights, optimizer, step and measuring take on the device, from their plans.
    pub planned_bytes: u64,
}

impl Machine {
    /// This program on `device`.
    pub fn new(device: &Device, memory: Memory) -> Self {
        Self {
            device: device.describe(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            planned_bytes: memory.total() as u64,
        }
    }

    /// Writes the file atomically.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let text = serde_json::json!(self);
        replace_with_bytes(path, format!("{text:#}\n").as_bytes())
    }

    /// Reads it; `None` for a run of an older program, or a damaged record.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }
}
