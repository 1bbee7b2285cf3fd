//! The device under test: GPU tests run on a real device where there is one, else on the interpreter, and
//! what a kernel does wrong fails the test that launched it.

#![allow(clippy::unwrap_used)] // A test that meets an error should stop.

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use vgpu::harness::{compile, device};

const SOURCE: &str = r#"
extern "C" __global__ void axpy(float *y, const float *x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}
"#;

#[test]
fn a_kernel_runs_on_the_device_under_test() {
    let device = device();
    let context = CudaContext::new(0).unwrap();
    assert_eq!(context.name().unwrap(), device.name);
    let stream = context.default_stream();
    let ptx = compile(SOURCE, "axpy.cu", &device.arch(), &[]);
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(ptx))
        .unwrap();
    let axpy = module.load_function("axpy").unwrap();
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let dx = stream.clone_htod(&x).unwrap();
    let mut dy = stream.clone_htod(&vec![1f32; 1000]).unwrap();
    let (a, n) = (0.5f32, 1000i32);
    // SAFETY: the kernel's parameters.
    unsafe {
        stream
            .launch_builder(&axpy)
            .arg(&mut dy)
            .arg(&dx)
            .arg(&a)
            .arg(&n)
            .launch(LaunchConfig::for_num_elems(1000))
    }
    .unwrap();
    let y = stream.clone_dtoh(&dy).unwrap();
    stream.synchronize().unwrap();
    device.assert_clean();
    assert!(y.iter().zip(&x).all(|(y, x)| *y == 1.0 + 0.5 * x));
}
