//! Lines and outputs, from the outside.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::read::GzDecoder;
use parking_lot::Mutex;

use super::line::Line;
use super::outlet::{BYTES_MAX, Entry, LINES_MAX, Outlet};
use super::rotation::{Rotated, Rules};
use super::sink::{Named, Sink};
use super::*;
use crate::config::Config;

/// A time without its zone in the text would differ from machine to machine.
fn made(format: Format, level: Level, add: impl FnOnce(Line) -> Line) -> String {
    let at = SystemTime::now();
    let line = Line::begin(format, level, Some(at), "a \"b\"\n", Location::caller());
    let entry = add(line).finish().expect("a line");
    String::from_utf8(entry.bytes.to_vec()).expect("text")
}

fn filled(line: Line) -> Line {
    line.field("n", &7).texts("urls", &["x", "y"]).duration("took", Duration::from_millis(100))
}

#[test]
fn a_line_is_one_object_in_etcds_order() {
    let text = made(Format::Json, Level::Warn, filled);
    assert!(text.starts_with("{\"level\":\"warn\",\"ts\":\"20"), "{text}");
    let caller = text.find("\"caller\":\"log/tests.rs:").expect("caller");
    let told = ",\"msg\":\"a \\\"b\\\"\\n\",\"n\":7,\"urls\":[\"x\",\"y\"],\"took\":\"100ms\"}\n";
    assert!(text.find(told).expect("fields") > caller);
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
}

#[test]
fn from_level_error_on_a_line_ends_with_its_stack() {
    for level in [Level::Error, Level::Dpanic, Level::Panic, Level::Fatal] {
        let text = made(Format::Json, level, filled);
        let value: serde_json::Map<_, _> = serde_json::from_str(&text).expect("json");
        let stack = value["stacktrace"].as_str().expect("text");
        assert!(stack.starts_with("log::tests\n\tcrates/server/src/log/tests.rs:"), "{stack}");
        assert_eq!(value["level"], level.text());
        assert!(text.find(",\"stacktrace\":") > text.find(",\"took\":"), "{text}");
    }
    let warned = made(Format::Json, Level::Warn, filled);
    assert!(!warned.contains("stacktrace"));
}

#[test]
fn a_console_line_has_its_fields_as_one_object() {
    let text = made(Format::Console, Level::Info, filled);
    let parts: Vec<_> = text.trim_end().splitn(4, '\t').collect();
    assert_eq!(parts[1], "info");
    assert!(parts[2].starts_with("log/tests.rs:"), "{text}");
    assert_eq!(parts[3], "a \"b\"\n\t{\"n\": 7, \"urls\": [\"x\", \"y\"], \"took\": \"100ms\"}");
    let bare = made(Format::Console, Level::Info, |line| line);
    assert!(bare.ends_with("\ta \"b\"\n\n"), "{bare}");
}

#[test]
fn lines_below_the_level_are_not_made() {
    assert!(debug("unseen").field("a", &1).finish().is_none());
}

/// What an output was given, and whether it takes anything.
#[derive(Default)]
struct Book {
    lines: Vec<String>,
    failures: VecDeque<bool>,
}

/// Says when a write begins, and ends it when it is told to.
struct Slow {
    book: Arc<Mutex<Book>>,
    began: Sender<()>,
    go_on: Receiver<()>,
}

impl Sink for Slow {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let _nobody = self.began.send(());
        // Ends when the test has dropped its side.
        let _go = self.go_on.recv();
        let mut book = self.book.lock();
        if book.failures.pop_front().unwrap_or_default() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        book.lines.push(String::from_utf8_lossy(&entry.bytes).into_owned());
        Ok(())
    }
}

fn entry(text: String) -> Entry {
    Entry { level: Level::Info, package: "".into(), bytes: text.into() }
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn a_blocked_output_drops_lines_and_says_how_many() {
    let book = Arc::<Mutex<Book>>::default();
    let (began, begun) = channel();
    let (go, go_on) = channel();
    let outlet = Outlet::start(Box::new(Slow { book: Arc::clone(&book), began, go_on }));
    let outlet = outlet.expect("a thread");
    outlet.push(entry("first".to_owned()));
    begun.recv().expect("begun");
    for number in 0..LINES_MAX + 7 {
        outlet.push(entry(format!("{number}")));
    }
    outlet.flush(Instant::now() + Duration::from_millis(1));
    assert!(book.lock().lines.is_empty(), "it is blocked, and nobody waited for it");
    drop(go);
    outlet.flush(later());
    let book = book.lock();
    let told: Vec<_> = book.lines.iter().filter(|line| line.contains("dropped")).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("\"count\":7}"), "{}", told[0]);
    assert_eq!(book.lines.len(), 1 + LINES_MAX + 1);
}

