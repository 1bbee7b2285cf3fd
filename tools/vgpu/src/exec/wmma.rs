//! `wmma`: whole matrices in fragments whose layout only these instructions know. Here lane `l` holds the
//! elements `l n ..` of the matrix in order of rows; where a device keeps two copies, so do we.

use super::access::{addresses, resolve, space};
use super::cx::{Cx, FULL, Flow, Inst};
use super::global::{Plan, Use};
use super::half::{bf16_to_f32, f16_to_f32, f32_to_f16};

/// An element's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    S8,
    U8,
    S32,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::F16,
        Kind::Bf16,
        Kind::Tf32,
        Kind::F32,
        Kind::F64,
        Kind::S8,
        Kind::U8,
        Kind::S32,
    ];

    /// The type with this name.
    pub fn named(name: &str) -> Option<Kind> {
        let names = ["f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s32"];
        names.iter().position(|n| *n == name).map(|n| Kind::ALL[n])
    }

    fn of(code: u32) -> Kind {
        Kind::ALL[code as usize % Kind::ALL.len()]
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Kind::S8 | Kind::U8 => 1,
            Kind::F16 | Kind::Bf16 => 2,
            Kind::F64 => 8,
            _ => 4,
        }
    }

    /// Elements in a register.
    fn pack(self) -> usize {
        (4 / self.bytes() as usize).max(1)
    }

    /// An element's value; its bits stand at the bottom.
    fn value(self, bits: u64) -> f64 {
        let low = bits as u32;
        match self {
            Kind::F16 => f64::from(f16_to_f32(low & 0xffff)),
            Kind::Bf16 => f64::from(bf16_to_f32(low & 0xffff)),
            Kind::Tf32 => f64::from(f32::from_bits(low & 0xffff_e000)),
            Kind::F32 => f64::from(f32::from_bits(low)),
            Kind::F64 => f64::from_bits(bits),
            Kind::S8 => f64::from(low as i8),
            Kind::U8 => f64::from(low as u8),
            Kind::S32 => f64::from(low as i32),
        }
    }
}

/// A fragment: its type, rows and columns, and its registers in the instruction's list.
#[derive(Clone, Copy)]
struct Fragment {
    kind: Kind,
    columns: usize,
    /// Elements that a lane holds once.
    own: usize,
    first: u32,
    registers: u32,
}

/// Entries of an instruction's list: type, rows, columns, number of registers, registers, for each fragment.
impl Fragment {
    fn new(cx: &Cx<'_>, i: &Inst, at: u32) -> Fragment {
        let [kind, rows, columns, registers] = [0, 1, 2, 3].map(|n| cx.item(i, at + n));
        Fragment {
            kind: Kind::of(kind),
            columns: columns as usize,
            own: (rows * columns / 32) as usize,
            first: at + 4,
            registers,
        }
    }

    /// Where the next fragment's entries begin.
    fn end(&self) -> u32 {
        self.first + self.registers
    }

    fn elements(&self) -> usize {
        self.registers as usize * self.kind.pack()
    }

    /// Row and column of a lane's element.
    fn place(&self, lane: usize, n: usize) -> (usize, usize) {
        let e = lane * self.own + n % self.own;
        (e / self.columns, e % self.columns)
    }

    /// Element `n` of every lane.
    fn get(&self, cx: &Cx<'_>, i: &Inst, n: usize) -> [u64; 32] {
        let row = cx.item(i, self.first + (n / self.kind.pack()) as u32);
        if self.kind == Kind::F64 {
            return cx.get::<u64>(row);
        }
        let bits = 8 * self.kind.bytes();
        let shift = n as u32 % self.kind.pack() as u32 * bits;
        cx.get::<u32>(row)
            .map(|v| u64::from(v >> shift & (u32::MAX >> (32 - bits))))
    }

    /// Writes element `n` of every lane.
    fn put(&self, cx: &mut Cx<'_>, i: &Inst, n: usize, values: &[u64; 32]) {
        let row = cx.item(i, self.first + (n / self.kind.pack()) as u32);
        if self.kind == Kind::F64 {
            return cx.put(row, values, FULL);
        }
        let bits = 8 * self.kind.bytes();
        let shift = n as u32 % self.kind.pack() as u32 * bits;
        let mask = (u32::MAX >> (32 - bits)) << shift;
        let mut old = cx.get::<u32>(row);
        for l in 0..32 {
            old[l] = old[l] & !mask | (values[l] as u32) << shift & mask;
        }
        cx.put(row, &old, FULL);
    }

