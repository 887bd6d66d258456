//! The log, replayed through the model: what must have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{LogIndex, RequestId, Revision, Term};
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::raftpb::{ConfChange, Entry, EntryType};
use store::Response;

use super::{Change, Keys, Model, agrees};
use crate::checkers::Violation;
use crate::history::{Call, Log};

const CHECKER: &str = "model";

/// Revisions between two kept states.
const KEEP_EVERY: usize = 64;

/// An entry that holds a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// Its position.
    pub index: LogIndex,
    /// In whose term it was proposed.
    pub term: Term,
    /// By which id it is waited for.
    pub request: RequestId,
    /// What it asks of keys and leases; `None` for everything else.
    pub call: Option<Call>,
}

/// The requests of a log, in order.
///
/// # Errors
/// An entry is not a request, lies behind a gap, or has the id of another one.
pub fn logged(log: &Log) -> Result<Vec<Logged>, Violation> {
    let mut all = Vec::with_capacity(log.entries.len());
    let mut ids = BTreeMap::new();
    let mut before: Option<LogIndex> = None;
    for (&index, entry) in &log.entries {
        if before.is_some_and(|before| before.next() != index) {
            return Err(Violation::new(CHECKER, format!("no entry before entry {index}")));
        }
        before = Some(index);
        let found = decode(index, entry)
            .map_err(|what| Violation::new(CHECKER, format!("entry {index}: {what}")))?;
        let Some(found) = found else { continue };
        if let Some(first) = ids.insert(found.request, index) {
            let what =
                format!("request {} is applied twice, as entry {first} and {index}", found.request);
            return Err(Violation::new(CHECKER, what));
        }
        all.push(found);
    }
    Ok(all)
}

fn decode(index: LogIndex, entry: &Entry) -> Result<Option<Logged>, String> {
    let data = entry.data.clone().unwrap_or_default();
    let term = Term(entry.term.unwrap_or_default());
    let (id, call) = match EntryType::try_from(entry.r#type.unwrap_or_default()) {
        Ok(EntryType::EntryNormal) if data.is_empty() => return Ok(None),
        Ok(EntryType::EntryNormal) => {
            let request = InternalRaftRequest::decode(data).map_err(|error| error.to_string())?;
            let header = request.header.as_ref().map_or(0, |header| header.id);
            let id = if request.id != 0 { request.id } else { header };
            if id == 0 {
                return Err("a request without an id".into());
            }
            (id, call(request))
        }
        Ok(EntryType::EntryConfChange) => {
            let change = ConfChange::decode(data).map_err(|error| error.to_string())?;
            // The first members of a cluster are added by nobody's request.
            if change.id() == 0 {
                return Ok(None);
            }
            (change.id(), None)
        }
        kind => return Err(format!("an entry of type {kind:?}")),
    };
    Ok(Some(Logged { index, term, request: RequestId(id), call }))
}

fn call(request: InternalRaftRequest) -> Option<Call> {
    let InternalRaftRequest { put, delete_range, txn, compaction, .. } = request;
    let (grant, revoke) = (request.lease_grant, request.lease_revoke);
    put.map(Call::Put)
        .or(delete_range.map(Call::DeleteRange))
        .or(txn.map(Call::Txn))
        .or(compaction.map(Call::Compact))
        .or(grant.map(Call::LeaseGrant))
        .or(revoke.map(Call::LeaseRevoke))
}

/// One revision.
#[derive(Debug, Clone)]
struct Made {
    by: RequestId,
    changes: Arc<[Change]>,
    /// The newest compaction when it was made.
    compacted: i64,
}

/// What the log says, by the model.
#[derive(Debug, Clone)]
pub struct Truth {
    /// The first is revision 2: a new cluster has 1.
    made: Vec<Made>,
    compactions: Vec<Revision>,
    /// States, [`KEEP_EVERY`] revisions apart.
    kept: Vec<Model>,
    newest: Model,
}

