//! Linearizable reads: joined into batches, confirmed by raft, released when the state is there.
//!
//! ```text
//!  ReadIndex ─► waiting ─► asked (one batch at a time) ─► found at index ─► applied? ─► ReadReady
//! ```
//!
//! The leader is asked, by this member itself or by message, under a name that nobody else uses.
//! When no answer comes, or another member leads, it is asked again under another name; an answer
//! to any of them will do.
//!
//! *Invariants.* A read joins only a batch that has not been asked for yet: the index found is
//! one that the leader had after the read came.
//!
//! *Contract.* `server/etcdserver/read` of etcd v3.7.1, which fails a batch when the leader
//! changes, where we ask the new one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, Moment, RequestIds};
use bytes::Bytes;

use crate::effect::Answer;
use crate::input::Ticket;
use crate::requests::Rejected;

/// After this time without an answer a batch is asked for again (`readIndexRetryTime`).
const RETRY: Duration = Duration::from_millis(500);

/// Reads that may wait; more are refused.
pub(crate) const WAITING_MAX: usize = 65_536;

/// Names under which one batch may be asked for: more than fit into its time, unless leaders
/// change very often. Answers to older ones are of no use then.
const CONTEXTS_MAX: usize = 32;

struct Asked {
    contexts: VecDeque<u64>,
    tickets: Vec<Ticket>,
    /// When the leader was asked last; `None` when it is to be asked now.
    at: Option<Moment>,
    /// When the batch is given up.
    until: Moment,
}

/// Reads in their three stages.
pub(crate) struct Reads {
    ids: Arc<RequestIds>,
    timeout: Duration,
    waiting: Vec<Ticket>,
    asked: Option<Asked>,
    found: VecDeque<(LogIndex, Vec<Ticket>)>,
    /// How many `asked` and `found` hold.
    later: usize,
}

impl Reads {
    /// No reads yet; each is given up when it was not confirmed after `timeout`.
    pub(crate) fn new(ids: Arc<RequestIds>, timeout: Duration) -> Self {
        Self { ids, timeout, waiting: Vec::new(), asked: None, found: VecDeque::new(), later: 0 }
    }

    /// Takes a read in; false when there are too many.
    pub(crate) fn push(&mut self, ticket: Ticket) -> bool {
        if self.waiting.len() + self.later >= WAITING_MAX {
            return false;
        }
        if is_on(Mutant::ReadJoinsAsked)
            && let Some(asked) = &mut self.asked
        {
            asked.tickets.push(ticket);
            self.later += 1;
            return true;
        }
        self.waiting.push(ticket);
        true
    }

    /// When there is something to do next.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let asked = self.asked.as_ref()?;
        Some(asked.until.min(asked.at.map_or(asked.until, |at| at + RETRY)))
    }

    /// The name under which raft is to be asked now, if it is.
    pub(crate) fn ask(&mut self, now: Moment, has_leader: bool) -> Option<Bytes> {
        if self.asked.is_none() && !self.waiting.is_empty() {
            let tickets = std::mem::take(&mut self.waiting);
            self.later += tickets.len();
            let (contexts, until) = (VecDeque::new(), now + self.timeout);
            self.asked = Some(Asked { contexts, tickets, at: None, until });
        }
        let asked = self.asked.as_mut()?;
        if !has_leader || asked.at.is_some_and(|at| now.since(at) < RETRY) {
            return None;
        }
        let context = self.ids.next().0;
        asked.at = Some(now);
        if asked.contexts.len() == CONTEXTS_MAX {
            asked.contexts.pop_front();
        }
        asked.contexts.push_back(context);
        Some(Bytes::copy_from_slice(&context.to_be_bytes()))
    }

    /// Another member leads: it knows nothing of what the one before was asked.
    pub(crate) fn leader_changed(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.at = None;
        }
    }

    /// Raft has found the index for the batch of that name.
    pub(crate) fn found(&mut self, context: &[u8], index: LogIndex) {
        let Ok(context) = context.try_into().map(u64::from_be_bytes) else { return };
        if let Some(asked) = self.asked.take_if(|asked| asked.contexts.contains(&context)) {
            self.found.push_back((index, asked.tickets));
        }
    }

    /// Releases what the state has reached.
    pub(crate) fn release(&mut self, applied: LogIndex, answers: &mut Vec<Answer>) {
        let is_there = |index: LogIndex| index <= applied || is_on(Mutant::ReadBeforeApplied);
        while let Some((_, tickets)) = self.found.pop_front_if(|(index, _)| is_there(*index)) {
            self.later -= tickets.len();
            answers.extend(tickets.into_iter().map(Answer::ReadReady));
        }
    }

    /// Gives up the batch that nobody has confirmed in time.
    pub(crate) fn expire(&mut self, now: Moment, answers: &mut Vec<Answer>) {
        if let Some(asked) = self.asked.take_if(|asked| asked.until <= now) {
            self.later -= asked.tickets.len();
            let refused = |ticket| Answer::TicketRefused(ticket, Rejected::Timeout);
            answers.extend(asked.tickets.into_iter().map(refused));
        }
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.later == 0
    }

    /// Refuses everyone who waits.
    pub(crate) fn refuse(&mut self, reason: &Rejected, answers: &mut Vec<Answer>) {
        let asked = self.asked.take().into_iter().flat_map(|asked| asked.tickets);
        let found = self.found.drain(..).flat_map(|(_, tickets)| tickets);
        let all = self.waiting.drain(..).chain(asked).chain(found);
        answers.extend(all.map(|ticket| Answer::TicketRefused(ticket, reason.clone())));
        self.later = 0;
    }
}
