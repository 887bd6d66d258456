//! The transport as its users see it: two of them over loopback, and what others send to one.

mod codec;
mod member;
mod two;
