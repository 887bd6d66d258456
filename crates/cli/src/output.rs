//! The formats of `--write-out`, and stdout.

use std::io::{self, Write as _};

use crate::failure::{self, Failure, Outcome};

/// A value of `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Simple,
    Json,
    Fields,
    Table,
    Protobuf,
}

/// All of them by name.
pub(crate) const FORMATS: [&str; 5] = ["fields", "json", "protobuf", "simple", "table"];

impl Format {
    pub(crate) fn parse(name: &str) -> Option<Format> {
        Some(match name {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "fields" => Format::Fields,
            "table" => Format::Table,
            "protobuf" => Format::Protobuf,
            _ => return None,
        })
    }
}

/// Writes to stdout; a reader that has gone ends the command quietly.
pub(crate) fn print(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|_| Failure::silent(failure::ERROR))
}

/// The failure of an answer that the format cannot show.
pub(crate) fn unsupported(format: &str) -> Failure {
    Failure::new(failure::BAD_FEATURE, format!("{format} not supported as output format"))
}
