//! Who waits for which answer.
//!
//! *Invariants.* A number is waited for once. Bounded by the requests under way: whoever waits
//! forgets its number when it gives up.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Spreads the numbers, so that handlers on all cores and the answering thread rarely meet.
const SHARDS: usize = 16;

/// Waiters for answers of one kind, by number.
pub(super) struct Waiters<T> {
    shards: [Mutex<BTreeMap<u64, oneshot::Sender<T>>>; SHARDS],
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<T> Waiters<T> {
    fn shard(&self, number: u64) -> &Mutex<BTreeMap<u64, oneshot::Sender<T>>> {
        &self.shards[(number % SHARDS as u64) as usize]
    }

    /// Registers for the answer of that number.
    pub(super) fn wait(&self, number: u64) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.shard(number).lock().insert(number, sender);
        receiver
    }

    /// Forgets that number when who waits for it goes away without an answer.
    pub(super) fn watch(&self, number: u64) -> Waiting<'_, T> {
        Waiting { waiters: Some(self), number }
    }

    /// Nobody waits for that number any more.
    fn forget(&self, number: u64) {
        self.shard(number).lock().remove(&number);
    }

    /// Gives the answer to whoever waits for it.
    pub(super) fn answer(&self, number: u64, answer: T) {
        let sender = self.shard(number).lock().remove(&number);
        if let Some(sender) = sender {
            // Whoever waited may have gone away meanwhile.
            let _gone = sender.send(answer);
        }
    }

    /// Lets all waiters go without an answer.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// Somebody who waits for an answer.
pub(super) struct Waiting<'a, T> {
    waiters: Option<&'a Waiters<T>>,
    number: u64,
}

impl<T> Waiting<'_, T> {
    /// The answer has come.
    pub(super) fn answered(&mut self) {
        self.waiters = None;
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if let Some(waiters) = self.waiters {
            waiters.forget(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_away_is_forgotten() {
        let waiters = Waiters::<()>::default();
        let _answer = waiters.wait(1);
        let waiting = waiters.watch(1);
        assert_eq!(waiters.len(), 1);
        drop(waiting);
        assert_eq!(waiters.len(), 0);
    }
}
