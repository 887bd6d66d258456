//! Requests against a real store, and the node by scripts.

mod fuzz;
mod node;
mod store;
mod watch;
mod watch_scripts;
