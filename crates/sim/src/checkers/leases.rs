//! Leases: none ends early, none is kept alive that is gone, and none stays for good.
//!
//! What may be demanded follows from who answers. Only a leader that has applied an entry of its
//! own term renews and expires leases; when it begins to, every lease begins anew, with more than
//! its time. From this:
//!
//! 1. *Early expiry.* The leader that proposes a revocation has had the lease since its grant, or
//!    since it leads, and nobody has renewed it for a whole time to live, by the leader's clock.
//!    That clock may be fast by the drift and by its jumps. So the first application of the
//!    revocation is not earlier than the sending of the grant, or of any answered renewal, plus
//!    the time to live less both. A revocation names a lease by its id only: one proposed for an
//!    earlier lease of that id may hit its successor when its leader has not yet applied the
//!    latter. That is excused only if the time of the earlier one was over, and both stand close
//!    together in the log of one term ([`LAG_ENTRIES_MAX`]).
//! 2. *Renewal of what is gone.* A leader has applied every entry of former terms, and commits
//!    those of its own term before anybody applies them. Without the fast path it waits until it
//!    has applied what is committed: so it renews nothing whose revocation was applied anywhere,
//!    or acknowledged, before the request was sent. On the fast path it does not wait when it
//!    knows the lease: only what it has applied itself counts. A renewal answers with the time to
//!    live that was granted.
//! 3. *Refusal of what is there.* Whoever knows no such lease waits as above before it says so:
//!    a lease whose grant was acknowledged before, and whose revocation was applied nowhere until
//!    the answer, is there.
//! 4. *Expiry.* In a time with one leader and without failures a lease ends not much later than
//!    its time.
//!
//! A leader that is replaced may not know it yet, and answer from what it had: clients of etcd see
//! that, too. Such an answer is excused from 1 to 3: by a member that had applied no entry of the
//! newest term when it was asked, while somebody had when it had answered. But only for a while
//! ([`STALE_LEADER_MAX`]): it must notice.
//!
//! *Relies on.* `applied` holds the first moment at which a member had applied an entry.
//!
//! *Absent.* What remains of a lease, and checkpoints of it, which do not shorten its whole time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{LeaseId, LogIndex, MemberId, Moment, RequestId, Term};
use store::Response;

use super::Violation;
use super::model::{self, Logged};
use crate::history::{Call, ClockBounds, History, KeepAlive, Log, Operation, Outcome};

const CHECKER: &str = "leases";

/// How long a replaced leader may take to notice it.
pub const STALE_LEADER_MAX: Duration = Duration::from_secs(5);

/// Entries that a leader may be behind with applying when it proposes a revocation.
pub const LAG_ENTRIES_MAX: u64 = 256;

/// How much later than its time a lease may end: leases are looked at every half second, a
/// revocation is proposed again after seven, and a new leader adds an election timeout.
pub const EXPIRY_GRACE: Duration = Duration::from_secs(15);

/// Checks all but [`check_expired`].
///
/// # Errors
/// One of the promises above is broken, or the log cannot be read.
pub fn check(history: &History) -> Result<(), Violation> {
    let logged = model::logged(&history.log)?;
    let known = Known::of(history, &logged);
    known.check().map_err(|what| Violation::new(CHECKER, what))
}

/// Checks at the end of a run that leases which members still have are right to be there, and
/// that all others have ended: `remaining` is what members have at `now`. Nothing has failed and
/// one member has led since `calm_since`.
///
/// # Errors
/// A lease has outlived its time by more than [`EXPIRY_GRACE`], or members and log differ.
pub fn check_expired(
    history: &History,
    now: Moment,
    calm_since: Moment,
    remaining: &[LeaseId],
) -> Result<(), Violation> {
    let logged = model::logged(&history.log)?;
    let known = Known::of(history, &logged);
    let remaining: BTreeSet<LeaseId> = remaining.iter().copied().collect();
    known.check_expired(now, calm_since, &remaining).map_err(|what| Violation::new(CHECKER, what))
}

/// A lease from its grant to its end; an id may have several, one after another.
struct Life {
    granted: LogIndex,
    /// When the grant was sent, or applied first when no client is known to have asked.
    asked: Moment,
    /// When a client was told of it.
    told: Option<Moment>,
    seconds: i64,
    ended: Option<End>,
}

struct End {
    index: LogIndex,
    term: Term,
    /// No client has asked for it.
    by_itself: bool,
    /// When a client was told of it.
    told: Option<Moment>,
}

struct Known<'a> {
    history: &'a History,
    lives: BTreeMap<LeaseId, Vec<Life>>,
    /// When the first entry of a term was applied first, ascending terms.
    terms: Vec<(Term, Moment)>,
    /// When members had applied the first entry of a term.
    reached: BTreeMap<(MemberId, Term), Moment>,
    /// When an entry was applied first.
    first: BTreeMap<LogIndex, Moment>,
}

