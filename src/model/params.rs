//! The parameters: names and shapes as in diffusers, windows into the flat arenas.

use crate::rng::{self, Philox, Stream};
use crate::tape::TensorType;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in +- this bound.
    Uniform(f32),
    /// All the same.
    Constant(f32),
}

/// One parameter tensor.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name in diffusers, such as "down_blocks.0.resnets.0.conv1.weight".
    pub name: String,
    /// Shape in diffusers: `[out, in, 3, 3]`, `[out, in, 1, 1]`, `[out, in]` or `[c]`.
    pub shape: Vec<usize>,
    /// First element in the arenas.
    pub offset: usize,
    /// How it starts.
    pub init: Init,
}

impl Param {
    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type in the arenas: a convolution's weight lies `[out, r, s, in]` there.
    pub fn ty(&self) -> TensorType {
        match *self.shape.as_slice() {
            [k, c, r, s] => TensorType::f32(&[k, r, s, c]),
            _ => TensorType::f32(&self.shape),
        }
    }

    /// Elements in diffusers' order from this parameter's window of `arena`.
    pub fn export(&self, arena: &[f32]) -> Vec<f32> {
        let window = &arena[self.offset..self.offset + self.len()];
        let mut out = vec![0.0; self.len()];
        self.permute(|there, here| out[there] = window[here]);
        out
    }

    /// Puts elements in diffusers' order into this parameter's window of `arena`.
    ///
    /// # Panics
    /// If `values` has another number of elements.
    pub fn import(&self, values: &[f32], arena: &mut [f32]) {
        assert_eq!(values.len(), self.len(), "{}", self.name);
        let window = &mut arena[self.offset..self.offset + self.len()];
        self.permute(|there, here| window[here] = values[there]);
    }

    /// Calls `pair(position in diffusers' order, position in the arena's order)` for all elements.
    fn permute(&self, mut pair: impl FnMut(usize, usize)) {
        let [c, taps] = match *self.shape.as_slice() {
            [_, c, r, s] => [c, r * s],
            _ => [1, 1],
        };
        for there in 0..self.len() {
            let (k, channel, tap) = (there / (c * taps), there / taps % c, there % taps);
            pair(there, (k * taps + tap) * c + channel);
        }
    }
}

/// All parameters of a network, in the order in which it uses them.
#[derive(Clone, Debug, Default)]
pub struct ParamTable {
    params: Vec<Param>,
    elements: usize,
}

/// Windows start at multiples of this many elements (64 bytes).
const ALIGN: usize = 16;

impl ParamTable {
    /// Adds a parameter; returns its number.
    pub fn add(&mut self, name: String, shape: &[usize], init: Init) -> usize {
        let param = Param {
            name,
            shape: shape.to_vec(),
            offset: self.elements,
            init,
        };
        self.elements = (param.offset + param.len()).next_multiple_of(ALIGN);
        self.params.push(param);
        self.params.len() - 1
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// The parameter called `name`.
    pub fn find(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }

    /// Elements of an arena, padding included.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Weights, without padding.
    pub fn count(&self) -> usize {
        self.params.iter().map(Param::len).sum()
    }

    /// Fills an arena with initial weights: a function of the seed, tensor by tensor, in diffusers'
    /// element order.
    pub fn initialise(&self, seed: u64, arena: &mut [f32]) {
        for (number, param) in self.params.iter().enumerate() {
            let values = match param.init {
                Init::Constant(value) => vec![value; param.len()],
                Init::Uniform(bound) => {
                    let philox = Philox::new(seed, Stream::Init, number as u64);
                    let value = |i: usize| {
                        let word = philox.block((i / 4) as u32)[i % 4];
                        (2.0 * rng::uniform(word) - 1.0) * bound
                    };
                    (0..param.len()).map(value).collect()
                }
            };
            param.import(&values, arena);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolution_weights_are_permuted_and_back() {
        let mut table = ParamTable::default();
        table.add("pad".into(), &[3], Init::Constant(0.0));
        let number = table.add("w".into(), &[2, 3, 3, 3], Init::Constant(0.0));
        let param = &table.params()[number];
        assert_eq!(param.offset, 16);
        let values: Vec<f32> = (0..54).map(|i| i as f32).collect();
        let mut arena = vec![0.0; table.elements()];
        param.import(&values, &mut arena);
        // [k=1][c=2][r=0][s=1] lies at [1][0][1][2].
        assert_eq!(arena[16 + 27 + 3 + 2], (27 + 2 * 9 + 1) as f32);
        assert_eq!(param.export(&arena), values);
    }
}
