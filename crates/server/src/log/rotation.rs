//! A file that is begun anew when it is full.
//!
//! ```text
//!  etcd.log ─ full ─► etcd-2006-01-02T15-04-05.000.log ─ compress ─► ….log.gz ─ too old ─► gone
//! ```
//!
//! *Invariants.* 1. No line is split between two files. 2. A backup is only removed, or replaced by
//! its compressed form, when that form is complete and on the disk. 3. Old files are looked after
//! on a thread of their own, one at a time: lines do not wait for it.
//!
//! *Contract.* lumberjack v2.2: names, defaults, and what is kept.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::calendar::{DateTime, days};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::outlet::Entry;
use super::sink::{LOOK_INTERVAL, Lines, Sink, is_elsewhere};
use super::{gojson, zone};
use crate::config::kind;

const MEGABYTE: u64 = 1 << 20;
const SIZE_DEFAULT: i64 = 100;
const DAY: Duration = Duration::from_secs(86_400);
/// Names that may be taken already when a backup is named.
const NAMES_MAX: u64 = 10_000;
/// `2006-01-02T15-04-05.000`.
const STAMP_LENGTH: usize = 23;

/// The value of `--log-rotation-config-json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// In megabytes; 0 is the default.
    size: i64,
    /// In days; 0 is without limit.
    age: i64,
    /// 0 is without limit.
    backups: i64,
    is_local_time: bool,
    is_compressed: bool,
}

impl Rules {
    /// Reads the JSON, with the reasons that Go gives.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        gojson::check(text)
            .map_err(|reason| format!("improperly formatted log rotation config: {reason}"))?;
        let invalid = |reason: String| format!("invalid log rotation config: json: {reason}");
        // What Go reads and serde_json does not, such as a lone surrogate, names no rule.
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let object = match value {
            Value::Object(object) => object,
            Value::Null => return Ok(Self::default()),
            other => {
                let kind = kind(&other);
                return Err(invalid(format!(
                    "cannot unmarshal {kind} into Go value of type embed.logRotationConfig"
                )));
            }
        };
        let mut rules = Self::default();
        for (name, value) in object {
            let name = name.to_ascii_lowercase();
            let refused = |kind: &str, wanted: &str| {
                invalid(format!(
                    "cannot unmarshal {kind} into Go struct field logRotationConfig.Logger.{name} \
                     of type {wanted}"
                ))
            };
            match (name.as_str(), &value) {
                (_, Value::Null) => {}
                ("maxsize" | "maxage" | "maxbackups", Value::Number(number)) => {
                    let told = || refused(&format!("number {}", spelled(text, number)), "int");
                    let number = number.as_i64().ok_or_else(told)?;
                    match name.as_str() {
                        "maxsize" => rules.size = number,
                        "maxage" => rules.age = number,
                        _ => rules.backups = number,
                    }
                }
                ("localtime", Value::Bool(on)) => rules.is_local_time = *on,
                ("compress", Value::Bool(on)) => rules.is_compressed = *on,
                ("filename", Value::String(_)) => {}
                ("maxsize" | "maxage" | "maxbackups", other) => {
                    return Err(refused(kind(other), "int"));
                }
                ("localtime" | "compress", other) => return Err(refused(&told(other), "bool")),
                ("filename", other) => return Err(refused(&told(other), "string")),
                _ => {}
            }
        }
        Ok(rules)
    }

    fn bytes_max(&self) -> u64 {
        let size = if self.size <= 0 { SIZE_DEFAULT } else { self.size };
        size.unsigned_abs().saturating_mul(MEGABYTE)
    }
}

/// A number that is no whole one of 64 bits, as the text spells it.
fn spelled(text: &str, number: &serde_json::Number) -> String {
    let is_part = |letter: char| letter.is_ascii_digit() || "+-.eE".contains(letter);
    let is_it =
        |token: &&str| token.parse::<i64>().is_err() && token.parse().ok() == number.as_f64();
    let found = text.split(|letter| !is_part(letter)).find(is_it);
    found.map_or_else(|| number.to_string(), str::to_owned)
}

/// Where no number is wanted, Go does not tell which one it was given.
fn told(value: &Value) -> String {
    kind(value).to_owned()
}

/// A file that is rotated.
pub(super) struct Rotated {
    path: PathBuf,
    rules: Rules,
    bytes_max: u64,
    open: Option<Open>,
    is_tidying: Arc<AtomicBool>,
}

struct Open {
    file: File,
    lines: Lines<File>,
    bytes: u64,
    looked: Instant,
}

impl Rotated {
    /// Opens nothing yet: that comes with the first line.
    pub(super) fn new(path: &Path, rules: Rules) -> Self {
        let bytes_max = rules.bytes_max();
        let (path, is_tidying) = (path.to_owned(), Arc::default());
        Self { path, rules, bytes_max, open: None, is_tidying }
    }

