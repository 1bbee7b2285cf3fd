//! Near copies: how far pictures are from the training picture next to them.
//!
//! The search is exact. Of each picture the sums over an 8 x 8 grid of blocks are kept; for blocks of n
//! pixels (S_a - S_b)^2 <= n |a - b|^2, so pictures whose sums are too far apart need no look at their
//! pixels, which leaves a few in a hundred.

use crate::data::Packed;
use crate::device::pool::Pool;
use crate::device::vector::{square_distance, square_distance_bytes};
use rayon::prelude::*;
use std::sync::Arc;

/// Blocks along a side, where the size of the pictures allows it.
const GRID: usize = 8;
/// Neighbours kept: the last tells how dense the training pictures lie around a picture.
const KEPT: usize = 10;
/// Room for the rounding of sums of squares in f32.
const SLACK: f32 = 1.0 - 1e-4;

/// The training picture next to a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nearest {
    /// Its place in the data.
    pub picture: usize,
    /// Whether its mirror image is meant, being nearer.
    pub mirrored: bool,
    /// Root mean square difference of the values, which go from -1 to 1.
    pub distance: f64,
    /// The distance over that of the tenth nearest: near 1 among equals, near 0 for a copy, whatever
    /// the contrast. (Blurred pictures are near to all.)
    pub relative: f64,
}

/// The training pictures of a data set, ready to be searched.
pub struct Neighbours {
    data: Arc<Packed>,
    grid: usize,
    sums: Vec<f32>,
}

impl Neighbours {
    /// The training pictures of `data`; 768 bytes of memory for each.
    pub fn new(data: Arc<Packed>, pool: &Pool) -> Self {
        let size = data.size() as usize;
        let divides = |grid: &usize| size.is_multiple_of(*grid);
        let grid = (1..=GRID).rev().find(divides).unwrap_or(1);
        let cells = 3 * grid * grid;
        let indices = data.train_indices();
        let mut sums = vec![0.0; indices.len() * cells];
        pool.enter(|| {
            let rows = sums.par_chunks_mut(cells).zip(indices);
            rows.for_each(|(sums, &i)| block_sums(data.image(i as usize), size, grid, sums));
        });
        Self { data, grid, sums }
    }

    /// The training picture next to each of the `pictures`, bytes `[n, size, size, 3]`; both a training
    /// picture and its mirror image count, as training shows both. Empty where nothing is trained on.
    pub fn nearest(&self, pictures: &[u8], pool: &Pool) -> Vec<Nearest> {
        let size = self.data.size() as usize;
        if self.sums.is_empty() {
            return Vec::new();
        }
        let pictures = pictures.par_chunks_exact(3 * size * size);
        pool.enter(|| pictures.map(|picture| self.nearest_to(picture)).collect())
    }

    fn nearest_to(&self, picture: &[u8]) -> Nearest {
        let size = self.data.size() as usize;
        let mirror = mirrored(picture, size);
        let cells = 3 * self.grid * self.grid;
        let block = ((size / self.grid) as f32).powi(2);
        let images = [picture, &mirror];
        let sums = images.map(|image| {
            let mut sums = vec![0.0; cells];
            block_sums(image, size, self.grid, &mut sums);
            sums
        });
        // At least so far is the nearer of the picture and its mirror image from each.
        let bounds: Vec<[f32; 2]> = (self.sums.chunks_exact(cells))
            .map(|row| [0, 1].map(|m| square_distance(&sums[m], row) / block * SLACK))
            .collect();
        let least = |i: usize| bounds[i][0].min(bounds[i][1]);
        let mut best = Best::default();
        let mut look = |i: usize| {
            let other = self.data.image(self.data.train_indices()[i] as usize);
            let distance = |m: usize| (square_distance_bytes(images[m], other), m == 1);
            let (d, mirrored) = distance(0).min(distance(1));
            best.add(d, i, mirrored);
            best.worst()
        };
        // Those that seem nearest come first, so that the others are told apart early.
        let mut order: Vec<usize> = (0..bounds.len()).collect();
        let first = KEPT.min(order.len());
        if first < order.len() {
            order.select_nth_unstable_by(first, |&a, &b| {
                least(a).total_cmp(&least(b)).then(a.cmp(&b))
            });
        }
        let mut worst = u64::MAX;
        for (number, &i) in order.iter().enumerate() {
            if number < first || least(i) <= worst as f32 {
                worst = look(i);
            }
        }
        best.nearest(picture.len(), self.data.train_indices())
    }
}

