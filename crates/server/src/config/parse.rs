//! Reads the command line and the environment into a [`Config`].
//!
//! *Contract.* Go's package `flag`; `pkg/flags/flag.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use super::flags::{Effect, FLAGS, Flag, find};
use super::old::{self, Done, find_old};
use super::secret::shown;
use super::value::parse_bool;
use super::{Config, RAFT_TIMEOUT, show_duration};
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

/// A line for the log about where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Passwords are not shown.
    Used {
        name: String,
        value: String,
    },
    /// The same.
    Unrecognized(String),
    Special {
        name: String,
        value: String,
    },
    Loaded {
        path: String,
    },
    IgnoredKeys {
        path: String,
        keys: Vec<String>,
    },
    Info(String),
    Warning(String),
}

/// Why nothing is run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Refusal {
    /// A flag that cannot be read: told on stderr with the usage; exit code 2.
    #[error("{0}")]
    Syntax(String),
    /// A URL in the configuration file that is none: told on stderr; exit code 1.
    #[error("{0}")]
    Plain(String),
    /// A configuration that cannot be: told in the log; exit code 1.
    #[error("{0}")]
    Config(String),
    /// The same thing was said twice: told in the log; exit code 1.
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"
    )]
    Shadowed(String),
}

/// Reads `arguments` (without the program's name), then `environment`, or instead of both the
/// configuration file that one of them names.
pub(crate) fn from_command_line(
    arguments: &[String],
    environment: &[(String, String)],
) -> Result<Outcome, (Refusal, Vec<Notice>)> {
    let mut config = Config::default();
    let mut notices = Vec::new();
    let stray = match read_arguments(&mut config, arguments, &mut notices) {
        Ok(Wish::Serve { stray }) => stray,
        Ok(Wish::Help) => return Ok(Outcome::Help),
        Ok(Wish::Version) => return Ok(Outcome::Version),
        Err(reason) => return Err((Refusal::Syntax(reason), notices)),
    };
    if let Some(word) = stray {
        return Err((Refusal::Config(format!("{word:?} is not a valid flag")), notices));
    }
    if config.config_file.is_empty()
        && let Some((_, path)) = environment.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE")
    {
        config.config_file.clone_from(path);
    }
    let read = if config.config_file.is_empty() {
        read_environment(&mut config, environment, &mut notices)
            .map(|()| finish_flags(&mut config, &mut notices))
            .and_then(|()| check(&config))
            .map(|()| config)
    } else {
        notices.clear();
        from_file(&config, &mut notices)
    };
    match read {
        Ok(config) => Ok(Outcome::Serve(Box::new(config), notices)),
        Err(refusal) => Err((refusal, notices)),
    }
}

/// Reads the configuration file instead of what was given beside it.
fn from_file(given: &Config, notices: &mut Vec<Notice>) -> Result<Config, Refusal> {
    let mut config = Config::from_file(&given.config_file, notices)?;
    // They have no key, and etcd takes them from the command line all the same.
    config.raft_read_timeout = given.raft_read_timeout.max(RAFT_TIMEOUT);
    config.raft_write_timeout = given.raft_write_timeout.max(RAFT_TIMEOUT);
    check(&config)?;
    notices.insert(0, Notice::Loaded { path: given.config_file.clone() });
    Ok(config)
}

/// What follows from which flags were given.
fn finish_flags(config: &mut Config, notices: &mut Vec<Notice>) {
    let given = |flag: &str| config.given.contains(flag);
    if given("listen-client-urls") && !given("advertise-client-urls") {
        config.advertise_client_urls.clear();
    }
    config.drop_default_cluster();
    for (name, timeout) in [
        ("raft-read-timeout", &mut config.raft_read_timeout),
        ("raft-write-timeout", &mut config.raft_write_timeout),
    ] {
        if *timeout < RAFT_TIMEOUT {
            *timeout = RAFT_TIMEOUT;
            let least = show_duration(RAFT_TIMEOUT);
            notices.push(Notice::Info(format!("{name} increased to minimum value: {least}")));
        }
    }
}

/// The checks of a configuration that has been read.
pub(super) fn check(config: &Config) -> Result<(), Refusal> {
    // etcd panics here, with the exit code of a flag that cannot be read.
    if config.logger == "zap" && Level::parse(&config.log_level).is_none() {
        let told = format!("unrecognized level: {:?} (--log-level)", config.log_level);
        return Err(Refusal::Syntax(told));
    }
    config.check().map_err(Refusal::Config)
}

