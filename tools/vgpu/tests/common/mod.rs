//! Data for kernels.

#![allow(dead_code)] // Every test binary uses some of it.

use vgpu::machine::Machine;

/// Numbers between -1 and 1 from a seed.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed;
    (0..n)
        .map(|_| (vgpu::exec::launch::next(&mut s) >> 40) as f32 / (1 << 23) as f32 - 1.0)
        .collect()
}

/// f32 to bf16 and back, cut.
pub fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

/// A bf16 as f64.
pub fn wide(h: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(h) << 16))
}

/// A buffer of 16-bit words.
pub fn put16(m: &mut Machine, v: &[u16]) -> u64 {
    m.upload(&v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        .unwrap()
}

/// A buffer of floats.
pub fn put32(m: &mut Machine, v: &[f32]) -> u64 {
    m.upload(&v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        .unwrap()
}

/// A buffer's floats.
pub fn floats(m: &Machine, at: u64, n: usize) -> Vec<f32> {
    m.download(at, 4 * n)
        .chunks_exact(4)
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}
