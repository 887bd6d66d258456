//! The file that `go tool pprof` reads: gzip around one protobuf message.
//!
//! *Contract.* `proto/profile.proto` of google/pprof: numbers and meaning of the fields.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

/// A number of something, by places in the table of strings.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// One stack, leaf first, and how much of each kind was found there.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

/// Something said of a sample.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

/// A place in the program; inlined functions first.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

/// A line of a function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

/// A function, by places in the table of strings.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    file: i64,
}

/// A whole profile.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// A function on a stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) system_name: String,
    pub(super) file: String,
    pub(super) line: u32,
}

/// What is counted, and in what unit.
pub(super) type Kind = (&'static str, &'static str);

/// Puts a profile together.
#[derive(Default)]
pub(super) struct Builder {
    profile: Profile,
    strings: BTreeMap<String, i64>,
    functions: BTreeMap<(i64, i64, i64), u64>,
    locations: BTreeMap<Vec<(u64, i64)>, u64>,
}

/// The next number from 1 on.
fn next(count: usize) -> u64 {
    count as u64 + 1
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Builder {
    /// `kinds`: what the values of every sample are.
    pub(super) fn new(begun: SystemTime, took: Duration, kinds: &[Kind]) -> Self {
        let mut builder = Self::default();
        // The first string is empty by the format.
        builder.string("");
        let begun = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        builder.profile = Profile {
            sample_type: kinds.iter().map(|kind| builder.kind(*kind)).collect(),
            time_nanos: nanos(begun),
            duration_nanos: nanos(took),
            ..Profile::default()
        };
        builder
    }

    /// How much of what lies between two samples.
    pub(super) fn period(mut self, kind: Kind, period: i64) -> Self {
        self.profile.period_type = Some(self.kind(kind));
        self.profile.period = period;
        self
    }

    /// The kind that is shown when nobody says which.
    pub(super) fn shown(mut self, kind: &str) -> Self {
        self.profile.default_sample_type = self.string(kind);
        self
    }

    fn kind(&mut self, (kind, unit): Kind) -> ValueType {
        ValueType { kind: self.string(kind), unit: self.string(unit) }
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let place = self.strings.len() as i64;
        self.strings.insert(text.to_owned(), place);
        place
    }

    fn function(&mut self, symbol: &Symbol) -> u64 {
        let name = self.string(&symbol.name);
        let system_name = self.string(&symbol.system_name);
        let file = self.string(&symbol.file);
        let functions = &mut self.profile.function;
        *self.functions.entry((name, system_name, file)).or_insert_with(|| {
            let id = next(functions.len());
            functions.push(Function { id, name, system_name, file });
            id
        })
    }

    /// A place, with the functions that are inlined there first.
    fn location(&mut self, symbols: &[Symbol]) -> u64 {
        let lines: Vec<_> =
            symbols.iter().map(|one| (self.function(one), i64::from(one.line))).collect();
        let locations = &mut self.profile.location;
        if let Some(known) = self.locations.get(&lines) {
            return *known;
        }
        let id = next(locations.len());
        let line = lines.iter().map(|&(function, line)| Line { function, line }).collect();
        locations.push(Location { id, line });
        self.locations.insert(lines, id);
        id
    }

    /// Adds a stack, leaf first, with a value of each kind, and the thread it was found in.
    pub(super) fn add(&mut self, stack: &[Vec<Symbol>], value: Vec<i64>, thread: Option<&str>) {
        let location = stack.iter().map(|symbols| self.location(symbols)).collect();
        let label =
            thread.map(|name| Label { key: self.string("thread"), text: self.string(name) });
        self.profile.sample.push(Sample { location, value, label: label.into_iter().collect() });
    }

    /// The file.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let mut strings: Vec<_> = self.strings.into_iter().collect();
        strings.sort_by_key(|(_, place)| *place);
        self.profile.string = strings.into_iter().map(|(text, _)| text).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        drop(encoder.write_all(&self.profile.encode_to_vec()));
        encoder.finish().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn symbol(name: &str, line: u32) -> Symbol {
        let (system_name, file) = (format!("_{name}"), "a.rs".to_owned());
        Symbol { name: name.to_owned(), system_name, file, line }
    }

    #[test]
    fn equal_places_are_told_once() {
        let mut builder =
            Builder::new(SystemTime::UNIX_EPOCH, Duration::from_secs(2), &[("n", "count")]);
        let (inner, main) =
            (vec![symbol("inlined", 3), symbol("outer", 9)], vec![symbol("main", 1)]);
        builder.add(&[inner.clone(), main.clone()], vec![3], Some("one"));
        builder.add(&[main], vec![1], Some("two"));
        builder.add(&[inner], vec![1], None);
        let mut bytes = Vec::new();
        let file = builder.finish();
        flate2::read::GzDecoder::new(&file[..]).read_to_end(&mut bytes).expect("gzip");
        let profile = Profile::decode(&bytes[..]).expect("a profile");
        assert_eq!(profile.string[0], "");
        assert_eq!((profile.location.len(), profile.function.len()), (2, 3));
        let stacks: Vec<_> = profile.sample.iter().map(|one| one.location.clone()).collect();
        assert_eq!(stacks, [vec![1, 2], vec![2], vec![1]]);
        assert_eq!((&profile.sample[0].value[..], profile.sample[2].label.len()), (&[3][..], 0));
        let named = |place: i64| profile.string[usize::try_from(place).expect("a place")].as_str();
        let lines: Vec<_> = profile.location[0]
            .line
            .iter()
            .map(|line| named(profile.function[line.function as usize - 1].name))
            .collect();
        assert_eq!(lines, ["inlined", "outer"]);
        assert_eq!(named(profile.sample[1].label[0].text), "two");
        assert_eq!(profile.duration_nanos, 2_000_000_000);
    }
}
