//! Tests of the crate from outside, in one binary.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in their helpers"
)]

mod fuzz;
mod wal;
