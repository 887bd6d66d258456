//! Runs a member: configuration, bootstrap, threads; translates gRPC and HTTP to the node's typed
//! calls.
//!
//! ```text
//!  main ─► config ─► run ─► begin, plan ─► member (threads: pump, log, apply, commit)
//!                     │                      ▲   └─► peer ─► other members
//!                     ├─► net ─► connection ─► grpc, http (gateway) ─► api
//!                     └─► duties: what needs other members now and then
//!  SIGHUP ─► live: the configuration file again
//! ```
//!
//! *Invariants.* This crate adds no semantics: what a request means is `node`'s and `store`'s.
//!
//! TLS is `net`'s; here only the flags are turned into what it needs.
//!
//! *Absent.* Authentication of users.

mod api;
mod ask;
mod begin;
pub mod clock;
mod cluster;
mod concurrency;
mod config;
mod connection;
mod damage;
mod directory;
mod discovery;
mod duties;
mod gateway;
mod grpc;
mod http;
mod live;
mod log;
pub mod member;
mod memory;
mod metrics;
mod notify;
mod observer;
mod peer_port;
mod percent;
mod plan;
mod run;
mod tls;
mod trace;
mod trust;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use config::{Notice, Outcome, Refusal};

/// What etcd says of a configuration file.
const LOADED: &str = "loaded server configuration, other configuration command line flags and \
                      environment variables will be ignored if provided";

/// The exit code of a command line that cannot be read, and of a panic.
const EXIT_USAGE: u8 = 2;

/// Runs the server's command line, without the program's name, and says how to exit.
pub fn main(words: Vec<OsString>) -> ExitCode {
    log::start();
    end_on_panic();
    let arguments = match texts(words) {
        Ok(arguments) => arguments,
        Err(reason) => {
            say(&mut std::io::stderr(), &format!("{reason}\n"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let variable = |(name, value): (OsString, OsString)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    };
    let environment: Vec<_> = std::env::vars_os().map(variable).collect();
    let code = match config::from_command_line(&arguments, &environment) {
        Ok(Outcome::Serve(config, notices)) => {
            log_notices(&notices);
            match log::configure(&config) {
                Ok(()) => {
                    plan::log_warnings(&config);
                    run::run(*config)
                }
                Err(reason) => log_refusal(&Refusal::Config(reason)),
            }
        }
        Ok(Outcome::Version) => {
            say(&mut std::io::stdout(), &version());
            ExitCode::SUCCESS
        }
        Ok(Outcome::Help) => {
            say(&mut std::io::stderr(), config::usage());
            say(&mut std::io::stdout(), &config::flag_listing());
            ExitCode::SUCCESS
        }
        Err((Refusal::Plain(reason), _)) => {
            say(&mut std::io::stderr(), &format!("{reason}\n"));
            ExitCode::FAILURE
        }
        Err((Refusal::Syntax(reason), _)) => {
            say(&mut std::io::stderr(), &format!("{reason}\n{}", config::usage()));
            ExitCode::from(EXIT_USAGE)
        }
        Err((refusal, notices)) => {
            log_notices(&notices);
            log_refusal(&refusal)
        }
    };
    log::flush();
    code
}

/// The words of a command line. Another text in the place of one would name another file.
fn texts(words: Vec<OsString>) -> Result<Vec<String>, String> {
    let text = |word: OsString| {
        word.into_string().map_err(|word| format!("argument {word:?} is not UTF-8"))
    };
    words.into_iter().map(text).collect()
}

/// Four lines, of which tools read the first and the last.
fn version() -> String {
    format!(
        "etcd Version: {}\nGit SHA: quorate-{}\nGo Version: none (Rust)\nGo OS/Arch: {}/{}\n",
        api::VERSION,
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        plan::go_arch()
    )
}

/// Writes for people; a closed pipe is nobody to tell.
fn say(output: &mut dyn Write, text: &str) {
    drop(output.write_all(text.as_bytes()));
}

fn log_notices(notices: &[Notice]) {
    for notice in notices {
        match notice {
            Notice::Used { name, value } => log::info("recognized and used environment variable")
                .field("variable-name", name)
                .field("variable-value", value)
                .emit(),
            Notice::Unrecognized(variable) => log::warn("unrecognized environment variable")
                .field("environment-variable", variable)
                .emit(),
            Notice::Special { name, value } => log::warn("cannot set special environment variable")
                .field("key", name)
                .field("value", value)
                .emit(),
            Notice::Loaded { path } => log::info(LOADED).field("path", path).emit(),
            Notice::IgnoredKeys { path, keys } => {
                log::warn("keys of the configuration file are without effect")
                    .field("path", path)
                    .field("keys", keys)
                    .emit();
            }
            Notice::Info(line) => log::info(line).emit(),
            Notice::Warning(line) => log::warn(line).emit(),
        }
    }
}

fn log_refusal(refusal: &Refusal) -> ExitCode {
    let reason = refusal.to_string();
    match refusal {
        Refusal::Shadowed(variable) => {
            log::fatal(&reason).field("environment-variable", variable).emit();
        }
        _ => {
            log::warn("failed to verify flags").field("error", &reason).emit();
            if reason == config::ADVERTISE_MISSING {
                log::warn("advertise client URLs are not set").field("error", &reason).emit();
            }
        }
    }
    ExitCode::FAILURE
}

/// A panic on any thread ends the process, after one line.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str))
            .unwrap_or("panic");
        let thread = std::thread::current();
        let here = std::panic::Location::caller();
        log::panic(text, panic.location().unwrap_or(here))
            .field("thread", thread.name().unwrap_or("unnamed"))
            .emit();
        std::process::exit(i32::from(EXIT_USAGE));
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_word_that_is_no_text_is_refused_by_name() {
        assert_eq!(texts(vec!["--name=\u{e4}".into()]), Ok(vec!["--name=\u{e4}".to_owned()]));
        let word = OsString::from_vec(b"--data-dir=/a\xff".to_vec());
        let told = "argument \"--data-dir=/a\\xFF\" is not UTF-8";
        assert_eq!(texts(vec!["--name=a".into(), word]), Err(told.to_owned()));
    }
}
