//! What this machine's processors can do at most, measured: the yardstick of the benchmarks.

use super::lanes::{Lanes, by_level};
use super::memory::Buffer;
use super::pool::Pool;
use super::simd::{Level, level};
use super::view::RowsMut;
use std::time::Instant;

/// Independent sums: enough to hide an addition's latency on two units.
const SUMS: usize = 12;
/// Turns of the loop in one measurement.
const TURNS: usize = 1 << 20;
/// Measurements; the best counts.
const REPEATS: usize = 7;

/// FLOP/s of fused multiply-adds in registers, all workers of `pool` together (2 FLOP each).
pub fn fma_flops(pool: &Pool) -> f64 {
    let threads = pool.threads();
    let lanes = match level() {
        Level::Avx512 => 16,
        Level::Avx2 => 8,
        Level::Portable => 4,
    };
    let flops = (2 * threads * TURNS * SUMS * lanes) as f64;
    best(|| {
        let mut out = vec![0.0; threads];
        let split = RowsMut::of(&mut out, [1, 1, threads, 1]).split(1);
        pool.run(&[split], &mut [], |_, parts, _| {
            // SAFETY: one number is written.
            unsafe { turn(parts.get(0).row(0, 0).as_mut_ptr()) };
        });
        flops
    })
}

/// Bytes per second that all workers of `pool` together read from memory.
///
/// # Errors
/// `None` if there are no 256 MiB.
pub fn read_bandwidth(pool: &Pool) -> Option<f64> {
    const PIECE: usize = 1 << 18;
    let mut buffer = Buffer::new(256 << 20)?;
    buffer.as_mut_slice::<f32>().fill(1.0);
    let data = buffer.as_slice::<f32>();
    let mut sums = vec![0.0; data.len() / PIECE];
    Some(best(|| {
        let pieces = sums.len();
        let split = RowsMut::of(&mut sums, [1, 1, pieces, 1]).split(1);
        pool.run(&[split], &mut [], |piece, parts, _| {
            let from = &data[piece * PIECE..(piece + 1) * PIECE];
            parts.get(0).row(0, 0)[0] = super::vector::dot(from, from);
        });
        size_of_val(data) as f64
    }))
}

/// The highest rate: what `work` returns, per second.
fn best(mut work: impl FnMut() -> f64) -> f64 {
    let rate = |_| {
        let start = Instant::now();
        let done = work();
        done / start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(rate).fold(0.0, f64::max)
}

by_level! {
    /// [`TURNS`] turns of [`SUMS`] multiply-adds; their sum goes to `out`.
    ///
    /// # Safety
    /// One number can be written at `out`.
    unsafe fn turn(out: *mut f32) = turn_of
}

#[inline(always)]
unsafe fn turn_of<V: Lanes>(out: *mut f32) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut sums = [V::set(1.0); SUMS];
        let (by, to) = (
            V::set(std::hint::black_box(0.999)),
            V::set(std::hint::black_box(1e-3)),
        );
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = sum.mul_add(by, to);
            }
        }
        let mut total = V::zero();
        for sum in sums {
            total = total.add(sum);
        }
        let mut lanes = [0.0; 16];
        total.store(lanes.as_mut_ptr());
        *out = lanes.iter().sum();
    }
}
