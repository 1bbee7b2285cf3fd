//! f32 and f64 arithmetic against exact sums and products.

use crate::exact::Exact;
use crate::run::{Match, Match::Bits, Match::Float, Match::Near, same};

pub fn edges() -> Vec<u64> {
    let f = [
        0.0f32,
        -0.0,
        1.0,
        -1.0,
        1.5,
        3.0,
        0.1,
        -7.25,
        1e-3,
        1e10,
        -1e20,
        3.4e38,
        -3.4e38,
        f32::MIN_POSITIVE,
        1.0000001,
        0.99999994,
        16_777_216.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let bits = [1u32, 0x8000_0001, 0x007f_ffff, 0x0000_1234, 0x7f7f_ffff];
    f.iter()
        .map(|x| u64::from(x.to_bits()))
        .chain(bits.map(u64::from))
        .collect()
}

fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// Denormals to zero, if asked.
fn flush(x: f32, ftz: bool) -> f32 {
    if ftz && x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}

/// a * b + c by exact arithmetic.
fn fma(a: f32, b: f32, c: f32, mode: &str) -> f32 {
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
    }
    let sum = Exact::product(a.into(), b.into()).plus(Exact::of(c.into()));
    if sum.is_zero() {
        // Two zeros of one sign keep it; any other exact zero is +0, or -0 when rounding down.
        let product_negative = a.is_sign_negative() != b.is_sign_negative();
        let product_zero = a == 0.0 || b == 0.0;
        let alike = product_zero && c == 0.0 && product_negative == c.is_sign_negative();
        let zero = if alike {
            product_negative
        } else {
            mode == "rm"
        };
        return if zero { -0.0 } else { 0.0 };
    }
    let r = sum.round(23, 8, mode);
    f32::from_bits(r as u32)
}

fn add(a: f32, b: f32, mode: &str) -> f32 {
    fma(a, 1.0, b, mode)
}

fn mul(a: f32, b: f32, mode: &str) -> f32 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return a * b;
    }
    f32::from_bits(Exact::product(a.into(), b.into()).round(23, 8, mode) as u32)
}

/// Result after flush and saturation.
fn finish(x: f32, ftz: bool, sat: bool) -> u64 {
    let x = flush(x, ftz);
    let x = if !sat {
        x
    } else if x.is_nan() {
        0.0
    } else {
        x.clamp(0.0, 1.0)
    };
    // Saturation makes +0 of -0.
    u64::from(if sat && x == 0.0 { 0 } else { x.to_bits() })
}

#[test]
fn add_sub_mul_fma() {
    let v = edges();
    let few: Vec<u64> = v
        .iter()
        .copied()
        .step_by(2)
        .chain([f32::NAN.to_bits().into(), 1])
        .collect();
    for mode in ["", "rn", "rz", "rm", "rp"] {
        for ftz in [false, true] {
            for sat in [false, true] {
                let name = |op: &str| {
                    let parts = [
                        op,
                        mode,
                        if ftz { "ftz" } else { "" },
                        if sat { "sat" } else { "" },
                        "f32",
                    ];
                    parts
                        .iter()
                        .filter(|p| !p.is_empty())
                        .copied()
                        .collect::<Vec<_>>()
                        .join(".")
                };
                let m = if mode.is_empty() { "rn" } else { mode };
                let x = |v: &[u64], n: usize| flush(f(v[n]), ftz);
                same(&name("add"), "f32", &["f32"; 2], &v, Float, |v| {
                    finish(add(x(v, 0), x(v, 1), m), ftz, sat)
                });
                same(&name("sub"), "f32", &["f32"; 2], &v, Float, |v| {
                    finish(add(x(v, 0), -x(v, 1), m), ftz, sat)
                });
                same(&name("mul"), "f32", &["f32"; 2], &v, Float, |v| {
                    finish(mul(x(v, 0), x(v, 1), m), ftz, sat)
                });
                if !mode.is_empty() {
                    same(&name("fma"), "f32", &["f32"; 3], &few, Float, |v| {
                        finish(fma(x(v, 0), x(v, 1), x(v, 2), m), ftz, sat)
                    });
                }
            }
        }
    }
}