impl<'a> Known<'a> {
    fn of(history: &'a History, logged: &[Logged]) -> Self {
        let log = &history.log;
        let mut first: BTreeMap<LogIndex, Moment> = BTreeMap::new();
        let mut reached: BTreeMap<(MemberId, Term), Moment> = BTreeMap::new();
        let mut terms: BTreeMap<Term, Moment> = BTreeMap::new();
        for (&(index, member), &at) in &log.applied {
            let earliest = first.entry(index).or_insert(at);
            *earliest = at.min(*earliest);
            let Some(entry) = log.entries.get(&index) else { continue };
            let term = Term(entry.term.unwrap_or_default());
            let earliest = reached.entry((member, term)).or_insert(at);
            *earliest = at.min(*earliest);
            let earliest = terms.entry(term).or_insert(at);
            *earliest = at.min(*earliest);
        }
        let mut known = Self {
            history,
            lives: BTreeMap::new(),
            terms: terms.into_iter().collect(),
            reached,
            first,
        };
        known.live(log, logged);
        known
    }

    /// Follows grants and revocations that succeeded.
    fn live(&mut self, log: &Log, logged: &[Logged]) {
        let operations: BTreeMap<RequestId, &Operation> = self
            .history
            .operations
            .iter()
            .filter_map(|operation| Some((operation.request?, operation)))
            .collect();
        for entry in logged {
            let index = entry.index;
            let Some(Ok(response)) = log.outcomes.get(&entry.request) else { continue };
            let operation = operations.get(&entry.request);
            let told = operation
                .filter(|operation| matches!(operation.outcome, Outcome::Answered(_)))
                .map(|operation| operation.returned);
            match (&entry.call, response) {
                (Some(Call::LeaseGrant(_)), Response::LeaseGrant(response)) => {
                    let applied = self.first.get(&index).copied().unwrap_or_default();
                    let asked = operation.map_or(applied, |operation| operation.invoked);
                    let (granted, seconds, ended) = (index, response.ttl, None);
                    let life = Life { granted, asked, told, seconds, ended };
                    self.lives.entry(LeaseId(response.id)).or_default().push(life);
                }
                (Some(Call::LeaseRevoke(request)), Response::LeaseRevoke(_)) => {
                    let lives = self.lives.get_mut(&LeaseId(request.id));
                    if let Some(life) = lives.and_then(|lives| lives.last_mut()) {
                        let (term, by_itself) = (entry.term, operation.is_none());
                        life.ended = Some(End { index, term, by_itself, told });
                    }
                }
                _ => {}
            }
        }
    }

    fn check(&self) -> Result<(), String> {
        for (id, lives) in &self.lives {
            for at in 0..lives.len() {
                self.not_early(*id, lives, at)?;
            }
        }
        for keep_alive in &self.history.keep_alives {
            if self.may_be_stale(keep_alive) {
                continue;
            }
            if keep_alive.ttl > 0 {
                self.not_gone(keep_alive)?;
            } else {
                self.not_there(keep_alive)?;
            }
        }
        Ok(())
    }

    /// Whether whoever answered may have been replaced without knowing it.
    fn may_be_stale(&self, keep_alive: &KeepAlive) -> bool {
        let mut terms = self.terms.iter().rev();
        let newest = terms.find(|(_, applied)| *applied <= keep_alive.returned);
        let Some(&(newest, begun)) = newest else { return false };
        let knew = self.reached.get(&(keep_alive.answered_by, newest));
        let knew = knew.is_some_and(|at| *at <= keep_alive.invoked);
        !knew && keep_alive.invoked <= begun + STALE_LEADER_MAX
    }