    /// The file to write the next `more` bytes to.
    fn ready(&mut self, more: u64) -> io::Result<&mut Open> {
        let is_lost = self.open.as_mut().is_some_and(|open| {
            let is_due = open.looked.elapsed() >= LOOK_INTERVAL;
            if is_due {
                open.looked = Instant::now();
            }
            is_due && is_elsewhere(&open.file, &self.path)
        });
        if is_lost {
            self.open = None;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let open = self.append()?;
                self.tidy();
                open
            }
        };
        // A line that is larger than a file has one of its own.
        let is_full = open.bytes > 0 && open.bytes + more > self.bytes_max;
        let open = if is_full {
            drop(open);
            fs::rename(&self.path, self.backup()?)?;
            let open = self.append()?;
            self.tidy();
            open
        } else {
            open
        };
        Ok(self.open.insert(open))
    }

    fn append(&self) -> io::Result<Open> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let bytes = file.metadata()?.len();
        let lines = Lines::new(file.try_clone()?);
        Ok(Open { file, lines, bytes, looked: Instant::now() })
    }

    /// A name for the full file that nobody has.
    fn backup(&self) -> io::Result<PathBuf> {
        let (stem, extension) = split(&self.path);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or_default();
        for millis in now..now + NAMES_MAX {
            let seconds = millis / 1_000;
            let seconds = if self.rules.is_local_time { zone::local(seconds).0 } else { seconds };
            let stamp = DateTime(seconds).to_string().replace(':', "-");
            let name = format!("{stem}-{stamp}.{:03}{extension}", millis % 1_000);
            let path = self.path.with_file_name(&name);
            if !path.exists() && !path.with_file_name(format!("{name}.gz")).exists() {
                return Ok(path);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Compresses and removes backups, unless that is under way.
    fn tidy(&self) {
        let is_needed = self.rules.is_compressed || self.rules.age > 0 || self.rules.backups > 0;
        if !is_needed || self.is_tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (path, rules) = (self.path.clone(), self.rules.clone());
        let is_tidying = Arc::clone(&self.is_tidying);
        let thread = std::thread::Builder::new().name("log-tidy".to_owned());
        let spawned = thread.spawn(move || {
            // What cannot be done now is tried again after the next rotation.
            drop(tidy(&path, &rules, SystemTime::now()));
            is_tidying.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.is_tidying.store(false, Ordering::Release);
        }
    }
}

impl Sink for Rotated {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let more = entry.bytes.len() as u64;
        let open = self.ready(more)?;
        let written = open.lines.write(&entry.bytes);
        // A failed write may have left a beginning.
        open.bytes = match written {
            Ok(()) => open.bytes + more,
            Err(_) => open.file.metadata().map_or(open.bytes, |metadata| metadata.size()),
        };
        written
    }
}

/// `etcd.log` is `etcd` and `.log`.
fn split(path: &Path) -> (String, String) {
    let name =
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    match name.rfind('.') {
        Some(dot) => (name[..dot].to_owned(), name[dot..].to_owned()),
        None => (name, String::new()),
    }
}

/// A backup, by the time in its name.
struct Backup {
    path: PathBuf,
    stamp: String,
    seconds: u64,
    is_compressed: bool,
}

/// The backups of this file, the newest first.
fn backups(path: &Path) -> io::Result<Vec<Backup>> {
    let (stem, extension) = split(path);
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let (plain, is_compressed) = match name.strip_suffix(".gz") {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        let stamp = plain
            .strip_prefix(&stem)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(&extension));
        if let Some(stamp) = stamp
            && let Some(seconds) = seconds(stamp)
        {
            let (path, stamp) = (entry.path(), stamp.to_owned());
            found.push(Backup { path, stamp, seconds, is_compressed });
        }
    }
    found.sort_by(|a, b| b.stamp.cmp(&a.stamp));
    Ok(found)
}

/// Reads `2006-01-02T15-04-05.000` as if it were in UTC.
fn seconds(stamp: &str) -> Option<u64> {
    let bytes = stamp.as_bytes();
    if bytes.len() != STAMP_LENGTH || !stamp.is_ascii() {
        return None;
    }
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b'-'), (16, b'-'), (19, b'.')];
    if marks.iter().any(|&(at, mark)| bytes[at] != mark) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = &stamp[from..to];
        let are_digits = digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| are_digits)
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    number(20, 23)?;
    let time = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    Some(days(year, month, day) * DAY.as_secs() + time)
}

fn tidy(path: &Path, rules: &Rules, now: SystemTime) -> io::Result<()> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = if rules.is_local_time { zone::local(now).0 } else { now };
    let age = u64::try_from(rules.age).ok().filter(|days| *days > 0);
    let oldest = age.map_or(0, |days| now.saturating_sub(days.saturating_mul(DAY.as_secs())));
    let count = usize::try_from(rules.backups).ok().filter(|count| *count > 0);
    let (mut stamps, mut plain): (Vec<String>, Vec<PathBuf>) = Default::default();
    // One that cannot be removed or compressed is no reason to keep the others.
    let mut done = Ok(());
    for backup in backups(path)? {
        if stamps.last() != Some(&backup.stamp) {
            stamps.push(backup.stamp);
        }
        let is_too_many = count.is_some_and(|count| stamps.len() > count);
        if is_too_many || backup.seconds < oldest {
            done = done.and(fs::remove_file(&backup.path));
        } else if rules.is_compressed && !backup.is_compressed {
            plain.push(backup.path);
        }
    }
    // At last, since that needs space.
    for path in plain {
        done = done.and(compress(&path));
    }
    done
}

fn compress(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or(OsStr::new("log")).to_string_lossy().into_owned();
    let (part, done) =
        (path.with_file_name(format!("{name}.gz.tmp")), path.with_file_name(format!("{name}.gz")));
    let mut from = File::open(path)?;
    let file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&part)?;
    let mut encoder = GzEncoder::new(BufWriter::new(file), Compression::default());
    let compressed = io::copy(&mut from, &mut encoder)
        .and_then(|_| encoder.finish())
        .and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error))
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&part, &done));
    if let Err(error) = compressed {
        // Of no use without its end.
        drop(fs::remove_file(&part));
        return Err(error);
    }
    fs::remove_file(path)
}
