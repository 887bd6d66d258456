//! Commits of the database and snapshots on disk: when, and in which order.
//!
//! ```text
//!   apply lane        Freeze ─────────────► Frozen(upto)
//!   here                                       │ wait: log synced upto and a commit >= upto
//!   commit lane                                └─► CommitEffect ─► CommitReceipt(upto, snapshot)
//!   apply lane                                                        ├─► Publish
//!   log lane                                                          ├─► Snapshot, Release
//!   other members                                                     └─► SendSnapshot
//! ```
//!
//! *Invariants.*
//! 1. One commit at a time; `database <= synced commit index`.
//! 2. A snapshot is made from the database after its commit: its index is the database's.
//! 3. Segments are released only behind the snapshot's record, in the same lane.
//! 4. A snapshot for another member is the state of a commit that was frozen after it was asked
//!    for: index, term, configuration, members and pages are of one point.
//! 5. Nothing is frozen while another state is about to take the place of this one.

use std::time::Duration;

use base::{LogIndex, Moment, limits};
use proto::raftpb::{Message, Snapshot};

use crate::effect::{Answer, ApplyEffect, CommitEffect, Effects, LogEffect, SendSnapshot};
use crate::input::{Pending, Ticket};

/// Memory of uncommitted changes that forces a commit.
const COMMIT_BYTES_MAX: usize = 16 << 20;

/// Memory of uncommitted changes, those being committed included, beyond which nothing more is
/// applied until the commit is done.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// Callers that may wait for a commit; more are told to come again.
const TICKETS_MAX: usize = 4096;

enum Stage {
    Idle,
    /// The apply worker hands changes over.
    Freezing,
    /// Changes up to here wait until the log has what they need.
    Frozen(LogIndex),
    /// The database is being written, and perhaps a snapshot on disk after it.
    Committing {
        upto: LogIndex,
        to_disk: bool,
    },
}

/// Where the database stands, and what it is to do next.
pub(crate) struct Commits {
    stage: Stage,
    /// The last entry that the database has.
    database: LogIndex,
    pending: Pending,
    /// Since when something is pending.
    since: Option<Moment>,
    /// They came before the freeze under way, and after the one before.
    waiting: Vec<Ticket>,
    /// They came before the commit under way was frozen.
    served: Vec<Ticket>,
    /// `MsgSnap`s that came before the freeze under way, and after the one before.
    wanted: Vec<Message>,
    /// `MsgSnap`s that came before the commit under way was frozen.
    described: Vec<Message>,
    /// Another state is to take the place of this one.
    is_held: bool,
    /// The commit worker is to take over the database that was installed.
    is_replaced: bool,
    /// The last snapshot on disk, or on its way there.
    snapshot: LogIndex,
    snapshot_count: u64,
    pace: CommitPace,
    snapshot_forced: bool,
    /// The member stops: what counts is that the database has every entry.
    draining: bool,
}

/// When changes are committed, if nobody asks before and their bytes are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitPace {
    /// How long the oldest may wait.
    pub interval: Duration,
    /// How many may wait.
    pub changes_max: usize,
}

impl Default for CommitPace {
    fn default() -> Self {
        Self { interval: limits::COMMIT_INTERVAL, changes_max: limits::COMMIT_CHANGES_MAX }
    }
}

impl Commits {
    pub(crate) fn new(
        database: LogIndex,
        snapshot: LogIndex,
        snapshot_count: u64,
        pace: CommitPace,
    ) -> Self {
        Self {
            stage: Stage::Idle,
            database,
            pending: Pending::default(),
            since: None,
            waiting: Vec::new(),
            served: Vec::new(),
            wanted: Vec::new(),
            described: Vec::new(),
            is_held: false,
            is_replaced: false,
            snapshot,
            snapshot_count,
            pace,
            snapshot_forced: false,
            draining: false,
        }
    }

    /// Someone wants all that is applied now to be in the database. False: too many do.
    pub(crate) fn want(&mut self, ticket: Ticket) -> bool {
        let fits = self.waiting.len() < TICKETS_MAX;
        if fits {
            self.waiting.push(ticket);
        }
        fits
    }

    /// A leader wants to send its state: `message` leaves with that of the next commit.
    pub(crate) fn want_snapshot(&mut self, message: Message) {
        self.wanted.push(message);
    }

