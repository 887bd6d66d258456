//! The formats of `--write-out`, and stdout.

use std::io::{self, Write as _};

use crate::failure::{self, Failure, Outcome};
use crate::go;

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

/// Writes to stdout.
pub(crate) fn print(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| not_written(&error))
}

/// A reader that has gone ends the command quietly; a full disk must not.
fn not_written(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::silent(failure::ERROR);
    }
    Failure::new(failure::ERROR, format!("write /dev/stdout: {}", go::os_error(error)))
}

/// The failure of an answer that the format cannot show.
pub(crate) fn unsupported(format: &str) -> Failure {
    Failure::new(failure::BAD_FEATURE, format!("{format} not supported as output format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_and_a_closed_pipe_is_not() {
        let text = |code| not_written(&io::Error::from_raw_os_error(code)).text;
        let (closed, full) = (rustix::io::Errno::PIPE, rustix::io::Errno::NOSPC);
        assert_eq!(text(closed.raw_os_error()), "");
        let expected = "Error: write /dev/stdout: no space left on device\n";
        assert_eq!(text(full.raw_os_error()), expected);
    }
}
