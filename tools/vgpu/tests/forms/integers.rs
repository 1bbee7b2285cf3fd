//! Integer arithmetic.

use crate::run::{Form, Match::Bits, check, same};

/// Width, signedness and the value of the low bits of a word.
#[derive(Clone, Copy)]
pub struct Int {
    pub name: &'static str,
    pub width: u32,
    pub signed: bool,
}

pub const TYPES: [Int; 6] = [
    Int {
        name: "u16",
        width: 16,
        signed: false,
    },
    Int {
        name: "s16",
        width: 16,
        signed: true,
    },
    Int {
        name: "u32",
        width: 32,
        signed: false,
    },
    Int {
        name: "s32",
        width: 32,
        signed: true,
    },
    Int {
        name: "u64",
        width: 64,
        signed: false,
    },
    Int {
        name: "s64",
        width: 64,
        signed: true,
    },
];

impl Int {
    pub fn value(self, bits: u64) -> i128 {
        let low = i128::from(bits) & ((1 << self.width) - 1);
        if self.signed && low >> (self.width - 1) == 1 {
            low - (1 << self.width)
        } else {
            low
        }
    }

    pub fn bits(self, value: i128) -> u64 {
        (value & ((1i128 << self.width) - 1)) as u64
    }

    pub fn edges(self) -> Vec<u64> {
        let w = self.width;
        let top = 1u128 << (w - 1);
        let mut all: Vec<u128> = vec![
            0,
            1,
            2,
            3,
            7,
            31,
            32,
            33,
            100,
            top - 1,
            top,
            top + 1,
            2 * top - 2,
            2 * top - 1,
            0x5a5a_1234_89ab_cdef,
        ];
        all.push(top / 3);
        all.iter().map(|v| (v & (2 * top - 1)) as u64).collect()
    }
}

fn two(op: &str, f: impl Fn(i128, i128) -> Option<i128>) {
    for t in TYPES {
        let name = format!("{op}.{}", t.name);
        same(&name, t.name, &[t.name; 2], &t.edges(), Bits, |v| {
            let (a, b) = (t.value(v[0]), t.value(v[1]));
            f(a, b).map_or(t.bits(if op == "div" { -1 } else { a }), |r| t.bits(r))
        });
    }
}

#[test]
fn add_sub_mul() {
    two("add", |a, b| Some(a + b));
    two("sub", |a, b| Some(a - b));
    two("mul.lo", |a, b| Some(a.wrapping_mul(b)));
}

#[test]
fn div_rem() {
    // By zero the ISA leaves the result open; hardware gives all ones, and the dividend.
    two("div", |a, b| (b != 0).then(|| a / b));
    two("rem", |a, b| (b != 0).then(|| a % b));
}

#[test]
fn min_max() {
    two("min", |a, b| Some(if a < b { a } else { b }));
    two("max", |a, b| Some(if a > b { a } else { b }));
}

#[test]
fn mul_hi() {
    for t in TYPES {
        same(
            &format!("mul.hi.{}", t.name),
            t.name,
            &[t.name; 2],
            &t.edges(),
            Bits,
            |v| {
                let (a, b) = (t.value(v[0]), t.value(v[1]));
                // 64-bit unsigned products need all 128 bits.
                if t.signed {
                    t.bits((a * b) >> t.width)
                } else {
                    ((a as u128 * b as u128) >> t.width) as u64
                }
            },
        );
    }
}

#[test]
fn mad() {
    for t in TYPES {
        let few: Vec<u64> = t.edges().into_iter().step_by(2).collect();
        same(
            &format!("mad.lo.{}", t.name),
            t.name,
            &[t.name; 3],
            &few,
            Bits,
            |v| {
                t.bits(
                    t.value(v[0])
                        .wrapping_mul(t.value(v[1]))
                        .wrapping_add(t.value(v[2])),
                )
            },
        );
        same(
            &format!("mad.hi.{}", t.name),
            t.name,
            &[t.name; 3],
            &few,
            Bits,
            |v| {
                let (a, b) = (t.value(v[0]), t.value(v[1]));
                let hi = if t.signed {
                    (a * b) >> t.width
                } else {
                    ((a as u128 * b as u128) >> t.width) as i128
                };
                t.bits(hi + t.value(v[2]))
            },
        );
    }
}

