//! Leases: who has one, until when, and which keys go with it.
//!
//! ```text
//!  apply thread ── grant, attach, detach, remove ──►┐
//!                                                   ├─ Lessor ── expired ──► (revokes, proposed)
//!  serving threads ── renew, time_to_live, leases ─►┘
//! ```
//!
//! *Invariants.*
//! 1. Which leases exist and what is attached to them follows from the log alone; when a lease
//!    expires does not, and decides nothing but what the leader proposes.
//! 2. A key is attached to one lease at most, and to one that exists.
//! 3. Only a primary (the leader) has expiries; elsewhere a lease lasts forever.
//! 4. Every lease with an expiry stands once in the queue, at its expiry or at its next retry.
//!
//! *Absent.* Rows in the database (the caller writes them), clocks, proposals.
//!
//! *Contract.* `server/lease/lessor.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::limits::LEASE_TTL_MAX_SECONDS;
use base::mutant::{Mutant, is_on};
use base::{LeaseId, Moment};
use bytes::Bytes;
use parking_lot::Mutex;
use proto::leasepb;
use thiserror::Error;

/// How long an expired lease is left alone after it was handed out to be revoked: the time that
/// etcd, with its default election timeout, gives a request (`ReqTimeout`).
pub const EXPIRED_RETRY: Duration = Duration::from_secs(7);

/// Callers that may wait for the removal of one lease.
pub const WAITERS_PER_LEASE_MAX: usize = 10_000;

/// Expired leases that one second is meant to revoke.
const REVOKES_PER_SECOND: u32 = 1_000;

/// How often what remains of a long lease is noted in the log, while checkpoints are on.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// What remains of a lease that does not expire here.
pub const REMAINING_FOREVER: i64 = i64::MAX;

/// Why a lease cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The id means "no lease".
    #[error("lease not found")]
    NotFound,
    /// The id is in use.
    #[error("lease already exists")]
    Exists,
    /// It would live longer than is allowed.
    #[error("too large lease TTL")]
    TtlTooLarge,
}

/// Why a lease cannot be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RenewError {
    /// It does not exist.
    #[error("lease not found")]
    NotFound,
    /// Only the leader renews.
    #[error("not a primary lessor")]
    NotPrimary,
    /// It has expired, and its revocation is under way (see [`Lessor::when_removed`]).
    #[error("the lease has expired")]
    Expiring,
    /// The log says what remains of it: that is to be taken back there first.
    #[error("the lease has a checkpoint")]
    Checkpointed,
}

/// The state of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToLive {
    /// Seconds granted.
    pub granted: i64,
    /// Whole seconds left; negative when it has expired, [`REMAINING_FOREVER`] off the leader.
    pub remaining: i64,
    /// The attached keys, ascending.
    pub keys: Vec<Bytes>,
}

#[derive(Debug)]
struct Lease {
    granted: i64,
    /// Checkpointed seconds; 0 for none.
    remaining: i64,
    /// `None` is forever.
    expiry: Option<Moment>,
    /// Its place in the queue, which is the expiry or a later retry.
    due: Option<Moment>,
    /// When what remains of it is to be noted.
    checkpoint: Option<Moment>,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    fn lifetime(&self) -> Duration {
        let seconds = if self.remaining > 0 { self.remaining } else { self.granted };
        Duration::from_secs(seconds.unsigned_abs())
    }

    fn row(&self, id: LeaseId) -> leasepb::Lease {
        leasepb::Lease { id: id.0, ttl: self.granted, remaining_ttl: self.remaining }
    }
}

type Waiter = Box<dyn FnOnce() + Send>;

/// Whether what remains of leases is noted in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checkpoints {
    /// It is not: a new leader begins every lease anew.
    #[default]
    Off,
    /// It is, and a cluster of at least 3.6 keeps it in the database.
    On,
    /// It is, and every cluster keeps it.
    Kept,
}

#[derive(Default)]
struct State {
    is_primary: bool,
    checkpoints: Checkpoints,
    checkpoint_queue: BTreeSet<(Moment, LeaseId)>,
    leases: BTreeMap<LeaseId, Lease>,
    attached: BTreeMap<Bytes, LeaseId>,
    queue: BTreeSet<(Moment, LeaseId)>,
    waiting: BTreeMap<LeaseId, Vec<Waiter>>,
}

