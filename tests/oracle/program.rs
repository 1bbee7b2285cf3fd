//! A test network as data: leaves (inputs and parameters with their values) and the ops on them.
//! Values are numbered: the leaves first, then the outputs of each step.

use super::rng::Rng;
use gmmk::ops::concat::Axis;
use gmmk::ops::conv2d::Algorithm;

/// Epsilon of every norm.
pub const EPS: f64 = 1e-5;

/// Number of a value.
pub type Id = usize;

/// A value that the host provides.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    /// A window of the parameter arena instead of an input.
    pub param: bool,
}

/// Group norm of a step's input.
#[derive(Clone, Copy, Debug)]
pub struct NormIds {
    pub groups: usize,
    pub gamma: Id,
    pub beta: Id,
    pub scale_shift: Option<Id>,
}

/// What happens to a step's input on its way in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pre {
    pub norm: Option<NormIds>,
    pub silu: bool,
}

/// What a convolution adds to its output.
#[derive(Clone, Copy, Debug)]
pub enum Residue {
    None,
    Plain(Id),
    Doubled(Id),
    Shortcut { from: Id, w: Id, b: Id },
}

/// An op with its operands.
#[derive(Clone, Debug)]
pub enum Step {
    Conv {
        x: Id,
        w: Id,
        b: Id,
        pre: Pre,
        upsample: bool,
        residue: Residue,
    },
    Linear {
        x: Id,
        sets: Vec<[Id; 2]>,
        pre: Pre,
        residual: Option<Id>,
    },
    Norm {
        x: Id,
        norm: NormIds,
        silu: bool,
    },
    NormPool {
        x: Id,
        norm: NormIds,
    },
    Attention {
        q: Id,
        k: Id,
        v: Id,
        head: usize,
    },
    Concat {
        axis: Axis,
        parts: Vec<Id>,
    },
    Reshape {
        x: Id,
        shape: Vec<usize>,
    },
}

/// Leaves, steps, and which values the loss is made of.
pub struct Program {
    pub label: String,
    pub leaves: Vec<Leaf>,
    pub steps: Vec<Step>,
    pub shapes: Vec<Vec<usize>>,
    pub outputs: Vec<Id>,
    pub rng: Rng,
    /// Values below this are rounding errors of something that cancels exactly.
    pub floor: f64,
    /// Factor on the error limits; a case that sets it says why.
    pub slack: f64,
    /// How the CPU computes convolutions.
    pub algorithm: Algorithm,
}

impl Program {
    pub fn new(label: &str, seed: u64) -> Self {
        Self {
            label: format!("{label} (seed {seed})"),
            leaves: Vec::new(),
            steps: Vec::new(),
            shapes: Vec::new(),
            outputs: Vec::new(),
            rng: Rng::new(seed),
            floor: 0.0,
            slack: 1.0,
            algorithm: Algorithm::Direct,
        }
    }

    fn leaf(&mut self, shape: &[usize], [mean, deviation]: [f64; 2], param: bool) -> Id {
        assert!(self.steps.is_empty(), "leaves come before steps");
        let values = self.rng.normals(shape.iter().product(), mean, deviation);
        self.leaves.push(Leaf {
            shape: shape.to_vec(),
            values,
            param,
        });
        self.shapes.push(shape.to_vec());
        self.shapes.len() - 1
    }

    /// An input of standard normals.
    pub fn input(&mut self, shape: &[usize]) -> Id {
        self.leaf(shape, [0.0, 1.0], false)
    }

    /// An input of normals with this mean and deviation.
    pub fn input_around(&mut self, shape: &[usize], mean: f64, deviation: f64) -> Id {
        self.leaf(shape, [mean, deviation], false)
    }

    /// Weight [k, 3, 3, c] and bias of a convolution; outputs keep the size of inputs.
    pub fn filter(&mut self, c: usize, k: usize) -> [Id; 2] {
        let deviation = (1.0 / (9 * c) as f64).sqrt();
        let w = self.leaf(&[k, 3, 3, c], [0.0, deviation], true);
        [w, self.leaf(&[k], [0.0, 0.5], true)]
    }

