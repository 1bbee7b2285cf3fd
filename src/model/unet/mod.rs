//! The U-Net of `diffusers.UNet2DConditionModel` in its "simple cross attention" form: residual
//! blocks with time scale-shift, attention to tokens and pixels in one softmax.

mod layout;
mod record;

use super::config::NetworkConfig;
use super::params::ParamTable;
use crate::ops::conv2d::Algorithm;
use crate::tape::Var;
use layout::{Att, Level, Pair, Res};

/// The network: its parameters, and where each part finds its own.
#[derive(Debug)]
pub struct UNet {
    config: NetworkConfig,
    pub(super) table: ParamTable,
    conv_in: Pair,
    time: [Pair; 2],
    projection: Option<Pair>,
    down: Vec<Level>,
    mid: (Res, Att, Res),
    up: Vec<Level>,
    norm_out: Pair,
    conv_out: Pair,
    pub(super) classifier: Option<Pair>,
    convolutions: Algorithm,
}

impl UNet {
    /// The same network, its convolutions computed by `algorithm` on a CPU.
    pub fn with_convolutions(self, algorithm: Algorithm) -> Self {
        Self {
            convolutions: algorithm,
            ..self
        }
    }
}

/// What the network reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// Noisy pictures `[n, s, s, in]`.
    pub sample: Var,
    /// Step indices t - 1, `[n]` (U32).
    pub timestep: Var,
    /// Conditioning tokens `[n, l, width]`.
    pub tokens: Var,
}

/// What the network makes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// Predicted noise `[n, s, s, out]`.
    pub output: Var,
    /// Output of the middle block, where an attribute classifier reads.
    pub bottleneck: Var,
    /// Outputs of the network's parts by diffusers' names, for comparisons.
    pub parts: Vec<(String, Var)>,
}

/// What a recording is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Predict noise.
    Sample,
    /// Parameters ask for gradients.
    Train,
    /// As `Train`, and the normalised input of the last convolution is a part of its own.
    Verify,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset::{PRESETS, Preset};
    use crate::tape::Tape;
    use crate::tape::TensorType;
    use crate::tape::plan::Plan;

    #[test]
    fn presets_have_the_published_number_of_weights() {
        let want = [
            (60_576_643, 328),
            (69_574_659, 330),
            (5_482_083, 328),
            (1_450_979, 272),
            (54_939, 176),
        ];
        for (preset, (count, tensors)) in PRESETS.iter().zip(want) {
            let net = UNet::new(preset.config());
            assert_eq!(
                (net.table().count(), net.table().params().len()),
                (count, tensors),
                "{}",
                preset.name
            );
        }
    }

    fn recorded(preset: &str, batch: usize) -> Tape {
        let net = UNet::new(Preset::find(preset).unwrap().config());
        let config = net.config().clone();
        let mut tape = Tape::new();
        let s = config.sample_size;
        let inputs = Inputs {
            sample: tape.input("sample", TensorType::f32(&[batch, s, s, 3])),
            timestep: tape.input("t", TensorType::u32(&[batch])),
            tokens: tape.input(
                "tokens",
                TensorType::f32(&[batch, 40, config.cross_attention_dim]),
            ),
        };
        let out = net.record(&mut tape, inputs, Purpose::Train).unwrap();
        tape.keep(out.output);
        tape
    }

    /// Operation counts published beside the configurations, in GFLOP for a batch of 16.
    #[test]
    fn forward_operations_match_the_published_counts() {
        for (preset, gflop) in [
            ("celeba64", 705.375),
            ("cifar32", 213.924),
            ("tiny", 11.073),
        ] {
            let plan = Plan::new(&recorded(preset, 16), 1);
            let got = plan.flops as f64 / 1e9;
            assert!(
                (got / gflop - 1.0).abs() < 1e-3,
                "{preset}: {got} GFLOP, published {gflop}"
            );
        }
    }

    #[test]
    fn the_listing_names_scopes_and_shapes() {
        let listing = format!("{:?}", recorded("nano", 2));
        assert!(listing.contains("down_blocks.1.attentions.0"), "{listing}");
        assert!(
            listing.contains("f32[2, 16, 16, 8] = conv2d(sample, conv_in.weight, conv_in.bias)"),
            "{listing}"
        );
    }

    #[test]
    fn wrong_inputs_name_the_scope() {
        let net = UNet::new(Preset::find("nano").unwrap().config());
        let mut tape = Tape::new();
        let inputs = Inputs {
            sample: tape.input("sample", TensorType::f32(&[2, 16, 16, 4])),
            timestep: tape.input("t", TensorType::u32(&[2])),
            tokens: tape.input("tokens", TensorType::f32(&[2, 40, 12])),
        };
        let error = net.record(&mut tape, inputs, Purpose::Sample).unwrap_err();
        assert_eq!(error.scope, "conv_in");
    }
}