#[test]
fn the_queue_is_bounded_in_bytes() {
    let book = Arc::<Mutex<Book>>::default();
    let (began, begun) = channel();
    let (go, go_on) = channel();
    let outlet = Outlet::start(Box::new(Slow { book: Arc::clone(&book), began, go_on }));
    let outlet = outlet.expect("a thread");
    for _ in 0..4 {
        outlet.push(entry("x".repeat(BYTES_MAX / 2)));
    }
    begun.recv().expect("begun");
    drop(go);
    outlet.flush(later());
    let book = book.lock();
    assert_eq!(book.lines.len(), 3, "two, and what tells of the others");
    let told = book.lines.iter().find(|line| line.contains("dropped")).expect("a line");
    assert!(told.contains("\"count\":2}"), "{told}");
}

#[test]
fn lines_that_the_output_does_not_take_are_counted() {
    let book = Arc::new(Mutex::new(Book { failures: [true, true].into(), ..Book::default() }));
    let (began, _begun) = channel();
    let (go, go_on) = channel();
    drop(go);
    let outlet = Outlet::start(Box::new(Slow { book: Arc::clone(&book), began, go_on }));
    let outlet = outlet.expect("a thread");
    for text in ["a", "b", "c"] {
        outlet.push(entry(text.to_owned()));
    }
    outlet.flush(later());
    let book = book.lock();
    assert_eq!(book.lines[0], "c");
    assert!(book.lines[1].contains("\"count\":2}"), "{}", book.lines[1]);
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("log");
    let mut sink = Named::open(&path).expect("open");
    sink.write(&entry("a\n".to_owned())).expect("written");
    std::fs::rename(&path, directory.path().join("moved")).expect("moved");
    let end = later();
    while !path.exists() {
        assert!(Instant::now() < end, "the file is not opened again");
        sink.write(&entry("b\n".to_owned())).expect("written");
        std::thread::sleep(Duration::from_millis(20));
    }
    let moved = std::fs::read_to_string(directory.path().join("moved")).expect("read");
    assert!(moved.starts_with("a\n"));
    assert_eq!(std::fs::read_to_string(&path).expect("read"), "b\n");
}

fn rules(text: &str) -> Rules {
    Rules::parse(text).expect("rules")
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("directory");
    let name = |entry: io::Result<std::fs::DirEntry>| {
        entry.expect("entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[test]
fn a_full_file_becomes_a_backup_and_old_ones_go() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("new").join("etcd.log");
    let rules = rules("{\"maxsize\": 1, \"maxbackups\": 2, \"compress\": true}");
    let mut sink = Rotated::new(&path, rules);
    let line = format!("{}\n", "x".repeat(600 << 10));
    let backups = || {
        let mut names = names(&directory.path().join("new"));
        names.retain(|name| name != "etcd.log");
        names
    };
    let end = later();
    let is_done = |names: &[String]| names.len() == 2 && names.iter().all(|n| n.ends_with(".gz"));
    let mut written = 0;
    // Each rotation looks after the backups of those before it.
    while written < 6 || !is_done(&backups()) {
        assert!(Instant::now() < end, "{:?}", backups());
        sink.write(&entry(line.clone())).expect("written");
        written += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::metadata(&path).expect("file").len(), line.len() as u64);
    for name in backups() {
        // etcd-2006-01-02T15-04-05.000.log.gz
        let shape: String =
            name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "etcd-0000-00-00T00-00-00.000.log.gz");
        let file = std::fs::File::open(directory.path().join("new").join(&name)).expect("open");
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, line);
    }
}

#[test]
fn backups_that_are_too_old_are_removed_and_strangers_stay() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("etcd.log");
    let kept =
        ["etcd-2999-01-01T00-00-00.000.log", "etcd-notes.log", "other-1999-01-01T00-00-00.000.log"];
    let gone = ["etcd-1999-01-01T00-00-00.000.log", "etcd-1999-01-01T00-00-01.000.log.gz"];
    for name in kept.iter().chain(&gone) {
        std::fs::write(directory.path().join(name), "x").expect("write");
    }
    let mut sink = Rotated::new(&path, rules("{\"maxage\": 3}"));
    sink.write(&entry("a\n".to_owned())).expect("written");
    let end = later();
    while names(directory.path()).len() > 4 {
        assert!(Instant::now() < end, "{:?}", names(directory.path()));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut expected: Vec<_> = kept.iter().map(ToString::to_string).collect();
    expected.push("etcd.log".to_owned());
    expected.sort();
    assert_eq!(names(directory.path()), expected);
}

