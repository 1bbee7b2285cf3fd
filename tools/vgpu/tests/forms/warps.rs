//! Collectives of a warp, carries, calls, jumps through tables, matrices.

use crate::lanes::{noise, run};

#[test]
fn shuffles() {
    // As `__shfl_*_sync` define them for a width: lanes stay in their segment.
    for width in [1u32, 2, 4, 8, 16, 32] {
        for b in [0u32, 1, 2, 5, 15, 16, 31] {
            for mode in ["idx", "up", "down", "bfly"] {
                let c = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let (rows, _) = run(
                    &format!(
                        "shfl.sync.{mode}.b32 %o0|%p1, %r0, {b}, {c}, 0xffffffff; selp.u32 %o1, 1, 0, %p1;"
                    ),
                    &noise,
                );
                for (lane, row) in rows.iter().enumerate() {
                    let l = lane as u32;
                    let first = l / width * width;
                    let source = match mode {
                        "idx" => Some(first + b % width),
                        "up" => (l >= first + b).then(|| l - b),
                        "down" => (l + b < first + width).then_some(l + b),
                        _ => ((l ^ b) < first + width).then_some(l ^ b),
                    };
                    let inside = u32::from(source.is_some());
                    let want = noise(source.unwrap_or(l) as usize, 0);
                    assert_eq!(
                        row[..2],
                        [want, inside],
                        "{mode} by {b}, width {width}, lane {l}"
                    );
                }
            }
        }
    }
}

#[test]
fn votes_and_matches() {
    let odd = |l: usize, _: usize| (l as u32) & 1;
    let body = "setp.ne.u32 %p1, %r0, 0; vote.sync.all.pred %p2, %p1, 0xffffffff; vote.sync.any.pred %p3, %p1, 0xffffffff;\n\
                vote.sync.uni.pred %p4, %p1, 0xffffffff; vote.sync.ballot.b32 %o0, %p1, 0xffffffff; vote.sync.ballot.b32 %o1, !%p1, 0xffffffff;\n\
                selp.u32 %o2, 1, 0, %p2; selp.u32 %o3, 1, 0, %p3; selp.u32 %o4, 1, 0, %p4; activemask.b32 %o5;";
    let (rows, _) = run(body, &odd);
    assert!(
        rows.iter()
            .all(|r| r[..6] == [0xaaaa_aaaa, 0x5555_5555, 0, 1, 0, 0xffff_ffff])
    );
    let third = |l: usize, _: usize| (l as u32) % 3;
    let body = "match.any.sync.b32 %o0, %r0, 0xffffffff; match.all.sync.b32 %o1|%p1, %r0, 0xffffffff; selp.u32 %o2, 1, 0, %p1;\n\
                cvt.u64.u32 %d0, %r0; match.any.sync.b64 %o3, %d0, 0xffffffff; mov.u32 %t0, 7; match.all.sync.b32 %o4|%p2, %t0, 0xffffffff;";
    let (rows, _) = run(body, &third);
    for (l, r) in rows.iter().enumerate() {
        let same = (0..32)
            .filter(|k| k % 3 == l % 3)
            .fold(0, |m, k| m | 1u32 << k);
        assert_eq!(r[..5], [same, 0, 0, same, 0xffff_ffff]);
    }
}

