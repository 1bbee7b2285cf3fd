//! The shared library answers to the CUDA driver's name, whatever its file is called: once it is open,
//! a program's own `dlopen("libcuda.so")` returns it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
