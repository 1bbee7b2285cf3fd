//! Memory plan: from the life of each tensor to a place in one arena, before anything runs.

use super::{Kind, Node, Tape, TensorType, Var};
use crate::device::memory::align_up;
use std::collections::HashMap;

/// A tensor's life: from the node that makes it to the last node that reads it, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// First node, inclusive.
    pub start: usize,
    /// Last node, inclusive.
    pub end: usize,
    /// Size.
    pub bytes: usize,
}

impl Interval {
    fn meets(&self, other: &Interval) -> bool {
        self.start <= other.end && other.start <= self.end
    }
}

/// Offsets for `intervals` such that no two that live at the same time share a byte; each is a
/// multiple of [`crate::device::memory::ALIGN`]. Returns the offsets and the arena's size.
///
/// Largest first, each at the lowest gap among those it meets (greedy by size, Pisarchyk and Lee 2020).
pub fn pack(intervals: &[Interval]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].bytes), intervals[i].start, i));
    let mut offsets = vec![0; intervals.len()];
    // Placed intervals as (offset, end, index), sorted by offset.
    let mut placed: Vec<(usize, usize, usize)> = Vec::new();
    let mut peak = 0;
    for i in order {
        let bytes = align_up(intervals[i].bytes);
        let mut offset = 0;
        for &(from, to, other) in &placed {
            if intervals[i].meets(&intervals[other]) {
                if offset + bytes <= from {
                    break;
                }
                offset = offset.max(to);
            }
        }
        offsets[i] = offset;
        peak = peak.max(offset + bytes);
        let at = placed.partition_point(|p| p.0 < offset);
        placed.insert(at, (offset, offset + bytes, i));
    }
    (offsets, peak)
}

/// The least an arena could have: the largest sum of sizes alive at one node.
pub fn lower_bound(intervals: &[Interval]) -> usize {
    let mut events: Vec<(usize, bool, usize)> = Vec::new();
    for i in intervals {
        events.push((i.start, false, align_up(i.bytes)));
        events.push((i.end, true, align_up(i.bytes)));
    }
    // At one node all starts come before all ends.
    events.sort_unstable();
    let (mut now, mut most) = (0, 0);
    for (_, ends, bytes) in events {
        if ends {
            now -= bytes
        } else {
            now += bytes
        }
        most = most.max(now);
    }
    most
}

/// Where everything of a tape lies in the activation arena.
#[derive(Debug)]
pub struct Plan {
    offsets: HashMap<Var, usize>,
    /// Byte offsets of each node's shared and per-thread scratch, with their lengths in numbers; CPU only.
    pub(super) workspaces: Vec<[(usize, usize); 2]>,
    /// Size of the arena in bytes.
    pub peak_bytes: usize,
    /// What no plan could go below, in bytes.
    pub bound_bytes: usize,
    /// What it would be if nothing shared memory, in bytes.
    pub separate_bytes: usize,
    /// Products and sums of all nodes, FLOPs.
    pub flops: u64,
}

impl Plan {
    /// Plans `tape` for `threads` workers of the CPU.
    pub fn new(tape: &Tape, threads: usize) -> Self {
        let mut extras = Vec::new();
        let mut lengths = Vec::with_capacity(tape.nodes().len());
        for (i, node) in tape.nodes().iter().enumerate() {
            let (inputs, outputs) = operand_types(tape, node);
            let w = node.op.workspace(&inputs, &outputs);
            let both = [w.shared, w.per_thread.next_multiple_of(64) * threads];
            extras.extend(both.map(|length| Interval {
                start: i,
                end: i,
                bytes: length * 4,
            }));
            lengths.push(both);
        }
        let (mut plan, places) = Self::with(tape, |var| tape.ty(var).bytes(), &extras);
        plan.workspaces = lengths
            .iter()
            .zip(places.chunks_exact(2))
            .map(|(lengths, at)| [(at[0], lengths[0]), (at[1], lengths[1])])
            .collect();
        plan
    }

