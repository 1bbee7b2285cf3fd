//! f16, bf16 and their pairs against exact arithmetic.

use crate::exact::Exact;
use crate::run::{Match::Bits, same};

#[derive(Clone, Copy)]
pub struct Half {
    pub name: &'static str,
    pub m: u32,
    pub e: u32,
}

pub const F16: Half = Half {
    name: "f16",
    m: 10,
    e: 5,
};
pub const BF16: Half = Half {
    name: "bf16",
    m: 7,
    e: 8,
};

impl Half {
    /// The value of bits, straight from the definition.
    pub fn value(self, h: u64) -> f64 {
        let (m, e) = (h & ((1 << self.m) - 1), h >> self.m & ((1 << self.e) - 1));
        let bias = (1 << (self.e - 1)) - 1;
        let fraction = m as f64 / f64::from(1u32 << self.m);
        let magnitude = match e {
            0 => fraction * 2f64.powi(1 - bias),
            _ if e == (1 << self.e) - 1 => {
                if m == 0 {
                    f64::INFINITY
                } else {
                    f64::NAN
                }
            }
            _ => (1.0 + fraction) * 2f64.powi(e as i32 - bias),
        };
        if h >> 15 & 1 == 1 {
            -magnitude
        } else {
            magnitude
        }
    }

    fn infinity(self) -> u64 {
        ((1 << self.e) - 1) << self.m
    }

    pub fn edges(self) -> Vec<u64> {
        let one = ((1u64 << (self.e - 1)) - 1) << self.m;
        let i = self.infinity();
        vec![
            0,
            0x8000,
            one,
            one | 0x8000,
            one + 1,
            one - 1,
            one + (1 << self.m),
            1,
            0x8001,
            (1 << self.m) - 1,
            1 << self.m,
            i - 1,
            (i - 1) | 0x8000,
            i,
            i | 0x8000,
            i | 1,
            one + 77,
            one + 300,
        ]
    }

    /// a * b + c, rounded once.
    fn fma(self, a: u64, b: u64, c: u64) -> u64 {
        let (x, y, z) = (self.value(a), self.value(b), self.value(c));
        if !x.is_finite() || !y.is_finite() || !z.is_finite() {
            let r = x * y + z;
            return if r.is_nan() {
                0x7fff
            } else {
                self.infinity() | if r < 0.0 { 0x8000 } else { 0 }
            };
        }
        let sum = Exact::product(x, y).plus(Exact::of(z));
        if sum.is_zero() {
            let both =
                (x * y == 0.0) && z == 0.0 && (x * y).is_sign_negative() && z.is_sign_negative();
            return if both { 0x8000 } else { 0 };
        }
        sum.round(self.m as i32, self.e as i32, "rn")
    }

    fn mul(self, a: u64, b: u64) -> u64 {
        let (x, y) = (self.value(a), self.value(b));
        if x * y == 0.0 && x.is_finite() && y.is_finite() && (x == 0.0 || y == 0.0) {
            return (a ^ b) & 0x8000;
        }
        let r = self.fma(a, b, 0);
        // An underflow keeps the product's sign.
        if r & 0x7fff == 0 { (a ^ b) & 0x8000 } else { r }
    }
}

fn negate(h: u64) -> u64 {
    h ^ 0x8000
}

/// One over every pair of values, and the pair form with both halves different.
fn both(op: &str, t: Half, n: usize, f: impl Fn(&[u64]) -> u64) {
    let v = t.edges();
    same(
        &format!("{op}.{}", t.name),
        t.name,
        &[t.name, t.name, t.name][..n],
        &v,
        Bits,
        &f,
    );
    let pairs: Vec<u64> = v
        .iter()
        .zip(v.iter().rev())
        .map(|(a, b)| a | b << 16)
        .collect();
    let x2 = format!("{}x2", t.name);
    same(
        &format!("{op}.{x2}"),
        &x2,
        &[x2.as_str(), &x2, &x2][..n],
        &pairs,
        Bits,
        |v| {
            let low: Vec<u64> = v.iter().map(|x| x & 0xffff).collect();
            let high: Vec<u64> = v.iter().map(|x| x >> 16).collect();
            f(&low) | f(&high) << 16
        },
    );
}