#[test]
fn reductions() {
    let all: Vec<u32> = (0..32).map(|l| noise(l, 0)).collect();
    let wants = [
        ("add.u32", all.iter().fold(0u32, |a, b| a.wrapping_add(*b))),
        ("add.s32", all.iter().fold(0u32, |a, b| a.wrapping_add(*b))),
        ("min.u32", *all.iter().min().unwrap()),
        ("max.u32", *all.iter().max().unwrap()),
        (
            "min.s32",
            all.iter().map(|v| *v as i32).min().unwrap() as u32,
        ),
        (
            "max.s32",
            all.iter().map(|v| *v as i32).max().unwrap() as u32,
        ),
        ("and.b32", all.iter().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", all.iter().fold(0, |a, b| a | b)),
        ("xor.b32", all.iter().fold(0, |a, b| a ^ b)),
    ];
    for (op, want) in wants {
        let (rows, _) = run(&format!("redux.sync.{op} %o0, %r0, 0xffffffff;"), &noise);
        assert!(rows.iter().all(|r| r[0] == want), "{op}");
    }
    let (rows, _) = run(
        "elect.sync %o0|%p1, 0xffffffff; selp.u32 %o1, 1, 0, %p1;",
        &noise,
    );
    assert!(
        rows.iter()
            .enumerate()
            .all(|(l, r)| r[..2] == [0, u32::from(l == 0)])
    );
}

#[test]
fn carries() {
    // 96-bit sums, differences and a product by parts.
    let body = "add.cc.u32 %o0, %r0, %r3; addc.cc.u32 %o1, %r1, %r4; addc.u32 %o2, %r2, %r5;\n\
                sub.cc.u32 %o3, %r0, %r3; subc.cc.u32 %o4, %r1, %r4; subc.u32 %o5, %r2, %r5;\n\
                mul.lo.u32 %o6, %r0, %r3; mul.hi.u32 %o7, %r0, %r3; mad.lo.cc.u32 %o7, %r1, %r3, %o7; madc.hi.u32 %o8, %r1, %r3, 0;\n\
                mov.b64 %d0, {%r0, %r1}; mov.b64 %d1, {%r3, %r4}; mov.b64 %d2, {%r2, %r2}; mov.b64 %d3, {%r5, %r5};\n\
                add.cc.u64 %d4, %d0, %d1; addc.u64 %d5, %d2, %d3; mov.b64 {%o9, %o10}, %d4; mov.b64 {%o11, %o12}, %d5;";
    let (rows, _) = run(body, &noise);
    for (l, r) in rows.iter().enumerate() {
        let n = |k: usize| u128::from(noise(l, k));
        let word = |v: u128, k: usize| (v >> (32 * k)) as u32;
        let (a, b) = (
            n(0) | n(1) << 32 | n(2) << 64,
            n(3) | n(4) << 32 | n(5) << 64,
        );
        let (sum, difference, product) = (a + b, a.wrapping_sub(b), (n(0) | n(1) << 32) * n(3));
        assert_eq!(r[..3], [word(sum, 0), word(sum, 1), word(sum, 2)]);
        assert_eq!(
            r[3..6],
            [
                word(difference, 0),
                word(difference, 1),
                word(difference, 2)
            ]
        );
        assert_eq!(
            r[6..9],
            [word(product, 0), word(product, 1), word(product, 2)]
        );
        let low = (n(0) | n(1) << 32) + (n(3) | n(4) << 32);
        let high = (n(2) | n(2) << 32) + (n(5) | n(5) << 32) + (low >> 64);
        assert_eq!(
            r[9..13],
            [word(low, 0), word(low, 1), word(high, 0), word(high, 1)]
        );
    }
}

#[test]
fn moves_between_words_and_parts() {
    let body = "mov.b32 {%h0, %h1}, %r0; mov.b32 %o0, {%h1, %h0}; mov.b64 %d0, {%r1, %r2}; mov.b64 {%h2, %h3, %h4, %h5}, %d0;\n\
                mov.b64 %d1, {%h5, %h4, %h3, %h2}; mov.b64 {%o1, %o2}, %d1; mov.b64 {_, %o3}, %d0; mov.b64 {%r1, %r2}, %d1; mov.b32 %o4, %r1;";
    let (rows, _) = run(body, &noise);
    for (l, r) in rows.iter().enumerate() {
        let swap = |x: u32| x.rotate_left(16);
        let (a, b) = (noise(l, 1), noise(l, 2));
        assert_eq!(r[..5], [swap(noise(l, 0)), swap(b), swap(a), b, swap(b)]);
    }
}

#[test]
fn jumps_through_tables() {
    let body = "rem.u32 %t0, %lane, 3; bra START;\nTABLE: .branchtargets A, B, C;\nSTART: brx.idx %t0, TABLE;\n\
                A: mov.u32 %o0, 10; bra END;\nB: mov.u32 %o0, 20; bra END;\nC: mov.u32 %o0, 30;\nEND: add.u32 %o0, %o0, %lane;";
    let (rows, _) = run(body, &noise);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(l, r)| r[0] == [10, 20, 30][l % 3] + l as u32)
    );
}

