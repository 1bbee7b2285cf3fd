//! The ops: one file (or folder) each, with shape rule, gradient rule and CPU code.
//!
//! To add one: a file here with a type that implements [`crate::tape::Op`], a line below, and a case
//! in `tests/ops.rs`. `examples/add_an_op.rs` shows one that lives outside the crate.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod attribute_loss;
pub mod concat;
pub mod conv2d;
pub mod group_norm;
pub mod latent_tokens;
mod launch;
pub mod linear;
pub mod mean_rows;
pub mod mse;
pub mod ngmg;
pub mod norm_pool;
pub mod prologue;
pub mod q_sample;
pub mod time_embedding;
pub mod timestep;
pub mod unpack;
