//! Requests against a real store.

mod store;
mod watch;
