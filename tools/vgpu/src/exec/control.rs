//! Branches, exits, predicates, carries, clocks, built-in calls.

use super::cx::{Cx, FULL, Flow, Inst, Lane, Stop, lanes};
use crate::check::{Kind, Location};

/// `d = imm`.
///
/// # Safety
///
/// As [`super::ops::Body::run`], for every function of this file.
pub unsafe fn set_pred(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    cx.put_pred(i.d, i.imm as u32, m);
    Flow::Next
}

fn flips(i: &Inst) -> (u32, u32) {
    (
        if i.imm & 1 != 0 { FULL } else { 0 },
        if i.imm & 2 != 0 { FULL } else { 0 },
    )
}

macro_rules! predicate {
    ($name:ident, |$a:ident, $b:ident| $e:expr) => {
        #[doc = "Predicates, each operand negated by its bit of the immediate."]
        #[doc = ""]
        #[doc = "# Safety"]
        #[doc = ""]
        #[doc = "As [`set_pred`]."]
        pub unsafe fn $name(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
            let (fa, fb) = flips(i);
            let ($a, $b) = (cx.get_pred(i.a) ^ fa, cx.get_pred(i.b) ^ fb);
            let r = $e;
            cx.put_pred(i.d, r, m);
            Flow::Next
        }
    };
}

predicate!(and_pred, |a, b| a & b);
predicate!(or_pred, |a, b| a | b);
predicate!(xor_pred, |a, b| a ^ b);

/// `d = a`, negated by the immediate.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn mov_pred(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let value = cx.get_pred(i.a) ^ flips(i).0;
    cx.put_pred(i.d, value, m);
    Flow::Next
}

/// Instructions so far in this warp: a clock that only grows.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn clock(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let now = (cx.warp.steps >> i.imm) as u32;
    cx.put(i.d, &[now; 32], m);
    Flow::Next
}

/// As `clock`, in 64 bits.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn clock64(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let now = cx.warp.steps;
    cx.put(i.d, &[now; 32], m);
    Flow::Next
}

/// What an instruction with carry does.
#[allow(missing_docs)]
#[derive(Clone, Copy)]
pub struct CarryOp {
    pub subtract: bool,
    pub reads: bool,
    pub writes: bool,
    pub multiply: bool,
    pub high: bool,
    pub signed: bool,
}

impl CarryOp {
    /// As an immediate.
    pub fn pack(self) -> u64 {
        [
            self.subtract,
            self.reads,
            self.writes,
            self.multiply,
            self.high,
            self.signed,
        ]
        .iter()
        .enumerate()
        .map(|(n, b)| u64::from(*b) << n)
        .sum()
    }
}

/// A register's lane as a wide number and back.
pub trait Wide: Lane {
    /// Bits.
    const BITS: u32;
    /// Unsigned.
    fn wide(self) -> u128;
    /// Signed.
    fn signed(self) -> i128;
    /// The low bits.
    fn low(x: u128) -> Self;
}

impl Wide for u32 {
    const BITS: u32 = 32;
    fn wide(self) -> u128 {
        self.into()
    }
    fn signed(self) -> i128 {
        (self as i32).into()
    }
    fn low(x: u128) -> u32 {
        x as u32
    }
}

