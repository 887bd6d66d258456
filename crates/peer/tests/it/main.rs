//! The transport as its users see it: two of them over loopback, and what others send to one.

mod client;
mod codec;
mod dial;
mod fuzz;
mod hostile;
mod member;
mod raw;
mod two;
