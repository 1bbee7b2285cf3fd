//! Loads and stores of every width and space, atomics, asynchronous copies.

use crate::lanes::{noise, run, run_threads};

/// Types in memory: name, bytes, signed.
const TYPES: [(&str, usize, bool); 14] = [
    ("u8", 1, false),
    ("s8", 1, true),
    ("b8", 1, false),
    ("u16", 2, false),
    ("s16", 2, true),
    ("b16", 2, false),
    ("u32", 4, false),
    ("s32", 4, true),
    ("b32", 4, false),
    ("f32", 4, false),
    ("u64", 8, false),
    ("s64", 8, true),
    ("b64", 8, false),
    ("f64", 8, false),
];

/// PTX that leaves the lane's 64 bytes in a space in `%x`.
fn place(space: &str) -> String {
    let by_lane = "mul.wide.u32 %y, %lane, 64;";
    match space {
        "shared" => format!("mov.u64 %x, s; {by_lane} add.s64 %x, %x, %y;"),
        "local" => "mov.u64 %x, l;".to_owned(),
        "global" => format!("{by_lane} add.s64 %x, %g, %y;"),
        "generic shared" => {
            format!("mov.u64 %x, s; cvta.shared.u64 %x, %x; {by_lane} add.s64 %x, %x, %y;")
        }
        "generic local" => "mov.u64 %x, l; cvta.local.u64 %x, %x;".to_owned(),
        _ => format!("{by_lane} add.s64 %x, %g, %y; cvta.global.u64 %x, %x;"),
    }
}

const SPACES: [&str; 6] = [
    "global",
    "shared",
    "local",
    "generic shared",
    "generic local",
    "generic global",
];

fn dot(space: &str) -> String {
    if space.starts_with("generic") {
        String::new()
    } else {
        format!(".{space}")
    }
}

fn list(prefix: &str, n: usize) -> String {
    let names: Vec<String> = (0..n).map(|i| format!("{prefix}{i}")).collect();
    if n == 1 {
        names[0].clone()
    } else {
        format!("{{{}}}", names.join(", "))
    }
}

/// The lane's input as bytes.
fn bytes(lane: usize) -> Vec<u8> {
    (0..16).flat_map(|r| noise(lane, r).to_le_bytes()).collect()
}

#[test]
fn loads() {
    for (space, (ty, size, signed)) in SPACES.iter().flat_map(|s| TYPES.map(|t| (*s, t))) {
        for n in [1, 2, 4].into_iter().filter(|n| n * size <= 16) {
            let s = dot(space);
            let mut body = place(space);
            for r in 0..16 {
                body += &format!("st{s}.b32 [%x+{}], %r{r};", 4 * r);
            }
            let vector = if n > 1 {
                format!(".v{n}")
            } else {
                String::new()
            };
            let prefix = if size == 8 { "%d" } else { "%t" };
            let off = 16;
            body += &format!("ld{s}{vector}.{ty} {}, [%x+{off}];", list(prefix, n));
            for i in 0..n {
                body += &if size == 8 {
                    format!("mov.b64 {{%o{}, %o{}}}, %d{i};", 2 * i, 2 * i + 1)
                } else {
                    format!("mov.b32 %o{i}, %t{i};")
                };
            }
            let (rows, _) = run(&body, &noise);
            for (lane, row) in rows.iter().enumerate() {
                let memory = &bytes(lane)[off..];
                for i in 0..n {
                    let mut wide = [0u8; 8];
                    wide[..size].copy_from_slice(&memory[i * size..(i + 1) * size]);
                    if signed && wide[size - 1] >= 128 {
                        wide[size..].fill(255);
                    }
                    let want = u64::from_le_bytes(wide);
                    let got = if size == 8 {
                        u64::from(row[2 * i + 1]) << 32 | u64::from(row[2 * i])
                    } else {
                        row[i].into()
                    };
                    assert_eq!(
                        got,
                        if size == 8 { want } else { want & 0xffff_ffff },
                        "ld{s}{vector}.{ty} in {space}, lane {lane}"
                    );
                }
            }
        }
    }
}