    /// Takes back the `MsgSnap`s for which no commit is under way.
    pub(crate) fn abandon_snapshots(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.wanted)
    }

    /// While held, nothing new is begun.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Another state has taken the place of this one: all of it is in its database, and it is a
    /// snapshot on disk.
    pub(crate) fn installed(&mut self, index: LogIndex) {
        assert!(matches!(self.stage, Stage::Idle), "a commit during an install");
        assert!(index > self.database, "an install of what the database has");
        (self.database, self.snapshot) = (index, index);
        self.since = None;
        self.is_replaced = true;
    }

    pub(crate) fn force_snapshot(&mut self) {
        self.snapshot_forced = true;
    }

    pub(crate) fn set_pending(&mut self, pending: Pending, now: Moment) {
        self.pending = pending;
        self.since = match pending.changes {
            0 => None,
            _ => self.since.or(Some(now)),
        };
    }

    /// When the pending changes are due. Never when the member ends: then they are due as soon as
    /// everything is applied.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match self.stage {
            Stage::Idle if !self.is_held && !self.draining => {
                self.since.map(|since| since + self.pace.interval)
            }
            _ => None,
        }
    }

    /// Whether nothing more may be applied for now.
    pub(crate) fn is_full(&self) -> bool {
        self.pending.bytes > PENDING_BYTES_MAX && !matches!(self.stage, Stage::Idle)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle) && self.waiting.is_empty() && self.wanted.is_empty()
    }

    /// Whether no commit is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Whether the database has everything up to `applied`. What a compaction still has to sweep
    /// does not count: the next start goes on with it.
    pub(crate) fn is_drained(&self, applied: LogIndex) -> bool {
        self.is_idle() && self.database >= applied
    }

    /// From now on nothing is due but the last commit, as soon as the whole log is applied.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// The last entry that the database has.
    pub(crate) fn database(&self) -> LogIndex {
        self.database
    }

    fn snapshot_due(&self, at: LogIndex) -> bool {
        self.snapshot_forced || at.0.saturating_sub(self.snapshot.0) > self.snapshot_count
    }

    /// The changes up to `upto` are handed over; `None`: there were none, the database has it all.
    pub(crate) fn frozen(&mut self, upto: Option<LogIndex>) {
        assert!(matches!(self.stage, Stage::Freezing), "frozen without having been asked to");
        self.stage = Stage::Frozen(upto.unwrap_or(self.database));
        self.since = None;
    }

    /// The database has been written. True when a snapshot goes to disk now.
    pub(crate) fn committed(
        &mut self,
        upto: LogIndex,
        snapshot: Option<Box<Snapshot>>,
        effects: &mut Effects,
    ) -> bool {
        let Stage::Committing { upto: expected, to_disk } = self.stage else {
            panic!("a commit that nobody asked for");
        };
        assert!(upto == expected && upto >= self.database, "a commit of other entries");
        self.stage = Stage::Idle;
        self.database = upto;
        effects.apply.push(ApplyEffect::Publish);
        for message in self.described.drain(..) {
            let snapshot = snapshot.as_deref().cloned();
            assert!(snapshot.is_some(), "nobody says who the members are in a snapshot");
            effects.snapshots.push(SendSnapshot { message: Message { snapshot, ..message } });
        }
        // The log may tell of a newer one already, which must stay the last.
        let snapshot = snapshot.filter(|_| to_disk && !self.is_held);
        let is_written = snapshot.is_some();
        if let Some(snapshot) = snapshot {
            self.snapshot = upto;
            self.snapshot_forced = false;
            effects.log.push(LogEffect::Snapshot(snapshot));
            effects.log.push(LogEffect::Release(upto));
        }
        effects.answers.extend(self.served.drain(..).map(Answer::DatabaseCommitted));
        is_written
    }

    /// Takes the next step, if it is due. `synced_commit` is the commit index that the log is
    /// known to have on disk; true when that is too little and a sync would help. `last` is the
    /// last entry that will be applied before the member ends, if it does.
    pub(crate) fn advance(
        &mut self,
        now: Moment,
        (applied, last): (LogIndex, LogIndex),
        synced_commit: LogIndex,
        effects: &mut Effects,
    ) -> bool {
        match self.stage {
            Stage::Idle if self.is_due(now, applied, last) => {
                self.served.append(&mut self.waiting);
                self.described.append(&mut self.wanted);
                self.is_replaced = false;
                self.stage = Stage::Freezing;
                effects.apply.push(ApplyEffect::Freeze);
                false
            }
            Stage::Frozen(upto) if upto > synced_commit => true,
            Stage::Frozen(upto) => {
                let to_disk = upto > self.snapshot && self.snapshot_due(upto);
                self.stage = Stage::Committing { upto, to_disk };
                let views = self.described.len();
                let snapshot = to_disk || views > 0;
                effects.commit.push(CommitEffect { upto, snapshot, views });
                false
            }
            _ => false,
        }
    }

    fn is_due(&self, now: Moment, applied: LogIndex, last: LogIndex) -> bool {
        if self.is_held {
            return false;
        }
        let is_asked = !self.waiting.is_empty() || !self.wanted.is_empty() || self.is_replaced;
        if self.draining {
            return is_asked || (self.database < applied && applied == last);
        }
        is_asked
            || self.pending.changes >= self.pace.changes_max
            || self.pending.bytes >= COMMIT_BYTES_MAX
            || self.since.is_some_and(|since| now.since(since) >= self.pace.interval)
            || (self.pending.changes > 0 && self.snapshot_due(applied))
    }
}
