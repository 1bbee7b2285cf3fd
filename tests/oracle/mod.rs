//! The harness, from the bottom: [`reference`] is the mathematics in f64, [`compare`] the distance of
//! two tensors, [`program`] a test network as data, [`evaluate`] its f64 meaning, [`execute`] its run
//! on the tape, [`check`] the comparison of the two. The other files are the cases.

mod check;
mod compare;
mod direct;
mod evaluate;
mod execute;
mod program;
mod reference;
mod rng;

pub use execute::pool;

mod attention;
mod attributes;
mod concat;
mod conv2d;
mod draws;
mod errors;
mod errors_data;
mod linear;
mod loss;
mod norm;
mod optimizer;
