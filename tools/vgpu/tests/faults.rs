//! Every check: a kernel that must be caught, and its corrected twin that must be silent.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

use vgpu::check::{Finding, Kind};
use vgpu::decode::Loaded;
use vgpu::exec::launch::{Options, Order};
use vgpu::harness::compile;
use vgpu::machine::{Machine, Outcome, Shape};

const SOURCE: &str = include_str!("kernels/faults.cu");

/// Name, what must be found, blocks, threads, and the option that looks for it.
const PAIRS: [(&str, Kind, u32, u32, &str); 41] = [
    ("write", Kind::OutOfBounds, 4, 64, ""),
    ("read", Kind::OutOfBounds, 4, 64, ""),
    ("bounds_shared", Kind::OutOfBounds, 1, 64, ""),
    ("align", Kind::Misaligned, 1, 64, ""),
    ("align_shared", Kind::Misaligned, 1, 63, ""),
    ("uninit", Kind::Uninitialised, 4, 64, ""),
    ("uninit_shared", Kind::Uninitialised, 1, 64, ""),
    ("race_read", Kind::SharedRace, 1, 64, ""),
    ("race_write", Kind::SharedRace, 1, 64, ""),
    ("race_value", Kind::SharedRace, 1, 64, ""),
    ("race_add", Kind::SharedRace, 1, 64, ""),
    ("race_reuse", Kind::SharedRace, 1, 64, ""),
    ("race_warp", Kind::SharedRace, 1, 32, ""),
    ("race_half", Kind::SharedRace, 1, 64, ""),
    ("same_address", Kind::SameAddress, 1, 32, ""),
    ("barrier", Kind::Barrier, 1, 32, ""),
    ("barrier_left", Kind::Barrier, 1, 64, ""),
    ("deadlock", Kind::Deadlock, 1, 64, ""),
    ("counts", Kind::Barrier, 1, 64, ""),
    ("shfl", Kind::Collective, 1, 32, ""),
    ("mask", Kind::Collective, 1, 32, ""),
    ("shfl_source", Kind::Collective, 1, 32, ""),
    ("mma", Kind::Collective, 1, 32, ""),
    ("ldmatrix", Kind::Misaligned, 1, 32, ""),
    ("ldmatrix_sync", Kind::SharedRace, 1, 32, ""),
    ("async", Kind::InFlight, 1, 64, ""),
    ("async_barrier", Kind::SharedRace, 1, 64, ""),
    ("async_count", Kind::InFlight, 1, 64, ""),
    ("async_refill", Kind::SharedRace, 1, 64, ""),
    ("mbarrier_init", Kind::Mbarrier, 1, 64, ""),
    ("mbarrier_count", Kind::Mbarrier, 1, 64, ""),
    ("mbarrier_wait", Kind::SharedRace, 1, 64, ""),
    ("mbarrier_never", Kind::Deadlock, 1, 64, ""),
    ("mbarrier_copy", Kind::InFlight, 1, 64, ""),
    ("global_write", Kind::GlobalRace, 4, 64, "race"),
    ("global_read", Kind::GlobalRace, 2, 64, "race"),
    ("global_fence", Kind::GlobalRace, 4, 64, "race"),
    ("nan", Kind::NonFinite, 4, 64, "nan"),
    ("nan_mma", Kind::NonFinite, 1, 32, "nan"),
    ("endless", Kind::Endless, 1, 32, "short"),
    ("freed", Kind::UseAfterFree, 4, 64, ""),
];

fn options(name: &str) -> Options {
    let mut options = Options::default();
    match name {
        "race" => options.race = true,
        "nan" => options.nan = true,
        "short" => options.max_inst = 200_000,
        _ => {}
    }
    options
}

/// Runs one kernel on fresh buffers.
fn run(ptx: &str, name: &str, blocks: u32, threads: u32, options: Options) -> Outcome {
    let mut m = Machine::new(1 << 30);
    m.options = options;
    m.memory.races = options.race;
    let module: Loaded = m.load(ptx).unwrap();
    let a = m.upload(&[1f32.to_le_bytes(); 256].concat()).unwrap();
    let b = m.memory.alloc(1024).unwrap();
    if name == "bad_freed" {
        m.memory.free(a);
    }
    m.call(&module, name, Shape::linear(blocks, threads), &[a, b, 256])
        .unwrap()
}

