//! Runs a member: configuration, bootstrap, threads; translates gRPC and HTTP to the node's typed calls.

mod config;
mod log;
