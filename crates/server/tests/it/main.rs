//! The server from outside its crate.

mod member;
mod stall;