#[test]
fn stores() {
    for (space, (ty, size, _)) in SPACES.iter().flat_map(|s| TYPES.map(|t| (*s, t))) {
        for n in [1, 2, 4].into_iter().filter(|n| n * size <= 16) {
            let s = dot(space);
            let mut body = place(space);
            for r in 0..4 {
                body += &format!("st{s}.b32 [%x+{}], 0;", 4 * r);
            }
            for i in 0..n {
                body += &if size == 8 {
                    format!("mov.b64 %d{i}, {{%r{}, %r{}}};", 2 * i, 2 * i + 1)
                } else {
                    format!("mov.b32 %t{i}, %r{i};")
                };
            }
            let vector = if n > 1 {
                format!(".v{n}")
            } else {
                String::new()
            };
            body += &format!(
                "st{s}{vector}.{ty} [%x], {};",
                list(if size == 8 { "%d" } else { "%t" }, n)
            );
            for r in 0..4 {
                body += &format!("ld{s}.b32 %o{r}, [%x+{}];", 4 * r);
            }
            let (rows, _) = run(&body, &noise);
            for (lane, row) in rows.iter().enumerate() {
                let step = size.max(4);
                let mut want = [0u8; 16];
                for i in 0..n {
                    want[i * size..(i + 1) * size]
                        .copy_from_slice(&bytes(lane)[i * step..i * step + size]);
                }
                let got: Vec<u8> = row[..4].iter().flat_map(|w| w.to_le_bytes()).collect();
                assert_eq!(got, want, "st{s}{vector}.{ty} in {space}, lane {lane}");
            }
        }
    }
}

#[test]
fn cache_hints_and_scopes_change_nothing() {
    for form in [
        "ld.global.nc.b32",
        "ld.global.ca.b32",
        "ld.global.cg.b32",
        "ld.global.cs.b32",
        "ld.global.lu.b32",
        "ld.global.cv.b32",
        "ld.volatile.global.b32",
        "ld.relaxed.gpu.global.b32",
        "ld.acquire.gpu.global.b32",
        "ld.global.L1::evict_last.b32",
        "ld.global.L2::128B.b32",
        "ld.global.nc.L1::no_allocate.L2::256B.b32",
        "ldu.global.b32",
    ] {
        let (rows, _) = run(
            &format!(
                "{} st.global.b32 [%x], %r3; {form} %o0, [%x];",
                place("global")
            ),
            &noise,
        );
        assert!(
            rows.iter().enumerate().all(|(l, r)| r[0] == noise(l, 3)),
            "{form}"
        );
    }
    for form in [
        "st.global.wb.b32",
        "st.global.cg.b32",
        "st.global.cs.b32",
        "st.global.wt.b32",
        "st.volatile.global.b32",
        "st.relaxed.gpu.global.b32",
        "st.release.gpu.global.b32",
        "st.global.L1::no_allocate.b32",
    ] {
        let (rows, _) = run(
            &format!(
                "{} {form} [%x], %r3; ld.global.b32 %o0, [%x];",
                place("global")
            ),
            &noise,
        );
        assert!(
            rows.iter().enumerate().all(|(l, r)| r[0] == noise(l, 3)),
            "{form}"
        );
    }
}

/// All lanes change one word; the result and the values that they saw, in some order.
fn atomic(
    space: &str,
    op: &str,
    ty: &str,
    start: u64,
    value: &dyn Fn(usize) -> u64,
    step: &dyn Fn(u64, u64) -> u64,
) {
    let wide = ty.ends_with("64");
    let (r, w) = if wide { ("%d", "b64") } else { ("%t", "b32") };
    let base = if space == "shared" {
        "mov.u64 %x, s;"
    } else {
        "mov.u64 %x, %g;"
    };
    let body = format!(
        "{base} mov.b64 %d1, {{%r0, %r1}}; mov.b32 %t1, %r0; mov.b64 %d2, {start}; cvt.u32.u64 %t2, %d2; setp.eq.u32 %p0, %lane, 0;\n\
         @%p0 st.{space}.{w} [%x], {r}2; bar.sync 0;\n atom.{space}.{op}.{ty} {r}3, [%x], {r}1; bar.sync 0; ld.{space}.{w} {r}4, [%x];\n\
         {}",
        if wide {
            "mov.b64 {%o0, %o1}, %d3; mov.b64 {%o2, %o3}, %d4;"
        } else {
            "mov.b32 %o0, %t3; mov.b32 %o2, %t4;"
        }
    );
    let input = |l: usize, r: usize| {
        if r == 0 {
            value(l) as u32
        } else {
            (value(l) >> 32) as u32
        }
    };
    let (rows, _) = run(&body, &input);
    // Lanes in order: one of the orders that hardware may take.
    let mut now = start;
    for (l, row) in rows.iter().enumerate() {
        assert_eq!(
            u64::from(row[1]) << 32 | u64::from(row[0]),
            now,
            "atom.{space}.{op}.{ty}, lane {l}"
        );
        now = step(now, value(l));
    }
    assert!(
        rows.iter()
            .all(|row| u64::from(row[3]) << 32 | u64::from(row[2]) == now),
        "atom.{space}.{op}.{ty}"
    );
}