impl Truth {
    /// Replays a log.
    ///
    /// # Errors
    /// A request is in the log twice, or had another outcome than it must have had.
    pub fn of(log: &Log) -> Result<Self, Violation> {
        let newest = Model::new();
        let kept = vec![newest.clone()];
        let mut truth = Self { made: Vec::new(), compactions: Vec::new(), kept, newest };
        let all = logged(log)?;
        for entry in &all {
            if let Some(call) = &entry.call {
                truth.replay(log, entry, call)?;
            }
        }
        let ids: BTreeSet<RequestId> = all.iter().map(|entry| entry.request).collect();
        for (id, outcome) in &log.outcomes {
            // What has no answer may be no request at all.
            if *outcome != Ok(Response::Empty) && !ids.contains(id) {
                let what = format!("request {id} has an outcome, but is not in the log");
                return Err(Violation::new(CHECKER, what));
            }
        }
        Ok(truth)
    }

    fn replay(&mut self, log: &Log, entry: &Logged, call: &Call) -> Result<(), Violation> {
        let before = self.newest.revision();
        let compacted = self.newest.compacted;
        let predicted = self.newest.apply(call);
        let seen = log.outcomes.get(&entry.request);
        let seen = seen.map(|seen| seen.as_ref().map_err(|error| *error));
        if !seen.is_some_and(|seen| agrees(&predicted, seen)) {
            let (index, id) = (entry.index, entry.request);
            let what = format!(
                "entry {index}, request {id}: {} must be answered {}, was answered {}",
                short(call),
                short(&predicted),
                seen.map_or_else(|| "nothing".into(), |seen| short(&seen)),
            );
            return Err(Violation::new(CHECKER, what));
        }
        if self.newest.revision() != before {
            let changes =
                self.newest.past.as_ref().map(|past| Arc::clone(&past.changes)).unwrap_or_default();
            self.made.push(Made { by: entry.request, changes, compacted });
            if self.made.len().is_multiple_of(KEEP_EVERY) {
                self.kept.push(self.newest.clone());
            }
        }
        if self.newest.compacted != compacted {
            self.compactions.push(self.newest.compacted());
        }
        Ok(())
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.newest.revision()
    }

    /// The key space at the end.
    pub fn newest(&self) -> &Model {
        &self.newest
    }

    /// The compactions, in order.
    pub fn compactions(&self) -> &[Revision] {
        &self.compactions
    }

    fn at(&self, revision: Revision) -> Option<&Made> {
        usize::try_from(revision.get() - 2).ok().and_then(|at| self.made.get(at))
    }

    /// The changes of a revision, in order; none for one that is not there.
    pub fn changes(&self, revision: Revision) -> &[Change] {
        self.at(revision).map_or(&[], |made| &made.changes)
    }

    /// Which request has made a revision.
    pub fn maker(&self, revision: Revision) -> Option<RequestId> {
        self.at(revision).map(|made| made.by)
    }

    /// The key space when `revision` was the newest one, with no compaction that came after it;
    /// without its leases. `None` for a revision that is not there.
    pub fn model_at(&self, revision: Revision) -> Option<Model> {
        let made = usize::try_from(revision.get() - 1).ok().filter(|at| *at <= self.made.len())?;
        let mut model = self.kept[made / KEEP_EVERY].clone();
        for step in &self.made[made - made % KEEP_EVERY..made] {
            model.redo(&step.changes);
        }
        model.compacted =
            self.at(revision).map_or(Revision::NEVER.get(), |reached| reached.compacted);
        Some(model)
    }

    /// Every key that existed at `revision`.
    pub fn keys_at(&self, revision: Revision) -> Option<Keys> {
        self.model_at(revision).map(|model| model.keys().clone())
    }
}

/// The beginning of what something looks like, for a message of one line.
pub(crate) fn short(what: &impl std::fmt::Debug) -> String {
    const CHARS_MAX: usize = 400;
    let whole = format!("{what:?}");
    match whole.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}
