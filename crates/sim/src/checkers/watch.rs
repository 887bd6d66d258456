//! Watchers: each is told of every change that it asked for, once, in order, and of nothing else.
//!
//! ```text
//!  truth:      2  3  4  5  6  7 ...        what matches, from the start on
//!  responses:  created  [3 4]  [6]  progress 6 ...   must be its next part, each time
//! ```
//!
//! *Invariants that are checked.*
//! 1. The first response says that the watcher is created; nothing follows a cancellation.
//! 2. The events are the truth's, from the start on, without a gap: kind, row and previous row.
//! 3. The events of one revision come in one response, or in fragments that follow one another.
//! 4. After progress at a revision, nothing at or below it comes, and everything was there.
//! 5. A cancellation by a compaction names one that there was, above what was to come next.
//! 6. A stream that resumes begins where the one before it ended: nothing is left out, and no
//!    revision that was told in whole is told again.
//!
//! What a compaction excuses: the previous row of an event is gone when a compaction is at or
//! above the event's own revision (one just below it keeps the row). And a put that its own
//! transaction deleted again is gone when its revision is the compacted one, for of each key only
//! the last row stays. When the compaction took place is not looked at.
//!
//! *Absent.* Two watchers on one stream, cancellation by the client.

use std::collections::BTreeMap;

use base::Revision;
use proto::etcdserverpb::WatchResponse;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;

use super::Violation;
use super::model::{Change, Truth, is_inside, short};
use crate::history::{ClientId, History, Stream};

const CHECKER: &str = "watch";

/// The watch id of what concerns a whole stream.
const NO_WATCH: i64 = -1;

/// Checks a history on its own.
///
/// # Errors
/// A watcher was told something else than it must have been, or the log's outcomes are wrong.
pub fn check(history: &History) -> Result<(), Violation> {
    check_with(history, &Truth::of(&history.log)?)
}

/// Checks a history whose truth is known.
///
/// # Errors
/// A watcher was told something else than it must have been.
pub fn check_with(history: &History, truth: &Truth) -> Result<(), Violation> {
    let mut ends: BTreeMap<ClientId, Option<End<'_>>> = BTreeMap::new();
    for (at, stream) in history.streams.iter().enumerate() {
        let complain = |what: String| {
            let (client, member, create) = (stream.client.0, stream.member, short(&stream.create));
            let what =
                format!("stream {at} of client {client} at member {member}, {create}: {what}");
            Violation::new(CHECKER, what)
        };
        if stream.resumes {
            let before = ends.get(&stream.client);
            let before = before.ok_or_else(|| complain("resumes nothing".into()))?;
            if let Some(before) = before {
                before.fits(stream).map_err(complain)?;
            }
        }
        let mut watcher = Watcher::new(stream, truth);
        for (number, (when, response)) in stream.responses.iter().enumerate() {
            watcher.take(response).map_err(|what| {
                complain(format!("response {number} at {when:?}: {what}: {}", short(response)))
            })?;
        }
        ends.insert(stream.client, watcher.finish().map_err(complain)?);
    }
    Ok(())
}

/// Where a stream ended.
struct End<'a> {
    /// The events that would have come next.
    expected: Expected<'a>,
    /// Everything up to here was told in whole.
    told: Revision,
}

impl End<'_> {
    fn fits(&self, next: &Stream) -> Result<(), String> {
        let start = Revision(next.create.start_revision);
        if start <= self.told {
            return Err(format!("resumes at {start}, but was told everything up to {}", self.told));
        }
        match self.expected.clone().peek() {
            Some(missing) if missing.revision < start => {
                let missing = missing.revision;
                Err(format!("resumes at {start}, but was not told of revision {missing}"))
            }
            _ => Ok(()),
        }
    }
}

/// An event that must come.
#[derive(Clone, Copy)]
struct Due<'a> {
    revision: Revision,
    /// All of its revision, and which one it is.
    changes: &'a [Change],
    at: usize,
}

impl<'a> Due<'a> {
    fn change(&self) -> &'a Change {
        &self.changes[self.at]
    }

    /// The row before the revision; a key that begins to exist has none.
    fn previous(&self) -> Option<&'a proto::mvccpb::KeyValue> {
        let change = self.change();
        if !change.is_delete && change.kv.create_revision == change.kv.mod_revision {
            return None;
        }
        let first = self.changes.iter().find(|other| other.kv.key == change.kv.key);
        first.and_then(|first| first.before.as_ref())
    }

    /// Whether the same transaction has written the key again.
    fn is_overwritten(&self) -> bool {
        let mut later = self.changes[self.at + 1..].iter();
        later.any(|other| other.kv.key == self.change().kv.key)
    }
}

