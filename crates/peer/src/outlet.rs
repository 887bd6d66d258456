//! What waits to be written into a stream: a queue, and which connection empties it.
//!
//! *Invariants.* 1. `queue.len() <= STREAM_MESSAGES_MAX`, and `bytes`, the weight of the queue,
//! exceeds `STREAM_BYTES_MAX` by one message at most. 2. Nothing waits while no connection is
//! attached. 3. A connection is known by its generation; only the newest one takes messages, and
//! what an older one says is ignored.
//!
//! *Absent.* Sockets, tasks, locks, time.
//!
//! *Contract.* `streamWriter` in `server/etcdserver/api/rafthttp/stream.go` of etcd v3.7.1.

use std::collections::VecDeque;

use proto::raftpb::Message;

use crate::limits;

/// A connection of a stream, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// What became of a message.
#[derive(Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, on the stack")]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// There is no room: it is dropped.
    Full,
    /// There is no connection: it must go another way.
    Detached(Message),
}

/// What an end of a connection means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Messages that waited are dropped.
    pub(crate) had_messages: bool,
}

/// The state of one stream's writing end.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    queue: VecDeque<Message>,
    bytes: usize,
    attached: Option<u64>,
    /// Connections so far.
    count: u64,
}

impl Outlet {
    /// Whether a connection is attached.
    pub(crate) fn is_attached(&self) -> bool {
        self.attached.is_some()
    }

    /// Takes a message for the attached connection.
    pub(crate) fn push(&mut self, message: Message) -> Pushed {
        if self.attached.is_none() {
            return Pushed::Detached(message);
        }
        let is_full = self.queue.len() >= limits::STREAM_MESSAGES_MAX
            || self.bytes >= limits::STREAM_BYTES_MAX;
        if is_full {
            return Pushed::Full;
        }
        self.bytes += weight(&message);
        self.queue.push_back(message);
        Pushed::Queued
    }

    /// A new connection: it takes the place of the one before, whose end is told.
    pub(crate) fn attach(&mut self) -> (Generation, Option<Lost>) {
        let lost = self.close();
        self.count += 1;
        self.attached = Some(self.count);
        (Generation(self.count), lost)
    }

    /// A connection ended by itself. `None` if it was not the newest.
    pub(crate) fn detach(&mut self, generation: Generation) -> Option<Lost> {
        if self.is_current(generation) { self.close() } else { None }
    }

    /// Ends the attached connection, if there is one.
    pub(crate) fn close(&mut self) -> Option<Lost> {
        self.attached.take()?;
        let had_messages = !self.queue.is_empty();
        self.queue = VecDeque::new();
        self.bytes = 0;
        Some(Lost { had_messages })
    }

    /// Whether a connection is the newest, and not ended.
    pub(crate) fn is_current(&self, generation: Generation) -> bool {
        self.attached == Some(generation.0)
    }

    /// Moves the next messages to `batch`, as many as make one piece of the stream.
    pub(crate) fn take(&mut self, generation: Generation, batch: &mut Vec<Message>) {
        if !self.is_current(generation) {
            return;
        }
        let mut bytes = 0;
        while batch.len() < limits::BATCH_MESSAGES_MAX && bytes < limits::BATCH_BYTES {
            let Some(message) = self.queue.pop_front() else { break };
            bytes += weight(&message);
            batch.push(message);
        }
        self.bytes -= bytes;
    }
}

/// About how much memory a message keeps.
fn weight(message: &Message) -> usize {
    let bytes = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let entries =
        message.entries.iter().map(|entry| size_of_val(entry) + bytes(&entry.data)).sum::<usize>();
    size_of_val(message) + bytes(&message.context) + entries
}

#[cfg(test)]
mod tests {
    use proto::raftpb::Entry;

    use super::*;

    fn message(index: u64, bytes: usize) -> Message {
        let entry = Entry { data: Some(vec![0; bytes].into()), ..Entry::default() };
        Message { index: Some(index), entries: vec![entry], ..Message::default() }
    }

    fn take(outlet: &mut Outlet, generation: Generation) -> Vec<u64> {
        let mut batch = Vec::new();
        outlet.take(generation, &mut batch);
        batch.iter().map(Message::index).collect()
    }

    #[test]
    fn without_a_connection_nothing_waits() {
        let mut outlet = Outlet::default();
        assert_eq!(outlet.push(message(1, 0)), Pushed::Detached(message(1, 0)));
        assert_eq!(outlet.close(), None);
        let (generation, lost) = outlet.attach();
        assert_eq!(lost, None);
        assert_eq!(outlet.push(message(2, 0)), Pushed::Queued);
        assert_eq!(take(&mut outlet, generation), [2]);
        assert_eq!(outlet.detach(generation), Some(Lost { had_messages: false }));
        assert!(!outlet.is_attached());
    }

    #[test]
    fn the_newest_connection_is_the_only_one() {
        let mut outlet = Outlet::default();
        let (old, _) = outlet.attach();
        assert_eq!(outlet.push(message(1, 0)), Pushed::Queued);
        let (new, lost) = outlet.attach();
        assert_eq!(lost, Some(Lost { had_messages: true }));
        assert_eq!(outlet.push(message(2, 0)), Pushed::Queued);
        assert!(take(&mut outlet, old).is_empty());
        assert_eq!(outlet.detach(old), None);
        assert!(outlet.is_attached());
        assert_eq!(take(&mut outlet, new), [2]);
    }

    #[test]
    fn a_queue_is_bounded_by_messages() {
        let mut outlet = Outlet::default();
        let (generation, _) = outlet.attach();
        for index in 0..limits::STREAM_MESSAGES_MAX as u64 {
            assert_eq!(outlet.push(message(index, 0)), Pushed::Queued);
        }
        assert_eq!(outlet.push(message(0, 0)), Pushed::Full);
        let taken = take(&mut outlet, generation);
        assert_eq!(taken, (0..limits::BATCH_MESSAGES_MAX as u64).collect::<Vec<_>>());
        assert_eq!(outlet.push(message(0, 0)), Pushed::Queued);
    }

    #[test]
    fn a_queue_is_bounded_by_bytes() {
        const MIB: usize = 1 << 20;
        let mut outlet = Outlet::default();
        let (generation, _) = outlet.attach();
        let mut count = 0;
        while outlet.push(message(count, MIB)) == Pushed::Queued {
            count += 1;
        }
        assert!((limits::STREAM_BYTES_MAX / MIB).abs_diff(count as usize) <= 1, "{count}");
        // A message that is larger than a piece goes alone.
        assert_eq!(take(&mut outlet, generation), [0]);
        assert_eq!(outlet.push(message(count, MIB)), Pushed::Queued);
        while !take(&mut outlet, generation).is_empty() {}
        assert_eq!(outlet.bytes, 0);
    }
}