    /// The whole matrix, row by row.
    fn matrix(&self, cx: &Cx<'_>, i: &Inst) -> Vec<f64> {
        let mut all = vec![0.0; 32 * self.own];
        for n in 0..self.own {
            let v = self.get(cx, i, n);
            for l in 0..32 {
                all[l * self.own + n] = self.kind.value(v[l]);
            }
        }
        all
    }
}

/// `wmma.load` (`STORE` false) and `wmma.store`: the matrix at `a`, its stride in row `b`, column by column if `c`
/// is 1. The list holds the fragment.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn transfer<const STORE: bool>(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    if m != FULL && cx.members(FULL, m).is_none() {
        return Flow::Jump;
    }
    let f = Fragment::new(cx, i, 0);
    let (base, stride) = (addresses(cx, i), cx.get::<u32>(i.b));
    let bytes = f.kind.bytes();
    for n in 0..f.elements() {
        if n >= f.own {
            if !STORE {
                let v = f.get(cx, i, n % f.own);
                f.put(cx, i, n, &v);
            }
            continue;
        }
        let addr = std::array::from_fn(|l| {
            let (row, column) = f.place(l, n);
            let (far, near) = if i.c == 1 {
                (column, row)
            } else {
                (row, column)
            };
            base[l] + (far as u64 * u64::from(stride[l]) + near as u64) * u64::from(bytes)
        });
        let how = if STORE { Use::Write } else { Use::Read };
        let at = match resolve::<{ space::OTHER }>(cx, i, &addr, FULL, bytes, how) {
            Ok(Plan::Lanes(at)) => at,
            Ok(Plan::Run(at)) => std::array::from_fn(|l| at.wrapping_add(l * bytes as usize)),
            Err(flow) => return flow,
        };
        let mut v = if STORE { f.get(cx, i, n) } else { [0; 32] };
        for l in 0..32 {
            let word: *mut u8 = (&raw mut v[l]).cast();
            // SAFETY: the plan's bytes are there, and a word has eight.
            unsafe {
                if STORE {
                    std::ptr::copy_nonoverlapping(word, at[l], bytes as usize);
                } else {
                    std::ptr::copy_nonoverlapping(at[l], word, bytes as usize);
                }
            }
        }
        if STORE {
            cx.judge_rewrites(0);
        } else {
            f.put(cx, i, n, &v);
        }
    }
    Flow::Next
}

/// `wmma.mma`: the list holds D, A, B and C; `a` is 1 for sums that saturate.
///
/// # Safety
///
/// The rows exist.
pub unsafe fn mma(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    if m != FULL && cx.members(FULL, m).is_none() {
        return Flow::Jump;
    }
    let d = Fragment::new(cx, i, 0);
    let fa = Fragment::new(cx, i, d.end());
    let fb = Fragment::new(cx, i, fa.end());
    let fc = Fragment::new(cx, i, fb.end());
    let (a, b, c) = (fa.matrix(cx, i), fb.matrix(cx, i), fc.matrix(cx, i));
    let (depth, columns) = (fa.columns, d.columns);
    for n in 0..d.elements() {
        let v = std::array::from_fn(|l| {
            let (row, column) = d.place(l, n);
            let products = (0..depth).map(|k| (a[row * depth + k], b[k * columns + column]));
            sum(d.kind, products, c[row * columns + column], i.a == 1)
        });
        d.put(cx, i, n, &v);
    }
    Flow::Next
}

/// `c` and the products, in D's type.
fn sum(kind: Kind, products: impl Iterator<Item = (f64, f64)>, c: f64, saturate: bool) -> u64 {
    match kind {
        Kind::F64 => products.fold(c, |s, (a, b)| a.mul_add(b, s)).to_bits(),
        Kind::S32 => {
            // At most sixteen products of 16 bits: exact.
            let s = products.fold(c, |s, (a, b)| s + a * b);
            let whole = if saturate { s as i32 } else { s as i64 as i32 };
            u64::from(whole as u32)
        }
        _ => {
            let s = products.fold(c as f32, |s, (a, b)| (a as f32).mul_add(b as f32, s));
            u64::from(if kind == Kind::F16 {
                f32_to_f16(s)
            } else {
                super::math::bits(s)
            })
        }
    }
}