/// The nearest so far: squared distance, number, mirrored; nearest first.
#[derive(Default)]
struct Best(Vec<(u64, usize, bool)>);

impl Best {
    fn add(&mut self, distance: u64, number: usize, mirrored: bool) {
        let found = (distance, number, mirrored);
        let at = self.0.partition_point(|kept| *kept < found);
        self.0.insert(at, found);
        self.0.truncate(KEPT);
    }

    /// What does not come nearer than this is not kept.
    fn worst(&self) -> u64 {
        match self.0.get(KEPT - 1) {
            Some(kept) => kept.0,
            None => u64::MAX,
        }
    }

    fn nearest(&self, elements: usize, indices: &[u32]) -> Nearest {
        let distance = |square: u64| (square as f64 / elements.max(1) as f64).sqrt() / 127.5;
        let (square, number, mirrored) = self.0[0];
        let last = self.0[self.0.len() - 1].0;
        Nearest {
            picture: indices[number] as usize,
            mirrored,
            distance: distance(square),
            relative: if last == 0 {
                1.0
            } else {
                (square as f64 / last as f64).sqrt()
            },
        }
    }
}

/// A picture `[size, size, 3]` from right to left.
pub fn mirrored(picture: &[u8], size: usize) -> Vec<u8> {
    let rows = picture.chunks_exact(3 * size);
    let pixels = rows.flat_map(|row| row.chunks_exact(3).rev());
    pixels.flatten().copied().collect()
}

/// Sums of the values in each block, by channel.
fn block_sums(picture: &[u8], size: usize, grid: usize, sums: &mut [f32]) {
    let side = size / grid;
    sums.fill(0.0);
    for (y, row) in picture.chunks_exact(3 * size).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let cell = 3 * (y / side * grid + x / side);
            for (sum, &value) in sums[cell..].iter_mut().zip(pixel) {
                *sum += f32::from(value);
            }
        }
    }
}

/// Distances of drawn pictures against those of held-out ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Smallest, 5 % quantile, median, 95 % quantile and largest of the drawn pictures.
    pub drawn: [f64; 5],
    /// The same of the held-out pictures.
    pub held_out: [f64; 5],
    /// Share of pairs in which the drawn picture is the nearer one: a half where they do not differ.
    pub nearer: f64,
    /// Share of the drawn pictures that are nearer than 99 % of the held-out ones: 1 % where they do
    /// not differ.
    pub near_copies: f64,
}

/// Share of held-out pictures that are nearer than the limit of [`Compared::near_copies`].
const TAIL: f64 = 0.01;

impl Compared {
    /// Of at least one distance each.
    pub fn new(drawn: &[f64], held_out: &[f64]) -> Self {
        let sorted = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(f64::total_cmp);
            values
        };
        let (drawn, held_out) = (sorted(drawn), sorted(held_out));
        let nearer = |d: &f64| {
            let below = held_out.partition_point(|h| h < d);
            let up_to = held_out.partition_point(|h| h <= d);
            held_out.len() as f64 - (below + up_to) as f64 / 2.0
        };
        let pairs = (drawn.len() * held_out.len()).max(1) as f64;
        let limit = held_out.get((TAIL * held_out.len() as f64) as usize);
        let copies = drawn.partition_point(|d| Some(d) < limit);
        Self {
            drawn: quantiles(&drawn),
            held_out: quantiles(&held_out),
            nearer: drawn.iter().map(nearer).sum::<f64>() / pairs,
            near_copies: copies as f64 / drawn.len().max(1) as f64,
        }
    }
}