#[test]
fn nan_results_are_canonical() {
    same(
        "add.f32",
        "f32",
        &["f32"; 2],
        &[0x7f80_0000, 0xff80_0000, 0x7fc1_2345, 0x3f80_0000],
        Bits,
        |v| {
            let r = f(v[0]) + f(v[1]);
            if r.is_nan() {
                0x7fff_ffff
            } else {
                u64::from(r.to_bits())
            }
        },
    );
}

/// The neighbour on the asked side of a quotient or root, from comparisons that are exact in f64.
fn directed(
    near: f32,
    mode: &str,
    below: impl Fn(f64) -> bool,
    exact: impl Fn(f64) -> bool,
) -> f32 {
    if !near.is_finite() || near == 0.0 || exact(near.into()) {
        return near;
    }
    // `below(r)`: r is smaller than the true value.
    let low = if below(near.into()) {
        near
    } else {
        near.next_down()
    };
    let high = low.next_up();
    match mode {
        "rm" => low,
        "rp" => high,
        "rz" => {
            if low >= 0.0 {
                low
            } else {
                high
            }
        }
        _ => near,
    }
}

#[test]
fn division() {
    let v = [
        1.0f32, 3.0, 7.0, -7.25, 0.1, 1e10, 1e-10, 10.0, -3.0, 2.0, 1.0000001,
    ]
    .map(|x| u64::from(x.to_bits()));
    for mode in ["rn", "rz", "rm", "rp"] {
        same(
            &format!("div.{mode}.f32"),
            "f32",
            &["f32"; 2],
            &v,
            Bits,
            |v| {
                let (a, b) = (f64::from(f(v[0])), f64::from(f(v[1])));
                let near = (a / b) as f32;
                let r = directed(
                    near,
                    mode,
                    |r| if b > 0.0 { r * b < a } else { r * b > a },
                    |r| r * b == a,
                );
                u64::from(r.to_bits())
            },
        );
        same(&format!("rcp.{mode}.f32"), "f32", &["f32"], &v, Bits, |v| {
            let b = f64::from(f(v[0]));
            let near = (1.0 / b) as f32;
            u64::from(
                directed(
                    near,
                    mode,
                    |r| if b > 0.0 { r * b < 1.0 } else { r * b > 1.0 },
                    |r| r * b == 1.0,
                )
                .to_bits(),
            )
        });
        same(
            &format!("sqrt.{mode}.f32"),
            "f32",
            &["f32"],
            &v,
            Float,
            |v| {
                let a = f64::from(f(v[0]));
                let near = a.sqrt() as f32;
                u64::from(directed(near, mode, |r| r * r < a, |r| r * r == a).to_bits())
            },
        );
    }
    let all = edges();
    same("div.rn.f32", "f32", &["f32"; 2], &all, Float, |v| {
        ((f64::from(f(v[0])) / f64::from(f(v[1]))) as f32)
            .to_bits()
            .into()
    });
    same("div.rn.ftz.f32", "f32", &["f32"; 2], &all, Float, |v| {
        finish(
            (f64::from(flush(f(v[0]), true)) / f64::from(flush(f(v[1]), true))) as f32,
            true,
            false,
        )
    });
    same("sqrt.rn.f32", "f32", &["f32"], &all, Float, |v| {
        (f64::from(f(v[0])).sqrt() as f32).to_bits().into()
    });
}

