//! Named networks.

use super::NetworkConfig;

/// A named network.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for the help text.
    pub about: &'static str,
    size: usize,
    channels: &'static [usize],
    attention: &'static [bool],
    head: usize,
    width: usize,
    groups: usize,
}

/// All presets, largest pictures first.
pub const PRESETS: [Preset; 5] = [
    Preset {
        name: "celeba64",
        about: "64x64, 60.6 M parameters: the paper's CelebA model",
        size: 64,
        channels: &[128, 256, 256, 512],
        attention: &[false, false, true, true],
        head: 64,
        width: 128,
        groups: 32,
    },
    Preset {
        name: "cifar32",
        about: "32x32, 69.6 M parameters: the paper's CIFAR-10 model",
        size: 32,
        channels: &[128, 256, 384, 512],
        attention: &[false, true, true, false],
        head: 64,
        width: 128,
        groups: 32,
    },
    Preset {
        name: "small64",
        about: "64x64, 5.5 M parameters: a laptop's GPU, or a patient CPU",
        size: 64,
        channels: &[32, 64, 128, 128],
        attention: &[false, false, true, true],
        head: 32,
        width: 64,
        groups: 8,
    },
    Preset {
        name: "tiny",
        about: "32x32, 1.45 M parameters: pictures within minutes on a CPU",
        size: 32,
        channels: &[32, 64, 64],
        attention: &[false, true, true],
        head: 32,
        width: 32,
        groups: 8,
    },
    Preset {
        name: "nano",
        about: "16x16, 55 thousand parameters: for tests",
        size: 16,
        channels: &[8, 16],
        attention: &[false, true],
        head: 8,
        width: 12,
        groups: 4,
    },
];

impl Preset {
    /// The preset called `name`.
    pub fn find(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|p| p.name == name)
    }

    /// Its network.
    pub fn config(&self) -> NetworkConfig {
        NetworkConfig {
            sample_size: self.size,
            in_channels: 3,
            out_channels: 3,
            attention: self.attention.to_vec(),
            block_out_channels: self.channels.to_vec(),
            layers_per_block: 1,
            attention_head_dim: self.head,
            cross_attention_dim: self.width,
            norm_num_groups: self.groups,
            norm_eps: 1e-5,
            time_embedding_dim: None,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            token_projection: None,
        }
    }
}