impl State {
    /// Gives a lease an expiry, and its place in the queue.
    fn schedule(&mut self, id: LeaseId, expiry: Option<Moment>) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        if let Some(due) = lease.due.take() {
            self.queue.remove(&(due, id));
        }
        lease.expiry = expiry;
        lease.due = expiry;
        if let Some(due) = expiry {
            self.queue.insert((due, id));
        }
    }

    fn insert(&mut self, id: LeaseId, granted: i64, remaining: i64, now: Moment) {
        let (due, checkpoint, keys) = (None, None, BTreeSet::new());
        let lease = Lease { granted, remaining, expiry: None, due, checkpoint, keys };
        let expiry = self.is_primary.then(|| now + lease.lifetime());
        self.leases.insert(id, lease);
        self.schedule(id, expiry);
        self.schedule_checkpoint(id, now);
    }

    /// Plans the next note of what remains of a lease, if it lives long enough for one.
    fn schedule_checkpoint(&mut self, id: LeaseId, now: Moment) {
        self.drop_checkpoint(id);
        let is_on = self.is_primary && self.checkpoints != Checkpoints::Off;
        let Some(lease) = self.leases.get_mut(&id).filter(|_| is_on) else { return };
        if lease.lifetime() > CHECKPOINT_INTERVAL {
            let due = now + CHECKPOINT_INTERVAL;
            lease.checkpoint = Some(due);
            self.checkpoint_queue.insert((due, id));
        }
    }

    fn drop_checkpoint(&mut self, id: LeaseId) {
        if let Some(due) = self.leases.get_mut(&id).and_then(|lease| lease.checkpoint.take()) {
            self.checkpoint_queue.remove(&(due, id));
        }
    }

    /// Puts expiries off where more leases would expire in a second than can be revoked in it.
    fn spread(&mut self, now: Moment, extend: Duration) {
        const SECOND: Duration = Duration::from_secs(1);
        // Fewer than can be revoked, so that those piled up leave room for others.
        const TARGET: u32 = 3 * REVOKES_PER_SECOND / 4;
        if self.leases.len() < REVOKES_PER_SECOND as usize {
            return;
        }
        let mut all: Vec<_> =
            self.leases.iter().filter_map(|(id, lease)| Some((lease.expiry? - now, *id))).collect();
        all.sort_unstable();
        let mut window = all.first().map_or(Duration::ZERO, |(remaining, _)| *remaining);
        let mut next = window + SECOND;
        let mut expires: u32 = 0;
        for (remaining, id) in all {
            if remaining > next {
                (window, next, expires) = (remaining, remaining + SECOND, 1);
                continue;
            }
            expires = expires.saturating_add(1);
            if expires <= TARGET {
                continue;
            }
            // A lease that lies later in the window is put off the less.
            let share = SECOND * expires / TARGET;
            let delay = share.saturating_sub(remaining - window);
            next = window + delay;
            let Some(lease) = self.leases.get(&id) else { continue };
            let expiry = now + (lease.lifetime() + extend + delay);
            self.schedule(id, Some(expiry));
        }
    }
}

/// All leases of a member.
pub struct Lessor {
    min_ttl_seconds: i64,
    state: Mutex<State>,
}

impl Lessor {
    /// Without leases. A shorter one than the minimum is made as long.
    pub fn new(min_ttl_seconds: i64) -> Self {
        Self { min_ttl_seconds, state: Mutex::default() }
    }

    /// Says whether what remains of leases is noted in the log. Asked for before leases come.
    pub fn set_checkpoints(&self, checkpoints: Checkpoints) {
        self.state.lock().checkpoints = checkpoints;
    }

    /// Whether the database keeps checkpoints whatever the cluster's version.
    pub fn keeps_checkpoints(&self) -> bool {
        self.state.lock().checkpoints == Checkpoints::Kept
    }

    /// Takes up the rows of a database.
    pub fn restore(&self, rows: Vec<leasepb::Lease>, now: Moment) {
        let mut state = self.state.lock();
        for row in rows {
            let granted = row.ttl.max(self.min_ttl_seconds);
            state.insert(LeaseId(row.id), granted, row.remaining_ttl, now);
        }
    }

