//! Read requests on their way to an index from which on they are linearizable.
//!
//! *Invariants.* A leader answers only after an entry of its own term is committed: before, it
//! does not know what its predecessors committed.
//!
//! *Absent.* Asking a quorum by heartbeat whether this member still leads: for the sole voter
//! there is nobody to ask; others come with replication.

use base::LogIndex;
use bytes::Bytes;

use crate::core::Raft;
use crate::duties::ReadState;

/// Requests that may wait for a new leader's first commit. Beyond, they are dropped, as they are
/// without a leader: who asked tries again.
const WAITING_MAX: usize = 1024;

/// Requests in the two states that they go through.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Until the first commit of the term.
    waiting: Vec<Bytes>,
    /// Until the next duties.
    ready: Vec<ReadState>,
}

impl Reads {
    pub(crate) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn push_ready(&mut self, state: ReadState) {
        self.ready.push(state);
    }

    pub(crate) fn take_ready(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.ready)
    }
}

impl Raft {
    pub(crate) fn read_index_as_leader(&mut self, context: Bytes) {
        if !self.has_committed_in_term() {
            if self.reads.waiting.len() < WAITING_MAX {
                self.reads.waiting.push(context);
            }
        } else if self.is_sole_voter() {
            let index: LogIndex = self.log.committed();
            self.reads.ready.push(ReadState { index, context });
        }
    }

    /// The first entry of the term is committed: whoever waited for it is served.
    pub(crate) fn release_reads(&mut self) {
        for context in std::mem::take(&mut self.reads.waiting) {
            self.read_index_as_leader(context);
        }
    }
}
