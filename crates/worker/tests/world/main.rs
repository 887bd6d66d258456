//! A member on disks that crash, fill up and fail.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by it")]

mod crash;
mod harness;