#[test]
fn wide() {
    let names = [
        ("u16", "u32"),
        ("s16", "s32"),
        ("u32", "u64"),
        ("s32", "s64"),
    ];
    for (from, to) in names {
        let f = *TYPES.iter().find(|t| t.name == from).unwrap();
        let t = *TYPES.iter().find(|t| t.name == to).unwrap();
        same(
            &format!("mul.wide.{from}"),
            to,
            &[from; 2],
            &f.edges(),
            Bits,
            |v| t.bits(f.value(v[0]) * f.value(v[1])),
        );
        let (x, y) = (f.edges(), t.edges());
        check(
            Form {
                op: &format!("mad.wide.{from}"),
                to,
                from: &[from, from, to],
                tail: "",
            },
            &[&x, &x, &y],
            Bits,
            |v| t.bits(f.value(v[0]) * f.value(v[1]) + t.value(v[2])),
        );
    }
}

#[test]
fn one_operand() {
    for t in TYPES.into_iter().filter(|t| t.signed) {
        same(
            &format!("neg.{}", t.name),
            t.name,
            &[t.name],
            &t.edges(),
            Bits,
            |v| t.bits(-t.value(v[0])),
        );
        same(
            &format!("abs.{}", t.name),
            t.name,
            &[t.name],
            &t.edges(),
            Bits,
            |v| t.bits(t.value(v[0]).abs()),
        );
    }
}

#[test]
fn saturating() {
    let t = TYPES[3];
    for (op, sign) in [("add.sat.s32", 1), ("sub.sat.s32", -1)] {
        same(op, "s32", &["s32"; 2], &t.edges(), Bits, |v| {
            t.bits(
                (t.value(v[0]) + sign * t.value(v[1]))
                    .clamp(i128::from(i32::MIN), i128::from(i32::MAX)),
            )
        });
    }
}

#[test]
fn sad_and_24_bits() {
    for t in TYPES {
        let few: Vec<u64> = t.edges().into_iter().step_by(2).collect();
        same(
            &format!("sad.{}", t.name),
            t.name,
            &[t.name; 3],
            &few,
            Bits,
            |v| t.bits((t.value(v[0]) - t.value(v[1])).abs() + t.value(v[2])),
        );
    }
    for t in [TYPES[2], TYPES[3]] {
        let cut = |v: u64| {
            let low = (v & 0xff_ffff) as i128;
            if t.signed && low >> 23 == 1 {
                low - (1 << 24)
            } else {
                low
            }
        };
        same(
            &format!("mul24.lo.{}", t.name),
            t.name,
            &[t.name; 2],
            &t.edges(),
            Bits,
            |v| t.bits(cut(v[0]) * cut(v[1])),
        );
        same(
            &format!("mul24.hi.{}", t.name),
            t.name,
            &[t.name; 2],
            &t.edges(),
            Bits,
            |v| t.bits((cut(v[0]) * cut(v[1])) >> 16),
        );
        same(
            &format!("mad24.lo.{}", t.name),
            t.name,
            &[t.name; 3],
            &t.edges()[..9],
            Bits,
            |v| t.bits(cut(v[0]) * cut(v[1]) + t.value(v[2])),
        );
    }
}

#[test]
fn dot_products() {
    let values: Vec<u64> = vec![
        0,
        0x0102_0304,
        0x80ff_7f01,
        0xffff_ffff,
        0x7f80_807f,
        0x1234_5678,
    ];
    for (a, b) in [
        ("u32", "u32"),
        ("s32", "s32"),
        ("u32", "s32"),
        ("s32", "u32"),
    ] {
        let byte = |x: u64, n: u32, ty: &str| {
            let v = (x >> (8 * n) & 0xff) as i64;
            if ty == "s32" && v > 127 { v - 256 } else { v }
        };
        let half = |x: u64, n: u32, ty: &str| {
            let v = (x >> (16 * n) & 0xffff) as i64;
            if ty == "s32" && v > 32767 {
                v - 65536
            } else {
                v
            }
        };
        same(
            &format!("dp4a.{a}.{b}"),
            "b32",
            &["b32"; 3],
            &values,
            Bits,
            |v| {
                let sum: i64 = (0..4).map(|n| byte(v[0], n, a) * byte(v[1], n, b)).sum();
                (sum as u64).wrapping_add(v[2]) & 0xffff_ffff
            },
        );
        for (mode, first) in [("lo", 0), ("hi", 2)] {
            same(
                &format!("dp2a.{mode}.{a}.{b}"),
                "b32",
                &["b32"; 3],
                &values,
                Bits,
                |v| {
                    let sum: i64 = (0..2)
                        .map(|n| half(v[0], n, a) * byte(v[1], n + first, b))
                        .sum();
                    (sum as u64).wrapping_add(v[2]) & 0xffff_ffff
                },
            );
        }
    }
}
