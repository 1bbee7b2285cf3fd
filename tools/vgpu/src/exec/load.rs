//! Loads and stores.

use super::access::{addresses, imm, resolve};
use super::cx::{Cx, FULL, Flow, Inst, Lane, Run, lanes};
use super::global::{Plan, Use};
use super::ops::{Body, pick};
use std::marker::PhantomData;

/// An element in memory and the register that holds it.
pub trait Element: Copy + PartialEq + 'static {
    /// The register.
    type Row: Lane;
    /// Into the register.
    fn up(self) -> Self::Row;
    /// Out of it.
    fn down(row: Self::Row) -> Self;
}

macro_rules! element {
    ($t:ty, $row:ty, |$x:ident| $up:expr) => {
        impl Element for $t {
            type Row = $row;
            #[inline(always)]
            fn up(self) -> $row {
                let $x = self;
                $up
            }
            #[inline(always)]
            fn down(row: $row) -> $t {
                row as $t
            }
        }
    };
}

element!(u8, u32, |x| u32::from(x));
element!(i8, u32, |x| i32::from(x) as u32);
element!(u16, u32, |x| u32::from(x));
element!(i16, u32, |x| i32::from(x) as u32);
element!(u32, u32, |x| x);
element!(u64, u64, |x| x);

/// `ld`: N elements into the rows of the list.
struct Load<T, const N: usize, const S: u8>(PhantomData<T>);

impl<T: Element, const N: usize, const S: u8> Body for Load<T, N, S> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        let addr = addresses(cx, i);
        let plan = match resolve::<S>(cx, i, &addr, m, (size_of::<T>() * N) as u32, Use::Read) {
            Ok(plan) => plan,
            Err(flow) => return flow,
        };
        for j in 0..N {
            let row = cx.item(i, j as u32);
            match &plan {
                Plan::Run(at) => {
                    let mut v = [T::Row::default(); 32];
                    for l in 0..32 {
                        // SAFETY: the plan's bytes are there.
                        v[l] = unsafe { at.cast::<T>().add(l * N + j).read_unaligned() }.up();
                    }
                    cx.put(row, &v, FULL);
                }
                Plan::Lanes(at) => {
                    let mut v = cx.get::<T::Row>(row);
                    let element = |l: usize| {
                        // SAFETY: as above.
                        unsafe { at[l].cast::<T>().add(j).read_unaligned() }.up()
                    };
                    if m == FULL {
                        for l in 0..32 {
                            v[l] = element(l);
                        }
                    } else {
                        lanes(m).for_each(|l| v[l] = element(l));
                    }
                    cx.put(row, &v, FULL);
                }
            }
        }
        if i.imm & imm::NARROW != 0 {
            let row = cx.item(i, 0);
            let v = cx.get::<u32>(row).map(|x| x & 0xffff);
            cx.put(row, &v, m);
        }
        Flow::Next
    }
}

/// `st`: N elements from the rows of the list.
struct Store<T, const N: usize, const S: u8>(PhantomData<T>);

impl<T: Element, const N: usize, const S: u8> Body for Store<T, N, S> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        let addr = addresses(cx, i);
        let plan = match resolve::<S>(cx, i, &addr, m, (size_of::<T>() * N) as u32, Use::Write) {
            Ok(plan) => plan,
            Err(flow) => return flow,
        };
        if !cx.block.rewrites.is_empty() {
            judge::<T, N>(cx, i, &plan);
        }
        let mut bad = 0;
        for j in 0..N {
            let v = cx.get::<T::Row>(cx.item(i, j as u32));
            match &plan {
                Plan::Run(at) => {
                    for l in 0..32 {
                        // SAFETY: the plan's bytes are there.
                        unsafe { at.cast::<T>().add(l * N + j).write_unaligned(T::down(v[l])) };
                    }
                }
                Plan::Lanes(at) => {
                    for l in lanes(m) {
                        // SAFETY: as above.
                        unsafe { at[l].cast::<T>().add(j).write_unaligned(T::down(v[l])) };
                    }
                    for l in lanes(m) {
                        // SAFETY: as above.
                        let kept = unsafe { at[l].cast::<T>().add(j).read_unaligned() };
                        bad |= u32::from(kept != T::down(v[l])) << l;
                    }
                }
            }
        }
        if bad != 0 && !cx.launch.options.fast {
            cx.same_address(&addr, m, bad);
        }
        Flow::Next
    }
}

