//! From flags to outputs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::journal::{self, Journal};
use super::rotation::{Rotated, Rules};
use super::sink::{self, Named, Sink};
use super::{FORMAT, Format, Level, outlet, sample, set_level};
use crate::config::Config;
use base::go::error_text;

const DEFAULT: &str = "default";
const STDERR: &str = "stderr";
const STDOUT: &str = "stdout";
const JOURNAL: &str = "systemd/journal";
const NOTHING: &str = "/dev/null";

/// What etcd says of rotation without a file, or with several.
const ONE_FILE: &str =
    "--log-outputs requires a single file path when --log-rotate-config-json is defined";

/// Refuses what no log can be made of.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    match config.logger.as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let outputs = &config.log_outputs;
    let has = |wanted: &str| outputs.iter().any(|output| output == wanted);
    if outputs.len() > 1 && has(DEFAULT) {
        return Err(format!("multi logoutput for {DEFAULT:?} is not supported yet"));
    }
    if config.enable_log_rotation {
        rules(config)?;
    }
    let format = || {
        let told = &config.log_format;
        let refusal = || format!("unknown log format: {told}, supported values json, console");
        Format::parse(told).map(|_| ()).ok_or_else(refusal)
    };
    if has(JOURNAL) && outputs.len() > 1 {
        let told: Vec<_> = outputs.iter().map(|output| format!("{output:?}")).collect();
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ([{}]) are configured \
             with 'default'; override 'default' value with something else",
            told.join(" ")
        ));
    }
    format()
}

fn rules(config: &Config) -> Result<Rules, String> {
    let is_file = |output: &&String| ![DEFAULT, STDERR, STDOUT].contains(&output.as_str());
    let files = config.log_outputs.iter().filter(is_file).count();
    if files > 1 || (files == 0 && config.log_outputs.len() == 1) {
        return Err(ONE_FILE.to_owned());
    }
    Rules::parse(&config.log_rotation_config_json)
}

/// Opens the outputs that the operator asked for, and writes to them from now on.
pub(crate) fn configure(config: &Config) -> Result<(), String> {
    let sinks = open(config, Path::new(journal::SOCKET))?;
    if let Some(level) = Level::parse(&config.log_level) {
        set_level(level);
    }
    outlet::flush();
    FORMAT
        .store(Format::parse(&config.log_format).unwrap_or(Format::Json) as u8, Ordering::Relaxed);
    sample::turn(!config.log_outputs.iter().any(|output| output == JOURNAL));
    outlet::replace(sinks);
    Ok(())
}

/// Opens them, the journal at this socket.
pub(super) fn open(config: &Config, journal: &Path) -> Result<Vec<Box<dyn Sink>>, String> {
    let mut names: Vec<&str> = config.log_outputs.iter().map(String::as_str).collect();
    if names.contains(&NOTHING) && !names.contains(&JOURNAL) {
        names = vec![NOTHING];
    }
    let mut sinks = Vec::new();
    for name in names {
        sinks.push(open_one(config, name, journal)?);
    }
    Ok(sinks)
}

fn open_one(config: &Config, name: &str, journal: &Path) -> Result<Box<dyn Sink>, String> {
    let told = |error: io::Error| error_text(&error);
    Ok(match name {
        DEFAULT | STDERR => sink::stderr().map_err(told)?,
        STDOUT => sink::stdout().map_err(told)?,
        JOURNAL => Box::new(Journal::open(journal).map_err(|error| {
            let path = journal.display();
            format!("can't find journal (dial unixgram {path}: connect: {})", error_text(&error))
        })?),
        _ if config.enable_log_rotation => Box::new(Rotated::new(Path::new(name), rules(config)?)),
        _ => {
            let refused = |reason: String| format!("open sink {name:?}: {reason}");
            let path = file(name).map_err(refused)?;
            let told = |error| format!("open {}: {}", path.display(), error_text(&error));
            Box::new(Named::open(&path).map_err(|error| refused(told(error)))?)
        }
    })
}

/// The file that an output names: a path, or a URL of scheme `file`.
fn file(name: &str) -> Result<PathBuf, String> {
    if name.starts_with('/') {
        return Ok(name.into());
    }
    let scheme = name.split_once(':').filter(|(scheme, _)| {
        scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
    });
    match scheme {
        None => Ok(name.into()),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            Ok(rest.strip_prefix("localhost").unwrap_or(rest).into())
        }
        Some((scheme, _)) => {
            Err(format!("no sink found for scheme {:?}", scheme.to_ascii_lowercase()))
        }
    }
}
