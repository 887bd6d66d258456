//! Runs one of the tools: finds the command, reads its flags, performs it.
//!
//! *Contract.* cobra v1.10.2 `command.go`, and `main.go` of etcdctl and of etcdutl v3.7.1.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use crate::command::{self, Arg, Call, Command, Group, Parsed, Running, Style};
use crate::failure::{self, Failure, Outcome};
use crate::help;
use crate::output::print;

/// The command that every tool has.
pub(crate) static HELP: Command = Command {
    name: "help",
    usage: "[command]",
    short: "Help about any command",
    long: "Help provides help for any command in the application.\n\
           Simply type etcdctl help [path to command] for full details.",
    group: Group::Utility,
    run: Some(run_help),
    ..Command::EMPTY
};

/// The same for a tool whose help is the usage alone.
pub(crate) static PLAIN_HELP: Command = Command {
    name: "help",
    usage: "[command]",
    short: "Help about any command",
    run: Some(run_help),
    ..Command::EMPTY
};

/// Whether this is the command that shows the help of others.
pub(crate) fn is_help(command: &'static Command) -> bool {
    std::ptr::eq(command, &HELP) || std::ptr::eq(command, &PLAIN_HELP)
}

fn run_help(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        match command::find(call.root, call.args.clone()) {
            Ok((path, _)) => print(help::help(&path).as_bytes()),
            Err(_) => {
                let words: Vec<String> = call
                    .args
                    .iter()
                    .map(|word| format!("`{}`", String::from_utf8_lossy(word)))
                    .collect();
                let text = format!("Unknown help topic [{}]\n", words.join(" "));
                let usage = help::usage_with(&[call.root], false);
                let _ = std::io::stderr().write_all((text + &usage).as_bytes());
                Ok(())
            }
        }
    })
}

/// Runs the command of `root` that `args` (without the program's name) mean, and says how to exit.
pub(crate) fn main(root: &'static Command, args: impl Iterator<Item = OsString>) -> ExitCode {
    match dispatch(root, args.map(OsString::into_vec).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = std::io::stderr().write_all(failure.text.as_bytes());
            ExitCode::from(failure.code)
        }
    }
}

/// The failure of a line that is no call of a command.
pub(crate) fn misused(root: &Command, reason: &str, advice: &str) -> Failure {
    let mut text = format!("Error: {reason}\n{advice}\n");
    if root.style == Style::Plain {
        text += &format!("Error: {reason}\n");
    }
    Failure { code: failure::ERROR, text }
}

/// The effect of a command.
type Run = for<'a> fn(&'a mut Call) -> Running<'a>;

/// The effect that a line means, and what it is given. The line is one tool's call of another, and
/// asks for no help.
pub(crate) fn resolve(root: &'static Command, line: Vec<Arg>) -> Outcome<(Run, Call)> {
    match understand(root, line)? {
        Meaning::Call(run, call) => Ok((run, call)),
        Meaning::Help(text) => Err(Failure { code: failure::ERROR, text }),
    }
}

enum Meaning {
    Call(Run, Call),
    Help(String),
}

fn understand(root: &'static Command, line: Vec<Arg>) -> Outcome<Meaning> {
    let (path, args) = command::find(root, line.clone()).map_err(|word| {
        let advice = format!("Run '{} --help' for usage.", root.name);
        misused(root, &help::unknown_command(root, &word), &advice)
    })?;
    let command = path[path.len() - 1];
    let call = match command::parse(&path, line, args) {
        Ok(Parsed::Call(call)) => call,
        Ok(Parsed::Help) => return Ok(Meaning::Help(help::help(&path))),
        Err(reason) => return Err(misused(root, &reason, &help::usage(&path))),
    };
    Ok(match command.run {
        Some(run) => Meaning::Call(run, call),
        None => Meaning::Help(help::help(&path)),
    })
}

/// Does what the words of a line mean, as far as the exit.
pub(crate) fn dispatch(root: &'static Command, line: Vec<Arg>) -> Outcome {
    let (run, mut call) = match understand(root, line)? {
        Meaning::Call(run, call) => (run, call),
        Meaning::Help(text) => return print(text.as_bytes()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(failure::ERROR, error))?;
    // Everything runs on this thread, so nothing needs to be sent to another.
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, run(&mut call));
    // A thread that waits for stdin must not hold the process back.
    runtime.shutdown_background();
    outcome
}