/// Stores over another warp's: the lanes whose value is there already do no harm.
#[cold]
#[inline(never)]
fn judge<T: Element, const N: usize>(cx: &mut Cx<'_>, i: &Inst, plan: &Plan) {
    let mut same = FULL;
    for j in 0..N {
        let v = cx.get::<T::Row>(cx.item(i, j as u32));
        for r in &cx.block.rewrites {
            let at = match plan {
                Plan::Run(at) => at.wrapping_add(r.lane * N * size_of::<T>()),
                Plan::Lanes(at) => at[r.lane],
            };
            // SAFETY: the plan's bytes are there.
            let old = unsafe { at.cast::<T>().add(j).read_unaligned() };
            if old != T::down(v[r.lane]) {
                same &= !(1 << r.lane);
            }
        }
    }
    cx.judge_rewrites(same);
}

/// `ld.param` of a kernel's parameter: the same for all lanes.
struct Param<T, const N: usize>(PhantomData<T>);

impl<T: Element, const N: usize> Body for Param<T, N> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        for j in 0..N {
            let offset = i.imm as usize + j * size_of::<T>();
            let Some(bytes) = cx.launch.params.get(offset..offset + size_of::<T>()) else {
                return cx.die(719);
            };
            // SAFETY: as many bytes as the element has.
            let v = unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }.up();
            let row = cx.item(i, j as u32);
            cx.put(row, &[v; 32], m);
        }
        Flow::Next
    }
}

/// An element's type in a table of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Width {
    U8,
    I8,
    U16,
    I16,
    U32,
    U64,
}

/// Picks the instance of a body for a width and a count.
macro_rules! by_width {
    ($width:expr, $n:expr, |$T:ident, $N:ident| $make:expr) => {
        by_width!(@ $width, |$T| match $n {
            1 => { const $N: usize = 1; Some($make) }
            2 => { const $N: usize = 2; Some($make) }
            4 => { const $N: usize = 4; Some($make) }
            _ => None,
        })
    };
    (@ $width:expr, |$T:ident| $make:expr) => {
        match $width {
            Width::U8 => { type $T = u8; $make }
            Width::I8 => { type $T = i8; $make }
            Width::U16 => { type $T = u16; $make }
            Width::I16 => { type $T = i16; $make }
            Width::U32 => { type $T = u32; $make }
            Width::U64 => { type $T = u64; $make }
        }
    };
}

/// The load for a width, a count and a space's code.
pub fn load(width: Width, n: usize, space: u8) -> Option<Run> {
    use super::access::space::{GLOBAL, OTHER, SHARED};
    by_width!(width, n, |T, N| match space {
        GLOBAL => pick::<Load<T, N, GLOBAL>>(),
        SHARED => pick::<Load<T, N, SHARED>>(),
        _ => pick::<Load<T, N, OTHER>>(),
    })
}

/// The store for a width, a count and a space's code.
pub fn store(width: Width, n: usize, space: u8) -> Option<Run> {
    use super::access::space::{GLOBAL, OTHER, SHARED};
    by_width!(width, n, |T, N| match space {
        GLOBAL => pick::<Store<T, N, GLOBAL>>(),
        SHARED => pick::<Store<T, N, SHARED>>(),
        _ => pick::<Store<T, N, OTHER>>(),
    })
}

/// The uniform load of a parameter.
pub fn param(width: Width, n: usize) -> Option<Run> {
    by_width!(width, n, |T, N| pick::<Param<T, N>>())
}
