//! The command-line tools of a member's user.
//!
//! *Absent.* The server's own command line (crate `server`), and every meaning: `ctl` only asks a
//! member through the API and prints its answer, `utl` reads and rewrites files through the crates
//! that know their formats.

mod command;
mod completion;
pub mod ctl;
mod failure;
mod go;
mod help;
mod output;
mod table;
mod tool;
pub mod utl;
