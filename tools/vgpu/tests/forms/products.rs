//! `mma` on integers, bits, doubles and floats of eight bits: fragments as the ISA's tables give them, element by element.

use crate::lanes::{noise, run};

/// Registers of the test: A from 0, B from 4, C from 8.
fn regs(first: usize, n: usize, p: &str) -> String {
    let names: Vec<String> = (first..first + n).map(|i| format!("{p}{i}")).collect();
    names.join(", ")
}

fn form(op: &str, [nd, na, nb]: [usize; 3]) -> String {
    let [d, a, b, c] = [(0, nd, "%o"), (0, na, "%r"), (4, nb, "%r"), (8, nd, "%r")]
        .map(|(first, n, p)| regs(first, n, p));
    format!("{op} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};")
}

/// Element `i` of `bits` bits in a lane's registers from `first`.
fn element(first: usize, lane: usize, i: usize, bits: usize) -> u32 {
    let all = noise(lane, first + i * bits / 32);
    all >> (i * bits % 32) & (u32::MAX >> (32 - bits))
}

/// A as a matrix, from the ISA's table: a register's elements lie side by side, the second register is 8
/// rows lower, the third and fourth are half the depth to the right.
fn matrix_a(rows: usize, k: usize, bits: usize) -> Vec<Vec<u32>> {
    let per = 32 / bits;
    let mut a = vec![vec![0; k]; rows];
    for lane in 0..32 {
        for i in 0..rows * k / 32 {
            let (row, column) = if rows == 8 {
                (lane / 4, per * (lane % 4) + i)
            } else {
                let low = i / per % 2 == 1;
                let right = i / (2 * per) * (k / 2);
                (
                    lane / 4 + if low { 8 } else { 0 },
                    per * (lane % 4) + i % per + right,
                )
            };
            a[row][column] = element(0, lane, i, bits);
        }
    }
    a
}

/// B as a matrix of columns.
fn matrix_b(k: usize, bits: usize) -> Vec<Vec<u32>> {
    let per = 32 / bits;
    let mut b = vec![vec![0; k]; 8];
    for lane in 0..32 {
        for i in 0..8 * k / 32 {
            b[lane / 4][per * (lane % 4) + i % per + i / per * (k / 2)] = element(4, lane, i, bits);
        }
    }
    b
}

/// Compares D with a formula of A's row, B's column and C.
fn check(op: &str, rows: usize, k: usize, bits: usize, want: impl Fn(&[u32], &[u32], u32) -> u32) {
    let (nd, na, nb) = (rows / 4, rows * k * bits / 1024, 8 * k * bits / 1024);
    let (out, _) = run(&form(op, [nd, na, nb]), &noise);
    let (a, b) = (matrix_a(rows, k, bits), matrix_b(k, bits));
    for (lane, row) in out.iter().enumerate() {
        for i in 0..nd {
            let (r, c) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let expected = want(&a[r], &b[c], noise(lane, 8 + i));
            assert_eq!(row[i], expected, "{op} row {r} column {c}");
        }
    }
}

