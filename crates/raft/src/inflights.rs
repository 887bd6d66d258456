//! The messages with entries that a follower has not acknowledged yet: a window that is bounded in
//! messages and in bytes.
//!
//! *Invariants.*
//! 1. Indexes ascend from the oldest message to the newest.
//! 2. `bytes` is the sum over `messages`.
//! 3. There are at most `messages_max` of them; the bytes may exceed their bound by one message.
//!
//! *Contract.* `tracker/inflights.go` of go.etcd.io/raft v3.7.0.

use std::collections::VecDeque;

use base::LogIndex;

/// A message on its way: its last entry, and the size of the data in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inflight {
    last: LogIndex,
    bytes: u64,
}

/// The window as described above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflights {
    messages: VecDeque<Inflight>,
    bytes: u64,
    messages_max: usize,
    /// 0 for no bound.
    bytes_max: u64,
}

impl Inflights {
    /// An empty window. A `bytes_max` of 0 sets no bound.
    pub(crate) fn new(messages_max: usize, bytes_max: u64) -> Self {
        Self { messages: VecDeque::new(), bytes: 0, messages_max, bytes_max }
    }

    /// Whether no further message with entries may leave.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.messages_max
            || (self.bytes_max != 0 && self.bytes >= self.bytes_max)
    }

    /// How many messages are on their way.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// The size of the data on its way.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that a message up to `last` leaves. The window must have room.
    pub(crate) fn add(&mut self, last: LogIndex, bytes: u64) {
        assert!(!self.is_full(), "a message left although the window is full");
        if let Some(newest) = self.messages.back() {
            assert!(newest.last < last, "messages leave in the order of the log");
        }
        self.messages.push_back(Inflight { last, bytes });
        self.bytes += bytes;
    }

    /// Notes that all entries up to `index` have arrived.
    pub(crate) fn free_to(&mut self, index: LogIndex) {
        while let Some(oldest) = self.messages.front()
            && oldest.last <= index
        {
            self.bytes -= oldest.bytes;
            self.messages.pop_front();
        }
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_bounded_in_messages() {
        let mut window = Inflights::new(2, 0);
        window.add(LogIndex(3), u64::MAX / 2);
        assert!(!window.is_full(), "bytes are not bounded");
        window.add(LogIndex(7), 1);
        assert!(window.is_full());
        window.free_to(LogIndex(2));
        assert_eq!(window.count(), 2, "what is before the window frees nothing");
        window.free_to(LogIndex(6));
        assert_eq!((window.count(), window.bytes()), (1, 1));
        window.free_to(LogIndex(100));
        assert_eq!((window.count(), window.bytes()), (0, 0));
    }

    #[test]
    fn the_window_is_bounded_in_bytes_and_one_message() {
        let mut window = Inflights::new(100, 10);
        window.add(LogIndex(1), 9);
        assert!(!window.is_full());
        window.add(LogIndex(2), 50);
        assert!(window.is_full(), "the last message may exceed the bound");
        window.free_to(LogIndex(1));
        assert!(window.is_full());
        window.clear();
        assert_eq!((window.count(), window.bytes(), window.is_full()), (0, 0, false));
    }
}
