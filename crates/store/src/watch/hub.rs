//! Matches each change once and hands it to every stream that watches it.
//!
//! Watchers of the same keys form a group, so that ten thousand watchers of one key cost one
//! lookup. Within a group, watchers that want the same (filters, previous row) share one batch.
//!
//! *Invariants.*
//! 1. `revision` is the newest one that was published; a subscription begins above it.
//! 2. A group has a member; it stands in `exact` or in `ranges`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::mutant::{Mutant, is_on};
use base::{Revision, WatchId};
use bytes::Bytes;
use parking_lot::Mutex;

use super::event::{Filter, encode_event};
use super::intervals::{Interval, Intervals};
use super::queue::{Batch, Drained, Lagging, Queue, Waiting};
use crate::mvcc::{Change, View};

/// What a watcher watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// The key, or the first of a range.
    pub key: Bytes,
    /// As in a range request: empty is the key alone, one zero byte is no end.
    pub range_end: Bytes,
    /// What is left out.
    pub filter: Filter,
    /// Whether the row before each change is told, too.
    pub prev_kv: bool,
}

impl Watched {
    fn scope(&self) -> Scope {
        match &self.range_end[..] {
            [] => Scope::Key(self.key.clone()),
            [0] => Scope::Range(Interval { start: self.key.clone(), end: None }),
            _ => Scope::Range(Interval {
                start: self.key.clone(),
                end: Some(self.range_end.clone()),
            }),
        }
    }

    /// Whether a key is watched, whatever happens to it.
    pub fn covers(&self, key: &[u8]) -> bool {
        match &self.range_end[..] {
            [] => self.key == key,
            [0] => &self.key[..] <= key,
            end => &self.key[..] <= key && key < end,
        }
    }
}

/// A subscription, unique in the life of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u64);

/// A watcher cannot subscribe yet: the hub has published revisions that it has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Key(Bytes),
    Range(Interval),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct GroupId(u64);

struct Group {
    scope: Scope,
    members: BTreeMap<SubscriptionId, Subscription>,
}

struct Subscription {
    queue: Arc<Queue>,
    watch: WatchId,
    from: Revision,
    filter: Filter,
    prev_kv: bool,
}

/// Which events a batch holds: watchers that agree in this share it.
type Variant = (Filter, bool);

#[derive(Default)]
struct State {
    revision: Revision,
    next_id: u64,
    subscriptions: BTreeMap<SubscriptionId, GroupId>,
    groups: BTreeMap<GroupId, Group>,
    by_scope: BTreeMap<Scope, GroupId>,
    exact: BTreeMap<Bytes, GroupId>,
    ranges: Intervals<GroupId>,
    events_total: u64,
    lagging_total: u64,
}

/// Where the store tells of changes, and streams ask to be told.
pub struct Hub {
    state: Mutex<State>,
    waiting: Waiting,
}

/// The events of one revision, encoded as far as somebody asked for them.
struct Encoder<'a> {
    view: &'a View,
    changes: &'a [Change],
    plain: Vec<Option<Bytes>>,
    with_previous: Vec<Option<Bytes>>,
}

impl<'a> Encoder<'a> {
    fn new(view: &'a View, changes: &'a [Change]) -> Self {
        let none = || vec![None; changes.len()];
        Self { view, changes, plain: none(), with_previous: none() }
    }

    fn event(&mut self, at: usize, prev_kv: bool) -> Bytes {
        let cached = if prev_kv { &self.with_previous[at] } else { &self.plain[at] };
        if let Some(event) = cached {
            return event.clone();
        }
        let change = &self.changes[at];
        let previous = if prev_kv { self.previous(change) } else { None };
        let event = encode_event(change, previous.as_ref());
        let cached = if prev_kv { &mut self.with_previous[at] } else { &mut self.plain[at] };
        *cached = Some(event.clone());
        event
    }

    /// The row as it was before the revision. A row that cannot be read is found again, and
    /// reported, by whoever reads it on demand; here the event goes out without it, as etcd's does
    /// when it is compacted.
    fn previous(&self, change: &Change) -> Option<Bytes> {
        let previous = change.previous?;
        let row = if is_on(Mutant::WatchPreviousIsNew) {
            self.view.row(change.at)
        } else if previous.main < change.at.main {
            self.view.row(previous)
        } else {
            // The same transaction has put it, in a branch before this one.
            self.view.before(&change.key, change.at.main)
        };
        row.ok().flatten()
    }

    /// The events of these changes that a variant lets through.
    fn batch(&mut self, matching: &[usize], (filter, prev_kv): Variant) -> Arc<[Bytes]> {
        let changes = self.changes;
        matching
            .iter()
            .filter(|at| filter.lets_through(changes[**at].tombstone))
            .map(|at| self.event(*at, prev_kv))
            .collect()
    }
}

impl Hub {
    /// A hub that begins after `revision`: what came before is history.
    pub fn new(revision: Revision) -> Self {
        let state = Mutex::new(State { revision, ..State::default() });
        Self { state, waiting: Waiting::default() }
    }

    /// The queue of a new stream.
    pub fn queue(&self) -> Arc<Queue> {
        Arc::new(Queue::new(Arc::clone(&self.waiting)))
    }

