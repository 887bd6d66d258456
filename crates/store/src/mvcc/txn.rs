//! Transactions: compares, the path they choose, the checks before any effect, and those that
//! only read.
//!
//! ```text
//!  compares of all levels ──► path ──► checks along the path ──► operations in order
//!        (on the state before)           (nothing done yet)         (see earlier ones)
//! ```
//!
//! *Invariants.*
//! 1. The path is decided before anything runs, nested transactions included.
//! 2. A failed check leaves no effect. After the checks nothing can fail but the database.
//!
//! *Contract.* `server/etcdserver/txn/txn.go` of etcd v3.7.1.

use std::cmp::Ordering;

use base::{LeaseId, Revision};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, response_op,
};
use proto::mvccpb::KeyValue;

use super::index::{self, End};
use super::range::Answer;
use super::row::Parts;
use super::view::View;
use crate::error::{ApplyError, Damage, ReadError};
use crate::lease::Lessor;
use crate::operation::Counts;

/// A transaction ended without an effect.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// By its own rules.
    #[error(transparent)]
    Refused(#[from] ApplyError),
    /// Its state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Whether no branch holds anything but ranges: such a transaction needs no log entry. A nested
/// transaction counts as a write whatever it holds.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let is_range = |op: &RequestOp| matches!(op.request, Some(Request::RequestRange(_)));
    request.success.iter().chain(&request.failure).all(is_range)
}

/// Answers a transaction that only reads, and adds what it did to `counts`.
pub fn read_txn(
    view: &View,
    request: &TxnRequest,
    counts: &mut Counts,
) -> Result<TxnResponse, TxnError> {
    let mut pass = Counts::default();
    let answer = read_txn_in(view, request, &mut pass);
    counts.add(pass);
    answer
}

fn read_txn_in(
    view: &View,
    request: &TxnRequest,
    pass: &mut Counts,
) -> Result<TxnResponse, TxnError> {
    assert!(is_read_only(request), "only ranges can be answered from a view");
    let path = Path::decide(view, request)?;
    pass.ranges += path.compares();
    let ops = path.ops(request);
    for op in ops {
        if let Some(Request::RequestRange(range)) = &op.request {
            check_range(view, range)?;
        }
    }
    let mut responses = Vec::with_capacity(ops.len());
    for op in ops {
        if let Some(Request::RequestRange(range)) = &op.request {
            pass.ranges += 1;
            let answer = range_response(view, range)?;
            responses.push(response(response_op::Response::ResponseRange(answer)));
        }
    }
    let header = Some(header(view.revision()));
    Ok(TxnResponse { header, succeeded: path.succeeded, responses })
}

pub(super) fn header(revision: Revision) -> ResponseHeader {
    ResponseHeader { revision: revision.0, ..ResponseHeader::default() }
}

pub(super) fn response(response: response_op::Response) -> ResponseOp {
    ResponseOp { response: Some(response) }
}

/// A range inside a transaction, as a message. Values share the memory they are stored in.
pub(super) fn range_response(
    view: &View,
    request: &RangeRequest,
) -> Result<RangeResponse, ReadError> {
    let mut kvs = Vec::new();
    let summary = view.answers(request, &mut |answer| {
        let decoded = match answer {
            Answer::Stored(bytes) => proto::decode::<KeyValue>(bytes),
            Answer::Made(bytes) => proto::decode::<KeyValue>(bytes),
        };
        kvs.push(decoded.map_err(|_| malformed(&request.key))?);
        Ok(())
    })?;
    let header = Some(header(view.revision()));
    Ok(RangeResponse { header, kvs, more: summary.more, count: summary.count })
}

fn malformed(key: &[u8]) -> ReadError {
    Damage::row(crate::schema::KEY, key, "not a key-value message").into()
}

/// Which branch every transaction takes, the nested ones in the order of their operations.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) succeeded: bool,
    nested: Vec<Self>,
    /// Compares that were evaluated, the nested ones apart.
    compares: u64,
}

impl Path {
    /// Evaluates the compares of all levels on `view`.
    pub(super) fn decide(view: &View, request: &TxnRequest) -> Result<Self, ReadError> {
        let (mut succeeded, mut compares) = (true, 0);
        for compare in &request.compare {
            compares += 1;
            if !holds(view, compare)? {
                succeeded = false;
                break;
            }
        }
        let mut path = Self { succeeded, nested: Vec::new(), compares };
        for op in path.ops(request) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                path.nested.push(Self::decide(view, nested)?);
            }
        }
        Ok(path)
    }

    pub(super) fn ops<'a>(&self, request: &'a TxnRequest) -> &'a [RequestOp] {
        if self.succeeded { &request.success } else { &request.failure }
    }

    /// Compares that were evaluated at all levels.
    pub(super) fn compares(&self) -> u64 {
        self.compares + self.nested.iter().map(Self::compares).sum::<u64>()
    }

    pub(super) fn nested(&self) -> impl Iterator<Item = &Self> {
        self.nested.iter()
    }

    /// Checks every operation along the path on the state before the transaction, and counts the
    /// reads of it.
    pub(super) fn check(
        &self,
        view: &View,
        lessor: &Lessor,
        request: &TxnRequest,
        ranges: &mut u64,
    ) -> Result<(), TxnError> {
        self.check_after(view, lessor, request, &mut Vec::new(), ranges)
    }

    /// The same; `deletes` are the intervals that the operations before delete.
    fn check_after<'a>(
        &self,
        view: &View,
        lessor: &Lessor,
        request: &'a TxnRequest,
        deletes: &mut Vec<&'a DeleteRangeRequest>,
        ranges: &mut u64,
    ) -> Result<(), TxnError> {
        let mut nested = self.nested();
        for op in self.ops(request) {
            match &op.request {
                Some(Request::RequestRange(range)) => check_range(view, range)?,
                Some(Request::RequestPut(put)) => {
                    let checked = check_put(view, lessor, put);
                    *ranges += ranges_of_check(put, &checked);
                    checked?;
                    check_still_there(put, deletes)?;
                }
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path has a part for every nested one");
                    path.check_after(view, lessor, request, deletes, ranges)?;
                }
                Some(Request::RequestDeleteRange(delete)) => deletes.push(delete),
                None => {}
            }
        }
        Ok(())
    }
}

