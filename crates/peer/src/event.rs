//! What happens between members, in the words of etcd's log.
//!
//! *Contract.* The log lines of `server/etcdserver/api/rafthttp` of etcd v3.7.1.

use std::fmt::{self, Display};
use std::time::Duration;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// As it should be.
    Info,
    /// Someone may want to look.
    Warn,
    /// Someone must look.
    Error,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// A count.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A time, to be shown as Go shows it.
    Duration(Duration),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// etcd's text.
    pub message: &'static str,
    /// etcd's fields, in its order.
    pub fields: Vec<(&'static str, Value)>,
}

impl Event {
    pub(crate) fn new(level: Level, message: &'static str) -> Self {
        Self { level, message, fields: Vec::new() }
    }

    pub(crate) fn info(message: &'static str) -> Self {
        Self::new(Level::Info, message)
    }

    pub(crate) fn warn(message: &'static str) -> Self {
        Self::new(Level::Warn, message)
    }

    fn field(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    pub(crate) fn text(self, name: &'static str, value: impl Display) -> Self {
        self.field(name, Value::Text(value.to_string()))
    }

    pub(crate) fn texts<T: Display>(self, name: &'static str, values: &[T]) -> Self {
        self.field(name, Value::Texts(values.iter().map(ToString::to_string).collect()))
    }

    pub(crate) fn number(self, name: &'static str, value: u64) -> Self {
        self.field(name, Value::Number(value))
    }

    pub(crate) fn flag(self, name: &'static str, value: bool) -> Self {
        self.field(name, Value::Flag(value))
    }

    pub(crate) fn duration(self, name: &'static str, value: Duration) -> Self {
        self.field(name, Value::Duration(value))
    }

    /// The text of a field, for tests and for whoever looks for one.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find_map(|(field, value)| (*field == name).then_some(value))
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::Text(text) => write!(f, " {name}={text:?}")?,
                Value::Texts(texts) => write!(f, " {name}={texts:?}")?,
                Value::Number(number) => write!(f, " {name}={number}")?,
                Value::Flag(flag) => write!(f, " {name}={flag}")?,
                Value::Duration(duration) => write!(f, " {name}={duration:?}")?,
            }
        }
        Ok(())
    }
}

/// A count of bytes for people, as etcd's lines show it.
pub(crate) fn humane(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut unit, mut value) = (0, bytes as f64);
    while value >= 1_000.0 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    let places = usize::from(value < 10.0);
    format!("{value:.places$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_etcd_shows_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (20_480, "20 kB"),
            (36_864, "37 kB"),
            (1_550_000, "1.6 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(humane(bytes), text);
        }
    }

    #[test]
    fn events_show_their_fields() {
        let event = Event::warn("a b").text("x", "y").number("n", 1).flag("f", true);
        assert_eq!(event.to_string(), "a b x=\"y\" n=1 f=true");
        assert_eq!(event.get("n"), Some(&Value::Number(1)));
        assert_eq!(event.get("z"), None);
    }
}
