//! Random programs with nested branches and loops: 32 lanes at once against one lane at a time.

use crate::lanes::{noise, run};
use vgpu::exec::launch::next;

/// A statement on eight registers.
enum Step {
    /// `d = a op b`.
    Op(usize, usize, usize, usize),
    /// Where a bit of a register is set, one thing, else another.
    If(usize, u32, Vec<Step>, Vec<Step>),
    /// As often as the low bits of a register say; a bit of another one ends it early.
    Loop(usize, usize, Vec<Step>),
    /// Lanes with a bit set are done.
    Leave(usize, u32),
}

const OPS: [&str; 5] = ["add.u32", "sub.u32", "mul.lo.u32", "xor.b32", "max.u32"];

fn pick(seed: &mut u64, n: u64) -> usize {
    (next(seed) % n) as usize
}

fn program(seed: &mut u64, depth: usize, len: usize) -> Vec<Step> {
    (0..len)
        .map(|_| match pick(seed, if depth > 3 { 6 } else { 10 }) {
            0..6 => Step::Op(pick(seed, 8), pick(seed, 5), pick(seed, 8), pick(seed, 8)),
            6 | 7 => Step::If(
                pick(seed, 8),
                pick(seed, 32) as u32,
                program(seed, depth + 1, 3),
                program(seed, depth + 1, 2),
            ),
            8 => Step::Loop(pick(seed, 8), pick(seed, 8), program(seed, depth + 1, 3)),
            _ => Step::Leave(pick(seed, 8), pick(seed, 32) as u32),
        })
        .collect()
}

/// One lane's registers afterwards; `true` if it left early.
fn scalar(steps: &[Step], v: &mut [u32; 8]) -> bool {
    for step in steps {
        let left = match step {
            Step::Op(d, op, a, b) => {
                let (x, y) = (v[*a], v[*b]);
                v[*d] = [
                    x.wrapping_add(y),
                    x.wrapping_sub(y),
                    x.wrapping_mul(y),
                    x ^ y,
                    x.max(y),
                ][*op];
                false
            }
            Step::If(r, bit, yes, no) => scalar(if v[*r] >> bit & 1 == 1 { yes } else { no }, v),
            Step::Loop(r, stop, body) => {
                let mut left = false;
                for _ in 0..v[*r] & 7 {
                    if v[*stop] & 0x8000 != 0 || left {
                        break;
                    }
                    left = scalar(body, v);
                }
                left
            }
            Step::Leave(r, bit) => v[*r] >> bit & 1 == 1,
        };
        if left {
            return true;
        }
    }
    false
}

fn text(steps: &[Step], depth: usize, labels: &mut usize, out: &mut String) {
    for step in steps {
        *labels += 1;
        let n = *labels;
        let test =
            |r: usize, mask: u32| format!("and.b32 %t0, %o{r}, {mask}; setp.ne.u32 %p1, %t0, 0;\n");
        match step {
            Step::Op(d, op, a, b) => *out += &format!("{} %o{d}, %o{a}, %o{b};\n", OPS[*op]),
            Step::If(r, bit, yes, no) => {
                *out += &format!("{} @!%p1 bra E{n};\n", test(*r, 1 << bit));
                text(yes, depth + 1, labels, out);
                *out += &format!("bra F{n};\nE{n}:\n");
                text(no, depth + 1, labels, out);
                *out += &format!("F{n}:\n");
            }
            Step::Loop(r, stop, body) => {
                // A register of its own for each level counts down.
                let c = depth + 8;
                *out += &format!(
                    "and.b32 %t{c}, %o{r}, 7;\nL{n}: setp.eq.u32 %p2, %t{c}, 0; @%p2 bra X{n};\n{} @%p1 bra X{n};\n",
                    test(*stop, 0x8000)
                );
                text(body, depth + 1, labels, out);
                *out += &format!("sub.u32 %t{c}, %t{c}, 1; bra L{n};\nX{n}:\n");
            }
            Step::Leave(r, bit) => *out += &format!("{} @%p1 bra DONE;\n", test(*r, 1 << bit)),
        }
    }
}

#[test]
fn random_programs() {
    let mut split = 0;
    for number in 0..300u64 {
        let mut seed = number;
        let steps = program(&mut seed, 0, 8);
        let mut body: String = (0..8).map(|r| format!("mov.u32 %o{r}, %r{r};\n")).collect();
        text(&steps, 0, &mut 0, &mut body);
        body += "DONE:";
        let (rows, _) = run(&body, &noise);
        let mut ways = std::collections::HashSet::new();
        for (lane, row) in rows.iter().enumerate() {
            let mut v = std::array::from_fn(|r| noise(lane, r));
            ways.insert(scalar(&steps, &mut v));
            assert_eq!(row[..8], v, "program {number}, lane {lane}:\n{body}");
        }
        split += usize::from(ways.len() > 1);
    }
    assert!(
        split > 50,
        "{split} programs with lanes that leave and lanes that stay"
    );
}
