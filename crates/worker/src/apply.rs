//! Owns the replicated state.
//!
//! *Invariants.*
//! 1. Whoever waits for an entry is answered after the view that has it is published.
//! 2. The answer to a physical compaction comes after a commit that has its removals.

use std::sync::Arc;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, Moment, RequestId};
use node::{ApplyEffect, ApplyReceipt, Pending};
use proto::raftpb::{ConfState, Entry, Snapshot};
use storage::snap::{Document, DocumentMember};
use store::{Applied, ApplyError, ConfChangeError, Member, Response, Shared, Store, Swept};

use crate::Fatal;
use crate::handoff::{Frozenness, Handoff};
use crate::install::{Place, ReceivedError, put_in_place};

/// Hears of what applying brings about, on the apply worker's thread.
pub trait Listener {
    /// A request is applied. Nobody may wait for it.
    fn answer(&mut self, id: RequestId, result: Result<Response, ApplyError>);
    /// A change of the members is applied, or has been refused; the members after it.
    fn conf_changed(&mut self, _: RequestId, _: Result<Vec<Member>, ConfChangeError>) {}
    /// An entry of the log is done with; its answer comes after this, if it has one.
    fn applied(&mut self, _applied: &Applied, _entry: &Entry) {}
    /// Something did not fit this member's quota: it is to raise the alarm.
    fn out_of_space(&mut self);
}

/// How far an answer to a physical compaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Sweeping,
    Swept,
    Frozen,
}

struct Physical {
    id: RequestId,
    result: Result<Response, ApplyError>,
    removal: Removal,
}

/// Executes the apply lane.
pub struct ApplyWorker {
    store: Store,
    handoff: Arc<Handoff>,
    place: Place,
    /// Physical compactions that wait; as many as there are requests at most.
    physical: Vec<Physical>,
}

impl ApplyWorker {
    /// A worker for an open store, whose database is at that place.
    pub fn new(store: Store, handoff: Arc<Handoff>, place: Place) -> Self {
        Self { store, handoff, place, physical: Vec::new() }
    }

    /// What readers share.
    pub fn shared(&self) -> Arc<Shared> {
        self.store.handle()
    }

    /// Does one effect.
    pub fn run(
        &mut self,
        effect: ApplyEffect,
        now: Moment,
        listener: &mut dyn Listener,
    ) -> Result<ApplyReceipt, Fatal> {
        match effect {
            ApplyEffect::Entries(entries) => self.apply(&entries, now, listener),
            ApplyEffect::Freeze => Ok(self.freeze()),
            ApplyEffect::Install(snapshot) => self.install(&snapshot, now),
            ApplyEffect::Publish => {
                self.publish(listener);
                Ok(ApplyReceipt::Changed { pending: self.pending() })
            }
        }
    }

    /// Whether a compaction has rows to remove (see [`ApplyWorker::sweep`]).
    pub fn is_sweeping(&self) -> bool {
        self.store.is_compacting()
    }

    /// Removes one bounded slice of what compactions left. To be called while no effect waits, and
    /// now and then while some do.
    pub fn sweep(&mut self) -> Result<ApplyReceipt, Fatal> {
        self.store.compact_slice()?;
        self.note_swept();
        Ok(ApplyReceipt::Changed { pending: self.pending() })
    }

    /// What the last slice did.
    pub fn last_slice(&self) -> Swept {
        self.store.last_slice()
    }

    fn apply(
        &mut self,
        entries: &[Entry],
        now: Moment,
        listener: &mut dyn Listener,
    ) -> Result<ApplyReceipt, Fatal> {
        let mut index = LogIndex::default();
        let (mut conf_changes, mut finished) = (Vec::new(), Vec::new());
        let mut force_snapshot = false;
        for entry in entries {
            let applied = self.store.apply(entry, now)?;
            index = applied.index;
            listener.applied(&applied, entry);
            force_snapshot |= applied.force_snapshot;
            if let Some(changed) = &applied.conf_change {
                conf_changes.push(changed.change.clone());
                if let Some(id) = applied.request {
                    let members = changed.refused.map_or_else(|| Ok(changed.members.clone()), Err);
                    listener.conf_changed(id, members);
                }
            }
            if applied.raise_no_space {
                listener.out_of_space();
            }
            self.answer(applied, &mut finished, listener);
        }
        self.note_swept();
        let pending = self.pending();
        Ok(ApplyReceipt::Entries { index, conf_changes, finished, force_snapshot, pending })
    }

