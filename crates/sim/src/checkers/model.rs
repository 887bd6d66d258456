//! etcd's key space, naively: what every request must be answered, and what it changes.
//!
//! *Invariants.*
//! 1. Written from the description of the behaviour, not from the store: the two meet only in the
//!    shape of requests and answers.
//! 2. A copy shares its maps with the original until one of them changes.
//! 3. A request that fails changes nothing; one that changes keys makes one revision.
//!
//! *Absent.* Time (leases last until they are revoked), alarms, the removal of compacted rows:
//! compacted revisions are refused, and that is all that a client can tell.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use base::limits::LEASE_TTL_MAX_SECONDS;
use base::{LeaseId, Revision};
use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use proto::mvccpb::KeyValue;
use store::{ApplyError, Response};

use crate::history::Call;

#[cfg(test)]
mod against_store;
mod answers;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
mod truth;

pub use answers::{agrees, header_revision, is_read, is_serializable, tells_of_changes};
pub(crate) use truth::short;
pub use truth::{Logged, Truth, logged};

/// Every key that exists, by name.
pub type Keys = BTreeMap<Bytes, KeyValue>;

/// One change of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What was written; of a delete, the key and the revision only.
    pub kv: KeyValue,
    /// The key is gone.
    pub is_delete: bool,
    /// The key just before, by what the same transaction did earlier.
    pub before: Option<KeyValue>,
}

impl Change {
    fn undo(&self, keys: &mut Keys) {
        match &self.before {
            Some(before) => keys.insert(before.key.clone(), before.clone()),
            None => keys.remove(&self.kv.key),
        };
    }

    fn redo(&self, keys: &mut Keys) {
        if self.is_delete {
            keys.remove(&self.kv.key);
        } else {
            keys.insert(self.kv.key.clone(), self.kv.clone());
        }
    }
}

/// The changes of one revision, and those before it.
#[derive(Debug)]
struct Past {
    revision: i64,
    changes: Arc<[Change]>,
    earlier: Option<Arc<Self>>,
}

impl Drop for Past {
    fn drop(&mut self) {
        // One by one: a long past would not fit the stack.
        let mut earlier = self.earlier.take();
        while let Some(mut past) = earlier.and_then(Arc::into_inner) {
            earlier = past.earlier.take();
        }
    }
}

/// A key space with its history.
#[derive(Debug, Clone)]
pub struct Model {
    keys: Arc<Keys>,
    leases: Arc<BTreeSet<i64>>,
    revision: i64,
    compacted: i64,
    past: Option<Arc<Past>>,
    /// What the transaction under way has changed.
    pending: Vec<Change>,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// The key space of a new cluster.
    pub fn new() -> Self {
        Self {
            keys: Arc::default(),
            leases: Arc::default(),
            revision: 1,
            compacted: Revision::NEVER.get(),
            past: None,
            pending: Vec::new(),
        }
    }

    /// The newest revision.
    pub const fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// The newest compaction, [`Revision::NEVER`] before the first.
    pub const fn compacted(&self) -> Revision {
        Revision(self.compacted)
    }

