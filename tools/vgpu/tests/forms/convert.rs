//! Conversions.

use crate::exact::Exact;
use crate::floats;
use crate::halves::{BF16, F16, Half};
use crate::integers::{Int, TYPES};
use crate::run::{Form, Match::Bits, Match::Float, check, same};

const BYTES: [Int; 2] = [
    Int {
        name: "u8",
        width: 8,
        signed: false,
    },
    Int {
        name: "s8",
        width: 8,
        signed: true,
    },
];

/// A float format: name, bits after the point, bits of exponent.
const FLOATS: [(&str, i32, i32); 4] = [
    ("f16", 10, 5),
    ("bf16", 7, 8),
    ("f32", 23, 8),
    ("f64", 52, 11),
];

fn all_ints() -> impl Iterator<Item = Int> {
    TYPES.into_iter().chain(BYTES)
}

#[test]
fn integer_to_integer() {
    for from in all_ints() {
        for to in all_ints() {
            for sat in [false, true] {
                let op = format!(
                    "cvt.{}{}.{}",
                    if sat { "sat." } else { "" },
                    to.name,
                    from.name
                );
                check(
                    Form {
                        op: &op,
                        to: to.name,
                        from: &[from.name],
                        tail: "",
                    },
                    &[&from.edges()],
                    Bits,
                    |v| {
                        let x = from.value(v[0]);
                        let (low, high) = if to.signed {
                            (-(1i128 << (to.width - 1)), (1i128 << (to.width - 1)) - 1)
                        } else {
                            (0, (1i128 << to.width) - 1)
                        };
                        let x = if sat { x.clamp(low, high) } else { x };
                        // A byte in a 16-bit register is extended by its sign.
                        let width = to.width.max(16);
                        let cut = to.value(to.bits(x));
                        (cut & ((1i128 << width) - 1)) as u64
                    },
                );
            }
        }
    }
}

#[test]
fn integer_to_float() {
    for from in all_ints() {
        for (to, m, e) in FLOATS {
            for mode in ["rn", "rz", "rm", "rp"] {
                if to == "bf16" && mode != "rn" {
                    continue;
                }
                let op = format!("cvt.{mode}.{to}.{}", from.name);
                check(
                    Form {
                        op: &op,
                        to,
                        from: &[from.name],
                        tail: "",
                    },
                    &[&from.edges()],
                    Bits,
                    |v| {
                        let x = from.value(v[0]);
                        // In two exact halves: fixed point takes what f64 holds.
                        let (high, low) = ((x >> 32) as f64, (x & 0xffff_ffff) as f64);
                        Exact::product(high, 4_294_967_296.0)
                            .plus(Exact::of(low))
                            .round(m, e, mode)
                    },
                );
            }
        }
    }
}

/// Values that matter to integers.
fn reals() -> Vec<f64> {
    let mut v = vec![
        0.0, -0.0, 0.4, 0.5, 0.6, 1.5, 2.5, -0.5, -1.5, -2.5, 126.7, 127.5, 128.0, -128.5, -129.0,
        255.5, 256.0,
    ];
    v.extend([
        32767.4,
        32768.0,
        65535.0,
        65535.5,
        65536.0,
        -32769.0,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        -2147483904.0,
    ]);
    v.extend([
        4294967040.0,
        4294967296.0,
        9.3e18,
        1.9e19,
        -9.3e18,
        1e30,
        -1e30,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ]);
    v
}

#[test]
fn float_to_integer() {
    for (from, narrow) in [("f32", true), ("f64", false)] {
        let values: Vec<u64> = reals()
            .iter()
            .map(|x| {
                if narrow {
                    u64::from((*x as f32).to_bits())
                } else {
                    x.to_bits()
                }
            })
            .collect();
        for to in TYPES {
            for mode in ["rni", "rzi", "rmi", "rpi"] {
                let op = format!("cvt.{mode}.{}.{from}", to.name);
                check(
                    Form {
                        op: &op,
                        to: to.name,
                        from: &[from],
                        tail: "",
                    },
                    &[&values],
                    Bits,
                    |v| {
                        let x = if narrow {
                            f64::from(f32::from_bits(v[0] as u32))
                        } else {
                            f64::from_bits(v[0])
                        };
                        if x.is_nan() {
                            return if to.width == 64 || from == "f64" {
                                1 << (to.width - 1)
                            } else {
                                0
                            };
                        }
                        let r = match mode {
                            "rzi" => x.trunc(),
                            "rmi" => x.floor(),
                            "rpi" => x.ceil(),
                            _ => {
                                let near = x.round();
                                if (x - x.trunc()).abs() == 0.5 && near % 2.0 != 0.0 {
                                    near - x.signum()
                                } else {
                                    near
                                }
                            }
                        };
                        let (low, high) = if to.signed {
                            (-(1i128 << (to.width - 1)), (1i128 << (to.width - 1)) - 1)
                        } else {
                            (0, (1i128 << to.width) - 1)
                        };
                        // `as` saturates i128, far beyond these bounds.
                        to.bits((r as i128).clamp(low, high))
                    },
                );
            }
        }
    }
}