    /// Plans `tape` with tensors of `bytes_of(root)` bytes, and `extras` beside them; returns the plan and
    /// the extras' byte offsets.
    pub fn with(
        tape: &Tape,
        bytes_of: impl Fn(Var) -> usize,
        extras: &[Interval],
    ) -> (Self, Vec<usize>) {
        let lives = lives(tape, bytes_of);
        let mut intervals: Vec<Interval> = lives.iter().map(|l| l.1).collect();
        intervals.extend(extras);
        let (offsets, peak_bytes) = pack(&intervals);
        let plan = Self {
            workspaces: Vec::new(),
            peak_bytes,
            bound_bytes: lower_bound(&intervals),
            separate_bytes: intervals.iter().map(|i| align_up(i.bytes)).sum(),
            flops: flops(tape),
            offsets: lives.iter().zip(&offsets).map(|(l, &o)| (l.0, o)).collect(),
        };
        (plan, offsets[lives.len()..].to_vec())
    }

    /// Byte offset of the buffer of root `var`; `None` for state.
    pub fn offset(&self, var: Var) -> Option<usize> {
        self.offsets.get(&var).copied()
    }
}

fn operand_types<'a>(tape: &'a Tape, node: &Node) -> (Vec<&'a TensorType>, Vec<&'a TensorType>) {
    let types = |vars: &[Var]| vars.iter().map(|&v| tape.ty(v)).collect();
    (types(&node.inputs), types(&node.outputs))
}

/// Products and sums of all nodes, FLOPs.
fn flops(tape: &Tape) -> u64 {
    let nodes = tape.nodes().iter();
    nodes
        .map(|node| {
            let (inputs, outputs) = operand_types(tape, node);
            node.op.flops(&inputs, &outputs)
        })
        .sum()
}

/// Life of every buffer that is not state, in order of its root.
fn lives(tape: &Tape, bytes_of: impl Fn(Var) -> usize) -> Vec<(Var, Interval)> {
    let last = tape.nodes().len();
    let mut spans: HashMap<Var, (usize, usize)> = HashMap::new();
    for (i, node) in tape.nodes().iter().enumerate() {
        for &var in node.inputs.iter().chain(&node.outputs) {
            let span = spans.entry(tape.root(var)).or_insert((i, i));
            *span = (span.0.min(i), span.1.max(i));
        }
    }
    let mut lives: Vec<(Var, Interval)> = spans
        .into_iter()
        .filter_map(|(root, (start, end))| {
            let bytes = bytes_of(root);
            let (start, end) = match tape.kind(root) {
                Kind::Temp => (start, end),
                Kind::Result => (start, last),
                Kind::Input => (0, last),
                Kind::State(..) => return None,
            };
            Some((root, Interval { start, end, bytes }))
        })
        .collect();
    lives.sort_by_key(|l| l.0);
    lives
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn intervals() -> impl Strategy<Value = Vec<Interval>> {
        let one =
            (0_usize..60, 0_usize..20, 0_usize..5000).prop_map(|(start, length, bytes)| Interval {
                start,
                end: start + length,
                bytes,
            });
        prop::collection::vec(one, 0..80)
    }

    proptest! {
        #[test]
        fn live_tensors_never_overlap(intervals in intervals()) {
            let (offsets, peak) = pack(&intervals);
            for (i, a) in intervals.iter().enumerate() {
                prop_assert!(offsets[i] % crate::device::memory::ALIGN == 0);
                prop_assert!(offsets[i] + a.bytes <= peak);
                for (j, b) in intervals.iter().enumerate().skip(i + 1) {
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(apart || !a.meets(b), "{i} and {j}");
                }
            }
            prop_assert!(peak >= lower_bound(&intervals));
            prop_assert!(peak <= intervals.iter().map(|i| align_up(i.bytes)).sum());
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Interval> = (0..10)
            .map(|i| Interval {
                start: i,
                end: i + 1,
                bytes: 1024,
            })
            .collect();
        assert_eq!(pack(&chain).1, 2048);
        assert_eq!(lower_bound(&chain), 2048);
    }
}
