//! `wmma`: matrices in and out of memory, and their products, whatever the fragments look like.

use crate::lanes::{noise, run};

/// A small whole number, exact in every type.
fn number(n: usize, wide: bool) -> i32 {
    let v = noise(n, 7) % 9;
    if wide { v as i32 - 4 } else { v as i32 }
}

/// Bits of a number in a type.
fn bits(v: i32, ty: &str) -> u32 {
    let f = (v as f32).to_bits();
    match ty {
        "f32" | "tf32" => f,
        "bf16" => f >> 16,
        "f16" if v == 0 => 0,
        "f16" => f >> 16 & 0x8000 | ((f >> 23 & 255) - 112) << 10 | f >> 13 & 0x3ff,
        _ => v as u32,
    }
}

fn bytes(ty: &str) -> usize {
    match ty {
        "s8" | "u8" => 1,
        "f16" | "bf16" => 2,
        _ => 4,
    }
}

/// Registers of a fragment, as the ISA counts them.
fn registers(ty: &str, elements: usize) -> usize {
    match ty {
        // Two copies.
        "f16" if elements <= 512 => 8,
        _ => elements * bytes(ty) / 128,
    }
}

/// PTX that stores a matrix, row by row or column by column, into shared memory from `at`: each lane its part.
fn fill(at: usize, rows: usize, columns: usize, ty: &str, by_columns: bool, seed: usize) -> String {
    let mut text = String::new();
    let size = bytes(ty);
    let word = |n: usize| -> u32 {
        let per = 4 / size;
        (0..per).fold(0, |w, e| {
            let n = n * per + e;
            let (far, near) = (
                n / if by_columns { rows } else { columns },
                n % if by_columns { rows } else { columns },
            );
            let (r, c) = if by_columns { (near, far) } else { (far, near) };
            let v = bits(number(seed + 100 * r + c, ty != "u8"), ty);
            w | (v & (u32::MAX >> (32 - 8 * size))) << (8 * size * e)
        })
    };
    for n in 0..rows * columns * size / 4 {
        text += &format!("@%p1 st.shared.u32 [s+{}], {};\n", at + 4 * n, word(n));
    }
    text
}

fn vector(prefix: &str, n: usize) -> String {
    let names: Vec<String> = (0..n).map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", names.join(", "))
}

fn check([m, n, k]: [usize; 3], a: &str, b: &str, acc: &str, orders: [&str; 2], sat: &str) {
    let (ra, rb) = (registers(a, m * k), registers(b, k * n));
    let rc = if acc == "f16" { 4 } else { 8 };
    let (at_b, at_c) = (1024, 2048);
    let shape = format!("m{m}n{n}k{k}");
    let types = if a == "f16" {
        format!("{acc}.{acc}")
    } else {
        format!("{acc}.{a}.{b}.{acc}")
    };
    let stride =
        |order: &str, rows: usize, columns: usize| if order == "row" { columns } else { rows };
    let body = format!(
        ".reg .b32 %wa<8>, %wb<8>, %wc<8>, %wd<8>; setp.eq.u32 %p1, %lane, 0;\n{}{}{}bar.warp.sync -1;\n\
         wmma.load.a.sync.aligned.{}.{shape}.shared.{a} {}, [s], {};\n\
         wmma.load.b.sync.aligned.{}.{shape}.shared.{b} {}, [s+{at_b}], {};\n\
         wmma.load.c.sync.aligned.row.{shape}.shared.{acc} {}, [s+{at_c}], {n};\n\
         wmma.mma.sync.aligned.{}.{}.{shape}.{types}{sat} {}, {}, {}, {};\n\
         wmma.store.d.sync.aligned.row.{shape}.global.{acc} [%g], {}, {n};\n",
        fill(0, m, k, a, orders[0] == "col", 0),
        fill(at_b, k, n, b, orders[1] == "col", 10_000),
        fill(at_c, m, n, acc, false, 20_000),
        orders[0],
        vector("%wa", ra),
        stride(orders[0], m, k),
        orders[1],
        vector("%wb", rb),
        stride(orders[1], k, n),
        vector("%wc", rc),
        orders[0],
        orders[1],
        vector("%wd", rc),
        vector("%wa", ra),
        vector("%wb", rb),
        vector("%wc", rc),
        vector("%wd", rc)
    );
    let (_, out) = run(&body, &|_, _| 0);
    let size = bytes(acc);
    for r in 0..m {
        for c in 0..n {
            let products = (0..k)
                .map(|d| number(100 * r + d, a != "u8") * number(10_000 + 100 * d + c, b != "u8"));
            let want = bits(
                products.sum::<i32>() + number(20_000 + 100 * r + c, true),
                acc,
            );
            let at = (r * n + c) * size;
            let mut got = [0; 4];
            got[..size].copy_from_slice(&out[at..at + size]);
            assert_eq!(
                u32::from_le_bytes(got),
                want,
                "{shape} {types} row {r} column {c}"
            );
        }
    }
}

#[test]
fn products_of_fragments() {
    for shape in [[16, 16, 16], [32, 8, 16], [8, 32, 16]] {
        for orders in [
            ["row", "col"],
            ["row", "row"],
            ["col", "row"],
            ["col", "col"],
        ] {
            check(shape, "f16", "f16", "f32", orders, "");
        }
        check(shape, "f16", "f16", "f16", ["row", "col"], "");
        check(shape, "bf16", "bf16", "f32", ["row", "col"], "");
        check(shape, "s8", "s8", "s32", ["row", "col"], "");
        check(shape, "u8", "u8", "s32", ["row", "col"], ".satfinite");
    }
    check([16, 16, 8], "tf32", "tf32", "f32", ["row", "col"], "");
}
