//! A queue whose reader takes everything that is there at once.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    Taken,
    Full,
    Closed,
}

struct State<T> {
    items: Vec<T>,
    is_waiting: bool,
    is_closed: bool,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { items: Vec::new(), is_waiting: false, is_closed: false }
    }
}

/// Many senders, one reader.
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new() }
    }
}

impl<T> Inbox<T> {
    /// Adds an item, unless `max` wait already.
    pub(super) fn offer(&self, item: T, max: usize) -> Offered {
        let mut state = self.state.lock();
        if state.is_closed {
            return Offered::Closed;
        }
        if state.items.len() >= max {
            return Offered::Full;
        }
        state.items.push(item);
        if state.is_waiting {
            state.is_waiting = false;
            self.arrived.notify_one();
        }
        Offered::Taken
    }

    /// Adds an item whose number is bounded by who sends it: receipts by effects, effects by the
    /// node's limits. Dropped when the reader is gone.
    pub(super) fn push(&self, item: T) {
        self.offer(item, usize::MAX);
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Takes everything, and waits for `timeout` at most when there is nothing. `None` when the
    /// inbox is closed and empty.
    pub(super) fn take(&self, timeout: Option<Duration>) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        if state.items.is_empty() && !state.is_closed {
            state.is_waiting = true;
            match timeout {
                Some(timeout) => {
                    self.arrived.wait_for(&mut state, timeout);
                }
                None => self.arrived.wait(&mut state),
            }
            state.is_waiting = false;
        }
        if state.items.is_empty() && state.is_closed {
            return None;
        }
        Some(std::mem::take(&mut state.items))
    }

    /// Takes nothing new; the reader ends when it has what is there.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        self.arrived.notify_all();
    }
}