#[test]
fn integers() {
    let value = |x: u32, bits: u32, signed: bool| {
        let top = i64::from(x) << (64 - bits);
        if signed {
            top >> (64 - bits)
        } else {
            i64::from(x)
        }
    };
    for (bits, shapes) in [
        (8, [(8, 16), (16, 16), (16, 32)]),
        (4, [(8, 32), (16, 32), (16, 64)]),
    ] {
        for (rows, k) in shapes {
            for (s, t) in [("s", "s"), ("u", "u"), ("s", "u"), ("u", "s")] {
                for sat in ["", ".satfinite"] {
                    let op = format!(
                        "mma.sync.aligned.m{rows}n8k{k}.row.col{sat}.s32.{s}{bits}.{t}{bits}.s32"
                    );
                    check(&op, rows, k, bits as usize, |a, b, c| {
                        let products = a
                            .iter()
                            .zip(b)
                            .map(|(a, b)| value(*a, bits, s == "s") * value(*b, bits, t == "s"));
                        let sum = i64::from(c as i32) + products.sum::<i64>();
                        if sat.is_empty() {
                            sum as u32
                        } else {
                            sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u32
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn bits() {
    for (rows, k) in [(8, 128), (16, 128), (16, 256)] {
        for how in ["xor", "and"] {
            let op = format!("mma.sync.aligned.m{rows}n8k{k}.row.col.s32.b1.b1.s32.{how}.popc");
            check(&op, rows, k, 1, |a, b, c| {
                let ones = a.iter().zip(b).filter(|(a, b)| match how {
                    "xor" => a != b,
                    _ => **a == 1 && **b == 1,
                });
                c.wrapping_add(ones.count() as u32)
            });
        }
    }
}

/// A float of `e` exponent bits and `m` bits after the point, by its definition.
fn eight(x: u32, e: i32, m: i32) -> f64 {
    let sign = if x >> 7 & 1 == 1 { -1.0 } else { 1.0 };
    let (field, rest) = ((x >> m & ((1 << e) - 1)) as i32, x & ((1 << m) - 1));
    let bias = (1 << (e - 1)) - 1;
    let point = f64::from(rest) / f64::from(1 << m);
    sign * if field == 0 {
        point * 2f64.powi(1 - bias)
    } else {
        (1.0 + point) * 2f64.powi(field - bias)
    }
}

#[test]
fn floats_of_eight_bits() {
    let kinds = [("e4m3", 4, 3), ("e5m2", 5, 2)];
    // Finite numbers between 2^-2 and 2^2, and small sums.
    let clean = |x: u32, m: u32| {
        let bias = if m == 3 { 7 } else { 15 };
        let byte = |b: u32| {
            (x >> (8 * b) & 0x80)
                | (bias - 2 + (x >> (8 * b) & 3)) << m
                | (x >> (8 * b + 2) & ((1 << m) - 1))
        };
        (0..4).map(|b| byte(b) << (8 * b)).sum::<u32>()
    };
    for (s, se, sm) in kinds {
        for (t, te, tm) in kinds {
            for k in [32, 16].into_iter().filter(|k| *k == 32 || s == t) {
                let (na, nb) = (k / 8, k / 16);
                let op = format!("mma.sync.aligned.m16n8k{k}.row.col.f32.{s}.{t}.f32");
                let input = |l: usize, r: usize| match r {
                    0..4 => clean(noise(l, r), sm as u32),
                    4..8 => clean(noise(l, r), tm as u32),
                    _ => ((noise(l, r) % 16) as f32).to_bits(),
                };
                let (out, _) = run(&form(&op, [4, na, nb]), &input);
                let at = |l: usize, r: usize, i: usize| input(l, r) >> (8 * i) & 0xff;
                for (lane, row) in out.iter().enumerate() {
                    for i in 0..4 {
                        let (r, c) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                        let products = (0..k).map(|d| {
                            let (part, t4, n) = (d / 16, d % 16 / 4, d % 4);
                            let a = at(4 * (r % 8) + t4, r / 8 + 2 * part, n);
                            let b = at(4 * c + t4, 4 + part, n);
                            eight(a, se, sm) * eight(b, te, tm)
                        });
                        let want =
                            products.sum::<f64>() + f64::from(f32::from_bits(input(lane, 8 + i)));
                        let got = f64::from(f32::from_bits(row[i]));
                        assert!(
                            (got - want).abs() < 1e-4,
                            "{op} row {r} column {c}: {got}, expected {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn doubles() {
    for (rows, k) in [(8usize, 4usize), (16, 4), (16, 8), (16, 16)] {
        let (nd, na, nb) = (rows / 4, rows * k / 32, k / 4);
        // Doubles are made from whole numbers; results go back as whole numbers.
        let number = |l: usize, r: usize| (noise(l, r) % 200) as i32 - 100;
        let input = |l: usize, r: usize| number(l, r) as u32;
        let mut body = String::from(".reg .f64 %a<8>, %b<8>, %c<4>, %e<4>; .reg .b32 %w;\n");
        let halves = na > 8 / 2;
        for i in 0..na {
            // Eight registers of A share four words: element 4 + i is element i and one.
            body += &if i < 4 {
                format!("cvt.rn.f64.s32 %a{i}, %r{i};\n")
            } else {
                format!("add.s32 %w, %r{}, 1; cvt.rn.f64.s32 %a{i}, %w;\n", i - 4)
            };
        }
        for i in 0..nb {
            body += &format!("cvt.rn.f64.s32 %b{i}, %r{};\n", 4 + i);
        }
        for i in 0..nd {
            body += &format!("cvt.rn.f64.s32 %c{i}, %r{};\n", 8 + i);
        }
        let list = |p: &str, n: usize| regs(0, n, p);
        let op = format!("mma.sync.aligned.m{rows}n8k{k}.row.col.f64.f64.f64.f64");
        body += &format!(
            "{op} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            list("%e", nd),
            list("%a", na),
            list("%b", nb),
            list("%c", nd)
        );
        for i in 0..nd {
            body += &format!("cvt.rni.s32.f64 %o{i}, %e{i};\n");
        }
        let (out, _) = run(&body, &input);
        let a = |r: usize, d: usize| {
            let i = r / 8 + rows / 8 * (d / 4);
            let lane = 4 * (r % 8) + d % 4;
            number(lane, i % 4) + i32::from(halves && i >= 4)
        };
        for (lane, row) in out.iter().enumerate() {
            for i in 0..nd {
                let (r, c) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let sum: i32 = (0..k)
                    .map(|d| a(r, d) * number(4 * c + d % 4, 4 + d / 4))
                    .sum();
                assert_eq!(
                    row[i] as i32,
                    sum + number(lane, 8 + i),
                    "{op} row {r} column {c}"
                );
            }
        }
    }
}

/// Conversions to and from two floats of eight bits.
#[test]
fn pairs_of_eight_bits() {
    for (name, e, m, largest) in [("e4m3", 4, 3, 0x7eu32), ("e5m2", 5, 2, 0x7b)] {
        // Every value that two registers' bytes hold, up to f16 and back.
        let body = format!(
            "cvt.u16.u32 %h0, %r0; cvt.rn.f16x2.{name}x2 %o0, %h0; cvt.rn.satfinite.{name}x2.f16x2 %h1, %o0; cvt.u32.u16 %o1, %h1;\n\
             cvt.rn.satfinite.{name}x2.f32 %h2, %r1, %r2; cvt.u32.u16 %o2, %h2;\n\
             cvt.rn.satfinite.relu.{name}x2.f32 %h3, %r1, %r2; cvt.u32.u16 %o3, %h3;"
        );
        let finite = |x: u32| (x & 0x80) | (x & 0x7f) % (largest + 1);
        let x = |l: usize, r: usize| (noise(l, r) as i32 as f32) / 3e7;
        let input = |l: usize, r: usize| match r {
            0 => finite(noise(l, 0)) | finite(noise(l, 0) >> 8) << 8,
            _ => x(l, r).to_bits(),
        };
        let (out, _) = run(&body, &input);
        for (l, row) in out.iter().enumerate() {
            assert_eq!(row[1], input(l, 0), "{name} there and back");
            for half in 0..2 {
                let h = row[0] >> (16 * half) & 0xffff;
                let value = half_value(h);
                assert_eq!(
                    value,
                    eight(input(l, 0) >> (8 * half), e, m),
                    "{name} {h:#x}"
                );
                // The nearest finite value: no other one is nearer.
                let got = eight(row[2] >> (8 * half), e, m);
                let want = f64::from(x(l, 2 - half));
                let best = (0..=largest)
                    .flat_map(|b| [eight(b, e, m), -eight(b, e, m)])
                    .map(|v| (v - want).abs())
                    .fold(f64::INFINITY, f64::min);
                assert_eq!((got - want).abs(), best, "{name} of {want}");
                let relu = eight(row[3] >> (8 * half), e, m);
                assert_eq!(relu, if want < 0.0 { 0.0 } else { got });
            }
        }
    }
}

/// An f16's value by its definition.
fn half_value(h: u32) -> f64 {
    let sign = if h >> 15 == 1 { -1.0 } else { 1.0 };
    let (field, rest) = ((h >> 10 & 31) as i32, f64::from(h & 1023) / 1024.0);
    sign * if field == 0 {
        rest * 2f64.powi(-14)
    } else {
        (1.0 + rest) * 2f64.powi(field - 15)
    }
}
