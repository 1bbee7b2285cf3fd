//! The hunt for the first instruction that makes NaN or infinity of finite operands.

use super::cx::{Cx, FULL, Inst, lanes};
use crate::check::Kind;
use crate::exec::half::{bf16_to_f32, f16_to_f32};
use crate::ptx::types::Ty;

/// Floating-point formats of an instruction's operands and result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floats {
    /// The result's, if it is one row of floats.
    pub d: Option<Ty>,
    /// Of rows a, b, c.
    pub from: [Option<Ty>; 3],
}

impl Floats {
    /// From an instruction's types.
    pub fn of(d: Ty, from: &[Ty]) -> Floats {
        let float = |ty: Ty| ty.float().then_some(ty);
        let mut out = Floats {
            d: float(d),
            from: [None; 3],
        };
        for (to, ty) in out.from.iter_mut().zip(from) {
            *to = float(*ty);
        }
        out
    }
}

/// The lanes whose value in a row is finite.
fn finite(cx: &Cx<'_>, row: u32, ty: Ty) -> u32 {
    let mut mask = 0;
    for l in lanes(FULL) {
        let yes = if ty.size() == 8 {
            f64::from_bits(cx.get::<u64>(row)[l]).is_finite()
        } else {
            let v = cx.get::<u32>(row)[l];
            match ty {
                Ty::F16 => f16_to_f32(v & 0xffff).is_finite(),
                Ty::Bf16 => bf16_to_f32(v & 0xffff).is_finite(),
                Ty::F16x2 => f16_to_f32(v & 0xffff).is_finite() && f16_to_f32(v >> 16).is_finite(),
                Ty::Bf16x2 => {
                    bf16_to_f32(v & 0xffff).is_finite() && bf16_to_f32(v >> 16).is_finite()
                }
                _ => f32::from_bits(v).is_finite(),
            }
        };
        mask |= u32::from(yes) << l;
    }
    mask
}

/// The lanes whose operands are all finite.
pub fn before(cx: &Cx<'_>, i: &Inst, m: u32) -> u32 {
    if i.floats.d.is_none() {
        return 0;
    }
    let rows = [i.a, i.b, i.c];
    i.floats
        .from
        .iter()
        .zip(rows)
        .filter_map(|(ty, row)| ty.map(|ty| finite(cx, row, ty)))
        .fold(m, |all, f| all & f)
}

/// Reports lanes that were finite and are not any more, the first time in a launch.
pub fn after(cx: &mut Cx<'_>, i: &Inst, m: u32, before: u32) {
    let Some(ty) = i.floats.d else { return };
    let bad = before & m & !finite(cx, i.d, ty);
    if bad != 0 && cx.launch.findings.lacks(Kind::NonFinite) {
        let lane = bad.trailing_zeros() as usize;
        let what = if ty.size() == 8 {
            format!("{:#018x}", cx.get::<u64>(i.d)[lane])
        } else {
            format!("{:#010x}", cx.get::<u32>(i.d)[lane])
        };
        cx.find(
            Kind::NonFinite,
            lane,
            format!("the first one: {what} as {ty:?}"),
        );
    }
}
