//! Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//!
//! Every random number of the program is a function of `(seed, stream, index, block)` and of
//! nothing else: not of thread count, arrival order, or what was drawn before. The CPU and the GPU
//! draw the same words; derived normals differ only by the rounding of log, sqrt, sin and cos.

use std::convert::Infallible;
use std::f64::consts::TAU;

/// What a random number is for. Streams of one seed never overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Z of a training picture; index = the picture's row number in the data set as read.
    LatentFixed = 0,
    /// Fresh Z; index = sample number (training: images seen before this step + slot).
    LatentFresh = 1,
    /// Diffusion noise of training; index as `LatentFresh`.
    Noise = 2,
    /// Diffusion time step of training; index as `LatentFresh`.
    Timestep = 3,
    /// Feature codes; index = feature. Used with the fixed seed [`CODE_SEED`].
    FeatureCode = 4,
    /// Horizontal flip of a training picture; index as `LatentFresh`.
    Flip = 5,
    /// Order of the pictures; index = epoch, block = position / 4.
    Shuffle = 6,
    /// Initial weights; index = the tensor's number in the parameter table.
    Init = 7,
    /// x_T of a sample; index = sample number.
    SamplerStart = 8,
    /// Noise added by a sampler; index = sample number * 2^20 + sampling step.
    SamplerNoise = 9,
    /// The row that lends a sample the attributes that were not asked for; index = sample number.
    SampleRow = 10,
    /// Procedural faces; index = picture number.
    Faces = 11,
    /// Samples of the reproduced figures; index = the figure's own number of the set or point.
    Reproduction = 12,
    /// Training samples whose tokens are dropped; index as `LatentFresh`.
    TokenDropout = 13,
}

/// Seed of the feature codes: the same for every model ("gmmk" in ASCII).
pub const CODE_SEED: u64 = 0x676d_6d6b;

/// Ten rounds of Philox4x32 on `counter` under `key`.
#[inline]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = (
            (p1 >> 32) as u32 ^ c1 ^ k0,
            p1 as u32,
            (p0 >> 32) as u32 ^ c3 ^ k1,
            p0 as u32,
        );
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The words of one `(seed, stream, index)`, addressed by block.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u32,
    index: [u32; 2],
}

impl Philox {
    /// Words of `stream` number `index` under `seed`.
    pub fn new(seed: u64, stream: Stream, index: u64) -> Self {
        Self {
            key: split(seed),
            stream: stream as u32,
            index: split(index),
        }
    }

    /// Words x0..x3 of `block`.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox4x32_10([block, self.stream, self.index[0], self.index[1]], self.key)
    }

    /// Standard normals 4m..4m+3 of block m, Box-Muller in f64: cos then sin of (x0, x1), then of (x2, x3).
    pub fn normals4(&self, block: u32) -> [f64; 4] {
        let [x0, x1, x2, x3] = self.block(block);
        let [a, b] = box_muller(x0, x1);
        let [c, d] = box_muller(x2, x3);
        [a, b, c, d]
    }

    /// The same normals in f32 arithmetic on the exact 24-bit uniforms: what the devices compute.
    #[inline]
    pub fn normals4_f32(&self, block: u32) -> [f32; 4] {
        let [x0, x1, x2, x3] = self.block(block);
        let [a, b] = box_muller_f32(x0, x1);
        let [c, d] = box_muller_f32(x2, x3);
        [a, b, c, d]
    }

    /// Fills `out` with standard normals: element e is lane e mod 4 of block e / 4.
    pub fn fill_normals(&self, out: &mut [f32]) {
        for (block, chunk) in out.chunks_mut(4).enumerate() {
            let words = self.normals4_f32(block as u32);
            chunk.copy_from_slice(&words[..chunk.len()]);
        }
    }

    /// Uniform in [0, n): `(x0 * n) >> 32` of `block`. `n` below 2^32.
    pub fn below(&self, block: u32, n: u32) -> u32 {
        scale(self.block(block)[0], n)
    }

    /// A sequential generator over this stream's words, for `rand_distr` and friends where the
    /// order of draws is the program's own.
    pub fn sequence(self) -> PhiloxSequence {
        PhiloxSequence {
            philox: self,
            block: 0,
            words: [0; 4],
            used: 4,
        }
    }
}