#[test]
fn approximations_within_the_isa_bounds() {
    let mut v = edges();
    v.extend((-60..60).map(|n| u64::from((n as f32 * 0.37).to_bits())));
    let near = |bound: f64| Near(bound);
    let cases: [(&str, Match, fn(f64) -> f64); 8] = [
        ("rcp.approx", near(1.2e-7), |x| 1.0 / x),
        ("sqrt.approx", near(1.2e-7), f64::sqrt),
        ("rsqrt.approx", near(2.4e-7), |x| 1.0 / x.sqrt()),
        ("ex2.approx", near(2.4e-7), f64::exp2),
        ("lg2.approx", near(2.4e-7), f64::log2),
        ("sin.approx", near(2.4e-7), f64::sin),
        ("cos.approx", near(2.4e-7), f64::cos),
        ("tanh.approx", near(4.9e-4), f64::tanh),
    ];
    for (name, how, formula) in cases {
        for ftz in [false, true] {
            if ftz && name == "tanh.approx" {
                continue;
            }
            let op = format!("{name}{}.f32", if ftz { ".ftz" } else { "" });
            same(&op, "f32", &["f32"], &v, how, |v| {
                let y = formula(flush(f(v[0]), ftz).into()) as f32;
                u64::from(flush(y, ftz).to_bits())
            });
        }
    }
    for op in [
        "div.approx.f32",
        "div.full.f32",
        "div.approx.ftz.f32",
        "div.full.ftz.f32",
    ] {
        let ftz = op.contains("ftz");
        same(op, "f32", &["f32"; 2], &edges(), near(2.4e-7), |v| {
            finish(
                (f64::from(flush(f(v[0]), ftz)) / f64::from(flush(f(v[1]), ftz))) as f32,
                ftz,
                false,
            )
        });
    }
}

/// `min`/`max` as the ISA defines them.
fn extreme(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, _) | (_, true) if nan => f32::NAN,
        (true, false) => b,
        (false, true) => a,
        // total_cmp puts -0 below +0 and orders everything else as usual.
        _ if (a.total_cmp(&b) == std::cmp::Ordering::Less) == max => b,
        _ => a,
    }
}

#[test]
fn sign_and_extremes() {
    let v = edges();
    for ftz in [false, true] {
        let dot = if ftz { ".ftz" } else { "" };
        let x = |b: u64| flush(f(b), ftz);
        same(&format!("abs{dot}.f32"), "f32", &["f32"], &v, Float, |v| {
            x(v[0]).abs().to_bits().into()
        });
        same(&format!("neg{dot}.f32"), "f32", &["f32"], &v, Float, |v| {
            (-x(v[0])).to_bits().into()
        });
        for nan in [false, true] {
            let n = if nan { ".NaN" } else { "" };
            same(
                &format!("min{dot}{n}.f32"),
                "f32",
                &["f32"; 2],
                &v,
                Float,
                |v| extreme(x(v[0]), x(v[1]), false, nan).to_bits().into(),
            );
            same(
                &format!("max{dot}{n}.f32"),
                "f32",
                &["f32"; 2],
                &v,
                Float,
                |v| extreme(x(v[0]), x(v[1]), true, nan).to_bits().into(),
            );
        }
    }
    same("copysign.f32", "f32", &["f32"; 2], &v, Bits, |v| {
        v[1] & 0x7fff_ffff | v[0] & 0x8000_0000
    });
}

