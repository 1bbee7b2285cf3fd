//! Two streams: which launches of a program run beside the others, and where one stream waits for the other.
//!
//! Nothing is ordered that need not be: two nodes of different streams are, if both touch a byte and one of
//! them writes it. What lies where has been decided before, so a buffer that another tensor takes over counts
//! like one that is read; how far the streams may drift apart is a matter of where things lie.

use super::kernel::View;

/// Bytes that a node reads or writes: rows of `row` bytes, `pitch` bytes apart, from `start` to `end`.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    start: u64,
    end: u64,
    row: u64,
    pitch: u64,
    write: bool,
}

impl Access {
    /// `bytes` neighbours.
    pub fn flat(start: u64, bytes: u64, write: bool) -> Self {
        Self {
            start,
            end: start + bytes,
            row: bytes,
            pitch: bytes,
            write,
        }
    }

    /// The elements of `view`.
    pub fn view(view: &View, write: bool) -> Self {
        let [n, h, w, c] = view.shape;
        let bytes = |elements: usize| (elements * view.elem.bytes()) as u64;
        let last = (n.max(1) - 1) * view.sample + ((h * w).max(1) - 1) * view.ld;
        let whole = Self::flat(view.pointer, bytes(last + c), write);
        // Samples that begin inside a row would make columns of no use.
        if view.ld == 0 || (n > 1 && !view.sample.is_multiple_of(view.ld)) {
            return whole;
        }
        Self {
            row: bytes(c),
            pitch: bytes(view.ld),
            ..whole
        }
    }

    fn meets(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end && !self.apart(other)
    }

    /// Both are columns of the same rows, and not the same columns.
    fn apart(&self, other: &Self) -> bool {
        let (late, early) = match self.start >= other.start {
            true => (self, other),
            false => (other, self),
        };
        let ahead = (late.start - early.start) % early.pitch;
        late.pitch == early.pitch && ahead >= early.row && ahead + late.row <= late.pitch
    }
}

/// Where a node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// On the second stream.
    pub beside: bool,
    /// The last node of the other stream that has to be over before.
    pub after: Option<usize>,
}

/// Routes of nodes that are meant to run `beside` the others or not, and do these accesses.
pub fn routes(beside: &[bool], accesses: &[Vec<Access>]) -> Vec<Route> {
    let in_order = |i: usize, j: usize| {
        let mut pairs = accesses[i]
            .iter()
            .flat_map(|a| accesses[j].iter().map(move |b| (a, b)));
        pairs.any(|(a, b)| (a.write || b.write) && a.meets(b))
    };
    // The last node of the other stream that each stream has waited for.
    let mut waited: [Option<usize>; 2] = [None; 2];
    (0..beside.len())
        .map(|i| {
            let seen = &mut waited[usize::from(beside[i])];
            let after = (seen.map_or(0, |j| j + 1)..i)
                .rev()
                .find(|&j| beside[j] != beside[i] && in_order(i, j));
            *seen = after.or(*seen);
            Route {
                beside: beside[i],
                after,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::Elem;

    /// Columns `c` of rows of 16 numbers in two samples.
    fn columns(c: std::ops::Range<usize>, write: bool) -> Access {
        let view = View {
            pointer: 4096 + 4 * c.start as u64,
            elem: Elem::F32,
            shape: [2, 3, 1, c.len()],
            ld: 16,
            sample: 48,
        };
        Access::view(&view, write)
    }

    #[test]
    fn columns_of_one_buffer_meet_where_they_overlap() {
        let left = columns(0..8, true);
        assert!(!left.meets(&columns(8..16, true)) && !columns(8..16, true).meets(&left));
        assert!(left.meets(&columns(7..9, true)) && columns(7..9, true).meets(&left));
        // Another tensor in the same memory has other rows.
        assert!(left.meets(&Access::flat(4096 + 48, 4, false)));
        assert!(!left.meets(&Access::flat(4096 + 4 * 96, 4, false)));
    }

    #[test]
    fn streams_wait_for_what_they_share_and_for_nothing_else() {
        let at = |place: u64, write| Access::flat(1000 * place, 1000, write);
        let accesses = [
            vec![at(0, true)],                // 0: makes a gradient
            vec![at(0, false), at(9, true)],  // 1: a weight's, from it
            vec![at(0, false), at(1, true)],  // 2: the next gradient
            vec![at(1, false), at(10, true)], // 3: a weight's
            vec![at(2, true)],                // 4: nothing to do with them
            vec![at(0, true)],                // 5: takes over what 1 reads
            vec![at(1, true)],                // 6: takes over what 3 reads
            vec![at(9, false)],               // 7: only what 1 made, long waited for
            vec![at(10, false)],              // 8: and 3
        ];
        let beside = [false, true, false, true, false, false, false, false, false];
        let after: Vec<Option<usize>> =
            routes(&beside, &accesses).iter().map(|r| r.after).collect();
        let want = [
            None,
            Some(0),
            None,
            Some(2),
            None,
            Some(1),
            Some(3),
            None,
            None,
        ];
        assert_eq!(after, want);
    }
}
