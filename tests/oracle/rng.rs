//! Random numbers of the tests: SplitMix64, so that a seed names a case on every machine.

/// Generator of one case.
pub struct Rng {
    state: u64,
}

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c909,
        }
    }

    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `from..=to`.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + (self.word() % (to - from + 1) as u64) as usize
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }

    /// Standard normal: sum of twelve uniforms, whose tails end at 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// `count` normals.
    pub fn normals(&mut self, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| (mean + deviation * self.normal()) as f32)
            .collect()
    }
}

/// Seed number `i` of a test, moved by `GMMK_TEST_SEED`.
pub fn seed(i: u64) -> u64 {
    let base = std::env::var("GMMK_TEST_SEED")
        .ok()
        .and_then(|s| s.parse::<u64>().ok());
    base.unwrap_or(0) * 1_000_003 + i
}
