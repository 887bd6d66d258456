//! Reads the command line and the environment into a [`Config`].
//!
//! *Contract.* Go's package `flag`; `pkg/flags/flag.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::Config;
use super::flags::{Effect, FLAGS, Flag, find};
use super::value::parse_bool;
use crate::log::Level;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Run a member. The notices are to be logged.
    Serve(Box<Config>, Vec<Notice>),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// A line for the log about the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    Used { name: String, value: String },
    Unrecognized(String),
    Special { name: String, value: String },
}

/// Why nothing is run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// A flag that cannot be read: told on stderr with the usage; exit code 2.
    #[error("{0}")]
    Syntax(String),
    /// A configuration that cannot be: told in the log; exit code 1.
    #[error("{0}")]
    Config(String),
    /// The same thing was said twice: told in the log; exit code 1.
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"
    )]
    Shadowed(String),
}

/// Reads `arguments` (without the program's name), then `environment`.
pub(crate) fn from_command_line(
    arguments: &[String],
    environment: &[(String, String)],
) -> Result<Outcome, (Refusal, Vec<Notice>)> {
    let mut config = Config::default();
    let mut notices = Vec::new();
    let stray = match read_arguments(&mut config, arguments) {
        Ok(Wish::Serve { stray }) => stray,
        Ok(Wish::Help) => return Ok(Outcome::Help),
        Ok(Wish::Version) => return Ok(Outcome::Version),
        Err(reason) => return Err((Refusal::Syntax(reason), notices)),
    };
    if let Some(word) = stray {
        return Err((Refusal::Config(format!("{word:?} is not a valid flag")), notices));
    }
    let refused = read_environment(&mut config, environment, &mut notices)
        .and_then(|()| {
            if !config.given.contains("advertise-client-urls")
                && config.given.contains("listen-client-urls")
            {
                config.advertise_client_urls.clear();
            }
            // etcd panics here, with the exit code of a flag that cannot be read.
            if Level::parse(&config.log_level).is_none() {
                let told = format!("unrecognized level: {:?} (--log-level)", config.log_level);
                return Err(Refusal::Syntax(told));
            }
            config.drop_default_cluster();
            config.check().map_err(Refusal::Config)
        })
        .err();
    match refused {
        None => Ok(Outcome::Serve(Box::new(config), notices)),
        Some(refusal) => Err((refusal, notices)),
    }
}

enum Wish {
    Serve { stray: Option<String> },
    Help,
    Version,
}

fn read_arguments(config: &mut Config, arguments: &[String]) -> Result<Wish, String> {
    let mut rest = arguments.iter();
    let mut version = false;
    while let Some(argument) = rest.next() {
        if argument == "--" {
            let stray = rest.next().cloned();
            return Ok(if version && stray.is_none() {
                Wish::Version
            } else {
                Wish::Serve { stray }
            });
        }
        let Some(body) = argument.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Ok(Wish::Serve { stray: Some(argument.clone()) });
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(format!("bad flag syntax: {argument}"));
        }
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            if matches!(name, "h" | "help") {
                return Ok(Wish::Help);
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let value = match value {
            Some(value) => value.to_owned(),
            None if flag.is_switch() => "true".to_owned(),
            None => rest.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?.clone(),
        };
        let set = set(config, flag, &value).map_err(|reason| {
            if flag.is_switch() {
                format!("invalid boolean value {value:?} for -{name}: {reason}")
            } else {
                format!("invalid value {value:?} for flag -{name}: {reason}")
            }
        })?;
        version = set.unwrap_or(version);
        config.given.insert(flag.name);
    }
    Ok(if version { Wish::Version } else { Wish::Serve { stray: None } })
}

/// Gives `flag` its value. Returns whether the version was asked for, if this was about it.
fn set(config: &mut Config, flag: &Flag, value: &str) -> Result<Option<bool>, String> {
    let unbuilt = match flag.effect {
        Effect::Value(set) => {
            set(config, value)?;
            false
        }
        Effect::Switch(set) => {
            set(config, parse_bool(value)?);
            false
        }
        Effect::Unbuilt(harmless) => !harmless.contains(&value),
        Effect::UnbuiltSwitch(harmless) => parse_bool(value)? != harmless,
        Effect::Ignored => {
            parse_bool(value)
                .or_else(|reason| if is_number(value) { Ok(true) } else { Err(reason) })?;
            false
        }
        Effect::Version => return parse_bool(value).map(Some),
    };
    if unbuilt {
        config.unbuilt.get_or_insert_with(|| format!("--{}", flag.name));
    }
    Ok(None)
}

/// An ignored flag may stand for a number.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_environment(
    config: &mut Config,
    environment: &[(String, String)],
    notices: &mut Vec<Notice>,
) -> Result<(), Refusal> {
    let values: BTreeMap<&str, &str> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    if let Some(value) = values.get("ETCD_VERSION").filter(|value| !value.is_empty()) {
        let (name, value) = ("ETCD_VERSION".to_owned(), (*value).to_owned());
        notices.push(Notice::Special { name, value });
    }
    let on_command_line: BTreeSet<String> =
        FLAGS.iter().filter(|f| config.given.contains(f.name)).map(Flag::variable).collect();
    let mut flags: Vec<_> = FLAGS.iter().filter(|f| !matches!(f.effect, Effect::Version)).collect();
    flags.sort_by_key(|flag| flag.name);
    let mut used = BTreeSet::from(["ETCD_VERSION".to_owned()]);
    let mut refused = None;
    for flag in flags {
        let name = flag.variable();
        let Some(value) = values.get(name.as_str()).filter(|value| !value.is_empty()) else {
            continue;
        };
        if on_command_line.contains(&name) {
            continue;
        }
        match set(config, flag, value) {
            Ok(_) => {
                config.given.insert(flag.name);
                notices.push(Notice::Used { name: name.clone(), value: (*value).to_owned() });
            }
            // As in etcd, the last one is told.
            Err(reason) => refused = Some(format!("invalid value {value:?} for {name}: {reason}")),
        }
        used.insert(name);
    }
    for (name, value) in environment {
        if used.contains(name) {
            continue;
        }
        if on_command_line.contains(name) {
            return Err(Refusal::Shadowed(name.clone()));
        }
        if name.starts_with("ETCD_") {
            notices.push(Notice::Unrecognized(format!("{name}={value}")));
        }
    }
    refused.map_or(Ok(()), |reason| Err(Refusal::Config(reason)))
}
