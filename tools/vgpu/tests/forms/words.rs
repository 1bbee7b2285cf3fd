//! Bits, shifts, comparisons, selections, moves.

use crate::integers::TYPES;
use crate::run::{Form, Match::Bits, check, same};

const W: [u64; 12] = [
    0,
    1,
    2,
    31,
    32,
    33,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x0f0f_1234,
    0xdead_beef,
    64,
];
const L: [u64; 11] = [
    0,
    1,
    63,
    64,
    0xffff_ffff,
    0x1_0000_0000,
    u64::MAX,
    1 << 63,
    (1 << 63) - 1,
    0x0123_4567_89ab_cdef,
    0xf000_0000_0000_0001,
];

fn low(width: u32) -> u64 {
    if width == 64 {
        u64::MAX
    } else {
        (1 << width) - 1
    }
}

fn edges(width: u32) -> Vec<u64> {
    let all: Vec<u64> = W.iter().chain(&L).map(|v| v & low(width)).collect();
    all
}

#[test]
fn logic() {
    for width in [16, 32, 64] {
        let (ty, v) = (format!("b{width}"), edges(width));
        let t = ty.as_str();
        same(&format!("and.{t}"), t, &[t; 2], &v, Bits, |v| v[0] & v[1]);
        same(&format!("or.{t}"), t, &[t; 2], &v, Bits, |v| v[0] | v[1]);
        same(&format!("xor.{t}"), t, &[t; 2], &v, Bits, |v| v[0] ^ v[1]);
        same(&format!("not.{t}"), t, &[t], &v, Bits, |v| {
            !v[0] & low(width)
        });
        same(&format!("cnot.{t}"), t, &[t], &v, Bits, |v| {
            u64::from(v[0] == 0)
        });
        same(&format!("mov.{t}"), t, &[t], &v, Bits, |v| v[0]);
        check(
            Form {
                op: &format!("selp.{t}"),
                to: t,
                from: &[t, t, "pred"],
                tail: "",
            },
            &[&v, &v, &[0, 1]],
            Bits,
            |v| {
                if v[2] != 0 { v[0] } else { v[1] }
            },
        );
    }
    for (op, f) in [("and", 0), ("or", 1), ("xor", 2)] {
        same(
            &format!("{op}.pred"),
            "pred",
            &["pred"; 2],
            &[0, 1],
            Bits,
            |v| [v[0] & v[1], v[0] | v[1], v[0] ^ v[1]][f],
        );
    }
    same("not.pred", "pred", &["pred"], &[0, 1], Bits, |v| 1 - v[0]);
    same("mov.pred", "pred", &["pred"], &[0, 1], Bits, |v| v[0]);
}

#[test]
fn lop3_all_tables() {
    for table in 0..256u64 {
        let tail = format!(", {table}");
        check(
            Form {
                op: "lop3.b32",
                to: "b32",
                from: &["b32"; 3],
                tail: &tail,
            },
            &[&W[8..11]; 3],
            Bits,
            |v| {
                (0..32).fold(0, |r, bit| {
                    let index = (v[0] >> bit & 1) << 2 | (v[1] >> bit & 1) << 1 | v[2] >> bit & 1;
                    r | (table >> index & 1) << bit
                })
            },
        );
    }
}

#[test]
fn shifts() {
    for t in TYPES {
        let v = edges(t.width);
        let counts: Vec<u64> = vec![0, 1, 15, 16, 31, 32, 33, 63, 64, 255, 0xffff_ffff];
        let name = format!("b{}", t.width);
        check(
            Form {
                op: &format!("shl.{name}"),
                to: &name,
                from: &[&name, "u32"],
                tail: "",
            },
            &[&v, &counts],
            Bits,
            |v| {
                if v[1] >= u64::from(t.width) {
                    0
                } else {
                    v[0] << v[1] & low(t.width)
                }
            },
        );
        check(
            Form {
                op: &format!("shr.{}", t.name),
                to: t.name,
                from: &[t.name, "u32"],
                tail: "",
            },
            &[&v, &counts],
            Bits,
            |v| t.bits(t.value(v[0]) >> v[1].min(100)),
        );
    }
    for mode in ["wrap", "clamp"] {
        let n = |c: u64| if mode == "wrap" { c & 31 } else { c.min(32) };
        same(
            &format!("shf.l.{mode}.b32"),
            "b32",
            &["b32"; 3],
            &W,
            Bits,
            |v| (((v[1] as u128) << 32 | v[0] as u128) << n(v[2]) >> 32) as u64 & 0xffff_ffff,
        );
        same(
            &format!("shf.r.{mode}.b32"),
            "b32",
            &["b32"; 3],
            &W,
            Bits,
            |v| (v[1] << 32 | v[0]) >> n(v[2]) & 0xffff_ffff,
        );
    }
}

