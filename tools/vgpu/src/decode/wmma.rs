//! `wmma.load`, `wmma.mma`, `wmma.store`.

use super::kernel::Builder;
use super::memory::address;
use super::op::Op;
use crate::count::Class;
use crate::exec::cx::Run;
use crate::exec::wmma::{self, Kind};
use crate::ptx::parse::{Arg, Ins};
use crate::ptx::types::{Space, Ty};

/// Decodes an instruction of this file; `false` if it is none.
///
/// # Errors
///
/// Wrong operands.
pub fn decode<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    if op.base != "wmma" {
        return Ok(false);
    }
    let Some(shape) = op.mods.iter().find_map(|m| shape(m)) else {
        return Ok(false);
    };
    match op.mods.first() {
        Some(&"load") => transfer(b, op, ins, shape, false),
        Some(&"store") => transfer(b, op, ins, shape, true),
        Some(&"mma") => mma(b, op, ins, shape),
        _ => Ok(false),
    }
}

/// `m16n16k16`.
fn shape(text: &str) -> Option<[u32; 3]> {
    let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some([m.parse().ok()?, n.parse().ok()?, k.parse().ok()?])
}

/// Rows and columns of A, B, or C and D.
fn sides(which: &str, [m, n, k]: [u32; 3]) -> [u32; 2] {
    match which {
        "a" => [m, k],
        "b" => [k, n],
        _ => [m, n],
    }
}

/// The entries of a fragment in an instruction's list.
fn fragment<'a>(
    b: &mut Builder<'_, 'a>,
    arg: &Arg<'a>,
    kind: Kind,
    [rows, columns]: [u32; 2],
    written: bool,
) -> Result<Vec<u32>, String> {
    let Arg::Vec(parts) = arg else {
        return Err("a list of registers".to_owned());
    };
    // Every element once, twice or four times.
    let (bytes, have) = (
        rows * columns / 32 * kind.bytes(),
        parts.len() as u32 * kind.bytes().max(4),
    );
    if ![1, 2, 4].contains(&(have / bytes.max(1))) || have % bytes.max(1) != 0 {
        return Err(format!("{} registers for {rows}x{columns}", parts.len()));
    }
    let ty = if kind == Kind::F64 { Ty::B64 } else { Ty::B32 };
    let mut list = vec![kind as u32, rows, columns, parts.len() as u32];
    for part in parts {
        list.push(if written {
            b.dst(part, ty)?
        } else {
            b.src(part, ty)?
        });
    }
    Ok(list)
}

fn transfer<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ins: &Ins<'a>,
    shape: [u32; 3],
    store: bool,
) -> Result<bool, String> {
    let (Some(which), Some(kind)) = (op.mods.get(1), Kind::named(op.last())) else {
        return Ok(false);
    };
    let (first, second, stride) = match &ins.args[..] {
        [first, second] => (first, second, None),
        [first, second, stride] => (first, second, Some(stride)),
        _ => return Err("a matrix, an address, a stride".to_owned()),
    };
    let (regs, place) = if store {
        (second, first)
    } else {
        (first, second)
    };
    let sides = sides(which, shape);
    let run: Run = if store {
        wmma::transfer::<true>
    } else {
        wmma::transfer::<false>
    };
    let mut inst = b.inst(run);
    let list = fragment(b, regs, kind, sides, !store)?;
    let by_columns = op.has("col");
    inst.c = u32::from(by_columns);
    inst.b = match stride {
        Some(stride) => b.src(stride, Ty::U32)?,
        None => b.const32(sides[usize::from(!by_columns)]),
    };
    let named = op.mods.iter().find_map(|m| Space::named(m));
    let space = address(b, &mut inst, place, named.unwrap_or(Space::Generic))?;
    if matches!(space, Space::Shared | Space::Generic) {
        b.shared_access(kind.bytes());
    }
    inst.class = match (space, store) {
        (Space::Global, false) => Class::LdGlobal,
        (Space::Global, true) => Class::StGlobal,
        (Space::Shared, false) => Class::LdShared,
        (Space::Shared, true) => Class::StShared,
        _ => Class::Generic,
    };
    inst.list = b.list(&list);
    b.emit(inst);
    Ok(true)
}

fn mma<'a>(
    b: &mut Builder<'_, 'a>,
    op: &Op<'a>,
    ins: &Ins<'a>,
    shape: [u32; 3],
) -> Result<bool, String> {
    let named: Vec<Kind> = op.mods.iter().filter_map(|m| Kind::named(m)).collect();
    let kinds = match named[..] {
        [d, c] => [d, Kind::F16, Kind::F16, c],
        [d, a, bb, c] => [d, a, bb, c],
        _ => return Ok(false),
    };
    if ins.args.len() != 4 {
        return Err("four operands".to_owned());
    }
    let mut list = Vec::new();
    for (n, (arg, which)) in ins.args.iter().zip(["d", "a", "b", "c"]).enumerate() {
        list.extend(fragment(b, arg, kinds[n], sides(which, shape), n == 0)?);
    }
    let mut inst = b.inst(wmma::mma);
    (inst.list, inst.class) = (b.list(&list), Class::Tensor);
    inst.imm = shape.iter().map(|n| u64::from(*n)).product();
    inst.b = match kinds[1] {
        Kind::S8 | Kind::U8 => 8,
        Kind::Tf32 => 32,
        Kind::F64 => 256,
        _ => 16,
    };
    inst.a = u32::from(op.has("satfinite"));
    b.emit(inst);
    Ok(true)
}