    fn keep_alives(&self, id: LeaseId) -> impl Iterator<Item = &'a KeepAlive> {
        let all = self.history.keep_alives.iter();
        all.filter(move |keep_alive| keep_alive.lease == id && keep_alive.ttl > 0)
    }

    /// Rule 1, for one life.
    fn not_early(&self, id: LeaseId, lives: &[Life], at: usize) -> Result<(), String> {
        let life = &lives[at];
        let Some(end) = life.ended.as_ref().filter(|end| end.by_itself) else { return Ok(()) };
        let Some(&ended) = self.first.get(&end.index) else { return Ok(()) };
        let (since, why) = self.last_renewal(id, lives, at, ended);
        if ended + self.history.clocks.jumps >= since + least(life.seconds, self.history.clocks) {
            return Ok(());
        }
        if let Some(before) = at.checked_sub(1) {
            let (since, _) = self.last_renewal(id, lives, before, ended);
            let seconds = lives[before].seconds;
            let was_over =
                ended + self.history.clocks.jumps >= since + least(seconds, self.history.clocks);
            let granted_in = self.history.log.entries.get(&life.granted);
            let same_term = granted_in.and_then(|entry| entry.term) == Some(end.term.get());
            let is_close = end.index.get() - life.granted.get() <= LAG_ENTRIES_MAX;
            if was_over && same_term && is_close {
                return Ok(());
            }
        }
        let (index, seconds) = (end.index, life.seconds);
        Err(format!(
            "lease {id} of {seconds} s, {why} sent at {since:?}, was revoked by entry {index} \
             at {ended:?} already, without a client"
        ))
    }

    /// When the last request was sent that made a life last: its grant, or a renewal that was sent
    /// before `end` and answered for this life.
    fn last_renewal(
        &self,
        id: LeaseId,
        lives: &[Life],
        at: usize,
        end: Moment,
    ) -> (Moment, &'static str) {
        let life = &lives[at];
        let next = lives.get(at + 1).map(|next| next.asked);
        let renewals = self.keep_alives(id).filter(|keep_alive| {
            keep_alive.invoked < end
                && keep_alive.invoked >= life.asked
                && keep_alive.ttl == life.seconds
                && next.is_none_or(|next| keep_alive.returned < next)
                && !self.may_be_stale(keep_alive)
        });
        match renewals.map(|keep_alive| keep_alive.invoked).max() {
            Some(renewed) => (renewed, "with a renewal"),
            None => (life.asked, "with its grant"),
        }
    }

    /// When a life was over for whoever answers a keepalive, at the latest.
    fn gone(&self, life: &Life, keep_alive: &KeepAlive) -> Option<Moment> {
        let end = life.ended.as_ref()?;
        if keep_alive.is_fast {
            return self.history.log.applied.get(&(end.index, keep_alive.answered_by)).copied();
        }
        let applied = self.first.get(&end.index).copied();
        end.told.into_iter().chain(applied).min()
    }

    /// Rule 2.
    fn not_gone(&self, keep_alive: &KeepAlive) -> Result<(), String> {
        let lives = self.lives.get(&keep_alive.lease).map_or(&[][..], Vec::as_slice);
        let is_possible = |life: &Life| {
            life.asked <= keep_alive.returned
                && life.seconds == keep_alive.ttl
                && self.gone(life, keep_alive).is_none_or(|gone| gone >= keep_alive.invoked)
        };
        if lives.iter().any(is_possible) {
            return Ok(());
        }
        Err(format!("no such lease was there to be renewed: {keep_alive:?}"))
    }

    /// Rule 3.
    fn not_there(&self, keep_alive: &KeepAlive) -> Result<(), String> {
        let lives = self.lives.get(&keep_alive.lease).map_or(&[][..], Vec::as_slice);
        for life in lives {
            let was_told = life.told.is_some_and(|told| told < keep_alive.invoked);
            let end = life.ended.as_ref().and_then(|end| self.first.get(&end.index));
            if was_told && end.is_none_or(|end| *end > keep_alive.returned) {
                let granted = life.granted;
                return Err(format!(
                    "the lease of entry {granted} was there, and not found: {keep_alive:?}"
                ));
            }
        }
        Ok(())
    }

    /// Rule 4.
    fn check_expired(
        &self,
        now: Moment,
        calm_since: Moment,
        remaining: &BTreeSet<LeaseId>,
    ) -> Result<(), String> {
        let mut unknown = remaining.clone();
        for (id, lives) in &self.lives {
            let Some(life) = lives.last().filter(|life| life.ended.is_none()) else { continue };
            if !unknown.remove(id) {
                return Err(format!("lease {id} is gone, and the log does not say why"));
            }
            let granted = self.first.get(&life.granted).copied().unwrap_or_default();
            let renewed = self.keep_alives(*id).map(|keep_alive| keep_alive.returned).max();
            let begun = granted.max(calm_since).max(renewed.unwrap_or_default());
            let until = begun + most(life.seconds, self.history.clocks) + EXPIRY_GRACE;
            if now > until {
                let seconds = life.seconds;
                return Err(format!(
                    "lease {id} of {seconds} s is still there at {now:?}, begun anew at {begun:?}"
                ));
            }
        }
        match unknown.first() {
            Some(id) => Err(format!("lease {id} is there, and the log has ended it, or not begun")),
            None => Ok(()),
        }
    }
}

fn drift(seconds: i64, clocks: ClockBounds) -> (Duration, Duration) {
    let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    // Nanoseconds of 285 years times a million fit.
    let nanos = whole.as_nanos() * u128::from(clocks.drift_ppm) / 1_000_000;
    (whole, Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

/// The least time in which a clock that is fast counts so many seconds.
fn least(seconds: i64, clocks: ClockBounds) -> Duration {
    let (whole, drift) = drift(seconds, clocks);
    whole.saturating_sub(drift)
}

/// The most that a slow clock takes, rounded up: a second may be longer by twice the drift while
/// that is below one half.
fn most(seconds: i64, clocks: ClockBounds) -> Duration {
    let (whole, drift) = drift(seconds, clocks);
    whole + drift * 2
}

#[cfg(test)]
mod tests;
