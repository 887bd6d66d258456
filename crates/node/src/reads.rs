//! Linearizable reads: joined into batches, confirmed by raft, released when the state is there.
//!
//! ```text
//!  ReadIndex ─► waiting ─► asked (one batch at a time) ─► found at index ─► applied? ─► ReadReady
//! ```
//!
//! *Invariants.* A read joins only a batch that has not been asked for yet: the index found is
//! one that the leader had after the read came.

use std::collections::VecDeque;
use std::time::Duration;

use base::{LogIndex, Moment};
use bytes::Bytes;

use crate::effect::Answer;
use crate::input::Ticket;

/// After this time without an answer a batch is asked for again.
const RETRY: Duration = Duration::from_millis(500);

/// Reads that may wait; more are refused.
pub(crate) const WAITING_MAX: usize = 65_536;

struct Asked {
    context: u64,
    tickets: Vec<Ticket>,
    at: Moment,
}

/// Reads in their three stages.
#[derive(Default)]
pub(crate) struct Reads {
    waiting: Vec<Ticket>,
    asked: Option<Asked>,
    found: VecDeque<(LogIndex, Vec<Ticket>)>,
    /// How many `found` holds.
    found_count: usize,
    contexts: u64,
}

impl Reads {
    /// Takes a read in; false when there are too many.
    pub(crate) fn push(&mut self, ticket: Ticket) -> bool {
        if self.waiting.len() + self.found_count >= WAITING_MAX {
            return false;
        }
        self.waiting.push(ticket);
        true
    }

    /// The name under which raft is to be asked now, if it is.
    pub(crate) fn ask(&mut self, now: Moment) -> Option<Bytes> {
        match &mut self.asked {
            Some(asked) if now.since(asked.at) < RETRY => return None,
            Some(asked) => asked.at = now,
            None if self.waiting.is_empty() => return None,
            None => {
                self.contexts += 1;
                let tickets = std::mem::take(&mut self.waiting);
                self.asked = Some(Asked { context: self.contexts, tickets, at: now });
            }
        }
        self.asked.as_ref().map(|asked| asked.context.to_be_bytes().to_vec().into())
    }

    /// Raft has found the index for the batch of that name.
    pub(crate) fn found(&mut self, context: &[u8], index: LogIndex) {
        if let Some(asked) =
            self.asked.take_if(|asked| asked.context.to_be_bytes().as_slice() == context)
        {
            self.found_count += asked.tickets.len();
            self.found.push_back((index, asked.tickets));
        }
    }

    /// Releases what the state has reached.
    pub(crate) fn release(&mut self, applied: LogIndex, answers: &mut Vec<Answer>) {
        while let Some((_, tickets)) = self.found.pop_front_if(|(index, _)| *index <= applied) {
            self.found_count -= tickets.len();
            answers.extend(tickets.into_iter().map(Answer::ReadReady));
        }
    }

    /// Whether a batch could be asked for at once, or waits for its answer.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.asked.is_some()
    }
}
