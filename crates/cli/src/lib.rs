//! The command-line tools of a member's user.
//!
//! *Absent.* The server's own command line (crate `server`), and every meaning: a tool only asks
//! a member through the API and prints its answer.

pub mod ctl;
mod go;