fn kinds(findings: &[Finding]) -> Vec<Kind> {
    findings.iter().map(|f| f.kind).collect()
}

#[test]
fn every_fault_is_caught_and_its_twin_is_silent() {
    let ptx = compile(SOURCE, "faults.cu", "compute_80", &[]);
    let mut wrong = Vec::new();
    for (name, kind, blocks, threads, option) in PAIRS {
        for order in [Order::Forward, Order::Reverse, Order::Random(7)] {
            let options = Options {
                order,
                ..options(option)
            };
            let bad = run(&ptx, &format!("bad_{name}"), blocks, threads, options);
            if !kinds(&bad.findings).contains(&kind) {
                wrong.push(format!(
                    "bad_{name} ({order:?}): {:?} instead of {kind:?}",
                    kinds(&bad.findings)
                ));
            }
            let good = run(&ptx, &format!("good_{name}"), blocks, threads, options);
            if !good.findings.is_empty() || good.error != 0 {
                let texts: Vec<String> = good.findings.iter().map(ToString::to_string).collect();
                wrong.push(format!(
                    "good_{name} ({order:?}): error {}: {}",
                    good.error,
                    texts.join("; ")
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} pairs:\n{}",
        wrong.len(),
        PAIRS.len(),
        wrong.join("\n")
    );
}

/// `VGPU_INIT=global` lets shared memory be read that nobody wrote, and nothing else.
#[test]
fn unwritten_shared_memory_may_be_allowed() {
    let ptx = compile(SOURCE, "faults.cu", "compute_80", &[]);
    let options = Options {
        shared_unwritten: true,
        ..Options::default()
    };
    let shared = run(&ptx, "bad_uninit_shared", 1, 64, options);
    assert!(shared.findings.is_empty());
    let global = run(&ptx, "bad_uninit", 4, 64, options);
    assert_eq!(kinds(&global.findings), [Kind::Uninitialised]);
}

#[test]
fn a_finding_names_its_place() {
    let ptx = compile(SOURCE, "faults.cu", "compute_80", &[]);
    let bad = run(&ptx, "bad_write", 4, 64, Options::default());
    let text = bad.findings[0].to_string();
    let line = SOURCE
        .lines()
        .position(|l| l.starts_with("K(bad_write)"))
        .unwrap()
        + 1;
    for part in [
        "out of bounds",
        "write of 4 bytes",
        "in bad_write",
        "block (3,0,0), warp 1, lane 31",
        &format!("faults.cu:{line}"),
        "st.global",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert_eq!(bad.error, 700);
}

#[test]
fn coarse_checks_keep_bounds_only() {
    let ptx = compile(SOURCE, "faults.cu", "compute_80", &[]);
    let fast = Options {
        fast: true,
        ..Options::default()
    };
    assert!(run(&ptx, "bad_race_read", 1, 64, fast).findings.is_empty());
    assert_eq!(run(&ptx, "bad_write", 4, 64, fast).error, 700);
}

#[test]
fn an_unknown_instruction_is_an_error_of_its_kernel_only() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry odd()\n{\n.reg .b32 %r<3>;\nfrobnicate.u32 %r1, %r2;\nret;\n}\n.visible .entry plain()\n{\nret;\n}\n";
    let mut m = Machine::new(1 << 20);
    let module = m.load(ptx).unwrap();
    let e = m
        .call(&module, "odd", Shape::linear(1, 32), &[])
        .unwrap_err();
    assert!(
        e.contains("odd") && e.contains("line 7") && e.contains("frobnicate.u32"),
        "{e}"
    );
    assert_eq!(
        m.call(&module, "plain", Shape::linear(1, 32), &[])
            .unwrap()
            .error,
        0
    );
}