#[test]
fn special_registers() {
    let body = "mov.u32 %o0, %laneid; mov.u32 %o1, %ntid.x; mov.u32 %o2, %nctaid.x; mov.u32 %o3, %ctaid.y; mov.u32 %o4, %warpid;\n\
                mov.u32 %o5, %lanemask_eq; mov.u32 %o6, %lanemask_le; mov.u32 %o7, %lanemask_lt; mov.u32 %o8, %lanemask_ge; mov.u32 %o9, %lanemask_gt;\n\
                mov.u32 %t0, %clock; mov.u32 %t1, %clock; setp.lt.u32 %p1, %t0, %t1; selp.u32 %o10, 1, 0, %p1; mov.u32 %o11, WARP_SZ; mov.u32 %o12, %total_smem_size;";
    let (rows, _) = run(body, &noise);
    for (l, r) in rows.iter().enumerate() {
        let below = (1u64 << l) as u32 - 1;
        let lt = below;
        assert_eq!(r[..5], [l as u32, 32, 1, 0, 0]);
        assert_eq!(r[5..10], [1 << l, lt | 1 << l, lt, !lt, !(lt | 1 << l)]);
        assert_eq!(r[10..13], [1, 32, 4096]);
    }
}

#[test]
fn matrices_from_shared_memory() {
    // Element e of shared memory holds e: matrix n has its rows at 128 n + 16 r bytes.
    let fill = "mul.wide.u32 %y, %lane, 32; mov.u64 %x, s; add.s64 %x, %x, %y; shl.b32 %t0, %lane, 4;\n".to_owned()
        + &(0..16).map(|i| format!("add.u32 %t1, %t0, {i}; cvt.u16.u32 %h0, %t1; st.shared.b16 [%x+{}], %h0;\n", 2 * i)).collect::<String>()
        + "bar.warp.sync 0xffffffff; mov.u32 %t2, s; shl.b32 %t3, %lane, 4; add.u32 %t2, %t2, %t3;\n";
    for (count, x) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        for trans in [false, true] {
            let regs: Vec<String> = (0..count).map(|i| format!("%o{i}")).collect();
            let form = format!(
                "ldmatrix.sync.aligned.m8n8.{x}{}.shared.b16 {{{}}}, [%t2];",
                if trans { ".trans" } else { "" },
                regs.join(", ")
            );
            let (rows, _) = run(&(fill.clone() + &form), &noise);
            for (l, row) in rows.iter().enumerate() {
                for n in 0..count {
                    let element = |r: usize, c: usize| {
                        (64 * n + if trans { 8 * c + r } else { 8 * r + c }) as u32
                    };
                    assert_eq!(
                        row[n],
                        element(l / 4, 2 * (l % 4)) | element(l / 4, 2 * (l % 4) + 1) << 16,
                        "{form} lane {l}"
                    );
                }
            }
        }
    }
    for trans in [false, true] {
        let form = format!(
            "stmatrix.sync.aligned.m8n8.x2{}.shared.b16 [%t2], {{%t4, %t5}};",
            if trans { ".trans" } else { "" }
        );
        let body = format!(
            "mov.u32 %t2, s; shl.b32 %t3, %lane, 4; add.u32 %t2, %t2, %t3; shl.b32 %t6, %lane, 1; add.u32 %t7, %t6, 1; shl.b32 %t7, %t7, 16; or.b32 %t4, %t6, %t7;\n\
             add.u32 %t5, %t4, 0x00400040; {form} bar.warp.sync 0xffffffff; mov.u32 %t2, s; shl.b32 %t3, %lane, 3; add.u32 %t2, %t2, %t3; ld.shared.b32 %o0, [%t2]; ld.shared.b32 %o1, [%t2+4];"
        );
        let (rows, _) = run(&body, &noise);
        let memory: Vec<u32> = rows
            .iter()
            .flat_map(|r| [r[0] & 0xffff, r[0] >> 16, r[1] & 0xffff, r[1] >> 16])
            .collect();
        for n in 0..2u32 {
            for (r, c) in (0..8u32).flat_map(|r| (0..8u32).map(move |c| (r, c))) {
                let want = 64 * n + if trans { 8 * c + r } else { 8 * r + c };
                assert_eq!(
                    memory[(64 * n + 8 * r + c) as usize],
                    want,
                    "{form} row {r} column {c}"
                );
            }
        }
    }
}

