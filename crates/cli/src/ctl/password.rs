//! Asks for a password: on a terminal without showing it.
//!
//! *Invariants.* The terminal is put back as it was before anything else happens, also when the
//! user interrupts.
//!
//! *Contract.* `speakeasy` as etcdctl v3.7.1 uses it: the prompt and a line end go to stdout, one
//! line is read from stdin, blanks around it do not count. Without a terminal etcdctl lets `stty`
//! complain on stderr, which is left out.

use std::io::{self, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::failure::{self, Failure, Outcome};
use super::secret;

/// A password that is longer is cut here.
const PASSWORD_BYTES_MAX: usize = 64 << 10;
/// How the process ends when the user interrupts instead of answering.
const INTERRUPTED: u8 = 255;

/// What a byte from the terminal means.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Text(u8),
    Erase,
    EraseAll,
    End,
    Interrupt,
    /// Nobody means it as a part of a password.
    Nothing,
}

impl Key {
    fn of(byte: u8) -> Key {
        match byte {
            b'\n' | b'\r' | 4 => Key::End,
            3 | 28 => Key::Interrupt,
            // Ctrl-Z: a process that stopped would leave the terminal silent.
            26 => Key::Nothing,
            8 | 0x7f => Key::Erase,
            21 => Key::EraseAll,
            text => Key::Text(text),
        }
    }
}

/// Asks for the password that a connection needs.
pub(crate) fn ask(prompt: &str) -> Outcome<String> {
    let text = secret::text(&answer(prompt)?);
    let text = text.map_err(|failure| Failure { code: failure::BAD_CONNECTION, ..failure })?;
    Ok(text.trim().to_owned())
}

/// Shows the prompt and reads a line from stdin.
pub(super) fn answer(prompt: &str) -> Outcome<Vec<u8>> {
    show(prompt)?;
    let stdin = io::stdin();
    let read = match tcgetattr(&stdin) {
        Ok(before) => hidden(&before),
        Err(_) => line(|byte| if byte == b'\n' { Key::End } else { Key::Text(byte) }),
    };
    if let Ok(None) = read {
        return Err(Failure::silent(INTERRUPTED));
    }
    show("\n")?;
    let password = read.map_err(|error| {
        let error = crate::go::os_error(&error);
        Failure::new(failure::ERROR, format!("failed during password entry: {error}"))
    })?;
    Ok(password.unwrap_or_default())
}

fn show(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|_| Failure::silent(failure::ERROR))
}

/// Reads from a terminal that shows nothing and sends no signals meanwhile.
fn hidden(before: &Termios) -> io::Result<Option<Vec<u8>>> {
    let stdin = io::stdin();
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let read = line(Key::of);
    tcsetattr(&stdin, OptionalActions::Now, before)?;
    read
}

/// Reads until the line ends; nothing if the user interrupts. Not a byte more is taken from
/// stdin, since the command may read it, too.
fn line(key: impl Fn(u8) -> Key) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut stdin = unbuffered();
    let mut byte = [0];
    while line.len() < PASSWORD_BYTES_MAX && stdin.read(&mut byte)? == 1 {
        match key(byte[0]) {
            Key::End => break,
            Key::Interrupt => return Ok(None),
            Key::Nothing => {}
            Key::Text(byte) => line.push(byte),
            Key::EraseAll => line.clear(),
            Key::Erase => {
                // A character may be several bytes.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
        }
    }
    Ok(Some(line))
}

/// Stdin, from which nothing is read ahead.
fn unbuffered() -> impl io::Read {
    struct Bare(io::Stdin);
    impl io::Read for Bare {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut *buffer))?)
        }
    }
    Bare(io::stdin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_edit_what_is_typed() {
        for (byte, key) in [
            (b'a', Key::Text(b'a')),
            (b'\r', Key::End),
            (b'\n', Key::End),
            (4, Key::End),
            (3, Key::Interrupt),
            (26, Key::Nothing),
            (0x7f, Key::Erase),
            (21, Key::EraseAll),
        ] {
            assert_eq!(Key::of(byte), key);
        }
    }
}
