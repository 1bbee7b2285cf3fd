//! Missing edges of a graph: two nodes that nothing orders, which touch the same byte, and one of them writes
//! it. Found whatever order they ran in, so a result that was right by luck is no excuse.

use crate::exec::memory::Memory;
use crate::stream::{Node, Work};

/// Bytes that a node touched, in order, without overlap.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    read: Vec<[u64; 2]>,
    written: Vec<[u64; 2]>,
}

impl Footprint {
    /// Of the launch number `epoch`, the last.
    pub fn of_launch(memory: &Memory, epoch: u8) -> Footprint {
        let [read, written] = memory.touched_by(epoch);
        Footprint { read, written }
    }

    /// Of a copy or a fill.
    pub fn of_copy(work: &Work) -> Footprint {
        let one = |at: u64, len: u64| vec![[at, at + len]];
        let (read, written) = match *work {
            Work::ToDevice { to, len, .. } => (Vec::new(), one(to, len)),
            Work::ToHost { from, len, .. } => (one(from, len), Vec::new()),
            Work::Within { to, from, len } => (one(from, len), one(to, len)),
            Work::Fill {
                to, width, count, ..
            } => (Vec::new(), one(to, u64::from(width) * count)),
            _ => (Vec::new(), Vec::new()),
        };
        Footprint { read, written }
    }

    /// The first byte that both touch and one of them writes.
    fn meets(&self, other: &Footprint) -> Option<u64> {
        [
            (&self.written, &other.written),
            (&self.written, &other.read),
            (&self.read, &other.written),
        ]
        .into_iter()
        .find_map(|(a, b)| first_common(a, b))
    }
}

/// The first byte of both lists.
fn first_common(a: &[[u64; 2]], b: &[[u64; 2]]) -> Option<u64> {
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let from = a[i][0].max(b[j][0]);
        if from < a[i][1].min(b[j][1]) {
            return Some(from);
        }
        if a[i][1] < b[j][1] { i += 1 } else { j += 1 }
    }
    None
}

/// Pairs of nodes without an order that touch the same bytes, in words.
pub fn find(nodes: &[Node], footprints: &[Footprint]) -> Vec<String> {
    let words = nodes.len().div_ceil(64);
    // The nodes that must be over before each, as bits.
    let mut before: Vec<Vec<u64>> = Vec::with_capacity(nodes.len());
    let mut wrong = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let mut bits = vec![0; words];
        for &k in &node.after {
            bits[k / 64] |= 1 << (k % 64);
            for (mine, theirs) in bits.iter_mut().zip(&before[k]) {
                *mine |= theirs;
            }
        }
        for k in (0..n).filter(|k| bits[k / 64] >> (k % 64) & 1 == 0) {
            if let Some(byte) = footprints[n].meets(&footprints[k]) {
                wrong.push(format!(
                    "nodes {k} ({}) and {n} ({}) have no order, and one of them writes byte {byte:#x} that both touch",
                    nodes[k].work.name(),
                    node.work.name()
                ));
            }
        }
        before.push(bits);
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_meet() {
        assert_eq!(
            first_common(&[[0, 4], [8, 12]], &[[4, 8], [11, 20]]),
            Some(11)
        );
        assert_eq!(first_common(&[[0, 4], [8, 12]], &[[4, 8], [12, 20]]), None);
    }

    #[test]
    fn an_edge_orders_all_behind_it() {
        let node = |after: &[usize]| Node {
            work: Work::Nothing,
            after: after.to_vec(),
            priority: 0,
        };
        let print = |read: &[[u64; 2]], written: &[[u64; 2]]| Footprint {
            read: read.to_vec(),
            written: written.to_vec(),
        };
        let writes = print(&[], &[[0, 8]]);
        let reads = print(&[[4, 6]], &[]);
        let prints = [writes.clone(), reads.clone(), reads, writes];
        // 0 -> 1 -> 3 and 0 -> 2: 2 reads what 3 writes.
        let open = [node(&[]), node(&[0]), node(&[0]), node(&[1])];
        let wrong = find(&open, &prints);
        assert!(
            wrong.len() == 1 && wrong[0].starts_with("nodes 2 "),
            "{wrong:?}"
        );
        let joined = [node(&[]), node(&[0]), node(&[0]), node(&[1, 2])];
        assert!(find(&joined, &prints).is_empty());
    }
}
