//! A whole member on a disk that loses its power, its space and its syncs.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in their helpers"
)]

mod begin;
mod crash;
mod driver;
mod durable;
mod judge;
mod lives;
mod oracle;
mod received;
mod space;
mod untouched;
mod workload;