#[test]
fn arithmetic() {
    for t in [F16, BF16] {
        let one = ((1u64 << (t.e - 1)) - 1) << t.m;
        for op in ["add", "add.rn"] {
            both(op, t, 2, |v| t.fma(v[0], one, v[1]));
        }
        both("sub", t, 2, |v| {
            t.fma(
                v[0],
                one,
                if t.value(v[1]).is_nan() {
                    v[1]
                } else {
                    negate(v[1])
                },
            )
        });
        both("mul", t, 2, |v| t.mul(v[0], v[1]));
        both("fma.rn", t, 3, |v| t.fma(v[0], v[1], v[2]));
        both("fma.rn.relu", t, 3, |v| {
            let r = t.fma(v[0], v[1], v[2]);
            if r == 0x7fff {
                r
            } else if r & 0x8000 != 0 {
                0
            } else {
                r
            }
        });
        both("neg", t, 1, |v| negate(v[0]));
        both("abs", t, 1, |v| v[0] & 0x7fff);
    }
    both("fma.rn.sat", F16, 3, |v| {
        let r = F16.fma(v[0], v[1], v[2]);
        let x = F16.value(r);
        if x > 1.0 {
            0x3c00
        } else if x > 0.0 {
            r
        } else {
            0
        }
    });
}

#[test]
fn extremes() {
    for t in [F16, BF16] {
        for (op, max) in [("min", false), ("max", true)] {
            for nan in [false, true] {
                both(
                    &format!("{op}{}", if nan { ".NaN" } else { "" }),
                    t,
                    2,
                    |v| {
                        let (a, b) = (t.value(v[0]), t.value(v[1]));
                        match (a.is_nan(), b.is_nan()) {
                            (true, true) => 0x7fff,
                            (true, _) | (_, true) if nan => 0x7fff,
                            (true, false) => v[1],
                            (false, true) => v[0],
                            _ => {
                                if a.total_cmp(&b).is_lt() == max {
                                    v[1]
                                } else {
                                    v[0]
                                }
                            }
                        }
                    },
                );
            }
        }
    }
}

#[test]
fn comparisons() {
    for t in [F16, BF16] {
        for (op, f) in [("eq", 0), ("lt", 1), ("ge", 2), ("neu", 3)] {
            same(
                &format!("setp.{op}.{}", t.name),
                "pred",
                &[t.name; 2],
                &t.edges(),
                Bits,
                |v| {
                    let (a, b) = (t.value(v[0]), t.value(v[1]));
                    [a == b, a < b, a >= b, a != b][f].into()
                },
            );
        }
    }
}

#[test]
fn pairs_compare_half_by_half() {
    for (t, one) in [(F16, 0x3c00u64), (BF16, 0x3f80)] {
        let pairs: Vec<u64> = t.edges().windows(2).map(|w| w[0] << 16 | w[1]).collect();
        for (op, f) in [("eq", 0), ("lt", 1), ("neu", 2), ("nan", 3)] {
            let holds = |a: u64, b: u64| {
                let (a, b) = (t.value(a & 0xffff), t.value(b & 0xffff));
                [a == b, a < b, a != b, a.is_nan() || b.is_nan()][f]
            };
            for (to, yes) in [(format!("{}x2", t.name), one), ("u32".to_owned(), 0xffff)] {
                same(
                    &format!("set.{op}.{to}.{}x2", t.name),
                    "b32",
                    &["b32"; 2],
                    &pairs,
                    Bits,
                    |v| {
                        let half = |shift: u32| {
                            u64::from(holds(v[0] >> shift, v[1] >> shift)) * yes << shift
                        };
                        half(16) | half(0)
                    },
                );
            }
        }
    }
}

#[test]
fn functions() {
    for (t, name) in [
        (F16, "ex2.approx"),
        (BF16, "ex2.approx.ftz"),
        (F16, "tanh.approx"),
        (BF16, "tanh.approx"),
    ] {
        let v: Vec<u64> = t
            .edges()
            .into_iter()
            .filter(|h| {
                let x = t.value(*h);
                x.is_finite() && x.abs() > 1e-6 && x.abs() < 10.0
            })
            .collect();
        assert!(v.len() > 5);
        both_near(name, t, &v, |x| {
            if name.starts_with("ex2") {
                x.exp2()
            } else {
                x.tanh()
            }
        });
    }
}

/// Within two units in the last place.
fn both_near(op: &str, t: Half, v: &[u64], f: impl Fn(f64) -> f64) {
    let form = crate::run::Form {
        op: &format!("{op}.{}", t.name),
        to: t.name,
        from: &[t.name],
        tail: "",
    };
    for (got, x) in crate::run::results(&form, &[v]).iter().zip(v) {
        let (got, want) = (t.value(*got), f(t.value(*x)));
        assert!(
            (got - want).abs() <= 2.0 * want.abs() / f64::from(1u32 << t.m),
            "{op} of {x:#x}: {got}, expected {want}"
        );
    }
}
