//! The `gmmk` program.
fn main() {
    println!("gmmk {}", env!("CARGO_PKG_VERSION"));
}
