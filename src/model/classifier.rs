//! The attribute classifier at the bottleneck (paper Fig. 8): mean over positions of the middle
//! block's output, then a linear layer to one logit per attribute.

use super::params::Init;
use super::unet::{Outputs, Purpose, UNet};
use crate::model::NetworkConfig;
use crate::ops::linear::{Weights, linear};
use crate::ops::mean_rows::mean_rows;
use crate::tape::{Arena, Tape, TapeError, Var};

impl UNet {
    /// Lays out the network of `config` with a classifier of `attributes` attributes:
    /// `classifier.weight` `[attributes, c]` and `classifier.bias`, which start at zero. They are the last
    /// parameters, so that the others are numbered, and initialised, as without it.
    pub fn with_classifier(config: NetworkConfig, attributes: usize) -> Self {
        let mut net = Self::new(config);
        let width = net.config().block_out_channels.last().copied();
        let shape = [attributes, width.unwrap_or_default()];
        let zero = Init::Constant(0.0);
        let weight = net.table.add("classifier.weight".into(), &shape, zero);
        let bias = net.table.add("classifier.bias".into(), &shape[..1], zero);
        net.classifier = Some([weight, bias]);
        net
    }

    /// Records the logits `[n, attributes]` of a recorded network; `None` without a classifier. Their
    /// gradient flows into the encoder.
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn classify(
        &self,
        tape: &mut Tape,
        outputs: &Outputs,
        purpose: Purpose,
    ) -> Result<Option<Var>, TapeError> {
        let Some(pair) = self.classifier else {
            return Ok(None);
        };
        tape.scope("classifier", |tape| {
            let [w, b] = pair.map(|i| {
                let param = &self.table.params()[i];
                let var = tape.state(&param.name, param.ty(), Arena::Params, param.offset);
                if purpose != Purpose::Sample {
                    tape.want_grad(var);
                }
                var
            });
            let mean = mean_rows(tape, outputs.bottleneck)?;
            let logits = linear(tape, mean, &[Weights { w, b }], Default::default())?;
            Ok(Some(logits[0]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::preset::Preset;

    #[test]
    fn the_networks_own_parameters_stay_as_they_were() {
        let config = Preset::find("nano").unwrap().config();
        let (plain, with) = (UNet::new(config.clone()), UNet::with_classifier(config, 40));
        let count = plain.table().params().len();
        assert_eq!(with.table().params().len(), count + 2);
        assert_eq!(with.table().count(), plain.table().count() + 40 * 16 + 40);
        let fill = |net: &UNet| {
            let mut arena = vec![f32::NAN; net.table().elements()];
            net.table().initialise(5, &mut arena);
            let all = net.table().params();
            all.iter().map(|p| p.export(&arena)).collect::<Vec<_>>()
        };
        let (plain, with) = (fill(&plain), fill(&with));
        assert_eq!(plain[..], with[..count]);
        assert!(with[count..].iter().flatten().all(|&w| w == 0.0));
    }
}