#[test]
fn what_cannot_be_compressed_keeps_nothing_that_is_too_old() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("etcd.log");
    let (bad, good) = ("etcd-2999-01-01T00-00-01.000.log", "etcd-2999-01-01T00-00-00.000.log");
    for name in [bad, good, "etcd-1999-01-01T00-00-00.000.log"] {
        std::fs::write(directory.path().join(name), "x").expect("write");
    }
    // It is in the way of the newest.
    let part = format!("{bad}.gz.tmp");
    std::fs::create_dir(directory.path().join(&part)).expect("directory");
    let mut sink = Rotated::new(&path, rules("{\"maxage\": 3, \"compress\": true}"));
    sink.write(&entry("a\n".to_owned())).expect("written");
    let expected = [format!("{good}.gz"), bad.to_owned(), part, "etcd.log".to_owned()];
    let end = later();
    while names(directory.path()) != expected {
        assert!(Instant::now() < end, "{:?}", names(directory.path()));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn rotation_is_configured_in_lumberjacks_words() {
    assert_eq!(rules("{}"), rules("null"));
    assert_ne!(rules("{\"MaxSize\": 3}"), rules("{}"));
    for (text, told) in [
        ("{", "improperly formatted log rotation config: unexpected end of JSON input"),
        (
            "{\"maxsize\": \"x\"}",
            "invalid log rotation config: json: cannot unmarshal string into Go struct field \
             logRotationConfig.Logger.maxsize of type int",
        ),
        (
            "{\"maxage\": 1.5}",
            "invalid log rotation config: json: cannot unmarshal number 1.5 into Go struct field \
             logRotationConfig.Logger.maxage of type int",
        ),
        (
            "{\"maxage\": 99999999999999999999}",
            "invalid log rotation config: json: cannot unmarshal number 99999999999999999999 into \
             Go struct field logRotationConfig.Logger.maxage of type int",
        ),
        (
            "{\"compress\": 1}",
            "invalid log rotation config: json: cannot unmarshal number into Go struct field \
             logRotationConfig.Logger.compress of type bool",
        ),
        (
            "[]",
            "invalid log rotation config: json: cannot unmarshal array into Go value of type \
             embed.logRotationConfig",
        ),
    ] {
        assert_eq!(Rules::parse(text), Err(told.to_owned()), "{text}");
    }
}

#[test]
fn outputs_are_opened_or_refused_in_etcds_words() {
    let directory = tempfile::tempdir().expect("directory");
    let missing = directory.path().join("no/log");
    let with = |outputs: &[&str]| Config {
        log_outputs: outputs.iter().map(ToString::to_string).collect(),
        ..Config::default()
    };
    let opened = |outputs: &[&str]| {
        setup::open(&with(outputs), &directory.path().join("journal")).map(|sinks| sinks.len())
    };
    assert_eq!(opened(&["stderr", "stdout"]), Ok(2));
    assert_eq!(opened(&["/dev/null", "stderr"]), Ok(1));
    let url = format!("file://{}", directory.path().join("log").display());
    assert_eq!(opened(&[&url]), Ok(1));
    let missing = missing.to_string_lossy();
    let told = format!("open sink {missing:?}: open {missing}: no such file or directory");
    assert_eq!(opened(&[&missing]), Err(told));
    let told = "open sink \"foo:bar\": no sink found for scheme \"foo\"";
    assert_eq!(opened(&["foo:bar"]), Err(told.to_owned()));
    let refused = opened(&["systemd/journal"]).expect_err("nobody listens");
    assert!(refused.starts_with("can't find journal (dial unixgram /"), "{refused}");
    assert!(refused.ends_with("journal: connect: no such file or directory)"), "{refused}");
}

#[test]
fn the_moment_of_a_line_has_microseconds() {
    let at = UNIX_EPOCH + Duration::from_micros(1_790_000_000_000_001);
    let line = Line::begin(Format::Json, Level::Info, Some(at), "m", Location::caller());
    let entry = line.finish().expect("a line");
    let text = String::from_utf8_lossy(&entry.bytes).into_owned();
    // The hour depends on the zone of the machine.
    let (_, rest) =
        text.split_once(":13:20.000001").or(text.split_once(":43:20.000001")).expect("minutes");
    assert!(rest.starts_with("Z\"") || rest.starts_with(['+', '-']), "{text}");
}
