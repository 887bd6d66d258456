//! The product from outside: the binary, its ports, its exit.
#![allow(clippy::unwrap_used)]

mod cluster;
mod grpc;
mod http;
mod life;
mod process;
