//! Loops over 32 lanes, from closures on one lane. Each exists twice: for AVX2 and FMA, and plain.

use super::cx::{Cx, FULL, Flow, Inst, Lane, Run};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Whether the vector clones may run here.
pub fn vector() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2");
        #[cfg(not(target_arch = "x86_64"))]
        false
    })
}

/// How an instruction is executed.
pub trait Body {
    /// Executes it for the lanes of `m`. Implementations are `#[inline(always)]`, so that they become
    /// part of the clone that [`pick`] chose.
    ///
    /// # Safety
    ///
    /// The instruction's rows exist in the context's register files.
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn fast<B: Body>(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    // SAFETY: the caller's promise.
    unsafe { B::run(cx, i, m) }
}

unsafe fn plain<B: Body>(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    // SAFETY: the caller's promise.
    unsafe { B::run(cx, i, m) }
}

/// The clone for this machine.
pub fn pick<B: Body>() -> Run {
    #[cfg(target_arch = "x86_64")]
    if vector() {
        return fast::<B>;
    }
    plain::<B>
}

/// A closure that captures nothing, out of thin air.
#[inline(always)]
fn stateless<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "the closure captures something") };
    // SAFETY: a type without size has one value, and whoever named the type had one.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// Defines an operation's body and its constructor from a closure.
macro_rules! operation {
    ($(#[$doc:meta])* $make:ident, $body:ident<$($g:ident),*>, ($($arg:ident: $ty:ty = $from:expr),*) -> $out:ident, |$cx:ident, $i:ident| ) => {
        struct $body<$($g,)* F>(PhantomData<($($g,)* F)>);

        impl<$($g: Lane,)* F: Fn($($ty),*) -> $out + Copy> Body for $body<$($g,)* F> {
            #[inline(always)]
            unsafe fn run($cx: &mut Cx<'_>, $i: &Inst, m: u32) -> Flow {
                let f = stateless::<F>();
                $(let $arg = $from;)*
                let mut d = [$out::default(); 32];
                for l in 0..32 {
                    d[l] = f($($arg[l]),*);
                }
                $cx.put($i.d, &d, m);
                Flow::Next
            }
        }

        $(#[$doc])*
        pub fn $make<$($g: Lane,)* F: Fn($($ty),*) -> $out + Copy + 'static>(_: F) -> Run {
            pick::<$body<$($g,)* F>>()
        }
    };
}

operation!(
    /// One operand.
    op1, Op1<A, D>, (a: A = cx.get::<A>(i.a)) -> D, |cx, i|
);
operation!(
    /// One operand and the immediate.
    op1i, Op1i<A, D>, (a: A = cx.get::<A>(i.a), imm: u64 = [i.imm; 32]) -> D, |cx, i|
);
operation!(
    /// Two operands.
    op2, Op2<A, B, D>, (a: A = cx.get::<A>(i.a), b: B = cx.get::<B>(i.b)) -> D, |cx, i|
);
operation!(
    /// Two operands and the immediate.
    op2i, Op2i<A, B, D>, (a: A = cx.get::<A>(i.a), b: B = cx.get::<B>(i.b), imm: u64 = [i.imm; 32]) -> D, |cx, i|
);
operation!(
    /// Three operands.
    op3, Op3<A, B, C, D>, (a: A = cx.get::<A>(i.a), b: B = cx.get::<B>(i.b), c: C = cx.get::<C>(i.c)) -> D, |cx, i|
);
operation!(
    /// Three operands and the immediate.
    op3i, Op3i<A, B, C, D>,
    (a: A = cx.get::<A>(i.a), b: B = cx.get::<B>(i.b), c: C = cx.get::<C>(i.c), imm: u64 = [i.imm; 32]) -> D, |cx, i|
);

operation!(
    /// Four operands in a list, the last two of 32 bits.
    op4, Op4<A, D>,
    (a: A = cx.get::<A>(cx.item(i, 0)), b: A = cx.get::<A>(cx.item(i, 1)), c: u32 = cx.get::<u32>(cx.item(i, 2)), e: u32 = cx.get::<u32>(cx.item(i, 3))) -> D,
    |cx, i|
);

/// Bits of a comparison's immediate.
pub mod compare {
    /// Combine with the predicate in `c`: 0 no, 1 and, 2 or, 3 xor.
    pub const COMBINE: u64 = 3;
    /// The combining predicate is negated.
    pub const NOT: u64 = 4;
}

/// `setp`: `d` gets the comparison, `list` (a row, or `NONE`) its complement, both combined.
struct Compare<A, F>(PhantomData<(A, F)>);

impl<A: Lane, F: Fn(A, A) -> bool + Copy> Body for Compare<A, F> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        let f = stateless::<F>();
        let (a, b) = (cx.get::<A>(i.a), cx.get::<A>(i.b));
        let mut hits = [0u32; 32];
        for l in 0..32 {
            hits[l] = if f(a[l], b[l]) { 1 << l } else { 0 };
        }
        let t = hits.iter().fold(0, |x, y| x | y);
        let (p, q) = if i.imm & compare::COMBINE == 0 {
            (t, !t)
        } else {
            let c = cx.get_pred(i.c) ^ if i.imm & compare::NOT != 0 { FULL } else { 0 };
            match i.imm & compare::COMBINE {
                1 => (t & c, !t & c),
                2 => (t | c, !t | c),
                _ => (t ^ c, !t ^ c),
            }
        };
        cx.put_pred(i.d, p, m);
        cx.put_pred(i.list, q, m);
        Flow::Next
    }
}

/// A comparison.
pub fn cmp<A: Lane, F: Fn(A, A) -> bool + Copy + 'static>(_: F) -> Run {
    pick::<Compare<A, F>>()
}

/// `selp`: `c` is a predicate, negated by the immediate.
struct Select<A>(PhantomData<A>);

impl<A: Lane> Body for Select<A> {
    #[inline(always)]
    unsafe fn run(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
        let (a, b, p) = (
            cx.get::<A>(i.a),
            cx.get::<A>(i.b),
            cx.get_pred(i.c) ^ i.imm as u32,
        );
        let mut d = [A::default(); 32];
        for l in 0..32 {
            d[l] = if p >> l & 1 == 1 { a[l] } else { b[l] };
        }
        cx.put(i.d, &d, m);
        Flow::Next
    }
}

/// A selection by a predicate.
pub fn select<A: Lane>() -> Run {
    pick::<Select<A>>()
}