#[test]
fn halves_widen() {
    for t in [F16, BF16] {
        let v: Vec<u64> = (0..=0xffffu64).step_by(251).chain(t.edges()).collect();
        same(
            &format!("cvt.f32.{}", t.name),
            "f32",
            &[t.name],
            &v,
            Float,
            |v| (t.value(v[0]) as f32).to_bits().into(),
        );
    }
    same(
        "cvt.f64.f32",
        "f64",
        &["f32"],
        &floats::edges()[..19],
        Bits,
        |v| f64::from(f32::from_bits(v[0] as u32)).to_bits(),
    );
    let v: Vec<u64> = F16.edges();
    for op in ["cvt.rni.s32.f16", "cvt.rzi.s32.f16"] {
        let finite: Vec<u64> = v
            .iter()
            .copied()
            .filter(|h| F16.value(*h).abs() < 1e4)
            .collect();
        same(op, "s32", &["f16"], &finite, Bits, |v| {
            let x = F16.value(v[0]);
            (if op.contains("rzi") {
                x.trunc()
            } else {
                x.round_ties_even()
            } as i32 as u32)
                .into()
        });
    }
}

/// An f32 rounded into a format.
fn rounded(bits: u64, m: i32, e: i32, mode: &str) -> u64 {
    let x = f32::from_bits(bits as u32);
    let sign = u64::from(x.is_sign_negative()) << (m + e);
    if x.is_nan() {
        (1 << (m + e)) - 1
    } else if x.is_infinite() {
        sign | ((1 << e) - 1) << m
    } else if x == 0.0 {
        sign
    } else {
        Exact::of(x.into()).round(m, e, mode) | sign
    }
}

fn samples() -> Vec<u64> {
    let mut v = floats::edges();
    v.extend(
        [
            65504.0f32, 65519.9, 65520.0, 6.1e-5, 5.96e-8, 2.98e-8, 2.9e-8, 1.0009765, 1.0004883,
            1.0014648, 0.33333334,
        ]
        .map(|x| u64::from(x.to_bits())),
    );
    v.extend([0x3f80_8000u64, 0x3f81_8000, 0x3f80_8001, 0x7f7f_8000]);
    v
}

#[test]
fn f32_narrows() {
    let v = samples();
    for (name, t) in [("f16", F16), ("bf16", BF16)] {
        let (m, e) = (t.m as i32, t.e as i32);
        for mode in ["rn", "rz"] {
            same(
                &format!("cvt.{mode}.{name}.f32"),
                name,
                &["f32"],
                &v,
                Bits,
                |v| rounded(v[0], m, e, mode),
            );
            same(
                &format!("cvt.{mode}.{name}x2.f32"),
                "b32",
                &["f32"; 2],
                &v,
                Bits,
                |v| rounded(v[0], m, e, mode) << 16 | rounded(v[1], m, e, mode),
            );
        }
        same(
            &format!("cvt.rn.relu.{name}x2.f32"),
            "b32",
            &["f32"; 2],
            &v,
            Bits,
            |v| {
                let r = |x: u64| {
                    let h = rounded(x, m, e, "rn");
                    if h != 0x7fff && h & 0x8000 != 0 { 0 } else { h }
                };
                r(v[0]) << 16 | r(v[1])
            },
        );
    }
    same("cvt.rna.tf32.f32", "b32", &["f32"], &v, Float, |v| {
        let x = f32::from_bits(v[0] as u32);
        if !x.is_finite() {
            return v[0];
        }
        // Ties go away from zero: half a unit more, then cut.
        let cut = (v[0] & 0x7fff_ffff) + 0x1000 & 0x7fff_e000;
        v[0] & 0x8000_0000 | cut
    });
    for mode in ["rn", "rz", "rm", "rp"] {
        let d: Vec<u64> = [
            0.1f64,
            -0.1,
            1.0 + 1e-9,
            1e-40,
            3.5e38,
            -3.5e38,
            1e300,
            16777217.0,
            1e-46,
        ]
        .iter()
        .map(|x| x.to_bits())
        .collect();
        same(
            &format!("cvt.{mode}.f32.f64"),
            "f32",
            &["f64"],
            &d,
            Bits,
            |v| {
                let x = f64::from_bits(v[0]);
                if x.abs() > 1e60 {
                    return u64::from(
                        if matches!(mode, "rz" | "rm") {
                            f32::MAX
                        } else {
                            f32::INFINITY
                        }
                        .to_bits(),
                    );
                }
                Exact::of(x).round(23, 8, mode) | u64::from(x < 0.0) << 31
            },
        );
    }
}

#[test]
fn rounding_to_integral_values() {
    let v: Vec<u64> = reals()
        .iter()
        .map(|x| u64::from((*x as f32).to_bits()))
        .collect();
    let modes: [(&str, fn(f64) -> f64); 4] = [
        ("rni", f64::round_ties_even),
        ("rzi", f64::trunc),
        ("rmi", f64::floor),
        ("rpi", f64::ceil),
    ];
    for (mode, f) in modes {
        same(
            &format!("cvt.{mode}.f32.f32"),
            "f32",
            &["f32"],
            &v,
            Float,
            |v| {
                (f(f32::from_bits(v[0] as u32).into()) as f32)
                    .to_bits()
                    .into()
            },
        );
    }
    same("cvt.sat.f32.f32", "f32", &["f32"], &v, Float, |v| {
        let x = f32::from_bits(v[0] as u32);
        if x > 0.0 {
            x.min(1.0).to_bits().into()
        } else {
            0
        }
    });
    same(
        "cvt.ftz.f32.f32",
        "f32",
        &["f32"],
        &floats::edges(),
        Float,
        |v| {
            if v[0] & 0x7f80_0000 == 0 {
                v[0] & 0x8000_0000
            } else {
                v[0]
            }
        },
    );
    let _: Half = F16;
}
