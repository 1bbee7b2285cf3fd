//! Work that may lag behind: gradients of weights are wanted by the optimizer alone, so a device with two
//! streams makes them beside the gradients of activations, which wait for each other.

use super::{Arena, Kind, Tape};

/// Which nodes lag, and until when what they touch has to stay.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The node may run after those that follow it.
    pub beside: Vec<bool>,
    /// The last node that each may run together with: itself, where it does not lag.
    pub until: Vec<usize>,
}

impl Branch {
    /// Nothing lags.
    pub fn none(tape: &Tape) -> Self {
        let nodes = tape.nodes().len();
        Self {
            beside: vec![false; nodes],
            until: (0..nodes).collect(),
        }
    }

    /// Nodes that make nothing but gradients of weights lag, by `lag` nodes at most.
    pub fn new(tape: &Tape, lag: usize) -> Self {
        let beside: Vec<bool> = tape
            .nodes()
            .iter()
            .map(|node| {
                let gradient = |&v| matches!(tape.kind(v), Kind::State(Arena::Grads, _));
                !node.op.is_view() && node.outputs.iter().all(gradient)
            })
            .collect();
        let last = beside.iter().rposition(|&b| b).map_or(0, |i| i + 1);
        let until = beside.iter().enumerate().map(|(i, &lags)| match lags {
            true => i.saturating_add(lag).min(last),
            false => i,
        });
        Self {
            until: until.collect(),
            beside,
        }
    }
}