    /// How many events wait for their streams.
    pub fn events_waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Tells the changes of one revision to all who watch them. `view` shows that revision.
    ///
    /// Wakers are called from here, so they must do no more than schedule a task.
    pub fn publish(&self, view: &Arc<View>, changes: &[Change]) {
        let Some(revision) = changes.first().map(|change| change.at.main) else { return };
        let mut state = self.state.lock();
        let state = &mut *state;
        assert!(state.revision < revision, "revisions are published once, in order");
        state.revision = revision;
        if state.subscriptions.is_empty() {
            return;
        }

        let mut matching: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        for (at, change) in changes.iter().enumerate() {
            let mut note = |group| matching.entry(group).or_default().push(at);
            if let Some(group) = state.exact.get(&change.key) {
                note(*group);
            }
            state.ranges.stab(&change.key, &mut note);
        }

        let mut encoder = Encoder::new(view, changes);
        let mut lagging = Vec::new();
        for (group, matching) in matching {
            let mut variants: BTreeMap<Variant, Arc<[Bytes]>> = BTreeMap::new();
            for (id, subscription) in &state.groups[&group].members {
                if revision < subscription.from && !is_on(Mutant::WatchBeforeStart) {
                    continue;
                }
                let variant = (subscription.filter, subscription.prev_kv);
                let events =
                    variants.entry(variant).or_insert_with(|| encoder.batch(&matching, variant));
                if events.is_empty() {
                    continue;
                }
                state.events_total += events.len() as u64;
                let batch = Batch {
                    watch: subscription.watch,
                    subscription: *id,
                    revision,
                    events: Arc::clone(events),
                };
                if !subscription.queue.push(batch) && !is_on(Mutant::WatchDropsWhenFull) {
                    lagging.push(*id);
                }
            }
        }
        state.lagging_total += lagging.len() as u64;
        for id in lagging {
            if let Some(subscription) = state.remove(id) {
                let watch = subscription.watch;
                subscription.queue.push_lagging(Lagging {
                    watch,
                    subscription: id,
                    from: revision,
                });
            }
        }
    }

    /// Subscribes a watcher that has been told of everything below `from`, which may lie in the
    /// future.
    pub fn subscribe(
        &self,
        queue: &Arc<Queue>,
        watch: WatchId,
        watched: &Watched,
        from: Revision,
    ) -> Result<SubscriptionId, Behind> {
        let mut state = self.state.lock();
        if from <= state.revision {
            return Err(Behind);
        }
        let id = SubscriptionId(state.fresh_id());
        let subscription = Subscription {
            queue: Arc::clone(queue),
            watch,
            from,
            filter: watched.filter,
            prev_kv: watched.prev_kv,
        };
        let group = state.join(watched.scope(), id, subscription);
        state.subscriptions.insert(id, group);
        Ok(id)
    }

    /// Another state has taken the place of the one that was published so far; `revision` is its
    /// newest. Everyone who was told of the old one goes on from the new one's history.
    pub(crate) fn restart(&self, revision: Revision) {
        let mut state = self.state.lock();
        assert!(revision >= state.revision, "revisions do not go back");
        let told = std::mem::replace(&mut state.revision, revision);
        let all: Vec<SubscriptionId> = state.subscriptions.keys().copied().collect();
        state.lagging_total += all.len() as u64;
        for id in all {
            if let Some(subscription) = state.remove(id) {
                let from = told.next().max(subscription.from);
                let lagging = Lagging { watch: subscription.watch, subscription: id, from };
                subscription.queue.push_lagging(lagging);
            }
        }
    }

    /// Ends a subscription. False when it had ended.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.state.lock().remove(id).is_some()
    }

    /// The newest revision whose events are all in the queues of those who watch them, and what
    /// of them waits in this queue. Both at once: nothing of that revision comes later.
    pub fn settle(&self, queue: &Queue) -> (Revision, Drained) {
        let state = self.state.lock();
        (state.revision, queue.take())
    }

    /// How many watchers are subscribed.
    pub fn subscriptions(&self) -> usize {
        self.state.lock().subscriptions.len()
    }

    /// How many events went to watchers, and how often a watcher could not take one.
    pub fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.events_total, state.lagging_total)
    }
}

impl State {
    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Adds a member to the group of a scope, which is made when it is not there.
    fn join(&mut self, scope: Scope, id: SubscriptionId, member: Subscription) -> GroupId {
        if let Some(group) = self.by_scope.get(&scope)
            && let Some(there) = self.groups.get_mut(group)
        {
            there.members.insert(id, member);
            return *group;
        }
        let group = GroupId(self.fresh_id());
        match &scope {
            Scope::Key(key) => {
                self.exact.insert(key.clone(), group);
            }
            Scope::Range(interval) => self.ranges.insert(interval.clone(), group),
        }
        self.by_scope.insert(scope.clone(), group);
        self.groups.insert(group, Group { scope, members: BTreeMap::from([(id, member)]) });
        group
    }

    fn remove(&mut self, id: SubscriptionId) -> Option<Subscription> {
        let at = self.subscriptions.remove(&id)?;
        let group = self.groups.get_mut(&at)?;
        let member = group.members.remove(&id);
        if group.members.is_empty()
            && let Some(group) = self.groups.remove(&at)
        {
            match &group.scope {
                Scope::Key(key) => {
                    self.exact.remove(key);
                }
                Scope::Range(interval) => self.ranges.remove(interval),
            }
            self.by_scope.remove(&group.scope);
        }
        member
    }
}
