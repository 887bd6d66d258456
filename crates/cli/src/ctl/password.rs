//! Asks for passwords: hidden on a terminal, as a line or a word of stdin elsewhere.
//!
//! *Invariants.* Whatever ends a question (an answer, an error, a signal), the terminal shows again
//! what is typed.
//!
//! *Absent.* The lines in which etcdctl's helper `stty` complains that stdin is no terminal.
//!
//! *Contract.* speakeasy as etcd v3.7.1 uses it; `fmt.Scanf("%s")` of Go.

use std::io::{self, BufRead as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{self, Failure, Outcome};
use super::print::print;
use crate::go;

/// A longer line is no password.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How etcdctl exits when a signal ends it at a question.
const EXIT_SIGNALLED: u8 = 255;

/// The terminal at stdin, which does not show what is typed until this is dropped.
struct Hidden(Termios);

impl Hidden {
    /// None: stdin is no terminal.
    fn begin() -> Option<Hidden> {
        let shown = tcgetattr(io::stdin()).ok()?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &hidden).ok()?;
        Some(Hidden(shown))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Asks one question; white space around the answer does not belong to it.
pub(crate) async fn ask(question: &str) -> Outcome<String> {
    print(question.as_bytes())?;
    let hidden = Hidden::begin();
    let answer = tokio::task::spawn_blocking(read_line);
    let line = if hidden.is_some() {
        tokio::select! {
            line = answer => line,
            () = end_signal() => return Err(Failure::silent(EXIT_SIGNALLED)),
        }
    } else {
        answer.await
    };
    drop(hidden);
    print(b"\n")?;
    let line = line.map_err(io::Error::other).flatten().map_err(|error| {
        let error = go::os_error(&error);
        let reason = format!("failed to ask password: failed during password entry: {error}");
        Failure::new(failure::BAD_ARGS, reason)
    })?;
    Ok(text(&line)?.trim().to_owned())
}

/// Waits for a signal that would end the process.
async fn end_signal() {
    let kinds = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::terminate(),
    ];
    let [Ok(mut a), Ok(mut b), Ok(mut c), Ok(mut d)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = a.recv() => (),
        _ = b.recv() => (),
        _ = c.recv() => (),
        _ = d.recv() => (),
    }
}

fn read_line() -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    io::stdin().lock().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.len() as u64 == LINE_BYTES_MAX {
        let reason = format!("the line is longer than {LINE_BYTES_MAX} bytes");
        return Err(io::Error::other(reason));
    }
    Ok(line)
}

/// Asks for a new password of `user`, twice.
pub(crate) async fn ask_new(user: &str) -> Outcome<String> {
    let bad = |reason| Failure::new(failure::BAD_ARGS, reason);
    let first = ask(&format!("Password of {user}: ")).await?;
    if first.is_empty() {
        return Err(bad("empty password"));
    }
    if first != ask(&format!("Type password of {user} again for confirmation: ")).await? {
        return Err(bad("given passwords are different"));
    }
    Ok(first)
}

/// The first word of stdin's first line; nothing if there is none.
pub(crate) fn word() -> Outcome<String> {
    first_word(&read_line().unwrap_or_default())
}

fn first_word(line: &[u8]) -> Outcome<String> {
    Ok(text(line)?.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Text of a message. Go's client finds out that it is none when it sends it.
pub(crate) fn text(bytes: &[u8]) -> Outcome<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let reason = "rpc error: code = Internal desc = grpc: error while marshaling: string \
                      field contains invalid UTF-8";
        Failure::new(failure::ERROR, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_ends_at_white_space_and_is_on_the_first_line() {
        for (line, word) in
            [("secret\n", "secret"), ("  two words\n", "two"), ("\n", ""), ("", ""), ("x", "x")]
        {
            assert_eq!(first_word(line.as_bytes()), Ok(word.to_owned()), "{line:?}");
        }
        assert_eq!(first_word(b"\xff\n").unwrap_err().code, failure::ERROR);
    }
}