/// Time step of a training sample: t = 1 + ((x0 T) >> 32), in 1..=T.
pub fn timestep(seed: u64, index: u64, t_max: u32) -> u32 {
    1 + Philox::new(seed, Stream::Timestep, index).below(0, t_max)
}

/// Whether a training sample sees null tokens instead of its own: u < `probability`, u the uniform of
/// word x0.
pub fn drops_tokens(seed: u64, index: u64, probability: f64) -> bool {
    let word = Philox::new(seed, Stream::TokenDropout, index).block(0)[0];
    f64::from(uniform(word)) < probability
}

/// Low and high word.
#[inline]
pub fn split(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// `word * n / 2^32`, the multiply-shift map of a word to [0, n).
#[inline]
pub fn scale(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

/// Uniform in [0, 1), 24 bits.
#[inline]
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two standard normals from two words: r cos(2 pi u2), r sin(2 pi u2), r = sqrt(-2 ln u1),
/// u1 = ((a >> 8) + 1) 2^-24, u2 = (b >> 8) 2^-24.
pub fn box_muller(a: u32, b: u32) -> [f64; 2] {
    let u1 = f64::from((a >> 8) + 1) / 16_777_216.0;
    let u2 = f64::from(b >> 8) / 16_777_216.0;
    let r = (-2.0 * u1.ln()).sqrt();
    let (sin, cos) = (TAU * u2).sin_cos();
    [r * cos, r * sin]
}

/// [`box_muller`] in f32.
#[inline]
pub fn box_muller_f32(a: u32, b: u32) -> [f32; 2] {
    let u1 = ((a >> 8) + 1) as f32 * (1.0 / 16_777_216.0);
    let r = (-2.0 * u1.ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * uniform(b)).sin_cos();
    [r * cos, r * sin]
}

/// [`Philox`] read word after word; implements `rand`'s generator trait.
#[derive(Clone, Debug)]
pub struct PhiloxSequence {
    philox: Philox,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl rand::TryRng for PhiloxSequence {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        if self.used == 4 {
            self.words = self.philox.block(self.block);
            self.block = self.block.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        Ok(self.words[self.used - 1])
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = self.try_next_u32()?;
        let high = self.try_next_u32()?;
        Ok(u64::from(low) | u64::from(high) << 32)
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dest.chunks_mut(4) {
            let word = self.try_next_u32()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn published_vectors() {
        let cases = [
            (
                [0; 4],
                [0; 2],
                [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
            ),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox4x32_10(counter, key), want);
        }
    }

    #[test]
    fn timesteps_cover_their_range() {
        let mut seen = [0_u32; 10];
        for index in 0..10_000 {
            seen[timestep(3, index, 10) as usize - 1] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn normals_have_unit_variance_and_both_precisions_agree() {
        let philox = Philox::new(5, Stream::Noise, 77);
        let (mut sum, mut square) = (0.0, 0.0);
        for block in 0..50_000 {
            let (wide, narrow) = (philox.normals4(block), philox.normals4_f32(block));
            for (w, n) in wide.iter().zip(narrow) {
                assert!((w - f64::from(n)).abs() <= 1e-5 * w.abs() + 2e-6, "{w} {n}");
                sum += w;
                square += w * w;
            }
        }
        assert!((sum / 200_000.0).abs() < 0.01 && (square / 200_000.0 - 1.0).abs() < 0.02);
    }

    #[test]
    fn sequence_reads_the_blocks_in_order() {
        use rand::Rng;
        let philox = Philox::new(1, Stream::Faces, 2);
        let mut sequence = philox.sequence();
        let words: Vec<u32> = (0..8).map(|_| sequence.next_u32()).collect();
        assert_eq!(words, [philox.block(0), philox.block(1)].concat());
    }
}
