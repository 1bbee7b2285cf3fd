//! One warp runs a piece of PTX on registers given lane by lane.

use vgpu::machine::{Machine, Shape};

/// Registers per lane that a body may read (`%r0`..) and write (`%o0`..), of 32 bits.
pub const REGISTERS: usize = 16;

/// Runs `body` for 32 lanes, with 4096 bytes of shared memory `s` and a global buffer `%g` of 4096 zero bytes.
/// Gives the lanes' `%o` registers and the buffer.
pub fn run(body: &str, input: &dyn Fn(usize, usize) -> u32) -> (Vec<[u32; REGISTERS]>, Vec<u8>) {
    run_threads(32, body, input)
}

/// As `run`, with more threads.
pub fn run_threads(
    threads: usize,
    body: &str,
    input: &dyn Fn(usize, usize) -> u32,
) -> (Vec<[u32; REGISTERS]>, Vec<u8>) {
    let words = body
        .split([';', '\n'])
        .flat_map(|s| s.split_whitespace().find(|w| !w.starts_with('@')));
    for op in words.filter(|w| w.starts_with(|c: char| c.is_ascii_lowercase())) {
        crate::run::log(op);
    }
    let mut text = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 in, .param .u64 out, .param .u64 g)\n{\n\
         .reg .pred %p<9>; .reg .b16 %h<17>; .reg .b32 %r<17>, %o<17>, %t<17>; .reg .b64 %d<17>, %x, %y, %g; .reg .b32 %lane;\n\
         .shared .align 16 .b8 s[4096];\n.local .align 16 .b8 l[64];\n\
         mov.u32 %lane, %tid.x; ld.param.u64 %x, [in]; ld.param.u64 %g, [g];\n mul.wide.u32 %y, %lane, 64; add.s64 %x, %x, %y;\n",
    );
    for r in 0..REGISTERS {
        text += &format!("ld.global.u32 %r{r}, [%x+{}]; mov.u32 %o{r}, 0;\n", 4 * r);
    }
    text += body;
    text += "\nld.param.u64 %x, [out]; mul.wide.u32 %y, %lane, 64; add.s64 %x, %x, %y;\n";
    for r in 0..REGISTERS {
        text += &format!("st.global.u32 [%x+{}], %o{r};\n", 4 * r);
    }
    text += "ret;\n}\n";
    let mut m = Machine::new(1 << 24);
    let module = m.load(&text).unwrap();
    let words: Vec<u8> = (0..threads * REGISTERS)
        .flat_map(|i| input(i / REGISTERS, i % REGISTERS).to_le_bytes())
        .collect();
    let x = m.upload(&words).unwrap();
    let out = m.upload(&vec![0; 64 * threads]).unwrap();
    let g = m.upload(&[0; 4096]).unwrap();
    let done = m
        .call(&module, "k", Shape::linear(1, threads as u32), &[x, out, g])
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(
        done.error == 0 && done.findings.is_empty(),
        "{body}: {:?}",
        done.findings
    );
    let words: Vec<u32> = m
        .download(out, 64 * threads)
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let rows = words
        .chunks_exact(REGISTERS)
        .map(|c| c.try_into().unwrap())
        .collect();
    (rows, m.download(g, 4096))
}

/// A number for lane and register.
pub fn noise(lane: usize, register: usize) -> u32 {
    let mut seed = (lane * 100 + register) as u64;
    vgpu::exec::launch::next(&mut seed) as u32
}