    fn answer(
        &mut self,
        applied: Applied,
        finished: &mut Vec<RequestId>,
        listener: &mut dyn Listener,
    ) {
        let Some(id) = applied.request else { return };
        // The node's own requests are among those that have no answer, or revoke a lease.
        if matches!(applied.result, Ok(Response::Empty | Response::LeaseRevoke(_)) | Err(_)) {
            finished.push(id);
        }
        if applied.physical_compaction {
            let removal = Removal::Sweeping;
            self.physical.push(Physical { id, result: applied.result, removal });
        } else {
            listener.answer(id, applied.result);
        }
    }

    fn freeze(&mut self) -> ApplyReceipt {
        let frozen = self.store.freeze();
        let upto = frozen.as_ref().map(|frozen| frozen.upto);
        let (index, term) = self.store.applied();
        let shared = self.store.handle();
        self.handoff.put_frozen(Frozenness {
            frozen,
            term,
            document: document(&shared, index),
            conf_state: conf_state(&shared),
        });
        for physical in &mut self.physical {
            if physical.removal == Removal::Swept {
                physical.removal = Removal::Frozen;
            }
        }
        ApplyReceipt::Frozen { upto, pending: self.pending() }
    }

    fn publish(&mut self, listener: &mut dyn Listener) {
        if let Some(view) = self.handoff.take_committed() {
            self.store.committed(view);
        }
        let done = |physical: &mut Physical| physical.removal == Removal::Frozen;
        for Physical { id, result, .. } in self.physical.extract_if(.., done) {
            listener.answer(id, result);
        }
    }

    /// Puts a received database into the place of everything. The old one is closed when its last
    /// view is gone, and the commit worker has taken the new one out of the handoff.
    fn install(&mut self, snapshot: &Snapshot, now: Moment) -> Result<ApplyReceipt, Fatal> {
        let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index());
        let index = LogIndex(index);
        assert!(!self.store.is_committing(), "a commit was under way during an install");
        let database = put_in_place(&self.place, index)?;
        self.store.replace(database.view(), now).map_err(ReceivedError::from)?;
        self.handoff.put_installed(database);
        // Whoever waits for the removal of rows waits for that of the new state.
        self.note_swept();
        Ok(ApplyReceipt::Installed { index, pending: self.pending() })
    }

    fn note_swept(&mut self) {
        if self.store.is_compacting() {
            return;
        }
        for physical in &mut self.physical {
            if physical.removal == Removal::Sweeping {
                physical.removal = Removal::Swept;
            }
        }
    }

    fn pending(&self) -> Pending {
        // A swept compaction wants a commit even when it had nothing to remove.
        let swept = self.physical.iter().any(|physical| physical.removal == Removal::Swept);
        let changes = self.store.changes_pending().max(usize::from(swept));
        Pending { changes, bytes: self.store.bytes_pending() }
    }
}

/// Who the members are.
fn document(shared: &Shared, index: LogIndex) -> Document {
    let members = shared.members().into_iter().map(|member| DocumentMember {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    });
    Document {
        index,
        members: members.collect(),
        removed: shared.removed_members(),
        cluster_version: shared.cluster_version(),
    }
}

fn conf_state(shared: &Shared) -> ConfState {
    let row = shared.conf_state();
    ConfState {
        voters: row.voters,
        learners: if is_on(Mutant::SnapshotWithoutLearners) { Vec::new() } else { row.learners },
        auto_leave: Some(row.auto_leave),
        ..ConfState::default()
    }
}