/// The events that a watcher is to be told of, one after another.
#[derive(Clone)]
struct Expected<'a> {
    stream: &'a Stream,
    truth: &'a Truth,
    revision: Revision,
    at: usize,
}

impl<'a> Expected<'a> {
    fn matches(&self, change: &Change) -> bool {
        let create = &self.stream.create;
        let left_out = if change.is_delete { FilterType::Nodelete } else { FilterType::Noput };
        let from: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        !create.filters.contains(&(left_out as i32))
            && is_inside(&change.kv.key, from, &create.range_end)
    }

    /// The next event.
    fn peek(&mut self) -> Option<Due<'a>> {
        while self.revision <= self.truth.revision() {
            let changes = self.truth.changes(self.revision);
            while let Some(change) = changes.get(self.at) {
                if self.matches(change) {
                    return Some(Due { revision: self.revision, changes, at: self.at });
                }
                self.at += 1;
            }
            (self.revision, self.at) = (self.revision.next(), 0);
        }
        None
    }
}

struct Watcher<'a> {
    stream: &'a Stream,
    truth: &'a Truth,
    id: i64,
    /// `None` until it is created.
    expected: Option<Expected<'a>>,
    /// The revision of the last event.
    last: Revision,
    /// Everything up to here was told: by events, or by progress.
    told: Revision,
    /// The response before this one had more to follow.
    in_fragment: bool,
    is_canceled: bool,
}

impl<'a> Watcher<'a> {
    fn new(stream: &'a Stream, truth: &'a Truth) -> Self {
        Self {
            stream,
            truth,
            id: NO_WATCH,
            expected: None,
            last: Revision::default(),
            told: Revision::default(),
            in_fragment: false,
            is_canceled: false,
        }
    }

    fn take(&mut self, response: &'a WatchResponse) -> Result<(), String> {
        if self.is_canceled {
            return Err("after the watcher was canceled".into());
        }
        let header = response.header.map(|header| Revision(header.revision));
        let header = header.ok_or("no header")?;
        let newest = self.truth.revision();
        if header > newest {
            return Err(format!("from the future, for the newest revision is {newest}"));
        }
        if self.expected.is_none() {
            return self.create(response, header);
        }
        if response.created {
            return Err("created twice".into());
        }
        let is_progress = response.events.is_empty() && !response.canceled;
        if response.watch_id != self.id && !(is_progress && response.watch_id == NO_WATCH) {
            return Err(format!("for another watcher than {}", self.id));
        }
        if self.in_fragment && response.events.is_empty() {
            return Err("a fragment is missing".into());
        }
        if response.canceled {
            self.cancel(response, header)
        } else if is_progress {
            self.progress(response, header)
        } else {
            self.events(response, header)
        }
    }

    fn create(&mut self, response: &WatchResponse, header: Revision) -> Result<(), String> {
        let create = &self.stream.create;
        if !response.created || !response.events.is_empty() || response.fragment {
            return Err("does not say that the watcher is created".into());
        }
        let from: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        let has_end = !create.range_end.is_empty() && create.range_end[..] != [0];
        let must_fail = create.start_revision < 0 || (has_end && from >= &create.range_end[..]);
        if response.canceled != must_fail {
            return Err(format!("a request that must be refused: {must_fail}"));
        }
        if response.canceled {
            if response.watch_id != NO_WATCH || response.cancel_reason.is_empty() {
                return Err("a refusal without its marks".into());
            }
            self.is_canceled = true;
            return Ok(());
        }
        if create.watch_id != 0 && create.watch_id != response.watch_id {
            return Err("another watch id than was asked for".into());
        }
        if response.compact_revision != 0 || !response.cancel_reason.is_empty() {
            return Err("created, with a reason to cancel".into());
        }
        self.id = response.watch_id;
        let start = Revision(create.start_revision);
        let start = if start == Revision(0) { header.next() } else { start };
        self.begin(start);
        Ok(())
    }

    fn begin(&mut self, start: Revision) {
        // What comes before the start is not to be told.
        self.told = Revision(start.get() - 1);
        let (stream, truth) = (self.stream, self.truth);
        self.expected = Some(Expected { stream, truth, revision: start, at: 0 });
    }