#[test]
fn comparisons() {
    let v = edges();
    let ops = [
        "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
    ];
    let truth = |op: &str, a: f64, b: f64| {
        let unordered = a.is_nan() || b.is_nan();
        let base = match op {
            "num" => return !unordered,
            "nan" => return unordered,
            "eq" | "equ" => a == b,
            "ne" | "neu" => !unordered && a != b,
            "lt" | "ltu" => a < b,
            "le" | "leu" => a <= b,
            "gt" | "gtu" => a > b,
            _ => a >= b,
        };
        base || unordered && op.ends_with('u')
    };
    for op in ops {
        for ftz in [false, true] {
            let dot = if ftz { ".ftz" } else { "" };
            let x = |b: u64| f64::from(flush(f(b), ftz));
            same(
                &format!("setp.{op}{dot}.f32"),
                "pred",
                &["f32"; 2],
                &v,
                Bits,
                |v| truth(op, x(v[0]), x(v[1])).into(),
            );
            same(
                &format!("set.{op}{dot}.f32.f32"),
                "f32",
                &["f32"; 2],
                &v,
                Bits,
                |v| {
                    if truth(op, x(v[0]), x(v[1])) {
                        0x3f80_0000
                    } else {
                        0
                    }
                },
            );
        }
        same(
            &format!("setp.{op}.f64"),
            "pred",
            &["f64"; 2],
            &doubles(),
            Bits,
            |v| truth(op, f64::from_bits(v[0]), f64::from_bits(v[1])).into(),
        );
    }
    let tests: [(&str, fn(f32) -> bool); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", |x| x.is_normal() || x == 0.0),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, test) in tests {
        same(
            &format!("testp.{name}.f32"),
            "pred",
            &["f32"],
            &v,
            Bits,
            |v| test(f(v[0])).into(),
        );
    }
}

fn doubles() -> Vec<u64> {
    [
        0.0f64,
        -0.0,
        1.0,
        -1.5,
        0.1,
        3.0,
        1e300,
        -1e-300,
        5e-324,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ]
    .iter()
    .map(|x| x.to_bits())
    .collect()
}

#[test]
fn double_precision() {
    // The host's f64 is IEEE: the formulas are its own operations.
    let v: Vec<u64> = doubles()
        .into_iter()
        .filter(|x| !f64::from_bits(*x).is_nan())
        .collect();
    let d = |x: u64| f64::from_bits(x);
    let bits = |x: f64| {
        if x.is_nan() {
            0x7fff_ffff_ffff_ffff
        } else {
            x.to_bits()
        }
    };
    for rn in ["", ".rn"] {
        same(&format!("add{rn}.f64"), "f64", &["f64"; 2], &v, Bits, |v| {
            bits(d(v[0]) + d(v[1]))
        });
        same(&format!("sub{rn}.f64"), "f64", &["f64"; 2], &v, Bits, |v| {
            bits(d(v[0]) - d(v[1]))
        });
        same(&format!("mul{rn}.f64"), "f64", &["f64"; 2], &v, Bits, |v| {
            bits(d(v[0]) * d(v[1]))
        });
    }
    same("fma.rn.f64", "f64", &["f64"; 3], &v, Bits, |v| {
        bits(d(v[0]).mul_add(d(v[1]), d(v[2])))
    });
    same("div.rn.f64", "f64", &["f64"; 2], &v, Bits, |v| {
        bits(d(v[0]) / d(v[1]))
    });
    same("sqrt.rn.f64", "f64", &["f64"], &v, Bits, |v| {
        bits(d(v[0]).sqrt())
    });
    same("rcp.rn.f64", "f64", &["f64"], &v, Bits, |v| {
        bits(1.0 / d(v[0]))
    });
    same("abs.f64", "f64", &["f64"], &v, Bits, |v| {
        v[0] & (u64::MAX >> 1)
    });
    same("neg.f64", "f64", &["f64"], &v, Bits, |v| v[0] ^ 1 << 63);
    same("min.f64", "f64", &["f64"; 2], &v, Bits, |v| {
        if d(v[0]).total_cmp(&d(v[1])).is_lt() {
            v[0]
        } else {
            v[1]
        }
    });
    same("max.f64", "f64", &["f64"; 2], &v, Bits, |v| {
        if d(v[0]).total_cmp(&d(v[1])).is_gt() {
            v[0]
        } else {
            v[1]
        }
    });
    same("copysign.f64", "f64", &["f64"; 2], &v, Bits, |v| {
        v[1] & (u64::MAX >> 1) | v[0] & 1 << 63
    });
}
