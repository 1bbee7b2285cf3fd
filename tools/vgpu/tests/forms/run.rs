//! Makes, runs and compares one form.

use vgpu::machine::{Machine, Shape};

/// Register classes of operands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reg {
    P,
    H,
    R,
    D,
}

impl Reg {
    fn of(ty: &str) -> Reg {
        match ty {
            "pred" => Reg::P,
            "b16" | "u16" | "s16" | "f16" | "bf16" | "u8" | "s8" => Reg::H,
            "b64" | "u64" | "s64" | "f64" => Reg::D,
            _ => Reg::R,
        }
    }

    fn name(self, n: usize) -> String {
        match self {
            Reg::P => format!("%p{n}"),
            Reg::H => format!("%h{n}"),
            Reg::R => format!("%r{n}"),
            Reg::D => format!("%d{n}"),
        }
    }
}

/// A form under test.
pub struct Form<'a> {
    /// The opcode with all its parts.
    pub op: &'a str,
    /// The result's type.
    pub to: &'a str,
    /// The operands' types.
    pub from: &'a [&'a str],
    /// Literal operands behind them.
    pub tail: &'a str,
}

/// How a result may differ from the formula's.
#[derive(Clone, Copy)]
pub enum Match {
    /// Not at all.
    Bits,
    /// Any NaN for NaN, else not at all (32-bit floats).
    Float,
    /// Relative error below this, any NaN for NaN, the same infinity (32-bit floats).
    Near(f64),
}

fn load(n: usize, ty: &str) -> String {
    let (reg, array) = (Reg::of(ty), n + 1);
    let address = format!(
        "    mul.wide.u32 %da, %idx{n}, 8;\n    ld.param.u64 %db, [a{array}];\n    add.s64 %da, %da, %db;\n"
    );
    let value = match reg {
        Reg::P => format!("    ld.global.u32 %rt, [%da];\n    setp.ne.u32 %p{array}, %rt, 0;\n"),
        Reg::H => format!("    ld.global.u16 %h{array}, [%da];\n"),
        Reg::R => format!("    ld.global.u32 %r{array}, [%da];\n"),
        Reg::D => format!("    ld.global.u64 %d{array}, [%da];\n"),
    };
    address + &value
}

/// The kernel of a form: result `i` of n0 n1 n2 combinations.
fn ptx(form: &Form<'_>, sizes: [usize; 3]) -> String {
    let [n0, n1, _] = sizes;
    let mut text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry form(.param .u64 a1, .param .u64 a2, .param .u64 a3, .param .u64 out, .param .u32 count)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>;\n\
         .reg .b32 %rt, %i, %n, %idx<3>, %b; .reg .b64 %da, %db; .reg .pred %q;\n\
         mov.u32 %i, %tid.x; mov.u32 %b, %ctaid.x; mad.lo.u32 %i, %b, 128, %i;\n\
         ld.param.u32 %n, [count]; setp.ge.u32 %q, %i, %n; @%q bra DONE;\n\
         rem.u32 %idx0, %i, {n0}; div.u32 %rt, %i, {n0}; rem.u32 %idx1, %rt, {n1}; div.u32 %idx2, %rt, {n1};\n"
    );
    for (n, ty) in form.from.iter().enumerate() {
        text += &load(n, ty);
    }
    let to = Reg::of(form.to);
    let operands: Vec<String> = form
        .from
        .iter()
        .enumerate()
        .map(|(n, ty)| Reg::of(ty).name(n + 1))
        .collect();
    text += &format!(
        "    {} {}, {}{};\n",
        form.op,
        to.name(0),
        operands.join(", "),
        form.tail
    );
    text += "    mul.wide.u32 %da, %i, 8; ld.param.u64 %db, [out]; add.s64 %da, %da, %db;\n";
    text += match to {
        Reg::P => "    selp.u32 %r0, 1, 0, %p0; st.global.u32 [%da], %r0;\n",
        Reg::H => "    st.global.u16 [%da], %h0;\n",
        Reg::R => "    st.global.u32 [%da], %r0;\n",
        Reg::D => "    st.global.u64 [%da], %d0;\n",
    };
    text + "DONE:\n    ret;\n}\n"
}

fn upload(m: &mut Machine, values: &[u64]) -> u64 {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    m.upload(&bytes).unwrap()
}

/// Adds a form and its test to the file that `VGPU_FORMS` names: `tools/vgpu/forms` makes a table of them.
pub fn log(op: &str) {
    use std::io::Write;
    if let Ok(path) = std::env::var("VGPU_FORMS") {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path);
        let thread = std::thread::current();
        // One write, so that the lines of tests side by side do not mix.
        let line = format!("{op}\t{}\n", thread.name().unwrap_or(""));
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// The results for all combinations of the operands' values.
pub fn results(form: &Form<'_>, values: &[&[u64]]) -> Vec<u64> {
    log(form.op);
    let sizes: [usize; 3] = std::array::from_fn(|n| values.get(n).map_or(1, |v| v.len()));
    let count = sizes.iter().product::<usize>();
    let mut m = Machine::new(1 << 30);
    let module = m.load(&ptx(form, sizes)).unwrap();
    let arrays: Vec<u64> = (0..3)
        .map(|n| upload(&mut m, values.get(n).copied().unwrap_or(&[0])))
        .collect();
    let out = upload(&mut m, &vec![0; count]);
    let shape = Shape::linear(count.div_ceil(128) as u32, 128);
    let params = [arrays[0], arrays[1], arrays[2], out, count as u64];
    let outcome = m
        .call(&module, "form", shape, &params)
        .unwrap_or_else(|e| panic!("{}: {e}", form.op));
    assert!(
        outcome.error == 0 && outcome.findings.is_empty(),
        "{}: {:?}",
        form.op,
        outcome.findings
    );
    m.download(out, 8 * count)
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

fn agrees(got: u64, want: u64, how: Match) -> bool {
    let (g, w) = (f32::from_bits(got as u32), f32::from_bits(want as u32));
    match how {
        Match::Bits => got == want,
        Match::Float => got == want || g.is_nan() && w.is_nan(),
        Match::Near(bound) => {
            let small = f64::from(f32::MIN_POSITIVE) * bound;
            got == want
                || g.is_nan() && w.is_nan()
                || g.is_finite()
                    && w.is_finite()
                    && (f64::from(g) - f64::from(w)).abs() <= bound * f64::from(w).abs() + small
        }
    }
}

/// Runs a form over all combinations and compares with a formula on the operands' bits.
pub fn check(form: Form<'_>, values: &[&[u64]], how: Match, formula: impl Fn(&[u64]) -> u64) {
    let got = results(&form, values);
    let sizes: Vec<usize> = values.iter().map(|v| v.len()).collect();
    for (i, got) in got.iter().enumerate() {
        let mut rest = i;
        let operands: Vec<u64> = values
            .iter()
            .zip(&sizes)
            .map(|(v, n)| {
                let x = v[rest % n];
                rest /= n;
                x
            })
            .collect();
        let want = formula(&operands);
        assert!(
            agrees(*got, want, how),
            "{} of {:x?}: {got:#x}, expected {want:#x}",
            form.op,
            operands
        );
    }
}

/// A form without literal operands whose operands all have one list of values.
pub fn same(
    op: &str,
    to: &str,
    from: &[&str],
    values: &[u64],
    how: Match,
    formula: impl Fn(&[u64]) -> u64,
) {
    check(
        Form {
            op,
            to,
            from,
            tail: "",
        },
        &vec![values; from.len()],
        how,
        formula,
    );
}