    /// Every key that exists.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Every lease that exists.
    pub fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().copied().map(LeaseId)
    }

    /// The changes of the newest revision, in order.
    pub fn newest_changes(&self) -> &[Change] {
        self.past.as_ref().map_or(&[], |past| &past.changes)
    }

    /// Answers a request and does what it asks for.
    ///
    /// # Errors
    /// The error that the request must be answered with; nothing is changed then.
    pub fn apply(&mut self, call: &Call) -> Result<Response, ApplyError> {
        let response = match call {
            Call::Range(request) => Response::Range(self.range(request)?),
            Call::Put(request) => {
                self.check_put(request, &[])?;
                Response::Put(self.put(request))
            }
            Call::DeleteRange(request) => Response::DeleteRange(self.delete_range(request)),
            Call::Txn(request) => Response::Txn(self.txn(request)?),
            Call::Compact(request) => Response::Compaction(self.compact(request)?),
            Call::LeaseGrant(request) => Response::LeaseGrant(self.grant(request)?),
            Call::LeaseRevoke(request) => Response::LeaseRevoke(self.revoke(request)?),
        };
        self.seal();
        Ok(response)
    }

    /// Gives what is pending its revision.
    fn seal(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.revision += 1;
        let changes = std::mem::take(&mut self.pending).into();
        let earlier = self.past.take();
        self.past = Some(Arc::new(Past { revision: self.revision, changes, earlier }));
    }

    /// Repeats the changes of the next revision.
    fn redo(&mut self, changes: &Arc<[Change]>) {
        let keys = Arc::make_mut(&mut self.keys);
        changes.iter().for_each(|change| change.redo(keys));
        self.revision += 1;
        let (changes, earlier) = (Arc::clone(changes), self.past.take());
        self.past = Some(Arc::new(Past { revision: self.revision, changes, earlier }));
    }

    /// The revision that a reader inside the transaction under way sees.
    fn current(&self) -> i64 {
        self.revision + i64::from(!self.pending.is_empty())
    }

    fn header(&self) -> Option<ResponseHeader> {
        header(self.current())
    }

    /// The keys as they were at `at`, which is not compacted.
    fn keys_at(&self, at: i64) -> Arc<Keys> {
        if at >= self.current() {
            return Arc::clone(&self.keys);
        }
        let mut keys = (*self.keys).clone();
        self.pending.iter().rev().for_each(|change| change.undo(&mut keys));
        let mut past = self.past.as_ref();
        while let Some(step) = past.filter(|step| step.revision > at) {
            step.changes.iter().rev().for_each(|change| change.undo(&mut keys));
            past = step.earlier.as_ref();
        }
        Arc::new(keys)
    }

    /// Answers a read.
    ///
    /// # Errors
    /// The revision is compacted, or not there yet.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ApplyError> {
        let at = if request.revision > 0 { request.revision } else { self.current() };
        if at > self.current() {
            return Err(ApplyError::FutureRevision);
        }
        if at < self.compacted {
            return Err(ApplyError::Compacted);
        }
        let keys = self.keys_at(at);
        let mut found = inside(&keys, &request.key, &request.range_end);
        let (header, count) = (self.header(), found.len() as i64);
        if request.count_only {
            return Ok(RangeResponse { header, kvs: Vec::new(), more: false, count });
        }
        // A sort by anything but the key that names no order ascends, but only sorts what the
        // limit has left; filters undo that.
        let by_key = request.sort_target == SortTarget::Key as i32;
        let unordered = request.sort_order == SortOrder::None as i32;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        if unordered && !is_filtered(request) && limit > 0 {
            found.truncate(limit + 1);
        }
        found.retain(|kv| passes(request, kv));
        if !(by_key && unordered) {
            let descends = request.sort_order == SortOrder::Descend as i32;
            found.sort_by(|one, two| {
                let order = by_target(request.sort_target, one, two);
                if descends { order.reverse() } else { order }
            });
        }
        let more = limit > 0 && found.len() > limit;
        if more {
            found.truncate(limit);
        }
        let keeps_lease = !request.keys_only || request.sort_target == SortTarget::Value as i32;
        let show = |kv: &KeyValue| KeyValue {
            value: if request.keys_only { Bytes::new() } else { kv.value.clone() },
            lease: if keeps_lease { kv.lease } else { 0 },
            ..kv.clone()
        };
        Ok(RangeResponse { header, kvs: found.into_iter().map(show).collect(), more, count })
    }

    /// `deletes` are those that the same transaction does before.
    fn check_put(
        &self,
        request: &PutRequest,
        deletes: &[&DeleteRangeRequest],
    ) -> Result<(), ApplyError> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(ApplyError::LeaseNotFound);
        }
        if !request.ignore_value && !request.ignore_lease {
            return Ok(());
        }
        let deleted =
            |delete: &&DeleteRangeRequest| is_inside(&request.key, &delete.key, &delete.range_end);
        if !self.keys.contains_key(&request.key) || deletes.iter().any(deleted) {
            return Err(ApplyError::KeyNotFound);
        }
        Ok(())
    }

    fn put(&mut self, request: &PutRequest) -> PutResponse {
        let revision = self.revision + 1;
        let before = self.keys.get(&request.key).cloned();
        let old = before.as_ref();
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: old.map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.map_or(1, |old| old.version + 1),
            value: match old.filter(|_| request.ignore_value) {
                Some(old) => old.value.clone(),
                None => request.value.clone(),
            },
            lease: match old.filter(|_| request.ignore_lease) {
                Some(old) => old.lease,
                None => request.lease,
            },
        };
        let prev_kv = before.clone().filter(|_| request.prev_kv);
        self.change(Change { kv, is_delete: false, before });
        PutResponse { header: self.header(), prev_kv }
    }

    fn change(&mut self, change: Change) {
        change.redo(Arc::make_mut(&mut self.keys));
        self.pending.push(change);
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let doomed = inside(&self.keys, &request.key, &request.range_end);
        let doomed: Vec<KeyValue> = doomed.into_iter().cloned().collect();
        let deleted = doomed.len() as i64;
        let prev_kvs = if request.prev_kv { doomed.clone() } else { Vec::new() };
        self.delete(doomed);
        DeleteRangeResponse { header: self.header(), deleted, prev_kvs }
    }

    fn delete(&mut self, doomed: Vec<KeyValue>) {
        let mod_revision = self.revision + 1;
        for before in doomed {
            let kv = KeyValue { key: before.key.clone(), mod_revision, ..KeyValue::default() };
            self.change(Change { kv, is_delete: true, before: Some(before) });
        }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, ApplyError> {
        let mut path = Vec::new();
        self.choose(request, &mut path);
        self.check_txn(request, &mut path.iter(), &mut Vec::new())?;
        let mut response = self.run(request, &mut path.iter());
        response.header = self.header();
        Ok(response)
    }

    /// Decides every branch, in the order in which transactions are met.
    fn choose(&self, request: &TxnRequest, path: &mut Vec<bool>) {
        let holds = request.compare.iter().all(|compare| self.holds(compare));
        path.push(holds);
        for op in branch(request, holds) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.choose(nested, path);
            }
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found = inside(&self.keys, &compare.key, &compare.range_end);
        if found.is_empty() {
            let by_value = compare.target == CompareTarget::Value as i32;
            return !by_value && satisfies(compare, &KeyValue::default());
        }
        found.into_iter().all(|kv| satisfies(compare, kv))
    }

    fn check_txn<'a>(
        &self,
        request: &'a TxnRequest,
        path: &mut std::slice::Iter<'_, bool>,
        deletes: &mut Vec<&'a DeleteRangeRequest>,
    ) -> Result<(), ApplyError> {
        for op in branch(request, next(path)) {
            match &op.request {
                Some(Request::RequestRange(range)) => {
                    let at = range.revision;
                    if at > self.revision {
                        return Err(ApplyError::FutureRevision);
                    }
                    if at != 0 && at < self.compacted {
                        return Err(ApplyError::Compacted);
                    }
                }
                Some(Request::RequestPut(put)) => self.check_put(put, deletes)?,
                Some(Request::RequestDeleteRange(delete)) => deletes.push(delete),
                Some(Request::RequestTxn(nested)) => self.check_txn(nested, path, deletes)?,
                None => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> TxnResponse {
        let succeeded = next(path);
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = op.request.as_ref().map(|request| match request {
                Request::RequestRange(range) => {
                    OpResponse::ResponseRange(self.range(range).expect("checked before"))
                }
                Request::RequestPut(put) => OpResponse::ResponsePut(self.put(put)),
                Request::RequestDeleteRange(delete) => {
                    OpResponse::ResponseDeleteRange(self.delete_range(delete))
                }
                Request::RequestTxn(nested) => OpResponse::ResponseTxn(self.run(nested, path)),
            });
            responses.push(ResponseOp { response });
        }
        // Only the outermost one tells the revision.
        TxnResponse { header: header(0), succeeded, responses }
    }

    fn compact(&mut self, request: &CompactionRequest) -> Result<CompactionResponse, ApplyError> {
        if request.revision <= self.compacted {
            return Err(ApplyError::Compacted);
        }
        if request.revision > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        self.compacted = request.revision;
        Ok(CompactionResponse { header: self.header() })
    }

    fn grant(&mut self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, ApplyError> {
        let &LeaseGrantRequest { ttl, id } = request;
        if id == 0 {
            return Err(ApplyError::LeaseNotFound);
        }
        if ttl > LEASE_TTL_MAX_SECONDS {
            return Err(ApplyError::TtlTooLarge);
        }
        if self.leases.contains(&id) {
            return Err(ApplyError::LeaseExists);
        }
        Arc::make_mut(&mut self.leases).insert(id);
        Ok(LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() })
    }

    fn revoke(&mut self, request: &LeaseRevokeRequest) -> Result<LeaseRevokeResponse, ApplyError> {
        if !self.leases.contains(&request.id) {
            return Err(ApplyError::LeaseNotFound);
        }
        Arc::make_mut(&mut self.leases).remove(&request.id);
        let attached = self.keys.values().filter(|kv| kv.lease == request.id);
        let doomed = attached.cloned().collect();
        self.delete(doomed);
        Ok(LeaseRevokeResponse { header: self.header() })
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn next(path: &mut std::slice::Iter<'_, bool>) -> bool {
    *path.next().expect("a path has a branch for every transaction on it")
}

fn branch(request: &TxnRequest, holds: bool) -> &[RequestOp] {
    if holds { &request.success } else { &request.failure }
}

/// Whether `key` lies in the interval of a request.
pub fn is_inside(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

/// What exists of an interval, ascending.
fn inside<'a>(keys: &'a Keys, from: &[u8], end: &[u8]) -> Vec<&'a KeyValue> {
    let end = match end {
        [] => return keys.get(from).into_iter().collect(),
        [0] => Bound::Unbounded,
        end if end <= from => return Vec::new(),
        end => Bound::Excluded(end),
    };
    keys.range::<[u8], _>((Bound::Included(from), end)).map(|(_, kv)| kv).collect()
}

fn is_filtered(request: &RangeRequest) -> bool {
    let of_change = request.min_mod_revision != 0 || request.max_mod_revision != 0;
    of_change || request.min_create_revision != 0 || request.max_create_revision != 0
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let (min, max) = (request.min_mod_revision, request.max_mod_revision);
    let (min_create, max_create) = (request.min_create_revision, request.max_create_revision);
    (min == 0 || kv.mod_revision >= min)
        && (max == 0 || kv.mod_revision <= max)
        && (min_create == 0 || kv.create_revision >= min_create)
        && (max_create == 0 || kv.create_revision <= max_create)
}

fn by_target(target: i32, one: &KeyValue, two: &KeyValue) -> Ordering {
    match SortTarget::try_from(target) {
        Ok(SortTarget::Version) => one.version.cmp(&two.version),
        Ok(SortTarget::Create) => one.create_revision.cmp(&two.create_revision),
        Ok(SortTarget::Mod) => one.mod_revision.cmp(&two.mod_revision),
        Ok(SortTarget::Value) => one.value.cmp(&two.value),
        Ok(SortTarget::Key) | Err(_) => one.key.cmp(&two.key),
    }
}

/// Whether a compare holds for one key. An operand of another kind than the target's is zero.
fn satisfies(compare: &Compare, kv: &KeyValue) -> bool {
    use TargetUnion as Operand;
    let operand = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match operand {
            Some(Operand::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
        Ok(CompareTarget::Version) => match operand {
            Some(Operand::Version(version)) => kv.version.cmp(version),
            _ => kv.version.cmp(&0),
        },
        Ok(CompareTarget::Create) => match operand {
            Some(Operand::CreateRevision(revision)) => kv.create_revision.cmp(revision),
            _ => kv.create_revision.cmp(&0),
        },
        Ok(CompareTarget::Mod) => match operand {
            Some(Operand::ModRevision(revision)) => kv.mod_revision.cmp(revision),
            _ => kv.mod_revision.cmp(&0),
        },
        Ok(CompareTarget::Lease) => match operand {
            Some(Operand::Lease(lease)) => kv.lease.cmp(lease),
            _ => kv.lease.cmp(&0),
        },
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
