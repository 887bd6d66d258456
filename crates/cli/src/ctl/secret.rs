//! Where a new password comes from: a terminal, on which it is asked for twice, or stdin.
//!
//! *Contract.* `user_command.go` of etcdctl v3.7.1; `fmt.Scanf("%s")` of Go.

use std::io::{self, BufRead as _, Read as _};

use super::failure::{self, Failure, Outcome};
use super::password;
use crate::go::text;

/// What follows in a longer line is no part of a password.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Asks for a new password of `user`, twice.
pub(crate) fn ask(user: &str) -> Outcome<String> {
    let bad = |reason| Failure::new(failure::BAD_ARGS, reason);
    let first = question(&format!("Password of {user}: "))?;
    if first.is_empty() {
        return Err(bad("empty password"));
    }
    if first != question(&format!("Type password of {user} again for confirmation: "))? {
        return Err(bad("given passwords are different"));
    }
    Ok(first)
}

fn question(prompt: &str) -> Outcome<String> {
    let answer = password::answer(prompt).map_err(|failure| match failure.reason() {
        // The user has interrupted.
        "" => failure,
        reason => Failure::new(failure::BAD_ARGS, format!("failed to ask password: {reason}")),
    })?;
    Ok(text(&answer)?.trim().to_owned())
}

/// The first word of stdin's first line; nothing if there is none.
pub(crate) fn word() -> Outcome<String> {
    let mut line = Vec::new();
    // Go's reader does not say either that there is nothing to read.
    let _ = io::stdin().lock().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
    first_word(&line)
}

fn first_word(line: &[u8]) -> Outcome<String> {
    Ok(text(line)?.split_whitespace().next().unwrap_or_default().to_owned())
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
