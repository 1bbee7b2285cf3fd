//! An unmodified cudarc program on the device that the harness picks.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

use cudarc::driver::{CudaContext, CudaStream, LaunchConfig, PushKernelArg};
use std::sync::{Arc, Mutex, MutexGuard};
use vgpu::harness::{TestDevice, compile, device};

const SOURCE: &str = r#"
extern "C" __global__ void add(float *out, const float *a, const float *b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}
extern "C" __global__ void scale(float *x, float s, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] *= s;
}
extern "C" __global__ void sum(float *out, const float *x, int n) {
    __shared__ float part[256];
    float s = 0;
    for (int i = threadIdx.x; i < n; i += 256) s += x[i];
    part[threadIdx.x] = s;
    __syncthreads();
    for (int w = 128; w > 0; w /= 2) {
        if (threadIdx.x < w) part[threadIdx.x] += part[threadIdx.x + w];
        __syncthreads();
    }
    if (threadIdx.x == 0) out[0] = part[0];
}
extern "C" __global__ void last_wins(float *x) { if (threadIdx.x == 0) x[0] = blockIdx.x; }
extern "C" __global__ void beyond(float *x, int n) { x[n] = 1; }
"#;

/// Options are the process's: tests that set them take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

struct Gpu {
    device: &'static TestDevice,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<cudarc::driver::CudaModule>,
}

fn gpu() -> Gpu {
    let device = device();
    let ptx = compile(SOURCE, "kernels.cu", &device.arch(), &[]);
    let context = CudaContext::new(0).unwrap();
    // SAFETY: these tests order their work by themselves.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(ptx))
        .unwrap();
    Gpu {
        device,
        context,
        stream,
        module,
    }
}

#[test]
fn vectors_add() {
    let _turn = turn();
    let g = gpu();
    let n = 1000;
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
    let (da, db) = (
        g.stream.clone_htod(&a).unwrap(),
        g.stream.clone_htod(&b).unwrap(),
    );
    let mut out = g.stream.alloc_zeros::<f32>(n).unwrap();
    let add = g.module.load_function("add").unwrap();
    let count = n as i32;
    // SAFETY: the kernel's parameters.
    unsafe {
        g.stream
            .launch_builder(&add)
            .arg(&mut out)
            .arg(&da)
            .arg(&db)
            .arg(&count)
            .launch(LaunchConfig::for_num_elems(n as u32))
    }
    .unwrap();
    let got = g.stream.clone_dtoh(&out).unwrap();
    g.stream.synchronize().unwrap();
    g.device.assert_clean();
    assert!(got.iter().enumerate().all(|(i, x)| *x == 1.5 * i as f32));
    assert_eq!(g.context.name().unwrap(), g.device.name);
}

