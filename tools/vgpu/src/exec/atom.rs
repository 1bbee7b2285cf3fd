//! Atomic operations: lanes one after the other, each an atomic operation of the host.

use super::access::{addresses, resolve, space};
use super::cx::{Cx, Flow, Inst, NONE, Run, lanes};
use super::global::{Plan, Use};
use super::load::Element;
use crate::count::distinct;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A word that the host can exchange.
pub trait Word: Element {
    /// Replaces the word at `at` by `f` of it; the old one.
    ///
    /// # Safety
    ///
    /// `at` points to an aligned word.
    unsafe fn update(at: *mut u8, f: impl Fn(Self) -> Self) -> Self;
}

macro_rules! word {
    ($t:ty, $atomic:ty) => {
        impl Word for $t {
            unsafe fn update(at: *mut u8, f: impl Fn($t) -> $t) -> $t {
                // SAFETY: the caller's promise.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                let mut old = cell.load(Ordering::Relaxed);
                while let Err(now) =
                    cell.compare_exchange_weak(old, f(old), Ordering::AcqRel, Ordering::Relaxed)
                {
                    old = now;
                }
                old
            }
        }
    };
}

word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

unsafe fn run<T: Word, F: Fn(T, T, T) -> T + Copy + 'static>(
    cx: &mut Cx<'_>,
    i: &Inst,
    m: u32,
) -> Flow {
    const { assert!(size_of::<F>() == 0) };
    // SAFETY: a type without size.
    let f = unsafe { std::ptr::NonNull::<F>::dangling().read() };
    let addr = addresses(cx, i);
    let bytes = size_of::<T>() as u32;
    let plan = match resolve::<{ space::OTHER }>(cx, i, &addr, m, bytes, Use::Atomic) {
        Ok(plan) => plan,
        Err(flow) => return flow,
    };
    let at = match plan {
        Plan::Lanes(at) => at,
        Plan::Run(first) => std::array::from_fn(|l| first.wrapping_add(l * bytes as usize)),
    };
    let (b, c) = (cx.get::<T::Row>(i.b), cx.get::<T::Row>(i.c));
    let mut d = [T::Row::default(); 32];
    let mut words = [0; 32];
    for l in lanes(m) {
        // SAFETY: the plan's addresses are aligned words.
        d[l] = unsafe { T::update(at[l], |old| f(old, T::down(b[l]), T::down(c[l]))) }.up();
    }
    for (n, l) in lanes(m).enumerate() {
        words[n] = (addr[l] / u64::from(bytes)) as u32;
    }
    cx.counts.lines[cx.pc as usize].addresses +=
        u64::from(distinct(&mut words[..m.count_ones() as usize]));
    if i.d != NONE {
        cx.put(i.d, &d, m);
    }
    cx.block.order_by_atomic(cx.launch, &addr, m);
    Flow::Next
}

/// An atomic operation from a closure on (old, operand, second operand).
pub fn atom<T: Word, F: Fn(T, T, T) -> T + Copy + 'static>(_: F) -> Run {
    run::<T, F>
}

/// `membar.gl`, `fence.acq_rel.gpu`: what this block wrote is ordered before its next atomic.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn fence(cx: &mut Cx<'_>, _: &Inst, _: u32) -> Flow {
    cx.block.fenced = true;
    Flow::Next
}
