//! Addresses of loads and stores, and which memory they lie in.

use super::cx::{Cx, Flow, Inst, lanes};
use super::global::{self, Plan, Use};
use super::memory::{LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use super::shared;
use crate::check::Kind;
use crate::ptx::types::Space;

/// Parts of a memory instruction's immediate.
pub mod imm {
    /// The address register has 64 bits.
    pub const WIDE: u64 = 1 << 32;
    /// The result goes into a 16-bit register.
    pub const NARROW: u64 = 1 << 33;
    /// The access passes L1 by.
    pub const BYPASS: u64 = 1 << 41;
    /// Space codes from bit 36.
    pub const SPACE: u32 = 36;
}

/// Codes of state spaces, as constants for generic code.
pub mod space {
    /// Found by its address.
    pub const GENERIC: u8 = 0;
    /// Global.
    pub const GLOBAL: u8 = 1;
    /// Shared.
    pub const SHARED: u8 = 2;
    /// Local.
    pub const LOCAL: u8 = 3;
    /// Parameters.
    pub const PARAM: u8 = 4;
    /// The one in the instruction's immediate.
    pub const OTHER: u8 = 255;
}

/// The code of a space.
pub fn code(of: Space) -> u8 {
    match of {
        Space::Generic => space::GENERIC,
        Space::Global | Space::Const => space::GLOBAL,
        Space::Shared => space::SHARED,
        Space::Local => space::LOCAL,
        Space::Param => space::PARAM,
    }
}

/// Every lane's address: row `a` and the offset.
#[inline(always)]
pub fn addresses(cx: &Cx<'_>, i: &Inst) -> [u64; 32] {
    let offset = i64::from(i.imm as u32 as i32) as u64;
    if i.imm & imm::WIDE != 0 {
        let mut a = cx.get::<u64>(i.a);
        for x in &mut a {
            *x = x.wrapping_add(offset);
        }
        a
    } else {
        let a = cx.get::<u32>(i.a);
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = u64::from(a[l].wrapping_add(offset as u32));
        }
        out
    }
}

/// Checks an access and finds its host addresses.
///
/// # Errors
///
/// The flow that ends the kernel.
#[inline(always)]
pub fn resolve<const S: u8>(
    cx: &mut Cx<'_>,
    i: &Inst,
    addr: &[u64; 32],
    m: u32,
    bytes: u32,
    how: Use,
) -> Result<Plan, Flow> {
    match S {
        space::GLOBAL => global::access(cx, addr, m, bytes, how),
        space::SHARED => shared::access(cx, addr, m, bytes, how),
        _ => other(cx, (i.imm >> imm::SPACE) as u8 & 15, addr, m, bytes, how),
    }
}

fn other(
    cx: &mut Cx<'_>,
    space: u8,
    addr: &[u64; 32],
    m: u32,
    bytes: u32,
    how: Use,
) -> Result<Plan, Flow> {
    match space {
        space::GLOBAL => global::access(cx, addr, m, bytes, how),
        space::SHARED => shared::access(cx, addr, m, bytes, how),
        space::LOCAL => local(cx, addr, m, bytes),
        space::PARAM => param(cx, addr, m, bytes),
        _ => generic(cx, addr, m, bytes, how),
    }
}

/// The space that an address lies in, and where its window starts.
fn window(a: u64) -> (u8, u64) {
    if a.wrapping_sub(SHARED_BASE) < WINDOW {
        (space::SHARED, SHARED_BASE)
    } else if a.wrapping_sub(LOCAL_BASE) < WINDOW {
        (space::LOCAL, LOCAL_BASE)
    } else if a.wrapping_sub(PARAM_BASE) < WINDOW {
        (space::PARAM, PARAM_BASE)
    } else {
        (space::GLOBAL, 0)
    }
}

fn generic(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32, how: Use) -> Result<Plan, Flow> {
    let mut host = [std::ptr::null_mut(); 32];
    let mut left = m;
    while left != 0 {
        let first = window(addr[left.trailing_zeros() as usize]);
        let mut inner = [0; 32];
        let mut part = 0;
        for l in lanes(left) {
            if window(addr[l]) == first {
                part |= 1 << l;
                inner[l] = addr[l] - first.1;
            }
        }
        let plan = other(cx, first.0, &inner, part, bytes, how)?;
        if part == m {
            return Ok(plan);
        }
        if let Plan::Lanes(at) = plan {
            lanes(part).for_each(|l| host[l] = at[l]);
        }
        left &= !part;
    }
    Ok(Plan::Lanes(host))
}

/// The end of a kernel whose lane left its own memory.
fn beyond(cx: &mut Cx<'_>, a: u64, bytes: u32, size: u64, lane: usize, what: &str) -> Flow {
    let (kind, code) = if a & u64::from(bytes - 1) != 0 {
        (Kind::Misaligned, 716)
    } else {
        (Kind::OutOfBounds, 700)
    };
    cx.find(
        kind,
        lane,
        format!("{bytes} bytes at offset {a} of {size} bytes of {what}"),
    );
    cx.die(code)
}

fn local(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32) -> Result<Plan, Flow> {
    let size = u64::from(cx.kernel.local_bytes);
    let mut host = [std::ptr::null_mut(); 32];
    for l in lanes(m) {
        if addr[l] & u64::from(bytes - 1) != 0 || addr[l] + u64::from(bytes) > size {
            return Err(beyond(cx, addr[l], bytes, size, l, "local memory"));
        }
        host[l] = cx
            .warp
            .local
            .as_mut_ptr()
            .wrapping_add(l * size as usize + addr[l] as usize);
    }
    Ok(Plan::Lanes(host))
}

fn param(cx: &mut Cx<'_>, addr: &[u64; 32], m: u32, bytes: u32) -> Result<Plan, Flow> {
    let size = cx.launch.params.len() as u64;
    let mut host = [std::ptr::null_mut(); 32];
    for l in lanes(m) {
        if addr[l] & u64::from(bytes - 1) != 0 || addr[l] + u64::from(bytes) > size {
            return Err(beyond(cx, addr[l], bytes, size, l, "parameters"));
        }
        host[l] = cx
            .launch
            .params
            .as_ptr()
            .wrapping_add(addr[l] as usize)
            .cast_mut();
    }
    Ok(Plan::Lanes(host))
}