#[test]
fn events_measure_work() {
    let _turn = turn();
    let g = gpu();
    let mut x = g.stream.clone_htod(&vec![1f32; 4096]).unwrap();
    let flags = Some(cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = g.stream.record_event(flags).unwrap();
    let scale = g.module.load_function("scale").unwrap();
    let (s, n) = (2f32, 4096i32);
    // SAFETY: the kernel's parameters.
    unsafe {
        g.stream
            .launch_builder(&scale)
            .arg(&mut x)
            .arg(&s)
            .arg(&n)
            .launch(LaunchConfig::for_num_elems(4096))
    }
    .unwrap();
    let end = g.stream.record_event(flags).unwrap();
    g.stream.synchronize().unwrap();
    let ms = start.elapsed_ms(&end).unwrap();
    assert!(ms > 0.0 && ms < 10.0, "{ms}");
    g.device.assert_clean();
}

#[test]
fn a_graph_is_captured_once_and_replayed() {
    let _turn = turn();
    let g = gpu();
    let n = 512i32;
    let mut x = g.stream.clone_htod(&vec![1f32; 512]).unwrap();
    let mut out = g.stream.alloc_zeros::<f32>(1).unwrap();
    let (scale, sum) = (
        g.module.load_function("scale").unwrap(),
        g.module.load_function("sum").unwrap(),
    );
    let mode = cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    g.stream.begin_capture(mode).unwrap();
    let s = 2f32;
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (256, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernels' parameters.
    unsafe {
        g.stream
            .launch_builder(&scale)
            .arg(&mut x)
            .arg(&s)
            .arg(&n)
            .launch(LaunchConfig::for_num_elems(512))
            .unwrap();
        g.stream
            .launch_builder(&sum)
            .arg(&mut out)
            .arg(&x)
            .arg(&n)
            .launch(one)
            .unwrap();
    }
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = g.stream.end_capture(flags).unwrap().unwrap();
    for launch in 1..=3 {
        graph.launch().unwrap();
        let got = g.stream.clone_dtoh(&out).unwrap();
        g.stream.synchronize().unwrap();
        assert_eq!(got[0], 512.0 * f32::powi(2.0, launch));
    }
    g.device.assert_clean();
}

#[test]
fn a_fault_is_reported_and_named() {
    let _turn = turn();
    let g = gpu();
    if g.device.real {
        return;
    }
    let mut x = g.stream.alloc_zeros::<f32>(10).unwrap();
    let beyond = g.module.load_function("beyond").unwrap();
    let n = 10i32;
    let one = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the kernel's fault is what this is about.
    unsafe {
        g.stream
            .launch_builder(&beyond)
            .arg(&mut x)
            .arg(&n)
            .launch(one)
    }
    .unwrap();
    let error = g.stream.synchronize().unwrap_err();
    assert!(
        format!("{error:?}").contains("ILLEGAL_ADDRESS"),
        "{error:?}"
    );
    let findings = g.device.findings();
    g.device.clear();
    assert_eq!(findings.len(), 1);
    for part in [
        "out of bounds",
        "beyond",
        "block (0,0,0), warp 0, lane 0",
        "kernels.cu:23",
        "st.global",
        "0 bytes behind the 40 bytes",
    ] {
        assert!(
            findings[0].contains(part),
            "{part} is missing: {}",
            findings[0]
        );
    }
    std::mem::forget(x);
}

#[test]
fn late_streams_show_a_missing_event() {
    let _turn = turn();
    let g = gpu();
    if g.device.real {
        return;
    }
    assert!(g.device.set("streams", "late"));
    let other = g.context.new_stream().unwrap();
    let scale = g.module.load_function("scale").unwrap();
    let (two, three, n) = (2f32, 3f32, 64i32);
    let run = |wait: bool| {
        let mut x = g.stream.clone_htod(&vec![1f32; 64]).unwrap();
        g.stream.synchronize().unwrap();
        // SAFETY: the kernel's parameters.
        unsafe {
            g.stream
                .launch_builder(&scale)
                .arg(&mut x)
                .arg(&two)
                .arg(&n)
                .launch(LaunchConfig::for_num_elems(64))
        }
        .unwrap();
        g.stream.memset_zeros(&mut x).unwrap();
        let done = g.stream.record_event(None).unwrap();
        if wait {
            other.wait(&done).unwrap();
        }
        // SAFETY: as above.
        unsafe {
            other
                .launch_builder(&scale)
                .arg(&mut x)
                .arg(&three)
                .arg(&n)
                .launch(LaunchConfig::for_num_elems(64))
        }
        .unwrap();
        let copy = other.clone_dtoh(&x).unwrap();
        other.synchronize().unwrap();
        g.stream.synchronize().unwrap();
        copy[0]
    };
    assert_eq!(run(true), 0.0);
    // Without the event the other stream goes first, as it may.
    assert_ne!(run(false), 0.0);
    assert!(g.device.set("streams", "now"));
    g.device.assert_clean();
}

#[test]
fn shuffled_graphs_show_a_missing_dependency() {
    let _turn = turn();
    let g = gpu();
    if g.device.real {
        return;
    }
    let other = g.context.new_stream().unwrap();
    let (scale, add) = (
        g.module.load_function("scale").unwrap(),
        g.module.load_function("add").unwrap(),
    );
    let mode = cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let (three, n) = (3f32, 32i32);
    let config = LaunchConfig::for_num_elems(32);
    let run = |order: &str, dependent: bool| {
        let mut x = g.stream.clone_htod(&vec![1f32; 32]).unwrap();
        let mut out = g.stream.alloc_zeros::<f32>(32).unwrap();
        g.stream.begin_capture(mode).unwrap();
        let fork = g.stream.record_event(None).unwrap();
        other.wait(&fork).unwrap();
        // SAFETY: the kernels' parameters.
        unsafe {
            g.stream
                .launch_builder(&scale)
                .arg(&mut x)
                .arg(&three)
                .arg(&n)
                .launch(config)
        }
        .unwrap();
        if dependent {
            let scaled = g.stream.record_event(None).unwrap();
            other.wait(&scaled).unwrap();
        }
        // SAFETY: as above.
        unsafe {
            other
                .launch_builder(&add)
                .arg(&mut out)
                .arg(&x)
                .arg(&x)
                .arg(&n)
                .launch(config)
        }
        .unwrap();
        let join = other.record_event(None).unwrap();
        g.stream.wait(&join).unwrap();
        let graph = g.stream.end_capture(flags).unwrap().unwrap();
        assert!(g.device.set("order", order));
        graph.launch().unwrap();
        assert!(g.device.set("order", "forward"));
        let got = g.stream.clone_dtoh(&out).unwrap();
        g.stream.synchronize().unwrap();
        got[0]
    };
    assert_eq!((run("forward", true), run("reverse", true)), (6.0, 6.0));
    assert_eq!((run("forward", false), run("reverse", false)), (6.0, 2.0));
    g.device.assert_clean();
}

#[test]
fn capture_forbids_what_the_driver_forbids() {
    let _turn = turn();
    let g = gpu();
    let mode = cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let flags = cudarc::driver::sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    g.stream.begin_capture(mode).unwrap();
    let error = g.stream.synchronize().unwrap_err();
    assert!(
        format!("{error:?}").contains("CAPTURE_UNSUPPORTED"),
        "{error:?}"
    );
    assert!(g.stream.end_capture(flags).is_err());
    g.device.assert_clean();
}

#[test]
fn impossible_launches_are_refused() {
    let _turn = turn();
    let g = gpu();
    let mut x = g.stream.alloc_zeros::<f32>(8).unwrap();
    let scale = g.module.load_function("scale").unwrap();
    let (s, n) = (1f32, 8i32);
    for (grid, block, shared) in [(1, 2048, 0), (0, 32, 0), (1, 32, 60_000)] {
        let config = LaunchConfig {
            grid_dim: (grid, 1, 1),
            block_dim: (block, 1, 1),
            shared_mem_bytes: shared,
        };
        // SAFETY: the launch is refused.
        let result = unsafe {
            g.stream
                .launch_builder(&scale)
                .arg(&mut x)
                .arg(&s)
                .arg(&n)
                .launch(config)
        };
        assert!(
            format!("{result:?}").contains("INVALID_VALUE"),
            "{grid} {block} {shared}: {result:?}"
        );
    }
    assert!(g.module.load_function("nothing").is_err());
    g.stream.synchronize().unwrap();
    g.device.assert_clean();
}

#[test]
fn results_do_not_depend_on_the_order_or_the_race_is_named() {
    let _turn = turn();
    let g = gpu();
    let (add, last) = (
        g.module.load_function("add").unwrap(),
        g.module.load_function("last_wins").unwrap(),
    );
    let n = 300i32;
    let fine = g.device.same_in_every_order(|| {
        let a = g.stream.clone_htod(&vec![0.25f32; 300]).unwrap();
        let mut out = g.stream.alloc_zeros::<f32>(300).unwrap();
        let config = LaunchConfig {
            grid_dim: (10, 1, 1),
            block_dim: (32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel's parameters.
        unsafe {
            g.stream
                .launch_builder(&add)
                .arg(&mut out)
                .arg(&a)
                .arg(&a)
                .arg(&n)
                .launch(config)
        }
        .unwrap();
        g.stream.clone_dtoh(&out).unwrap()
    });
    assert_eq!(fine.unwrap(), vec![0.5f32; 300]);
    if g.device.real {
        return;
    }
    let raced = g.device.same_in_every_order(|| {
        let mut x = g.stream.alloc_zeros::<f32>(1).unwrap();
        let config = LaunchConfig {
            grid_dim: (4, 1, 1),
            block_dim: (32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the kernel's parameter.
        unsafe { g.stream.launch_builder(&last).arg(&mut x).launch(config) }.unwrap();
        g.stream.clone_dtoh(&x).unwrap()
    });
    let text = raced.unwrap_err();
    assert!(
        text.contains("global memory race") && text.contains("another result"),
        "{text}"
    );
    assert!(
        text.contains("offset 0") && text.contains("last_wins"),
        "{text}"
    );
}
