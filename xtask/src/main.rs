//! Repository automation: `cargo xtask <task>`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod codegen;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["codegen"] => codegen::write(),
        _ => bail!("usage: cargo xtask codegen"),
    }
}