/// Smallest, 5 % quantile, median, 95 % quantile and largest of sorted values; NaN of none.
fn quantiles(sorted: &[f64]) -> [f64; 5] {
    [0.0, 0.05, 0.5, 0.95, 1.0].map(|q| {
        let at = (q * sorted.len().saturating_sub(1) as f64).round();
        sorted.get(at as usize).copied().unwrap_or(f64::NAN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ProceduralFaces, open_or_pack};
    use crate::rng::{Philox, Stream};

    fn faces(count: usize, size: u32) -> Arc<Packed> {
        let folder = tempfile::tempdir().unwrap();
        let faces = ProceduralFaces::new(3, count);
        Arc::new(open_or_pack(&faces, size, folder.path(), &mut |_| ()).unwrap())
    }

    /// Every pair, by the definition.
    fn by_hand(data: &Packed, picture: &[u8]) -> Vec<(u64, usize, bool)> {
        let mirror = mirrored(picture, data.size() as usize);
        let square = |a: &[u8], b: &[u8]| -> u64 {
            let pairs = a.iter().zip(b);
            pairs
                .map(|(&a, &b)| (i64::from(a) - i64::from(b)).pow(2) as u64)
                .sum()
        };
        let one = |&i: &u32| {
            let other = data.image(i as usize);
            let (plain, turned) = (square(picture, other), square(&mirror, other));
            (plain.min(turned), i as usize, turned < plain)
        };
        let mut all: Vec<_> = data.train_indices().iter().map(one).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn the_search_misses_nothing() {
        let pool = Pool::new(2).unwrap();
        // Blocks of 2 pixels; a size that 8 does not divide; fewer pictures than are kept.
        for (count, size) in [(400, 16), (150, 10), (6, 8)] {
            let data = faces(count, size);
            let search = Neighbours::new(data.clone(), &pool);
            let held_out = data
                .held_out_indices()
                .iter()
                .map(|&i| data.image(i as usize));
            let mut pictures: Vec<u8> = held_out.flatten().copied().collect();
            let noise = Philox::new(1, Stream::Noise, 0);
            let noise = (0..3 * size * size).map(|i| noise.below(i, 256) as u8);
            pictures.extend(noise);
            let found = search.nearest(&pictures, &pool);
            let elements = 3 * (size * size) as usize;
            assert_eq!(found.len(), pictures.len() / elements);
            for (picture, found) in pictures.chunks(elements).zip(found) {
                let all = by_hand(&data, picture);
                let (square, picture, mirrored) = all[0];
                assert_eq!((found.picture, found.mirrored), (picture, mirrored));
                let distance = (square as f64 / elements as f64).sqrt() / 127.5;
                assert!((found.distance - distance).abs() < 1e-12);
                let last = all[all.len().min(KEPT) - 1].0 as f64;
                assert!((found.relative - (square as f64 / last).sqrt()).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn copies_are_found_out() {
        let pool = Pool::new(1).unwrap();
        let (data, size) = (faces(300, 16), 16);
        let search = Neighbours::new(data.clone(), &pool);
        // Training pictures, every second as its mirror image, a little brighter.
        let copy = |i: usize| -> Vec<u8> {
            let picture = data.image(data.train_indices()[i] as usize);
            let picture = match i % 2 {
                0 => picture.to_vec(),
                _ => mirrored(picture, size),
            };
            picture.iter().map(|&v| v.saturating_add(2)).collect()
        };
        let copies: Vec<u8> = (0..20).flat_map(copy).collect();
        let found = search.nearest(&copies, &pool);
        for (i, nearest) in found.iter().enumerate() {
            assert_eq!(nearest.picture, data.train_indices()[i] as usize);
            assert!(nearest.distance < 0.02 && nearest.relative < 0.3);
        }
        let held_out = data
            .held_out_indices()
            .iter()
            .map(|&i| data.image(i as usize));
        let held_out: Vec<u8> = held_out.flatten().copied().collect();
        let held_out = search.nearest(&held_out, &pool);
        for of in [|n: &Nearest| n.distance, |n: &Nearest| n.relative] {
            let values = |found: &[Nearest]| found.iter().map(of).collect::<Vec<_>>();
            let compared = Compared::new(&values(&found), &values(&held_out));
            assert_eq!((compared.nearer, compared.near_copies), (1.0, 1.0));
            let itself = Compared::new(&values(&held_out), &values(&held_out));
            assert_eq!(itself.nearer, 0.5);
            assert!(itself.near_copies <= TAIL);
        }
    }

    #[test]
    fn quantiles_are_order_statistics() {
        let values: Vec<f64> = (0..101).rev().map(f64::from).collect();
        let compared = Compared::new(&values, &[50.0]);
        assert_eq!(compared.drawn, [0.0, 5.0, 50.0, 95.0, 100.0]);
        assert_eq!(compared.held_out, [50.0; 5]);
        assert_eq!(compared.nearer, 0.5);
    }
}
