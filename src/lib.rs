//! Diffusion models conditioned on Gaussian mixtures: training and sampling.
//!
//! A training step is *recorded once* on a tape, *planned once* (memory), and *replayed* as often
//! as needed on a device. The folders are floors of a house; each uses only the floors below it:
//! `cli` > `reproduce`, `interchange` > `evaluate` > `train` > `diffusion` > `model` > `ops` > `tape`, `gmm`, `data` > `device`, `report`, `rng`.
//!
//! Two examples of the repository explain themselves: `cargo run --release --example record_your_own_tape` records a
//! network with the ops of [`ops`], differentiates it, plans it and trains it
//! (`examples/record_your_own_tape.rs`); `--example add_an_op` implements [`tape::Op`] outside this crate and checks the
//! gradient by finite differences (`examples/add_an_op.rs`). `docs/tape.md` says more about both, `docs/README.md` lists
//! the pages on everything else.
//!
//! | to | start at |
//! | --- | --- |
//! | record, differentiate, run | [`tape::Tape`], [`tape::executable::Executable`], [`tape::state::State`] |
//! | train as the program does | [`train::setup::Setup`], [`train::trainer::Trainer`] |
//! | draw pictures of a checkpoint | [`diffusion::generate::Generator`] |
//! | fit and compare mixtures | [`gmm::expansion`], [`gmm::distance`], [`gmm::ngmg`] |
//! | read a data set | [`data::Packed`], [`data::Loader`] |

pub mod data;
pub mod device;
pub mod diffusion;
pub mod evaluate;
pub mod gmm;
pub mod interchange;
pub mod model;
pub mod ops;
pub mod report;
pub mod reproduce;
pub mod rng;
pub mod tape;
pub mod train;
