//! Exact sums and products of floats, in fixed point wide enough for all of f32, and their rounding.

const WORDS: usize = 12;
/// The lowest bit stands for 2^-LOW.
const LOW: i32 = 340;

/// A fixed-point number in two's complement.
#[derive(Clone, Copy)]
pub struct Exact([u64; WORDS]);

impl Exact {
    /// m * 2^e.
    fn scaled(m: i128, e: i32) -> Exact {
        let mut words = [0u64; WORDS];
        let (shift, magnitude) = ((e + LOW) as usize, m.unsigned_abs());
        for bit in 0..128 {
            if magnitude >> bit & 1 == 1 {
                words[(bit + shift) / 64] |= 1 << ((bit + shift) % 64);
            }
        }
        let value = Exact(words);
        if m < 0 { value.negated() } else { value }
    }

    fn negated(self) -> Exact {
        let mut words = self.0.map(|w| !w);
        for w in &mut words {
            let (sum, carry) = w.overflowing_add(1);
            *w = sum;
            if !carry {
                break;
            }
        }
        Exact(words)
    }

    pub fn plus(self, other: Exact) -> Exact {
        let (mut words, mut carry) = ([0u64; WORDS], false);
        for n in 0..WORDS {
            let (a, c) = self.0[n].overflowing_add(other.0[n]);
            let (b, d) = a.overflowing_add(u64::from(carry));
            (words[n], carry) = (b, c || d);
        }
        Exact(words)
    }

    /// a * b for finite f32 (or narrower) values.
    pub fn product(a: f64, b: f64) -> Exact {
        let ((ma, ea), (mb, eb)) = (parts(a), parts(b));
        Exact::scaled(ma * mb, ea + eb)
    }

    pub fn of(a: f64) -> Exact {
        Exact::product(a, 1.0)
    }

    pub fn is_zero(&self) -> bool {
        self.0 == [0; WORDS]
    }

    pub fn negative(&self) -> bool {
        self.0[WORDS - 1] >> 63 == 1
    }

    fn bit(&self, n: i32) -> u64 {
        self.0[n as usize / 64] >> (n % 64) & 1
    }

    /// Rounded into a format of `m` bits after the point and `e` bits of exponent. Modes: rn rz rm rp.
    pub fn round(self, m: i32, e: i32, mode: &str) -> u64 {
        let negative = self.negative();
        let a = if negative { self.negated() } else { self };
        let sign = u64::from(negative) << (m + e);
        let Some(top) = (0..64 * WORDS as i32).rev().find(|n| a.bit(*n) == 1) else {
            return 0;
        };
        let bias = (1 << (e - 1)) - 1;
        // The unit in the last place, as a bit's number.
        let unit = (top - m).max(1 - bias - m + LOW);
        let mut kept = 0u64;
        for n in (unit..=top).rev() {
            kept = kept << 1 | a.bit(n);
        }
        let half = unit > 0 && a.bit(unit - 1) == 1;
        let sticky = (0..unit - 1).any(|n| a.bit(n) == 1);
        kept += u64::from(match mode {
            "rn" => half && (sticky || kept & 1 == 1),
            "rz" => false,
            "rm" => negative && (half || sticky),
            "rp" => !negative && (half || sticky),
            _ => unreachable!(),
        });
        // value = kept * 2^(unit - LOW)
        let mut exponent = unit - LOW + m + bias;
        if kept >> (m + 1) == 1 {
            kept >>= 1;
            exponent += 1;
        }
        let largest = (((1u64 << e) - 1) << m) - 1;
        if exponent >= (1 << e) - 1 {
            let stays = mode == "rz" || mode == "rm" && !negative || mode == "rp" && negative;
            return sign | if stays { largest } else { largest + 1 };
        }
        if kept >> m == 0 {
            sign | kept
        } else {
            sign | (exponent as u64) << m | kept & ((1 << m) - 1)
        }
    }
}

/// A finite value as integer and exponent.
fn parts(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let (e, m) = (
        (bits >> 52 & 0x7ff) as i32,
        (bits & ((1 << 52) - 1)) as i128,
    );
    let (mut m, mut e) = if e == 0 {
        (m, -1074)
    } else {
        (m | 1 << 52, e - 1075)
    };
    while m != 0 && m & 1 == 0 {
        m >>= 1;
        e += 1;
    }
    if m == 0 {
        e = 0;
    }
    (if x < 0.0 { -m } else { m }, e)
}
