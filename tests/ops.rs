//! Every op on the CPU against a float64 oracle: outputs, gradients (central finite differences of
//! the oracle), equal bits for any number of threads, poisoned memory, every instruction set, and
//! shape errors.
//!
//! `GMMK_TEST_SEED=n` shifts the seeds of the random shapes; a failure names the seed it had.

// An unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod oracle;