#[test]
fn counting() {
    for width in [32u32, 64] {
        let (ty, v) = (format!("b{width}"), edges(width));
        let bits = |x: u64| (0..width).map(move |n| x >> n & 1);
        same(&format!("popc.{ty}"), "u32", &[&ty], &v, Bits, |v| {
            bits(v[0]).sum()
        });
        same(&format!("clz.{ty}"), "u32", &[&ty], &v, Bits, |v| {
            (0..width).rev().take_while(|n| v[0] >> n & 1 == 0).count() as u64
        });
        same(&format!("brev.{ty}"), &ty, &[&ty], &v, Bits, |v| {
            bits(v[0])
                .enumerate()
                .map(|(n, b)| b << (width as usize - 1 - n))
                .sum()
        });
        for signed in [false, true] {
            let name = format!("{}{width}", if signed { 's' } else { 'u' });
            let top = |x: u64| {
                let negative = signed && x >> (width - 1) & 1 == 1;
                (0..width).rev().find(|n| (x >> n & 1 == 1) != negative)
            };
            same(&format!("bfind.{name}"), "u32", &[&name], &v, Bits, |v| {
                top(v[0]).map_or(0xffff_ffff, u64::from)
            });
            same(
                &format!("bfind.shiftamt.{name}"),
                "u32",
                &[&name],
                &v,
                Bits,
                |v| top(v[0]).map_or(0xffff_ffff, |n| u64::from(width - 1 - n)),
            );
        }
    }
}

#[test]
fn fields() {
    let at = [0u64, 1, 5, 31, 32, 40, 63, 64, 255, 256];
    for t in &TYPES[2..] {
        let v = edges(t.width);
        check(
            Form {
                op: &format!("bfe.{}", t.name),
                to: t.name,
                from: &[t.name, "u32", "u32"],
                tail: "",
            },
            &[&v, &at, &at],
            Bits,
            |v| {
                let (pos, len, msb) = (v[1] & 255, v[2] & 255, u64::from(t.width) - 1);
                let sign = if t.signed && len > 0 {
                    v[0] >> (pos + len - 1).min(msb) & 1
                } else {
                    0
                };
                (0..=msb)
                    .map(|i| {
                        (if i < len && pos + i <= msb {
                            v[0] >> (pos + i) & 1
                        } else {
                            sign
                        }) << i
                    })
                    .sum()
            },
        );
    }
    for width in [32u32, 64] {
        let ty = format!("b{width}");
        let v: Vec<u64> = edges(width).into_iter().step_by(3).collect();
        for (pos, len) in at.iter().flat_map(|p| at.iter().map(move |n| (*p, *n))) {
            let tail = format!(", {pos}, {len}");
            check(
                Form {
                    op: &format!("bfi.{ty}"),
                    to: &ty,
                    from: &[&ty, &ty],
                    tail: &tail,
                },
                &[&v, &v],
                Bits,
                |v| {
                    let (pos, len) = (pos & 255, len & 255);
                    (0..u64::from(width))
                        .map(|i| {
                            (if i >= pos && i < pos + len {
                                v[0] >> (i - pos) & 1
                            } else {
                                v[1] >> i & 1
                            }) << i
                        })
                        .sum()
                },
            );
        }
    }
}

