//! What waits for one stream: batches that the hub has matched, and watchers that it gave up on.
//!
//! *Invariants.* `batches <= BATCHES_MAX` and `bytes <= BYTES_MAX`, but a single batch always
//! fits. `lagging` holds a watcher once at most, for the hub forgets the ones it puts there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use base::{Revision, WatchId};
use bytes::Bytes;
use parking_lot::Mutex;

use super::hub::SubscriptionId;

/// Batches that may wait for a stream (`chanBufLen` of etcd).
const BATCHES_MAX: usize = 128;

/// Bytes of events that may wait for a stream. Events are shared between streams; each counts
/// them as its own.
const BYTES_MAX: usize = 4 << 20;

/// The events of one revision for one watcher.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Whose they are, within the stream.
    pub watch: WatchId,
    /// By which subscription: an older one of the same watch id is over.
    pub subscription: SubscriptionId,
    /// When they happened.
    pub revision: Revision,
    /// Encoded `mvccpb.Event`s, in order; not empty.
    pub events: Arc<[Bytes]>,
}

/// A watcher that is not subscribed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagging {
    /// Which, within the stream.
    pub watch: WatchId,
    /// The subscription that ended.
    pub subscription: SubscriptionId,
    /// The first revision that it was not given.
    pub from: Revision,
}

/// What a stream takes out at once.
#[derive(Debug, Default)]
pub struct Drained {
    /// In the order in which they were published.
    pub batches: VecDeque<Batch>,
    /// Who is to read history.
    pub lagging: Vec<Lagging>,
}

#[derive(Default)]
struct State {
    drained: Drained,
    bytes: usize,
    events: u64,
    waker: Option<Waker>,
}

impl State {
    fn take(&mut self, waiting: &Waiting) -> Drained {
        self.bytes = 0;
        waiting.fetch_sub(std::mem::take(&mut self.events), Ordering::Relaxed);
        std::mem::take(&mut self.drained)
    }
}

/// How many events wait in all queues of a hub.
pub(super) type Waiting = Arc<AtomicU64>;

/// The queue of one stream.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    waiting: Waiting,
}

impl Queue {
    /// A queue whose events count among those that wait.
    pub(super) fn new(waiting: Waiting) -> Self {
        Self { state: Mutex::default(), waiting }
    }

    /// Takes everything out; `waker` is called once there is something again. That holds even
    /// when something was taken: it may be of no use to the taker, who then waits on.
    pub fn drain(&self, waker: &Waker) -> Drained {
        let mut state = self.state.lock();
        match &mut state.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        state.take(&self.waiting)
    }

    /// Takes everything out, and leaves it to the last [`Queue::drain`] who is to be called.
    pub fn take(&self) -> Drained {
        self.state.lock().take(&self.waiting)
    }

    /// Adds a batch, or says that there is no room.
    pub(super) fn push(&self, batch: Batch) -> bool {
        let bytes: usize = batch.events.iter().map(Bytes::len).sum();
        let mut state = self.state.lock();
        let waiting = state.drained.batches.len();
        if waiting > 0 && (waiting >= BATCHES_MAX || state.bytes + bytes > BYTES_MAX) {
            return false;
        }
        state.bytes += bytes;
        let events = batch.events.len() as u64;
        state.events += events;
        self.waiting.fetch_add(events, Ordering::Relaxed);
        state.drained.batches.push_back(batch);
        wake(state);
        true
    }

    pub(super) fn push_lagging(&self, lagging: Lagging) {
        let mut state = self.state.lock();
        state.drained.lagging.push(lagging);
        wake(state);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.take());
    }
}

fn wake(mut state: parking_lot::MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;
    use crate::watch::{Filter, Hub, Watched};

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subscription() -> SubscriptionId {
        let watched = Watched {
            key: "k".into(),
            range_end: Bytes::new(),
            filter: Filter::default(),
            prev_kv: false,
        };
        Hub::new(Revision(1)).subscribe(&Arc::default(), WatchId(0), &watched, Revision(2)).unwrap()
    }

    fn batch(bytes: usize) -> Batch {
        Batch {
            watch: WatchId(0),
            subscription: subscription(),
            revision: Revision(2),
            events: [Bytes::from(vec![0; bytes])].into(),
        }
    }

    #[test]
    fn whoever_drained_last_is_called_once() {
        let (queue, calls) = (Queue::default(), Arc::new(Calls::default()));
        let waker = Waker::from(Arc::clone(&calls));
        let called = || calls.0.load(Ordering::Relaxed);
        queue.drain(&waker);
        assert!(queue.push(batch(1)) && queue.push(batch(1)));
        assert_eq!(called(), 1);
        assert_eq!(queue.drain(&waker).batches.len(), 2);
        assert_eq!(queue.take().batches.len(), 0);
        queue.push(batch(1));
        assert_eq!(called(), 2, "also after a drain that found something");
    }

    #[test]
    fn events_wait_until_they_are_taken_or_the_stream_ends() {
        let waiting = Waiting::default();
        let waits = || waiting.load(Ordering::Relaxed);
        let (one, other) = (Queue::new(Arc::clone(&waiting)), Queue::new(Arc::clone(&waiting)));
        assert!(one.push(batch(1)) && one.push(batch(1)) && other.push(batch(1)));
        assert_eq!(waits(), 3);
        one.take();
        assert_eq!(waits(), 1);
        drop(other);
        assert_eq!(waits(), 0);
    }

    #[test]
    fn number_and_bytes_are_bounded_but_one_always_fits() {
        let queue = Queue::default();
        assert!(queue.push(batch(2 * BYTES_MAX)));
        assert!(!queue.push(batch(0)));
        queue.take();
        assert!((0..BATCHES_MAX).all(|_| queue.push(batch(1))));
        assert!(!queue.push(batch(1)));
    }
}
