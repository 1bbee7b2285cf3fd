//! Matrices: `ldmatrix`, `stmatrix`, `mma`.

use super::kernel::Builder;
use super::memory::address;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::Run;
use crate::exec::{tensor, whole};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// `ldmatrix.sync.aligned.m8n8.x4{.trans}.shared.b16`, `stmatrix` likewise.
///
/// # Errors
///
/// Wrong operands.
pub fn transfer<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let n = ["x1", "x2", "x4"].iter().position(|m| op.has(m));
    let (Some(n), true, true, [first, second]) = (n, op.has("m8n8"), op.has("b16"), &ins.args[..])
    else {
        return Ok(false);
    };
    let load = op.base == "ldmatrix";
    let (regs, place) = if load {
        (first, second)
    } else {
        (second, first)
    };
    let Arg::Vec(regs) = regs else {
        return Err("a list of registers".to_owned());
    };
    if regs.len() != 1 << n {
        return Err(format!("{} registers for {} matrices", regs.len(), 1 << n));
    }
    let mut rows = Vec::new();
    for r in regs {
        rows.push(if load {
            b.dst(r, Ty::B32)?
        } else {
            b.src(r, Ty::B32)?
        });
    }
    let mut inst = b.inst(if load {
        tensor::ldmatrix
    } else {
        tensor::stmatrix
    });
    let space = address(b, &mut inst, place, Space::Shared)?;
    if space != Space::Shared {
        return Err("an address in shared memory".to_owned());
    }
    b.shared_access(16);
    (inst.b, inst.list, inst.class) = (1 << n, b.list(&rows), Class::Ldmatrix);
    inst.imm |= if op.has("trans") { tensor::TRANS } else { 0 };
    b.emit(inst);
    Ok(true)
}

/// A product's element types, in the order D, A, B, C.
fn elements<'a>(op: &Op<'a>) -> Vec<&'a str> {
    const NAMES: [&str; 13] = [
        "f16", "bf16", "tf32", "f32", "f64", "e4m3", "e5m2", "s8", "u8", "s4", "u4", "b1", "s32",
    ];
    let known = op.mods.iter().filter(|m| NAMES.contains(m));
    known.copied().collect()
}

/// Bits of an integer's or double's element, and the time that a product takes in sixteenths of a bf16 one's.
fn width(element: &str) -> (u32, u32) {
    match element {
        "s8" | "u8" => (8, 8),
        "s4" | "u4" => (4, 4),
        "b1" => (1, 2),
        "f64" => (64, 256),
        "tf32" => (32, 32),
        "e4m3" | "e5m2" => (8, 8),
        _ => (16, 16),
    }
}

/// How to multiply, the registers of D, A, B, C, and the flags of whole numbers.
fn product(op: &Op<'_>, types: &[&str], rows: u32, k: u32) -> Option<(Run, [usize; 4], u32)> {
    let [d, a, b, c] = types[..] else { return None };
    let bits = width(a).0;
    let (whole, same) = (matches!(d, "s32" | "f64"), d == c && bits == width(b).0);
    if !same || whole && (d == "f64") != (a == "f64") {
        return None;
    }
    if !whole {
        let (run, sizes) = (rows == 16).then(|| tensor::mma(a, b, k, d == "f16"))??;
        return Some((run, sizes, 0));
    }
    let mut flags = 0;
    for (is, bit) in [
        (a.starts_with('s'), whole::flag::A),
        (b.starts_with('s'), whole::flag::B),
        (op.has("satfinite"), whole::flag::SATURATE),
        (op.has("xor"), whole::flag::XOR),
    ] {
        flags |= if is { bit } else { 0 };
    }
    let (run, sizes) = whole::mma(bits, rows, k)?;
    Some((run, sizes, flags))
}

/// `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d, a, b, c`.
///
/// # Errors
///
/// Wrong operands.
pub fn mma<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    let shape = op.mods.iter().find_map(|m| {
        let (rows, k) = m.strip_prefix('m')?.split_once("n8k")?;
        Some((rows.parse::<u32>().ok()?, k.parse::<u32>().ok()?))
    });
    let (Some((rows, k)), true) = (shape, op.has("row") && op.has("col")) else {
        return Ok(false);
    };
    let types = elements(op);
    let Some((run, sizes, flags)) = product(op, &types, rows, k) else {
        return Ok(false);
    };
    if ins.args.len() != 4 {
        return Err("four operands".to_owned());
    }
    let double = types[0] == "f64";
    let mut list = Vec::new();
    for (n, (arg, size)) in ins.args.iter().zip(sizes).enumerate() {
        let parts = if let Arg::Vec(parts) = arg {
            parts.as_slice()
        } else {
            std::slice::from_ref(arg)
        };
        if parts.len() != size {
            return Err(format!("{} registers where {size} are due", parts.len()));
        }
        for part in parts {
            list.push(match (n, double) {
                (0, false) => b.dst(part, Ty::B32)?,
                (0, true) => b.dst(part, Ty::F64)?,
                (_, false) => b.src(part, Ty::F32)?,
                (_, true) => b.src(part, Ty::F64)?,
            });
        }
    }
    let mut inst = b.inst(run);
    (inst.list, inst.class) = (b.list(&list), Class::Tensor);
    // Useful to the counters: multiply-adds of one instruction, and how dear they are.
    (inst.imm, inst.b) = (u64::from(rows * 8 * k), width(types[1]).1);
    inst.a = flags;
    b.emit(inst);
    Ok(true)
}
