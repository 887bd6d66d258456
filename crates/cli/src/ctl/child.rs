//! How programs that a command runs end, in Go's words.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::command::Arg;
use crate::go;

/// The names of signals, from the first on.
const SIGNALS: [&str; 15] = [
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
];

/// Why a program could not be started.
pub(super) fn start_reason(name: &Arg, error: &std::io::Error) -> String {
    if name.contains(&b'/') {
        let name = String::from_utf8_lossy(name);
        format!("fork/exec {name}: {}", go::os_error(error))
    } else {
        format!("exec: {}: executable file not found in $PATH", go::quote(name))
    }
}

/// How a program ended that did not succeed.
pub(super) fn exit_reason(status: ExitStatus) -> String {
    if let Some(code) = status.code() {
        return format!("exit status {code}");
    }
    let number = status.signal().unwrap_or_default();
    let name = usize::try_from(number - 1).ok().and_then(|at| SIGNALS.get(at));
    let name = name.map_or_else(|| format!("signal {number}"), |name| (*name).to_owned());
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    format!("signal: {name}{core}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_go_tells_them() {
        for (status, text) in [
            (7 << 8, "exit status 7"),
            (9, "signal: killed"),
            (13, "signal: broken pipe"),
            (11 | 0x80, "signal: segmentation fault (core dumped)"),
            (40, "signal: signal 40"),
        ] {
            assert_eq!(exit_reason(ExitStatus::from_raw(status)), text);
        }
    }
}
