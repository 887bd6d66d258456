//! Asks for a password: on a terminal without showing it.
//!
//! *Invariants.* The terminal is put back as it was before anything else happens, also when the
//! user interrupts and when a signal of [`ENDING`] comes. What these signals do before and after
//! the question is not touched.
//!
//! *Contract.* `speakeasy` as etcdctl v3.7.1 uses it: the prompt and a line end go to stdout, one
//! line is read from stdin, blanks around it do not count; a signal ends the process as Ctrl-C
//! does. Without a terminal etcdctl lets `stty` complain on stderr, which is left out.

use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::failure::{self, Failure, Outcome};
use crate::go;

/// A password that is longer is cut here.
const PASSWORD_BYTES_MAX: usize = 64 << 10;
/// How the process ends when the user or a signal interrupts instead of answering.
const INTERRUPTED: u8 = 255;
/// The signals that would end the process while the terminal is silent.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

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
    let text = go::text(&answer(prompt)?);
    let text = text.map_err(|failure| Failure { code: failure::BAD_CONNECTION, ..failure })?;
    Ok(text.trim().to_owned())
}

/// Shows the prompt and reads a line from stdin.
pub(super) fn answer(prompt: &str) -> Outcome<Vec<u8>> {
    let refused = |error: io::Error| {
        let error = go::os_error(&error);
        Failure::new(failure::ERROR, format!("failed during password entry: {error}"))
    };
    let read = match tcgetattr(io::stdin()) {
        Ok(before) => {
            let signals = Signals::hold().map_err(refused)?;
            // The prompt is shown when it may be answered.
            silence(&before).map_err(refused)?;
            let read = show(prompt).map(|()| line(Watched(&signals), Key::of));
            tcsetattr(io::stdin(), OptionalActions::Now, &before)
                .map_err(|error| refused(error.into()))?;
            read
        }
        Err(_) => show(prompt).map(|()| {
            line(Unbuffered, |byte| if byte == b'\n' { Key::End } else { Key::Text(byte) })
        }),
    };
    match read? {
        Ok(Some(password)) => show("\n").map(|()| password),
        Ok(None) => Err(Failure::silent(INTERRUPTED)),
        Err(error) => show("\n").and_then(|()| Err(refused(error))),
    }
}

fn show(text: &str) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|_| Failure::silent(failure::ERROR))
}

/// From now on the terminal shows nothing and sends no signals.
fn silence(before: &Termios) -> io::Result<()> {
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    Ok(tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?)
}

/// Reads until the line ends; nothing if the user or a signal interrupts. Not a byte more is taken
/// from stdin, since the command may read it, too.
fn line(mut stdin: impl Read, key: impl Fn(u8) -> Key) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < PASSWORD_BYTES_MAX {
        match stdin.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
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
struct Unbuffered;

impl Read for Unbuffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), &mut *buffer))?)
    }
}

/// The same, until a signal interrupts.
struct Watched<'a>(&'a Signals);

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.come_before_input()? {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Unbuffered.read(buffer)
    }
}

/// The signals of [`ENDING`], held back until this is dropped. They are not caught, because the
/// action they had could not be given back to them. The only other threads that a command has are
/// started when it connects, and that is after the questions.
struct Signals {
    queue: SignalFd,
    mask_before: SigSet,
}

impl Signals {
    fn hold() -> io::Result<Signals> {
        let set: SigSet = ENDING.into_iter().collect();
        let queue = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { queue, mask_before: set.thread_swap_mask(SigmaskHow::SIG_BLOCK)? })
    }

    /// Waits for something to read from stdin or for a signal, which is taken.
    fn come_before_input(&self) -> io::Result<bool> {
        let stdin = io::stdin();
        let of = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut sources = [of(self.queue.as_fd()), of(stdin.as_fd())];
        loop {
            match poll(&mut sources, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => {}
                polled => break polled.map(drop)?,
            }
        }
        let is_signal = sources[0].any().unwrap_or(false);
        if is_signal {
            self.queue.read_signal()?;
        }
        Ok(is_signal)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.mask_before.thread_set_mask();
    }
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