#[test]
fn atomics() {
    let value = |l: usize| u64::from(noise(l, 0));
    let value64 = |l: usize| u64::from(noise(l, 0)) << 32 | u64::from(noise(l, 1));
    let low = |v: u64| v & 0xffff_ffff;
    let s = |v: u64| v as u32 as i32;
    let float = |l: usize| u64::from((l as f32 * 0.5 - 3.0).to_bits());
    let double = |l: usize| (l as f64 * 0.25 - 3.0).to_bits();
    for space in ["global", "shared"] {
        atomic(space, "add", "u32", 5, &value, &|a, b| low(a + b));
        atomic(space, "add", "s32", 5, &value, &|a, b| low(a + b));
        atomic(space, "add", "u64", 5, &value64, &|a, b| a.wrapping_add(b));
        atomic(space, "add", "f32", 0, &float, &|a, b| {
            (f32::from_bits(a as u32) + f32::from_bits(b as u32))
                .to_bits()
                .into()
        });
        atomic(space, "add", "f64", 0, &double, &|a, b| {
            (f64::from_bits(a) + f64::from_bits(b)).to_bits()
        });
        atomic(space, "min", "u32", 0x8000_0000, &value, &|a, b| a.min(b));
        atomic(space, "max", "u32", 7, &value, &|a, b| a.max(b));
        atomic(space, "min", "s32", 7, &value, &|a, b| {
            low(s(a).min(s(b)) as u64)
        });
        atomic(space, "max", "s32", 0x8000_0000, &value, &|a, b| {
            low(s(a).max(s(b)) as u64)
        });
        atomic(space, "min", "u64", 1 << 63, &value64, &|a, b| a.min(b));
        atomic(space, "max", "s64", 1 << 63, &value64, &|a, b| {
            (a as i64).max(b as i64) as u64
        });
        atomic(space, "min", "s64", 3, &value64, &|a, b| {
            (a as i64).min(b as i64) as u64
        });
        atomic(space, "max", "u64", 3, &value64, &|a, b| a.max(b));
        atomic(space, "and", "b32", 0xffff_ffff, &value, &|a, b| a & b);
        atomic(space, "or", "b32", 0, &value, &|a, b| a | b);
        atomic(space, "xor", "b32", 0, &value, &|a, b| a ^ b);
        atomic(space, "and", "b64", u64::MAX, &value64, &|a, b| a & b);
        atomic(space, "or", "b64", 0, &value64, &|a, b| a | b);
        atomic(space, "xor", "b64", 0, &value64, &|a, b| a ^ b);
        atomic(space, "exch", "b32", 9, &value, &|_, b| b);
        atomic(space, "exch", "b64", 9, &value64, &|_, b| b);
        atomic(space, "inc", "u32", 0, &|_| 6, &|a, b| {
            if a >= b { 0 } else { a + 1 }
        });
        atomic(space, "dec", "u32", 0, &|_| 6, &|a, b| {
            if a == 0 || a > b { b } else { a - 1 }
        });
    }
    // Pairs of halves: exact small numbers.
    for (ty, one) in [("f16x2", 0x3c00_3c00u32), ("bf16x2", 0x3f80_3f80)] {
        let body = format!(
            "mov.b32 %t1, {one}; red.global.add.noftz.{ty} [%g], %t1; bar.sync 0; ld.global.b32 %o0, [%g];"
        );
        let (rows, _) = run(&body, &noise);
        let want = if ty == "f16x2" {
            0x5000_5000
        } else {
            0x4200_4200
        };
        assert!(rows.iter().all(|r| r[0] == want), "{ty}: {:#x}", rows[0][0]);
    }
    let (rows, _) = run(
        "red.global.add.u32 [%g], %r0; bar.sync 0; ld.global.u32 %o0, [%g];",
        &|l, _| l as u32,
    );
    assert!(rows.iter().all(|r| r[0] == 496));
    // Compare and swap: one lane wins.
    let (rows, _) = run(
        "add.u32 %t1, %lane, 1; atom.global.cas.b32 %o0, [%g], 0, %t1; bar.sync 0; ld.global.b32 %o1, [%g];",
        &noise,
    );
    assert!(
        rows[0][0] == 0 && rows.iter().skip(1).all(|r| r[0] == 1) && rows.iter().all(|r| r[1] == 1)
    );
}