/// Whether a put builds on a key that its own transaction has deleted. etcd lets such a
/// transaction pass its checks when the interval has no end, and panics in the middle of it.
fn check_still_there(put: &PutRequest, deletes: &[&DeleteRangeRequest]) -> Result<(), ApplyError> {
    let deleted = |delete: &&DeleteRangeRequest| match End::of(&delete.range_end) {
        End::Single => put.key == delete.key,
        end => put.key >= delete.key && end.covers(&put.key),
    };
    if (put.ignore_value || put.ignore_lease) && deletes.iter().any(deleted) {
        return Err(ApplyError::KeyNotFound);
    }
    Ok(())
}

fn check_range(view: &View, request: &RangeRequest) -> Result<(), ApplyError> {
    let at = Revision(request.revision);
    if at == Revision(0) {
        Ok(())
    } else if at > view.revision() {
        Err(ApplyError::FutureRevision)
    } else if at < view.compact_revision() {
        Err(ApplyError::Compacted)
    } else {
        Ok(())
    }
}

/// Whether a put reads what it replaces.
pub(super) fn wants_previous(put: &PutRequest) -> bool {
    put.prev_kv || put.ignore_value || put.ignore_lease
}

/// How often the check of a put has read the key: not at all when its lease was in the way.
pub(super) fn ranges_of_check(put: &PutRequest, checked: &Result<(), ApplyError>) -> u64 {
    u64::from(wants_previous(put) && *checked != Err(ApplyError::LeaseNotFound))
}

/// Whether the lease of a put exists, and the key when the put builds on it.
pub(super) fn check_put(
    view: &View,
    lessor: &Lessor,
    request: &PutRequest,
) -> Result<(), ApplyError> {
    if request.lease != 0 && !lessor.exists(LeaseId(request.lease)) {
        return Err(ApplyError::LeaseNotFound);
    }
    let builds_on = request.ignore_value || request.ignore_lease;
    if builds_on && view.core.index.read().get(&request.key, view.revision()).is_none() {
        return Err(ApplyError::KeyNotFound);
    }
    Ok(())
}

/// Whether a compare holds for every key of its interval.
fn holds(view: &View, compare: &Compare) -> Result<bool, ReadError> {
    let by_value = compare.target == CompareTarget::Value as i32;
    let needs_row = by_value || compare.target == CompareTarget::Lease as i32;
    let (mut any, mut all) = (false, true);
    let mut rows = Vec::new();
    let end = End::of(&compare.range_end);
    index::visit(&view.core.index, &compare.key, end, view.revision(), |_, found| {
        any = true;
        if needs_row {
            rows.push(found.modified);
        } else {
            all = satisfies(
                compare,
                &Parts {
                    create: found.create,
                    modified: found.modified.main,
                    version: found.version,
                    ..Parts::default()
                },
            );
        }
        all
    })?;
    if !any {
        // No value is not an empty value.
        return Ok(!by_value && satisfies(compare, &Parts::default()));
    }
    let mut reader = view.tables.reader();
    for at in rows {
        let row = reader.row(at)?.ok_or(Damage::RowMissing(at))?;
        let parts = Parts::read(&row).ok_or(Damage::RowMalformed(at))?;
        if !satisfies(compare, &parts) {
            return Ok(false);
        }
    }
    Ok(all)
}

/// The rule for one key. An operand of another kind than the target's counts as zero, unknown
/// targets as equal, unknown results as true.
fn satisfies(compare: &Compare, parts: &Parts<'_>) -> bool {
    let union = compare.target_union.as_ref();
    let number = |pick: fn(&TargetUnion) -> Option<i64>| union.and_then(pick).unwrap_or(0);
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => parts.value.cmp(value),
            _ => parts.value.cmp(&[]),
        },
        Ok(CompareTarget::Version) => parts.version.cmp(&number(|union| match union {
            TargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        Ok(CompareTarget::Create) => parts.create.0.cmp(&number(|union| match union {
            TargetUnion::CreateRevision(revision) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Mod) => parts.modified.0.cmp(&number(|union| match union {
            TargetUnion::ModRevision(revision) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Lease) => parts.lease.0.cmp(&number(|union| match union {
            TargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
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