    fn expected(&mut self) -> &mut Expected<'a> {
        self.expected.as_mut().expect("set when the watcher was created")
    }

    fn due(&mut self) -> Option<Due<'a>> {
        self.expected().peek()
    }

    /// Whether something at or below `revision` is still to come.
    fn missing(&mut self, revision: Revision) -> Option<Revision> {
        loop {
            let due = self.due().filter(|due| due.revision <= revision)?;
            if !self.is_excused(due) {
                return Some(due.revision);
            }
            self.expected().at += 1;
        }
    }

    /// A put that is compacted, because its own transaction has written the key again.
    fn is_excused(&self, due: Due<'_>) -> bool {
        due.is_overwritten() && self.truth.compactions().contains(&due.revision)
    }

    fn events(&mut self, response: &'a WatchResponse, header: Revision) -> Result<(), String> {
        if response.compact_revision != 0 || !response.cancel_reason.is_empty() {
            return Err("events, with a reason to cancel".into());
        }
        if response.fragment && !self.stream.create.fragment {
            return Err("a fragment that nobody asked for".into());
        }
        for (number, event) in response.events.iter().enumerate() {
            let due = loop {
                let due = self.due().ok_or_else(|| format!("event {number} is one too many"))?;
                let is_due = event.kv.as_ref() == Some(&due.change().kv);
                if is_due || !self.is_excused(due) {
                    break due;
                }
                self.expected().at += 1;
            };
            self.compare(event, due).map_err(|what| format!("event {number}: {what}"))?;
            self.expected().at += 1;
            self.last = due.revision;
        }
        if header < self.last {
            return Err("its header is older than its events".into());
        }
        self.in_fragment = response.fragment;
        if response.fragment {
            return Ok(());
        }
        if let Some(missing) = self.missing(self.last) {
            return Err(format!("only a part of revision {missing}"));
        }
        self.told = self.told.max(self.last);
        Ok(())
    }

    fn compare(&self, event: &Event, due: Due<'_>) -> Result<(), String> {
        let change = due.change();
        if is_delete(event) != change.is_delete || event.kv.as_ref() != Some(&change.kv) {
            let kind = if change.is_delete { "delete" } else { "put" };
            return Err(format!("must be a {kind} of {}", short(&change.kv)));
        }
        let wanted = due.previous().filter(|_| self.stream.create.prev_kv);
        if event.prev_kv.as_ref() == wanted {
            return Ok(());
        }
        // A compaction at its revision or later may have taken it.
        let may_be_gone = self.truth.compactions().iter().any(|at| *at >= due.revision);
        if event.prev_kv.is_none() && may_be_gone {
            return Ok(());
        }
        Err(format!("the row before must be {}", short(&wanted)))
    }

    fn progress(&mut self, response: &WatchResponse, header: Revision) -> Result<(), String> {
        if response.fragment || response.compact_revision != 0 || !response.cancel_reason.is_empty()
        {
            return Err("neither events, nor progress, nor canceled".into());
        }
        if let Some(missing) = self.missing(header) {
            return Err(format!("revision {missing} was not told before"));
        }
        let start = self.stream.create.start_revision;
        if header < Revision(start) {
            return Err("progress of a watcher that has not begun".into());
        }
        self.told = self.told.max(header);
        Ok(())
    }

    fn cancel(&mut self, response: &WatchResponse, header: Revision) -> Result<(), String> {
        self.is_canceled = true;
        if !response.events.is_empty() || response.fragment {
            return Err("canceled with events".into());
        }
        let at = Revision(response.compact_revision);
        if at == Revision(0) {
            let has_reason = !response.cancel_reason.is_empty();
            return if has_reason { Ok(()) } else { Err("canceled without a reason".into()) };
        }
        if !response.cancel_reason.is_empty() || header != Revision(0) {
            return Err("canceled by a compaction, with a reason or a revision".into());
        }
        if !self.truth.compactions().contains(&at) {
            return Err(format!("there was no compaction at {at}"));
        }
        let next = self.told.next();
        if next >= at {
            return Err(format!("revision {next} comes next, which is not compacted"));
        }
        Ok(())
    }

    /// Judges what did not come. Returns where the stream ended, if that is known.
    fn finish(mut self) -> Result<Option<End<'a>>, String> {
        let is_created = self.expected.is_some();
        if let Some(to) = self.stream.complete_to {
            if !is_created {
                return Err("never created, in a time without failures".into());
            }
            if self.is_canceled {
                return Err("canceled, in a time without failures".into());
            }
            if self.in_fragment {
                return Err("a fragment is missing at the end".into());
            }
            if let Some(missing) = self.missing(to) {
                return Err(format!("revision {missing} never came"));
            }
        }
        let start = Revision(self.stream.create.start_revision);
        if !is_created && start > Revision(0) {
            // Nothing was told; who resumes begins at the same revision.
            self.begin(start);
        }
        let told = self.told;
        Ok(self.expected.map(|expected| End { expected, told }))
    }
}

fn is_delete(event: &Event) -> bool {
    event.r#type == EventType::Delete as i32
}

#[cfg(test)]
mod against_session;
#[cfg(test)]
mod tests;
