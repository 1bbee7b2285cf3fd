//! Reverse-mode differentiation: appends to the tape the nodes that compute gradients.

use super::{Arena, Kind, NodeIo, Tape, TapeError, Var};
use crate::tape::types::{Mismatch, TensorType};
use std::collections::HashMap;

/// How a gradient was resampled on its way: the reader undoes it while it adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Same size.
    None,
    /// Gradient of a 2x2 mean: a quarter of the value at (h / 2, w / 2).
    OfPool,
    /// Gradient of nearest-neighbour doubling: the sum of the 2x2 values at (2h, 2w).
    OfUpsample,
}

/// One summand of a tensor's gradient.
#[derive(Clone, Copy, Debug)]
pub struct Contribution {
    /// The values.
    pub var: Var,
    /// How they map onto the tensor.
    pub resample: Resample,
}

/// Whether a node overwrites its output or adds to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Overwrite.
    Write,
    /// Add to what is there.
    Add,
}

/// Records the sum of several contributions as one tensor of the given type.
pub type SumOf = fn(&mut Tape, &[Contribution], &TensorType) -> Result<Var, TapeError>;

/// State of the reverse pass, handed to each op's gradient rule.
pub struct Backward<'a> {
    /// The tape, for recording.
    pub tape: &'a mut Tape,
    sum: SumOf,
    needed: Vec<bool>,
    pending: HashMap<Var, Vec<Contribution>>,
}

impl Tape {
    /// Appends the gradients of the sum of `losses` with respect to everything that asked for one.
    /// Parameters' gradients are written into the gradient arena at the parameters' offsets; the
    /// returned map holds those of inputs. `sum` records additions. Called again, for losses that were
    /// recorded since, it adds to the parameters' gradients.
    ///
    /// # Errors
    /// A gradient node's operands do not fit, or something that asked for a gradient has none.
    pub fn backward(&mut self, losses: &[Var], sum: SumOf) -> Result<HashMap<Var, Var>, TapeError> {
        let needed = self.needed();
        let count = self.nodes.len();
        let mut backward = Backward {
            tape: self,
            sum,
            needed,
            pending: HashMap::new(),
        };
        for &loss in losses {
            // The loss op itself knows that the upstream gradient is one.
            backward.pending.insert(loss, Vec::new());
        }
        for i in (0..count).rev() {
            backward.visit(i)?;
        }
        backward.finish()
    }

    /// Which tensors lie between something that asked for a gradient and the end.
    fn needed(&self) -> Vec<bool> {
        let mut needed: Vec<bool> = self.vars.iter().map(|v| v.wants_grad).collect();
        for node in &self.nodes {
            if node.op.differentiable() && node.inputs.iter().any(|v| needed[v.index()]) {
                for output in &node.outputs {
                    needed[output.index()] = true;
                }
            }
        }
        needed
    }
}

impl Backward<'_> {
    fn visit(&mut self, i: usize) -> Result<(), TapeError> {
        let node = &self.tape.nodes[i];
        let reached = node.outputs.iter().any(|v| self.pending.contains_key(v));
        if !reached || !node.op.differentiable() {
            return Ok(());
        }
        let io = NodeIo {
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
        };
        let op = node.op.clone();
        let scope = vec![format!("{}'", node.scope)];
        let outer = std::mem::replace(&mut self.tape.scope, scope);
        let result = op.vjp(self, &io);
        self.tape.scope = outer;
        result
    }

    /// True if somebody needs the gradient of `var`.
    pub fn needs(&self, var: Var) -> bool {
        self.needed.get(var.index()).copied().unwrap_or(false)
    }

    /// Adds a summand to the gradient of `var`.
    pub fn add(&mut self, var: Var, contribution: Contribution) {
        if self.needs(var) {
            self.pending.entry(var).or_default().push(contribution);
        }
    }

    /// Adds a summand of the same size.
    pub fn add_plain(&mut self, var: Var, gradient: Var) {
        self.add(
            var,
            Contribution {
                var: gradient,
                resample: Resample::None,
            },
        );
    }

    /// Takes the summands so far, to fold them into a node that makes the next one.
    pub fn take(&mut self, var: Var) -> Vec<Contribution> {
        self.pending
            .get_mut(&var)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The whole gradient of `var`, an output, as one tensor of its own size; `None` if it has none.
    ///
    /// # Errors
    /// The summands' sizes differ.
    pub fn grad(&mut self, var: Var) -> Result<Option<Var>, TapeError> {
        let parts = self.take(var);
        let sum = match parts.as_slice() {
            [] => return Ok(None),
            [
                Contribution {
                    var,
                    resample: Resample::None,
                },
            ] => *var,
            parts => {
                let ty = self.tape.ty(var).clone();
                (self.sum)(self.tape, parts, &ty)?
            }
        };
        self.pending.entry(var).or_default().push(Contribution {
            var: sum,
            resample: Resample::None,
        });
        Ok(Some(sum))
    }

    /// The window of the gradient arena for parameter `param`, and whether it was written before.
    ///
    /// # Errors
    /// `param` is not a window of the parameter arena.
    pub fn param_grad(&mut self, param: Var) -> Result<(Var, Mode), TapeError> {
        let Kind::State(Arena::Params, offset) = *self.tape.kind(param) else {
            let found = self.tape.name(param).to_string();
            let m = Mismatch::new("weight", "a window of the parameter arena", found);
            return Err(self.tape.error("backward", m));
        };
        let mode = if self.tape.written.insert(offset) {
            Mode::Write
        } else {
            Mode::Add
        };
        let ty = self.tape.ty(param).clone();
        let name = format!("d {}", self.tape.name(param));
        Ok((self.tape.state(&name, ty, Arena::Grads, offset), mode))
    }

    fn finish(mut self) -> Result<HashMap<Var, Var>, TapeError> {
        let mut out = HashMap::new();
        for var in self.tape.all() {
            if !self.tape.wants_grad(var) {
                continue;
            }
            let found = if let Kind::State(_, offset) = self.tape.kind(var) {
                self.tape.written.contains(offset)
            } else {
                let grad = self.grad(var)?;
                grad.inspect(|&g| {
                    self.tape.keep(g);
                    out.insert(var, g);
                })
                .is_some()
            };
            if !found {
                let name = self.tape.name(var).to_string();
                let m = Mismatch::new("gradient", "a path from the loss", name);
                return Err(self.tape.error("backward", m));
            }
        }
        Ok(out)
    }
}