    /// Creates a lease, and returns the row to store.
    pub fn grant(
        &self,
        id: LeaseId,
        ttl_seconds: i64,
        now: Moment,
    ) -> Result<leasepb::Lease, LeaseError> {
        if id.0 == 0 {
            return Err(LeaseError::NotFound);
        }
        if ttl_seconds > LEASE_TTL_MAX_SECONDS {
            return Err(LeaseError::TtlTooLarge);
        }
        let mut state = self.state.lock();
        if state.leases.contains_key(&id) && !is_on(Mutant::GrantOverLease) {
            return Err(LeaseError::Exists);
        }
        let granted = ttl_seconds.max(self.min_ttl_seconds);
        state.insert(id, granted, 0, now);
        Ok(leasepb::Lease { id: id.0, ttl: granted, remaining_ttl: 0 })
    }

    /// The keys attached to a lease, ascending; `None` when there is no such lease.
    pub fn keys(&self, id: LeaseId) -> Option<Vec<Bytes>> {
        let state = self.state.lock();
        state.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect())
    }

    /// Whether the lease exists.
    pub fn exists(&self, id: LeaseId) -> bool {
        self.state.lock().leases.contains_key(&id)
    }

    /// Forgets a lease and detaches its keys. Whoever waited for that is told.
    pub fn remove(&self, id: LeaseId) -> bool {
        let waiters = {
            let mut state = self.state.lock();
            state.schedule(id, None);
            state.drop_checkpoint(id);
            let Some(lease) = state.leases.remove(&id) else { return false };
            for key in &lease.keys {
                state.attached.remove(key);
            }
            state.waiting.remove(&id)
        };
        for waiter in waiters.into_iter().flatten() {
            waiter();
        }
        true
    }

    /// Attaches a key to a lease, and detaches it from any other one. Nothing happens when there
    /// is no such lease.
    pub fn attach(&self, id: LeaseId, key: Bytes) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let Some(lease) = state.leases.get_mut(&id) else { return };
        if lease.keys.contains(&key) {
            return;
        }
        // Copied: the key may be a slice of a request with a large value.
        let key = Bytes::copy_from_slice(&key);
        lease.keys.insert(key.clone());
        if let Some(old) = state.attached.insert(key.clone(), id)
            && let Some(old) = state.leases.get_mut(&old)
        {
            old.keys.remove(&key);
        }
    }

    /// Detaches a key from its lease, if it has one.
    pub fn detach(&self, key: &[u8]) {
        let mut state = self.state.lock();
        let Some(id) = state.attached.remove(key) else { return };
        if let Some(lease) = state.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// The lease that a key is attached to.
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.state.lock().attached.get(key).copied()
    }

    /// Notes what remains of a lease, so that the next primary does not begin anew; when it
    /// expires on this one does not change. Returns the row to store; `None` when there is no such
    /// lease.
    pub fn checkpoint(&self, id: LeaseId, remaining: i64, now: Moment) -> Option<leasepb::Lease> {
        let mut state = self.state.lock();
        let lease = state.leases.get_mut(&id)?;
        lease.remaining = remaining;
        let row = lease.row(id);
        state.schedule_checkpoint(id, now);
        Some(row)
    }

    /// What is to be noted of leases now: their ids and the seconds that remain, `max` at most.
    pub fn due_checkpoints(&self, now: Moment, max: usize) -> Vec<(LeaseId, i64)> {
        let mut state = self.state.lock();
        let mut checkpoints = Vec::new();
        while checkpoints.len() < max {
            let Some(&(due, id)) = state.checkpoint_queue.first() else { break };
            if due > now {
                break;
            }
            // When nothing comes of this one, another follows.
            state.schedule_checkpoint(id, now);
            let Some(lease) = state.leases.get(&id) else { continue };
            let Some(left) = lease.expiry.filter(|expiry| *expiry > now) else { continue };
            let remaining = i64::try_from((left - now).as_millis().div_ceil(1000));
            let remaining = remaining.unwrap_or(i64::MAX);
            if remaining < lease.granted {
                checkpoints.push((id, remaining));
            }
        }
        checkpoints
    }

    /// Begins the lease's time anew and returns it in seconds.
    pub fn renew(&self, id: LeaseId, now: Moment) -> Result<i64, RenewError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if !state.is_primary {
            return Err(RenewError::NotPrimary);
        }
        let lease = state.leases.get_mut(&id).ok_or(RenewError::NotFound)?;
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Err(RenewError::Expiring);
        }
        if lease.remaining > 0 && state.checkpoints != Checkpoints::Off {
            return Err(RenewError::Checkpointed);
        }
        lease.remaining = 0;
        let (granted, expiry) = (lease.granted, now + lease.lifetime());
        if !is_on(Mutant::RenewWithoutTime) {
            state.schedule(id, Some(expiry));
        }
        Ok(granted)
    }

    /// Calls back once the lease is gone, at once when it is not there, or once this member is no
    /// longer primary: the caller asks again. False when too many wait already: then nobody is
    /// called.
    pub fn when_removed(&self, id: LeaseId, waiter: impl FnOnce() + Send + 'static) -> bool {
        let mut state = self.state.lock();
        if !state.is_primary || !state.leases.contains_key(&id) {
            drop(state);
            waiter();
            return true;
        }
        let waiting = state.waiting.entry(id).or_default();
        let has_room = waiting.len() < WAITERS_PER_LEASE_MAX;
        if has_room {
            waiting.push(Box::new(waiter));
        }
        has_room
    }

    /// What a lease has left, and its keys.
    pub fn time_to_live(&self, id: LeaseId, now: Moment) -> Option<TimeToLive> {
        let state = self.state.lock();
        let lease = state.leases.get(&id)?;
        let remaining = lease.expiry.map_or(REMAINING_FOREVER, |expiry| {
            let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
            if expiry >= now { seconds(expiry - now) } else { -seconds(now - expiry) }
        });
        let keys = lease.keys.iter().cloned().collect();
        Some(TimeToLive { granted: lease.granted, remaining, keys })
    }

    /// All leases: the one that expires first comes first, on a primary; by id elsewhere.
    pub fn leases(&self) -> Vec<LeaseId> {
        let state = self.state.lock();
        if state.is_primary {
            let mut all: Vec<_> =
                state.leases.iter().map(|(id, lease)| (lease.expiry, *id)).collect();
            all.sort_unstable();
            return all.into_iter().map(|(_, id)| id).collect();
        }
        state.leases.keys().copied().collect()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.state.lock().leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member leads now: every lease begins anew (or goes on from its checkpoint), with
    /// `extend` added for what clients may have missed.
    pub fn promote(&self, now: Moment, extend: Duration) {
        let mut state = self.state.lock();
        state.is_primary = true;
        let expiry = |lease: &Lease| match is_on(Mutant::PromoteWithoutTime) {
            true => now,
            false => now + lease.lifetime() + extend,
        };
        let expiries: Vec<_> =
            state.leases.iter().map(|(id, lease)| (*id, expiry(lease))).collect();
        for (id, expiry) in expiries {
            state.schedule(id, Some(expiry));
            state.schedule_checkpoint(id, now);
        }
        state.spread(now, extend);
    }

    /// The member does not lead any more: nothing expires here.
    pub fn demote(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.is_primary = false;
            state.queue.clear();
            state.checkpoint_queue.clear();
            for lease in state.leases.values_mut() {
                (lease.expiry, lease.due, lease.checkpoint) = (None, None, None);
            }
            std::mem::take(&mut state.waiting)
        };
        // Another member may renew what they wait to see removed.
        for waiter in waiting.into_values().flatten() {
            waiter();
        }
    }

    /// Whether the member leads.
    pub fn is_primary(&self) -> bool {
        self.state.lock().is_primary
    }

    /// Leases to revoke, first expired first, `max` at most. Each is handed out again when it is
    /// still there after [`EXPIRED_RETRY`].
    pub fn expired(&self, now: Moment, max: usize) -> Vec<LeaseId> {
        let ahead = Duration::from_secs(u64::from(is_on(Mutant::ExpireEarly)));
        let now = now + ahead;
        let mut state = self.state.lock();
        let due: Vec<_> =
            state.queue.iter().take_while(|(due, _)| *due <= now).take(max).copied().collect();
        for (was, id) in &due {
            let retry = now + EXPIRED_RETRY;
            state.queue.remove(&(*was, *id));
            state.queue.insert((retry, *id));
            if let Some(lease) = state.leases.get_mut(id) {
                lease.due = Some(retry);
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    /// Runs a script of commands with a clock that only `sleep` (seconds) moves.
    struct Runner {
        lessor: Lessor,
        now: Moment,
        told: Arc<Mutex<Vec<i64>>>,
    }

    impl goldenscript::Runner for Runner {
        type Command = goldenscript::Command;

        fn run(
            &mut self,
            command: &goldenscript::Command,
            _: &goldenscript::Context,
        ) -> Result<String, Box<dyn std::error::Error>> {
            let mut args = command.consume_args();
            let mut out = String::new();
            let lessor = &self.lessor;
            if command.name == "sleep" {
                let seconds: f64 = args.next_pos().ok_or("seconds?")?.parse()?;
                self.now = self.now + Duration::from_secs_f64(seconds);
                return Ok(out);
            }
            let id = args.next_pos().map(|arg| arg.parse::<i64>()).transpose()?.unwrap_or(0);
            let value = args.next_pos().map(str::to_owned);
            let lease = LeaseId(id);
            let number = || value.as_deref().unwrap_or("0").parse::<i64>();
            match command.name.as_str() {
                "restore" => {
                    let row = leasepb::Lease { id, ttl: number()?, remaining_ttl: 0 };
                    lessor.restore(vec![row], self.now);
                }
                "grant" => writeln!(out, "{:?}", lessor.grant(lease, number()?, self.now))?,
                "attach" => lessor.attach(lease, value.unwrap_or_default().into()),
                "detach" => lessor.detach(value.unwrap_or_default().as_bytes()),
                "wait" => {
                    let told = Arc::clone(&self.told);
                    lessor.when_removed(lease, move || told.lock().push(id));
                }
                "remove" => writeln!(out, "{}", lessor.remove(lease))?,
                "told" => writeln!(out, "{:?}", std::mem::take(&mut *self.told.lock()))?,
                "renew" => writeln!(out, "{:?}", lessor.renew(lease, self.now))?,
                "checkpoint" => {
                    writeln!(out, "{:?}", lessor.checkpoint(lease, number()?, self.now))?;
                }
                "checkpoints" => lessor.set_checkpoints(match id {
                    0 => Checkpoints::Off,
                    _ => Checkpoints::On,
                }),
                "due" => writeln!(out, "{:?}", lessor.due_checkpoints(self.now, 2))?,
                "clear" => lessor.leases().into_iter().for_each(|id| assert!(lessor.remove(id))),
                "ttl" => writeln!(out, "{:?}", lessor.time_to_live(lease, self.now))?,
                "leases" => writeln!(out, "{:?}", lessor.leases())?,
                "promote" => lessor.promote(self.now, Duration::from_secs(1)),
                "demote" => lessor.demote(),
                "expired" => writeln!(out, "{:?}", lessor.expired(self.now, 2))?,
                name => return Err(format!("unknown command {name}").into()),
            }
            args.reject_next()?;
            Ok(out)
        }
    }

    #[test]
    fn leases_that_would_expire_together_are_spread() {
        let lessor = Lessor::new(2);
        let now = Moment::default();
        for id in 1..=3_000 {
            lessor.grant(LeaseId(id), 10, now).unwrap();
        }
        lessor.promote(now, Duration::ZERO);
        let left = |id| lessor.time_to_live(LeaseId(id), now).unwrap().remaining;
        let mut at = BTreeMap::<i64, usize>::new();
        for id in 1..=3_000 {
            *at.entry(left(id)).or_default() += 1;
        }
        // 750 keep their time, as many follow in each second.
        assert_eq!(at, BTreeMap::from([(10, 750), (11, 749), (12, 750), (13, 750), (14, 1)]));
    }

    #[test]
    fn scripts() {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/lease");
        for script in std::fs::read_dir(scripts).unwrap() {
            let mut runner =
                Runner { lessor: Lessor::new(2), now: Moment::default(), told: Arc::default() };
            goldenscript::run(&mut runner, script.unwrap().path()).unwrap();
        }
    }
}
