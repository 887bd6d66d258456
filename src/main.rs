//! The one binary: dispatches to the server or to a tool, by its own name and its first word.
fn main() {}