    /// Weight of a linear layer ([k, c]) or of a 1x1 convolution ([k, 1, 1, c]), and bias.
    pub fn weights(&mut self, c: usize, k: usize, one_by_one: bool) -> [Id; 2] {
        let deviation = (1.0 / c as f64).sqrt();
        let shape = [vec![k], vec![1; 2 * usize::from(one_by_one)], vec![c]].concat();
        let w = self.leaf(&shape, [0.0, deviation], true);
        [w, self.leaf(&[k], [0.0, 0.5], true)]
    }

    /// Operands of a norm; scale and shift come from an input [n, 2 c].
    pub fn norm(&mut self, groups: usize, c: usize, scale_shift: Option<usize>) -> NormIds {
        NormIds {
            groups,
            gamma: self.leaf(&[c], [1.0, 0.3], true),
            beta: self.leaf(&[c], [0.0, 0.3], true),
            scale_shift: scale_shift.map(|n| self.leaf(&[n, 2 * c], [0.0, 0.4], false)),
        }
    }

    /// Adds a step; returns the number of its first output.
    pub fn step(&mut self, step: Step) -> Id {
        let first = self.shapes.len();
        let shapes = self.infer(&step);
        self.shapes.extend(shapes);
        self.steps.push(step);
        first
    }

    /// A linear layer without extras: makes a tensor that is no input, so that it can be placed.
    pub fn project(&mut self, x: Id, [w, b]: [Id; 2]) -> Id {
        self.step(Step::Linear {
            x,
            sets: vec![[w, b]],
            pre: Pre::default(),
            residual: None,
        })
    }

    fn channels(&self, id: Id) -> usize {
        self.shapes[id][self.shapes[id].len() - 1]
    }

    fn with_channels(&self, id: Id, channels: usize) -> Vec<usize> {
        let shape = &self.shapes[id];
        [&shape[..shape.len() - 1], &[channels]].concat()
    }

    fn infer(&self, step: &Step) -> Vec<Vec<usize>> {
        let shape = |id: Id| self.shapes[id].clone();
        match step {
            Step::Conv { x, b, upsample, .. } => {
                let s = shape(*x);
                let scale = 1 + usize::from(*upsample);
                vec![vec![s[0], scale * s[1], scale * s[2], shape(*b)[0]]]
            }
            Step::Linear { x, sets, .. } => sets
                .iter()
                .map(|set| self.with_channels(*x, shape(set[1])[0]))
                .collect(),
            Step::Norm { x, .. } => vec![shape(*x)],
            Step::NormPool { x, .. } => {
                let s = shape(*x);
                vec![vec![s[0], s[1] / 2, s[2] / 2, s[3]]; 2]
            }
            Step::Attention { q, .. } => vec![shape(*q)],
            Step::Concat { axis, parts } => vec![match axis {
                Axis::Channels => {
                    self.with_channels(parts[0], parts.iter().map(|&p| self.channels(p)).sum())
                }
                Axis::Rows => {
                    let rows = |&p: &Id| {
                        let s = shape(p);
                        s[1..s.len() - 1].iter().product::<usize>()
                    };
                    let total = parts.iter().map(rows).sum();
                    vec![shape(parts[0])[0], total, self.channels(parts[0])]
                }
            }],
            Step::Reshape { shape, .. } => vec![shape.clone()],
        }
    }

    /// Length of the longest sum in any output or gradient: products of a convolution or linear
    /// layer, rows of a weight gradient or norm, keys of an attention.
    pub fn longest_sum(&self) -> usize {
        let elements = |id: Id| self.shapes[id].iter().product::<usize>();
        let rows = |id: Id| elements(id) / self.channels(id);
        let of_step = |step: &Step| match step {
            Step::Conv { x, b, .. } => {
                let widest = self.channels(*x).max(self.shapes[*b][0]);
                (9 * widest).max(4 * rows(*x))
            }
            Step::Linear { x, sets, .. } => {
                let outputs: usize = sets.iter().map(|s| self.shapes[s[1]][0]).sum();
                self.channels(*x).max(outputs).max(rows(*x))
            }
            Step::Norm { x, norm, .. } | Step::NormPool { x, norm } => {
                elements(*x) / self.shapes[*x][0] / norm.groups
            }
            Step::Attention { q, k, .. } => rows(*q).max(self.shapes[*k][1]),
            Step::Concat { .. } | Step::Reshape { .. } => 1,
        };
        self.steps.iter().map(of_step).max().unwrap_or(1)
    }
}