/// Small whole numbers, exact in every format: A by (row, k), B by (k, column), C.
fn number(m: usize, r: usize, c: usize) -> i32 {
    noise(100 + 20 * m + r, c) as i32 % 5
}

#[test]
fn matrix_products() {
    let bits16 = |brain: bool, v: i32| -> u32 {
        let x = (v as f32).to_bits();
        if brain {
            x >> 16
        } else if v == 0 {
            0
        } else {
            x >> 16 & 0x8000 | ((x >> 23 & 255) - 112) << 10 | x >> 13 & 0x3ff
        }
    };
    let forms = [
        ("bf16", 16, "f32"),
        ("bf16", 8, "f32"),
        ("f16", 16, "f32"),
        ("f16", 8, "f32"),
        ("f16", 16, "f16"),
        ("f16", 8, "f16"),
        ("tf32", 8, "f32"),
        ("tf32", 4, "f32"),
    ];
    for (ty, k, acc) in forms {
        let brain = ty == "bf16";
        let (na, nb) = if ty == "tf32" {
            (k / 2, k / 4)
        } else {
            (k / 4, k / 8)
        };
        let nc = if acc == "f16" { 2 } else { 4 };
        // Registers: A from 0, B from 4, C from 8.
        let input = |l: usize, r: usize| -> u32 {
            let (g, t) = (l / 4, l % 4);
            let pair = |m: usize, at: &dyn Fn(usize) -> (usize, usize)| {
                let v = |i| {
                    let (r, c) = at(i);
                    bits16(brain, number(m, r, c))
                };
                v(0) | v(1) << 16
            };
            let f = |m: usize, r: usize, c: usize| (number(m, r, c) as f32).to_bits();
            match r {
                0..4 if ty == "tf32" => f(0, g + 8 * (r % 2), t + 4 * (r / 2)),
                0..4 => pair(0, &|i| (g + 8 * (r % 2), 2 * t + i + 8 * (r / 2))),
                4..8 if ty == "tf32" => f(1, t + 4 * (r - 4), g),
                4..8 => pair(1, &|i| (2 * t + i + 8 * (r - 4), g)),
                8.. if acc == "f16" => pair(2, &|i| (g + 8 * ((r - 8) % 2), 2 * t + i)),
                _ => f(2, g + 8 * ((r - 8) / 2 % 2), 2 * t + r % 2),
            }
        };
        let regs = |first: usize, n: usize, p: &str| {
            (0..n)
                .map(|i| format!("{p}{}", first + i))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let form = format!(
            "mma.sync.aligned.m16n8k{k}.row.col.{acc}.{ty}.{ty}.{acc} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
            regs(0, nc, "%o"),
            regs(0, na, "%r"),
            regs(4, nb, "%r"),
            regs(8, nc, "%r")
        );
        let (rows, _) = run(&form, &input);
        for (l, row) in rows.iter().enumerate() {
            let (g, t) = (l / 4, l % 4);
            let exact = |r: usize, c: usize| {
                (0..k)
                    .map(|i| number(0, r, i) * number(1, i, c))
                    .sum::<i32>()
                    + number(2, r, c)
            };
            for i in 0..4 {
                let want = exact(g + 8 * (i / 2), 2 * t + i % 2);
                let same = if acc == "f16" {
                    row[i / 2] >> (16 * (i % 2)) & 0xffff == bits16(false, want)
                } else {
                    f32::from_bits(row[i]) == want as f32
                };
                assert!(
                    same,
                    "{form} lane {l} element {i}: {:#x}, expected {want}",
                    row[i]
                );
            }
        }
    }
}
