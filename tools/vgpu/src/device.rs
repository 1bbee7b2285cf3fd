//! What is known of the devices that the driver can pretend to be.

use crate::cache::Levels;
use serde::{Deserialize, Serialize};

/// A device's limits and rates, per SM and clock unless said otherwise.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Device {
    pub name: String,
    pub capability: [u32; 2],
    pub sms: u32,
    pub clock_ghz: f64,
    pub tensor_flop: f64,
    pub mma_share: f64,
    pub fp32_lanes: f64,
    pub fp64_lanes: f64,
    pub fp16_lanes: f64,
    pub int_lanes: f64,
    pub sfu_lanes: f64,
    pub issue_slots: f64,
    pub shared_bytes_per_clock: f64,
    pub shared_per_sm: u32,
    pub shared_per_block: u32,
    pub l1_bytes: u32,
    pub registers: u32,
    pub warps: u32,
    pub blocks: u32,
    pub l2_bytes: u64,
    pub l2_bytes_per_clock: f64,
    pub dram_gb_per_s: f64,
    pub dram_bytes: u64,
    pub eta_dram: f64,
    pub eta_tensor: f64,
    pub atomic_slices: f64,
}

/// The tables that are built in, by the name that `VGPU_DEVICE` gives.
const TABLES: [(&str, &str); 6] = [
    ("a100", include_str!("../devices/a100.toml")),
    ("b200", include_str!("../devices/b200.toml")),
    ("h100", include_str!("../devices/h100.toml")),
    ("rtx4090", include_str!("../devices/rtx4090.toml")),
    ("rtx3090", include_str!("../devices/rtx3090.toml")),
    ("rtx5090", include_str!("../devices/rtx5090.toml")),
];

impl Device {
    /// The device of this name, or of the table in this file.
    ///
    /// # Errors
    ///
    /// No such device, or a table that lacks something.
    pub fn named(name: &str) -> Result<Device, String> {
        let own;
        let text = match TABLES.iter().find(|(key, _)| *key == name) {
            Some((_, text)) => *text,
            None => {
                let known: Vec<&str> = TABLES.iter().map(|t| t.0).collect();
                own = std::fs::read_to_string(name).map_err(|e| {
                    format!(
                        "VGPU_DEVICE={name}: {e}; expected {} or a .toml file",
                        known.join(", ")
                    )
                })?;
                &own
            }
        };
        toml::from_str(text).map_err(|e| format!("device {name}: {e}"))
    }

    /// The table that is nearest to a compute capability: where an unknown device's figures start.
    pub fn nearest(capability: [i32; 2]) -> &'static str {
        match capability {
            [9, _] => "h100",
            [10, _] => "b200",
            [12, _] => "rtx5090",
            [8, 9] => "rtx4090",
            [8, 6 | 7] => "rtx3090",
            _ => "a100",
        }
    }

    /// Its table as text.
    ///
    /// # Errors
    ///
    /// A value that TOML does not know.
    pub fn table(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }

    /// The caches that a launch sees: shared memory takes its part of L1.
    pub fn levels(&self, threads: u32, registers: u32, shared: u32) -> Levels {
        let resident = self.resident(threads, registers, shared).0.max(1);
        // An eighth is L1 whatever the kernel asks for.
        let taken = resident.saturating_mul(shared + 1024);
        Levels {
            sms: self.sms,
            resident,
            l1_bytes: self.l1_bytes.saturating_sub(taken).max(self.l1_bytes / 8),
            l2_bytes: self.l2_bytes,
        }
    }

    /// Blocks of a kernel that an SM holds at once, and what limits them.
    pub fn resident(&self, threads: u32, registers: u32, shared: u32) -> (u32, &'static str) {
        let warps = threads.div_ceil(32).max(1);
        let by_registers = if registers == 0 {
            u32::MAX
        } else {
            let per_warp = (registers * 32).next_multiple_of(256);
            // Registers are dealt to four schedulers: warps count in fours.
            (self.registers / per_warp / 4 * 4) / warps
        };
        let reserved = if self.capability[0] >= 8 { 1024 } else { 0 };
        let by_shared = if shared + reserved == 0 {
            u32::MAX
        } else {
            self.shared_per_sm / (shared + reserved).next_multiple_of(128)
        };
        let limits = [
            (self.blocks, "blocks"),
            (self.warps / warps, "warps"),
            (by_registers, "registers"),
            (by_shared, "shared memory"),
        ];
        limits
            .into_iter()
            .min_by_key(|l| l.0)
            .unwrap_or((0, "nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_are_complete() {
        for (name, _) in TABLES {
            let d = Device::named(name).unwrap();
            assert!(d.sms > 0 && d.shared_per_block + 1024 <= d.shared_per_sm);
        }
        assert!(Device::named("nothing.toml").is_err());
    }

    #[test]
    fn occupancy_as_cuda_occupancy_h_computes_it() {
        // Known results of NVIDIA's calculator: A100, 256 threads.
        let a = Device::named("a100").unwrap();
        assert_eq!(a.resident(256, 32, 0).0, 8);
        assert_eq!(a.resident(256, 64, 0).0, 4);
        assert_eq!(a.resident(256, 255, 0).0, 1);
        assert_eq!(a.resident(256, 32, 48 * 1024).0, 3);
        assert_eq!(a.resident(64, 16, 0).0, 32);
        let r = Device::named("rtx3090").unwrap();
        assert_eq!(r.resident(256, 40, 0).0, 6);
        assert_eq!(r.resident(128, 128, 0).0, 4);
    }
}