enum Wish {
    Serve { stray: Option<String> },
    Help,
    Version,
}

fn read_arguments(
    config: &mut Config,
    arguments: &[String],
    notices: &mut Vec<Notice>,
) -> Result<Wish, String> {
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
        let Some(known) = Known::of(name) else {
            if matches!(name, "h" | "help") {
                return Ok(Wish::Help);
            }
            return Err(format!("flag provided but not defined: -{name}"));
        };
        let is_switch = known.is_switch();
        let value = match value {
            Some(value) => value.to_owned(),
            None if is_switch => "true".to_owned(),
            None => rest.next().ok_or_else(|| format!("flag needs an argument: -{name}"))?.clone(),
        };
        let set = known.set(config, &value, notices).map_err(|reason| {
            if is_switch {
                format!("invalid boolean value {value:?} for -{name}: {reason}")
            } else {
                format!("invalid value {value:?} for flag -{name}: {reason}")
            }
        })?;
        version = set.unwrap_or(version);
    }
    Ok(if version { Wish::Version } else { Wish::Serve { stray: None } })
}

/// A flag of today or of old.
enum Known {
    Today(&'static Flag),
    Old(&'static old::Old),
}

impl Known {
    fn of(name: &str) -> Option<Self> {
        find(name).map(Self::Today).or_else(|| find_old(name).map(Self::Old))
    }

    fn is_switch(&self) -> bool {
        match self {
            Self::Today(flag) => flag.is_switch(),
            Self::Old(flag) => flag.is_switch(),
        }
    }

    /// Gives the flag its value. Returns whether the version was asked for, if this was about it.
    fn set(
        &self,
        config: &mut Config,
        value: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Option<bool>, String> {
        match self {
            Self::Today(flag) => {
                let set = set(config, flag, value)?;
                config.given.insert(flag.name);
                Ok(set)
            }
            Self::Old(flag) => {
                match flag.set(config, value)? {
                    Done::Told(line) => notices.push(Notice::Warning(line)),
                    Done::Missing(reason) => {
                        config.unbuilt.get_or_insert(reason);
                    }
                    Done::Nothing => {}
                }
                Ok(None)
            }
        }
    }
}

/// Gives `flag` its value. Returns whether the version was asked for, if this was about it.
fn set(config: &mut Config, flag: &Flag, value: &str) -> Result<Option<bool>, String> {
    match flag.effect {
        Effect::Value(set) => set(config, value)?,
        Effect::Switch(set) => set(config, parse_bool(value)?),
        Effect::Ignored => {}
        Effect::Version => return parse_bool(value).map(Some),
    }
    Ok(None)
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
                let value = shown(&name, value).to_owned();
                notices.push(Notice::Used { name: name.clone(), value });
            }
            // As in etcd, the last one is told.
            Err(reason) => refused = Some(format!("invalid value {value:?} for {name}: {reason}")),
        }
        used.insert(name);
    }
    read_old_environment(config, &values, &mut used, notices);
    for (name, value) in environment {
        if used.contains(name) {
            continue;
        }
        if on_command_line.contains(name) {
            return Err(Refusal::Shadowed(name.clone()));
        }
        if name.starts_with("ETCD_") {
            notices.push(Notice::Unrecognized(format!("{name}={}", shown(name, value))));
        }
    }
    refused.map_or(Ok(()), |reason| Err(Refusal::Config(reason)))
}

/// Old variables, which 3.7.1 does not recognize: one that cannot be honoured is passed over.
fn read_old_environment(
    config: &mut Config,
    values: &BTreeMap<&str, &str>,
    used: &mut BTreeSet<String>,
    notices: &mut Vec<Notice>,
) {
    for flag in old::all() {
        let name = flag.variable();
        let Some(value) = values.get(name.as_str()).filter(|value| !value.is_empty()) else {
            continue;
        };
        let told = match flag.set(config, value) {
            Ok(Done::Nothing) => continue,
            Ok(Done::Told(line)) => format!("{name}={value}: {line}"),
            Ok(Done::Missing(line)) => format!("{name} is passed over, as by etcd 3.7: {line}"),
            Err(reason) => {
                format!("{name} is passed over, as by etcd 3.7: invalid value {value:?}: {reason}")
            }
        };
        notices.push(Notice::Warning(told));
        used.insert(name);
    }
}