#[test]
fn permutations() {
    let words = [0x0302_0100u64, 0x8081_7f7e, 0xdead_beef];
    let controls = [
        0u64, 0x3210, 0x7654, 0x0123, 0x4567, 0xba98, 0x8f0c, 0x5140, 0xffff, 1, 2, 3,
    ];
    let byte = |v: &[u64], n: u64| (v[1] << 32 | v[0]) >> (8 * (n & 7)) & 0xff;
    check(
        Form {
            op: "prmt.b32",
            to: "b32",
            from: &["b32"; 3],
            tail: "",
        },
        &[&words, &words, &controls],
        Bits,
        |v| {
            (0..4)
                .map(|i| {
                    let s = v[2] >> (4 * i) & 15;
                    let b = byte(v, s);
                    (if s & 8 == 0 {
                        b
                    } else if b & 0x80 != 0 {
                        0xff
                    } else {
                        0
                    }) << (8 * i)
                })
                .sum()
        },
    );
    // The ISA's table, most significant byte first.
    let table: [(&str, [[u64; 4]; 4]); 6] = [
        (
            "f4e",
            [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        ),
        (
            "b4e",
            [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        ),
        (
            "rc8",
            [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecl",
            [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecr",
            [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
        ),
        (
            "rc16",
            [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        ),
    ];
    for (mode, rows) in table {
        check(
            Form {
                op: &format!("prmt.b32.{mode}"),
                to: "b32",
                from: &["b32"; 3],
                tail: "",
            },
            &[&words, &words, &[0, 1, 2, 3]],
            Bits,
            |v| {
                rows[v[2] as usize]
                    .iter()
                    .fold(0, |r, n| r << 8 | byte(v, *n))
            },
        );
    }
}

#[test]
fn integer_comparisons() {
    let compare = |op: &str, a: i128, b: i128| match op {
        "eq" => a == b,
        "ne" => a != b,
        "lt" | "lo" => a < b,
        "le" | "ls" => a <= b,
        "gt" | "hi" => a > b,
        _ => a >= b,
    };
    for t in TYPES {
        let ops: &[&str] = if t.signed {
            &["eq", "ne", "lt", "le", "gt", "ge"]
        } else {
            &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"]
        };
        for op in ops {
            same(
                &format!("setp.{op}.{}", t.name),
                "pred",
                &[t.name; 2],
                &t.edges(),
                Bits,
                |v| u64::from(compare(op, t.value(v[0]), t.value(v[1]))),
            );
            same(
                &format!("set.{op}.u32.{}", t.name),
                "u32",
                &[t.name; 2],
                &t.edges(),
                Bits,
                |v| {
                    if compare(op, t.value(v[0]), t.value(v[1])) {
                        0xffff_ffff
                    } else {
                        0
                    }
                },
            );
        }
        for (mode, f) in [("and", 0), ("or", 1), ("xor", 2)] {
            let v = t.edges();
            check(
                Form {
                    op: &format!("setp.lt.{mode}.{}", t.name),
                    to: "pred",
                    from: &[t.name, t.name, "pred"],
                    tail: "",
                },
                &[&v, &v, &[0, 1]],
                Bits,
                |v| {
                    let c = u64::from(t.value(v[0]) < t.value(v[1]));
                    [c & v[2], c | v[2], c ^ v[2]][f]
                },
            );
        }
    }
    for width in [16, 32, 64] {
        let ty = format!("b{width}");
        same(
            &format!("setp.eq.{ty}"),
            "pred",
            &[ty.as_str(); 2],
            &edges(width),
            Bits,
            |v| u64::from(v[0] == v[1]),
        );
        same(
            &format!("setp.ne.{ty}"),
            "pred",
            &[ty.as_str(); 2],
            &edges(width),
            Bits,
            |v| u64::from(v[0] != v[1]),
        );
    }
}

#[test]
fn selections_by_sign() {
    check(
        Form {
            op: "slct.b32.s32",
            to: "b32",
            from: &["b32", "b32", "s32"],
            tail: "",
        },
        &[&W, &W[..3], &W],
        Bits,
        |v| {
            if (v[2] as u32 as i32) >= 0 {
                v[0]
            } else {
                v[1]
            }
        },
    );
    check(
        Form {
            op: "slct.u64.s32",
            to: "u64",
            from: &["u64", "u64", "s32"],
            tail: "",
        },
        &[&L, &L[..3], &W],
        Bits,
        |v| {
            if (v[2] as u32 as i32) >= 0 {
                v[0]
            } else {
                v[1]
            }
        },
    );
}

#[test]
fn masks() {
    let v = [0u64, 1, 5, 31, 32, 40];
    same("bmsk.wrap.b32", "b32", &["b32"; 2], &v, Bits, |v| {
        ((1u64 << (v[1] & 31)) - 1) << (v[0] & 31) & 0xffff_ffff
    });
    same("bmsk.clamp.b32", "b32", &["b32"; 2], &v, Bits, |v| {
        ((1u64 << v[1].min(32)) - 1) << v[0].min(32) & 0xffff_ffff
    });
    for (ty, signed) in [("u32", false), ("s32", true)] {
        for mode in ["wrap", "clamp"] {
            check(
                Form {
                    op: &format!("szext.{mode}.{ty}"),
                    to: ty,
                    from: &[ty, "u32"],
                    tail: "",
                },
                &[&W, &v],
                Bits,
                |v| {
                    let n = if mode == "wrap" {
                        v[1] & 31
                    } else {
                        v[1].min(32)
                    };
                    let kept = v[0] & ((1u64 << n) - 1);
                    if signed && n > 0 && kept >> (n - 1) == 1 {
                        (kept | !((1u64 << n) - 1)) & 0xffff_ffff
                    } else {
                        kept
                    }
                },
            );
        }
    }
}
