//! Maps messages to JSON and back, as Go's `protojson` does, by tables instead of by types.
//!
//! ```text
//!  bytes ─► Values (where one JSON value ends) ─► decode ─► a message in its wire form
//!  a message in its wire form, in any pieces ─► Writer ─► JSON
//! ```
//!
//! The wire form is the only form in between, so no message has to be known by its type, and a
//! long answer is mapped while it passes.
//!
//! *Invariants.*
//! 1. Neither direction recurses: values in values take memory, not stack, and at most
//!    [`DEPTH_MAX`] of them.
//! 2. What is decoded has the size of Go's encoding, because limits of etcd count it.
//!
//! *Absent.* Kinds that no served message has: floats, maps, `google.protobuf` types, extensions.
//!
//! *Contract.* `encoding/protojson` v1.36 with proto names, without zero values and with unknown
//! fields discarded, behind `encoding/json`'s decoder: texts and positions of errors, too.

mod base64;
mod decode;
mod number;
mod text;
mod token;
mod values;
mod writer;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

pub use base64::{put as put_base64, read as read_base64};
pub use decode::decode;
pub use values::{DEPTH_MAX, Values};
pub use writer::{Form, Malformed, Writer, put_string};

use thiserror::Error;

/// Text that is not the JSON of a message; the reason is Go's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What is known of a message.
#[derive(Debug)]
pub struct Message {
    /// Its full name.
    pub name: &'static str,
    /// In the order of their declaration.
    pub fields: &'static [Field],
}

/// What is known of a field.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in the proto file: the one that is written, and read, too.
    pub name: &'static str,
    /// Its name in lower camel case: read, too.
    pub json_name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it is a list.
    pub is_repeated: bool,
    /// The full name of the oneof that it belongs to.
    pub oneof: Option<&'static str>,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `bool`.
    Bool,
    /// `int64`.
    Int64,
    /// `uint32`.
    Uint32,
    /// `uint64`.
    Uint64,
    /// `string`.
    String,
    /// `bytes`.
    Bytes,
    /// An enum, which is open: numbers without a name are values, too.
    Enum(&'static Enum),
    /// A message.
    Message(&'static Message),
}

impl Kind {
    /// Its name in errors.
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int64 => "int64",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Enum(_) => "enum",
            Self::Message(_) => "message",
        }
    }
}

/// The names of an enum.
#[derive(Debug)]
pub struct Enum {
    /// Its full name.
    pub name: &'static str,
    /// Numbers and names.
    pub values: &'static [(i32, &'static str)],
}

/// A method and its messages.
#[derive(Debug)]
pub struct Method {
    /// Its gRPC path.
    pub path: &'static str,
    /// What it takes.
    pub request: &'static Message,
    /// What it answers.
    pub response: &'static Message,
    /// Whether it takes many.
    pub is_client_stream: bool,
    /// Whether it answers many.
    pub is_server_stream: bool,
}

#[rustfmt::skip]
mod table {
    use super::{Enum, Field, Kind, Message, Method};

    include!("../generated/json.rs");
}

pub use table::*;