#[test]
fn asynchronous_copies() {
    let fill = "mul.wide.u32 %y, %lane, 64; add.s64 %x, %g, %y; st.global.b32 [%x], %r0; st.global.b32 [%x+4], %r1; st.global.b32 [%x+8], %r2; st.global.b32 [%x+12], %r3;\n\
                mov.u32 %t0, s; shl.b32 %t1, %lane, 4; add.u32 %t0, %t0, %t1;\n";
    let read = "cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %o0, [%t0]; ";
    let rest =
        "ld.shared.b32 %o1, [%t0+4]; ld.shared.b32 %o2, [%t0+8]; ld.shared.b32 %o3, [%t0+12];";
    for (form, words, size, all) in [
        ("cp.async.ca.shared.global [%t0], [%x], 4;", 1, 4, false),
        ("cp.async.ca.shared.global [%t0], [%x], 8;", 2, 8, false),
        ("cp.async.ca.shared.global [%t0], [%x], 16;", 4, 16, true),
        ("cp.async.cg.shared.global [%t0], [%x], 16;", 4, 16, true),
        (
            "cp.async.cg.shared.global.L2::128B [%t0], [%x], 16;",
            4,
            16,
            true,
        ),
        (
            "mov.u32 %t2, 6; cp.async.cg.shared.global [%t0], [%x], 16, %t2;",
            4,
            6,
            true,
        ),
        (
            "mov.u32 %t2, 0; cp.async.cg.shared.global [%t0], [%x], 16, %t2;",
            4,
            0,
            true,
        ),
        (
            "setp.eq.u32 %p1, %lane, 99; cp.async.cg.shared.global [%t0], [%x], 16, %p1;",
            4,
            16,
            true,
        ),
        (
            "setp.ne.u32 %p1, %lane, 99; cp.async.cg.shared.global [%t0], [%x], 16, %p1;",
            4,
            0,
            true,
        ),
    ] {
        let body = format!("{fill}{form}{read}{}", if all { rest } else { "" });
        let (rows, _) = run(&body, &noise);
        for (lane, row) in rows.iter().enumerate() {
            let mut want = bytes(lane)[..16].to_vec();
            want[size..].fill(0);
            let got: Vec<u8> = row[..words].iter().flat_map(|w| w.to_le_bytes()).collect();
            let compared = if all { 16 } else { 4 };
            assert_eq!(
                got[..compared.min(got.len())],
                want[..compared.min(got.len())],
                "{form}, lane {lane}"
            );
        }
    }
}

#[test]
fn barriers_with_reductions() {
    let body = "setp.lt.u32 %p1, %lane, 40; bar.red.popc.u32 %o0, 0, %p1; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, !%p1;\n\
                selp.u32 %o1, 1, 0, %p2; selp.u32 %o2, 1, 0, %p3; barrier.sync 3; barrier.cta.sync 2, 96; mov.u32 %o3, %nwarpid;";
    let (rows, _) = run_threads(96, body, &noise);
    assert!(
        rows.iter().all(|r| r[..4] == [40, 0, 1, 3]),
        "{:?}",
        rows[0]
    );
}

#[test]
fn spaces_of_generic_addresses_and_fences() {
    let body = "mov.u64 %x, s; cvta.shared.u64 %x, %x; mov.u64 %y, l; cvta.local.u64 %y, %y;\n\
                isspacep.shared %p0, %x; isspacep.global %p1, %x; isspacep.local %p2, %y; isspacep.shared %p3, %y; isspacep.global %p4, %g; isspacep.local %p5, %g;\n\
                selp.u32 %o0, 1, 0, %p0; selp.u32 %o1, 1, 0, %p1; selp.u32 %o2, 1, 0, %p2; selp.u32 %o3, 1, 0, %p3; selp.u32 %o4, 1, 0, %p4; selp.u32 %o5, 1, 0, %p5;\n\
                cvta.to.shared.u64 %x, %x; mov.u64 %d0, s; sub.u64 %d1, %x, %d0; cvt.u32.u64 %o6, %d1;\n\
                cvta.to.global.u64 %d2, %g; sub.u64 %d2, %d2, %g; cvt.u32.u64 %o7, %d2;\n\
                membar.cta; membar.gl; membar.sys; fence.acq_rel.gpu; fence.sc.cta; prefetch.global.L2 [%g]; nanosleep.u32 20; mov.u32 %o8, 5;";
    let (rows, _) = run(body, &noise);
    assert!(
        rows.iter().all(|r| r[..9] == [1, 0, 1, 0, 1, 0, 0, 0, 5]),
        "{:?}",
        rows[0]
    );
}
