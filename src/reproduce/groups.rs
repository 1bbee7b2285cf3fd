//! Disjoint classes made of overlapping attributes: clusters of attribute vectors, patterns of the
//! commonest attributes, combinations of named ones.

use crate::rng::{Philox, Stream, uniform};
use std::collections::BTreeMap;

/// One class per picture, and the classes' names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Names of the classes.
    pub names: Vec<String>,
    /// Class of each row.
    pub classes: Vec<u32>,
}

/// Rounds of k-means at the most; a fixed point comes long before.
const ROUNDS: usize = 200;

/// `k` clusters of attribute vectors (rows of `names.len()` values 0 or 1) by Lloyd's algorithm from
/// k-means++ starts, squared Euclidean distance. A cluster is named by the attributes that are most
/// above their share among all rows.
pub fn clusters(rows: &[u8], names: &[String], k: usize, seed: u64) -> Groups {
    let dim = names.len();
    let vectors: Vec<&[u8]> = rows.chunks_exact(dim).collect();
    let mut centres = starts(&vectors, k, seed);
    let mut classes = vec![0_u32; vectors.len()];
    for round in 0..ROUNDS {
        let nearest: Vec<u32> = vectors
            .iter()
            .map(|v| nearest(v, &centres).0 as u32)
            .collect();
        if round > 0 && nearest == classes {
            break;
        }
        classes = nearest;
        centres = means(&vectors, &classes, centres);
    }
    let all = share(&vectors, dim);
    let name = |(number, centre): (usize, &Vec<f64>)| {
        let mut order: Vec<usize> = (0..dim).collect();
        order.sort_by(|&i, &j| (centre[j] - all[j]).total_cmp(&(centre[i] - all[i])));
        let most: Vec<&str> = order.iter().take(3).map(|&i| names[i].as_str()).collect();
        format!("{number}: {}", most.join(" "))
    };
    Groups {
        names: centres.iter().enumerate().map(name).collect(),
        classes,
    }
}

/// k-means++: each next start is a row, drawn in proportion to its squared distance to the starts.
/// Fewer than `k` where there are no more distinct rows.
fn starts(vectors: &[&[u8]], k: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut centres: Vec<Vec<f64>> = Vec::new();
    let mut far = vec![1.0_f64; vectors.len()];
    for c in 0..k {
        let total: f64 = far.iter().sum();
        if total <= 0.0 {
            break;
        }
        let word = Philox::new(seed, Stream::SampleRow, c as u64).block(1)[0];
        let mut left = f64::from(uniform(word)) * total;
        let last = far.iter().rposition(|&f| f > 0.0).unwrap_or(0);
        let chosen = far.iter().position(|&f| {
            left -= f;
            left < 0.0
        });
        let centre: Vec<f64> = vectors[chosen.unwrap_or(last)]
            .iter()
            .map(|&v| v.into())
            .collect();
        for (f, v) in far.iter_mut().zip(vectors) {
            let d = distance(v, &centre);
            *f = if c == 0 { d } else { f.min(d) };
        }
        centres.push(centre);
    }
    centres
}

fn distance(v: &[u8], centre: &[f64]) -> f64 {
    let off = v
        .iter()
        .zip(centre)
        .map(|(&v, c)| (f64::from(v) - c).powi(2));
    off.sum()
}

fn nearest(v: &[u8], centres: &[Vec<f64>]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (i, centre) in centres.iter().enumerate() {
        let d = distance(v, centre);
        if d < best.1 {
            best = (i, d);
        }
    }
    best
}

/// Means of the classes; an empty class keeps its centre.
fn means(vectors: &[&[u8]], classes: &[u32], old: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let members = |class: usize| {
        let own = vectors.iter().zip(classes);
        own.filter(move |(_, c)| **c as usize == class)
            .map(|(v, _)| *v)
            .collect::<Vec<_>>()
    };
    let mean = |(class, old): (usize, Vec<f64>)| {
        let members = members(class);
        if members.is_empty() {
            old
        } else {
            share(&members, old.len())
        }
    };
    old.into_iter().enumerate().map(mean).collect()
}

/// Share of the rows that have each attribute.
fn share(vectors: &[&[u8]], dim: usize) -> Vec<f64> {
    let mut sums = vec![0.0; dim];
    for v in vectors {
        for (sum, &value) in sums.iter_mut().zip(*v) {
            *sum += f64::from(value);
        }
    }
    sums.iter()
        .map(|s| s / vectors.len().max(1) as f64)
        .collect()
}

/// One class per pattern of the `count` commonest attributes that occurs (at most 2^count).
pub fn patterns(rows: &[u8], names: &[String], count: usize) -> Groups {
    let vectors: Vec<&[u8]> = rows.chunks_exact(names.len()).collect();
    let all = share(&vectors, names.len());
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|&i, &j| all[j].total_cmp(&all[i]).then(i.cmp(&j)));
    order.truncate(count);
    combinations(rows, names, &order)
}

/// One class per combination of the attributes `chosen` that occurs.
pub fn combinations(rows: &[u8], names: &[String], chosen: &[usize]) -> Groups {
    let pattern = |row: &[u8]| -> Vec<u8> { chosen.iter().map(|&i| row[i]).collect() };
    let rows = || rows.chunks_exact(names.len());
    let mut numbers: BTreeMap<Vec<u8>, u32> = rows().map(|row| (pattern(row), 0)).collect();
    for (number, slot) in (0..).zip(numbers.values_mut()) {
        *slot = number;
    }
    let name = |pattern: &Vec<u8>| {
        let on = chosen.iter().zip(pattern).filter(|(_, value)| **value == 1);
        let on: Vec<&str> = on.map(|(&i, _)| names[i].as_str()).collect();
        if on.is_empty() {
            "none".to_owned()
        } else {
            on.join(" ")
        }
    };
    Groups {
        names: numbers.keys().map(name).collect(),
        classes: rows().map(|row| numbers[&pattern(row)]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("a{i}")).collect()
    }

    #[test]
    fn clusters_that_are_apart_are_found() {
        // Three blocks of attributes, one bit of each row flipped.
        let mut rows = Vec::new();
        for i in 0..90 {
            let mut row = [0_u8; 12];
            row[i % 3 * 4..i % 3 * 4 + 4].fill(1);
            row[i / 3 % 12] ^= 1;
            rows.extend(row);
        }
        for seed in 0..5 {
            let found = clusters(&rows, &names(12), 3, seed);
            let alike = |i: usize, j: usize| found.classes[i] == found.classes[j];
            let right = (0..90).all(|i| alike(i, i % 3));
            let apart = !alike(0, 1) && !alike(1, 2) && !alike(0, 2);
            // k-means++ may start twice in one block; Lloyd then splits it, and merges two others.
            assert!(right == apart, "seed {seed}: {found:?}");
            assert_eq!(found, clusters(&rows, &names(12), 3, seed));
        }
        assert!((0..5).any(|seed| {
            let found = clusters(&rows, &names(12), 3, seed);
            (0..90).all(|i| found.classes[i] == found.classes[i % 3])
        }));
        let few = clusters(&[1, 0, 1, 0], &names(2), 10, 0);
        assert_eq!((few.names.len(), few.classes), (1, vec![0, 0]));
    }

    #[test]
    fn patterns_of_the_commonest_attributes() {
        let rows = [1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1];
        let found = patterns(&rows, &names(3), 2);
        // a0 and a2 occur three times each, a1 once.
        assert_eq!(found.classes, [2, 2, 1, 0]);
        assert_eq!(found.names, ["a2", "a0", "a0 a2"]);
    }
}