impl Wide for u64 {
    const BITS: u32 = 64;
    fn wide(self) -> u128 {
        self.into()
    }
    fn signed(self) -> i128 {
        (self as i64).into()
    }
    fn low(x: u128) -> u64 {
        x as u64
    }
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`. The list: carry's predicate, operands.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn carry<L: Wide>(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let flag = |n: u32| i.imm >> n & 1 == 1;
    let (subtract, reads, writes, multiply, high, signed) =
        (flag(0), flag(1), flag(2), flag(3), flag(4), flag(5));
    let cc = cx.item(i, 0);
    let (a, b) = (cx.get::<L>(cx.item(i, 1)), cx.get::<L>(cx.item(i, 2)));
    let c = if multiply {
        cx.get::<L>(cx.item(i, 3))
    } else {
        a
    };
    let carry_in = if reads { cx.get_pred(cc) } else { 0 };
    let (mut d, mut carry_out) = ([L::default(); 32], 0);
    let mask = if L::BITS == 32 {
        u128::from(u32::MAX)
    } else {
        u128::from(u64::MAX)
    };
    for l in 0..32 {
        let in_bit = u128::from(carry_in >> l & 1);
        let (x, y) = if multiply {
            let p = if signed {
                a[l].signed().wrapping_mul(b[l].signed()) as u128
            } else {
                a[l].wide().wrapping_mul(b[l].wide())
            };
            ((if high { p >> L::BITS } else { p }) & mask, c[l].wide())
        } else {
            (a[l].wide(), b[l].wide())
        };
        let (value, out) = if subtract {
            (x.wrapping_sub(y).wrapping_sub(in_bit), x < y + in_bit)
        } else {
            (x + y + in_bit, x + y + in_bit > mask)
        };
        d[l] = L::low(value & mask);
        carry_out |= u32::from(out) << l;
    }
    cx.put(i.d, &d, m);
    if writes {
        cx.put_pred(cc, carry_out, m);
    }
    Flow::Next
}

/// `bra`: the lanes of `m` go to `imm`.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn bra(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let target = i.imm as u32;
    let stay = cx.mask & !m;
    if stay != 0 {
        cx.counts.lines[cx.pc as usize].divergent += 1;
        let next = cx.pc + 1;
        cx.mask = m;
        cx.split(next, stay, false);
    }
    let backward = target <= cx.pc;
    cx.pc = target;
    if backward {
        cx.patience -= 1;
        if cx.patience == 0 {
            return out_of_patience(cx);
        }
    }
    Flow::Jump
}

#[cold]
fn out_of_patience(cx: &mut Cx<'_>) -> Flow {
    if cx.warp.steps > cx.launch.options.max_inst {
        cx.find(
            Kind::Endless,
            0,
            format!(
                "more than {} instructions in one warp",
                cx.launch.options.max_inst
            ),
        );
        cx.block.fault = 702;
        cx.stop = Stop::Fault;
        return Flow::Stop;
    }
    cx.rotate();
    cx.stop = Stop::Yield;
    Flow::Stop
}

/// `brx.idx`: each lane goes to its entry of the list (its length first).
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn brx(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let index = cx.get::<u32>(i.a);
    let count = cx.item(i, 0);
    let stay = cx.mask & !m;
    let next = cx.pc + 1;
    if stay != 0 {
        cx.split(next, stay, false);
    }
    let mut left = m;
    for l in lanes(m) {
        if left >> l & 1 == 0 {
            continue;
        }
        let same = lanes(left)
            .filter(|k| index[*k] == index[l])
            .fold(0, |s, k| s | 1 << k);
        left &= !same;
        if index[l] >= count {
            cx.find(Kind::Other, l, format!("branch {} of {count}", index[l]));
            return cx.die(719);
        }
        let target = cx.item(i, 1 + index[l]);
        cx.split(target, same, false);
    }
    cx.mask = 0;
    cx.limit = 0;
    Flow::Jump
}

/// `exit`, or `ret` of a kernel.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn exit(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Flow {
    cx.leave(m);
    if cx.mask != 0 {
        cx.pc += 1;
    }
    Flow::Jump
}

/// `trap`.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn trap(cx: &mut Cx<'_>, _: &Inst, m: u32) -> Flow {
    cx.find(Kind::Other, m.trailing_zeros() as usize, "trap".to_owned());
    cx.die(719)
}

/// An instruction without effect here.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn nothing(_: &mut Cx<'_>, _: &Inst, _: u32) -> Flow {
    Flow::Next
}

/// `nanosleep`: another warp's turn.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn sleep(cx: &mut Cx<'_>, _: &Inst, _: u32) -> Flow {
    cx.pc += 1;
    cx.rotate();
    cx.stop = Stop::Yield;
    Flow::Stop
}

/// `__assertfail`: its message stands in the findings.
///
/// # Safety
///
/// As [`set_pred`].
pub unsafe fn assert_fail(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let lane = m.trailing_zeros() as usize;
    let text = |cx: &Cx<'_>, n: u32| {
        let offset = cx.item(i, n) as usize + lane * cx.kernel.local_bytes as usize;
        let bytes = cx
            .warp
            .local
            .get(offset..offset + 8)
            .and_then(|b| b.try_into().ok())
            .unwrap_or([0; 8]);
        cx.launch.text(u64::from_le_bytes(bytes))
    };
    let (condition, file) = (text(cx, 0), text(cx, 1));
    cx.find(
        Kind::Other,
        lane,
        format!("assertion failed: {condition} ({file})"),
    );
    cx.die(710)
}

impl Cx<'_> {
    /// Ends the kernel with an error.
    pub fn die(&mut self, code: u32) -> Flow {
        self.block.fault = code;
        self.stop = Stop::Fault;
        Flow::Stop
    }

    /// Records a finding at the running instruction.
    #[cold]
    pub fn find(&mut self, kind: Kind, lane: usize, text: String) {
        let source = self.kernel.source[self.pc as usize];
        self.launch.findings.add(
            kind,
            Location {
                pc: self.pc,
                source,
                block: self.block.id,
                warp: self.warp.index,
                lane: lane as u32,
            },
            self.launch,
            text,
        );
    }
}
