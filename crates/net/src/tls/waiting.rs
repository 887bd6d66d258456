//! Handshakes under way: one too many ends the oldest.
//!
//! A handshake takes milliseconds when both ends want it, so the oldest is the least likely to
//! become a connection. Waiting for a place instead would let whoever only opens connections delay
//! everybody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Those that are under way.
#[derive(Debug, Clone)]
pub(super) struct Waiting(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// A sender that is dropped ends its handshake.
    handshakes: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one handshake.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
}

impl Waiting {
    pub(super) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max: max.max(1), open: Mutex::default() }))
    }

    /// A place for another one.
    pub(super) fn enter(&self) -> Place {
        let (sender, ended) = oneshot::channel();
        let mut open = self.0.lock();
        if open.handshakes.len() >= self.0.max {
            open.handshakes.pop_first();
        }
        let number = open.next;
        open.next += 1;
        open.handshakes.insert(number, sender);
        Place { number, shared: Arc::clone(&self.0), ended }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().handshakes.len()
    }
}

impl Place {
    /// Waits until the place is lost to another.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent.
        drop((&mut self.ended).await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().handshakes.remove(&self.number);
    }
}
