//! The one writer: puts, deletes and transactions, and the changes they make.
//!
//! *Invariants.*
//! 1. The changes of an entry have one main revision and ascending positions; an entry without a
//!    change takes no revision.
//! 2. The row goes to the table before the view that shows it is published.
//!
//! *Contract.* `server/storage/mvcc/kvstore_txn.go` and `server/etcdserver/txn` of etcd v3.7.1.

use base::mutant::{Mutant, is_on};
use base::{LeaseId, Revision};
use bytes::Bytes;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, TxnRequest, TxnResponse,
    response_op::Response,
};
use proto::mvccpb::KeyValue;

use super::index::{self, End};
use super::key_index::Found;
use super::revision::RevKey;
use super::row::{self, Parts};
use super::txn::{self, Path, TxnError, header, response};
use super::view::{Change, View};
use crate::backend::{Memtable, Row};
use crate::error::{ApplyError, Damage, ReadError};
use crate::lease::Lessor;
use crate::operation::Counts;

/// One transaction on its way: the view before it, and what it has changed.
pub(crate) struct Writer<'a> {
    before: &'a View,
    lessor: &'a Lessor,
    table: &'a Memtable,
    changes: Vec<Change>,
    /// What is done in the pass under way, and in those before it.
    pass: Counts,
    counts: Counts,
}

impl<'a> Writer<'a> {
    /// A transaction on top of `before`; its rows go to `table`.
    pub(crate) fn new(before: &'a View, lessor: &'a Lessor, table: &'a Memtable) -> Self {
        let (pass, counts) = (Counts::default(), Counts::default());
        Self { before, lessor, table, changes: Vec::new(), pass, counts }
    }

    /// The changes, in order. Empty when there is no new revision.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// What was done, also by a request that was refused in the end.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.counts;
        counts.add(self.pass);
        counts
    }

    /// The revision after what has happened so far.
    pub(crate) fn revision(&self) -> Revision {
        if self.changes.is_empty() { self.before.revision() } else { self.next_revision() }
    }

    fn next_revision(&self) -> Revision {
        self.before.revision().next()
    }

    fn next_key(&self) -> RevKey {
        RevKey::new(self.next_revision(), self.changes.len() as i64)
    }

    /// What this transaction sees of itself.
    fn view(&self) -> View {
        self.before.within(self.revision())
    }

    fn found(&self, key: &[u8]) -> Option<Found> {
        self.before.core.index.read().get(key, self.revision())
    }

    fn row(&self, at: RevKey) -> Result<Bytes, ReadError> {
        self.before.existing_row(at)
    }

    /// A put by itself.
    pub(crate) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, TxnError> {
        let checked = txn::check_put(self.before, self.lessor, request);
        self.pass.ranges += txn::ranges_of_check(request, &checked);
        checked?;
        self.put_checked(request)
    }

    fn put_checked(&mut self, request: &PutRequest) -> Result<PutResponse, TxnError> {
        let wants_row = txn::wants_previous(request);
        let previous = match self.found(&request.key) {
            Some(found) if wants_row => Some((self.row(found.modified)?, found.modified)),
            _ => None,
        };
        let parts = match &previous {
            Some((row, at)) => {
                Some(Parts::read(row).ok_or(Damage::RowMalformed(*at)).map_err(ReadError::from)?)
            }
            None => None,
        };
        let (mut value, mut lease) = (request.value.as_ref(), LeaseId(request.lease));
        if request.ignore_value {
            value = parts.as_ref().ok_or(ApplyError::KeyNotFound)?.value;
        }
        if request.ignore_lease {
            lease = parts.as_ref().ok_or(ApplyError::KeyNotFound)?.lease;
        }
        self.write(&request.key, value, lease);
        self.pass.puts += 1;
        self.pass.put_bytes += (request.key.len() + value.len()) as u64;
        let prev_kv = match &previous {
            Some((row, at)) if request.prev_kv => Some(decode(row, *at)?),
            _ => None,
        };
        Ok(PutResponse { header: Some(header(self.next_revision())), prev_kv })
    }

    fn write(&mut self, key: &[u8], value: &[u8], lease: LeaseId) {
        let at = self.next_key();
        let found = self.before.core.index.write().put(key, at);
        let (create, version) =
            found.map_or((at.main, 1), |found| (found.create, found.version + 1));
        let parts = Parts { key, create, modified: at.main, version, value, lease };
        let bytes = parts.to_row();
        self.change(at, false, bytes, found);
        let old = match found {
            Some(_) => self.lessor.lease_of(key).unwrap_or_default(),
            None => LeaseId::default(),
        };
        if old == lease {
            return;
        }
        if old != LeaseId::default() {
            self.lessor.detach(key);
        }
        if lease != LeaseId::default() {
            self.lessor.attach(lease, Bytes::copy_from_slice(key));
        }
    }

    fn change(&mut self, at: RevKey, tombstone: bool, row: Bytes, found: Option<Found>) {
        self.table.push(Row { at, tombstone, bytes: row.clone() });
        let key = row::key_of(&row).unwrap_or_default();
        let previous = found.map(|found| found.modified);
        self.changes.push(Change { at, tombstone, key, row, previous });
    }

    /// Deletes what exists of an interval, in key order.
    pub(crate) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, TxnError> {
        self.pass.deletes += 1;
        self.pass.ranges += u64::from(request.prev_kv);
        let mut doomed: Vec<(Box<[u8]>, RevKey)> = Vec::new();
        let end = End::of(&request.range_end);
        index::visit(&self.before.core.index, &request.key, end, self.revision(), |key, found| {
            doomed.push((key.into(), found.modified));
            true
        })
        .map_err(ReadError::from)?;
        let mut prev_kvs = Vec::new();
        if request.prev_kv {
            let mut reader = self.before.tables.reader();
            prev_kvs.reserve_exact(doomed.len());
            for &(_, at) in &doomed {
                let row = reader.row(at).map_err(ReadError::from)?;
                let row = row.ok_or(Damage::RowMissing(at)).map_err(ReadError::from)?;
                prev_kvs.push(decode(&row, at)?);
            }
        }
        for (key, _) in &doomed {
            self.delete(key);
        }
        let header = Some(header(self.revision()));
        Ok(DeleteRangeResponse { header, deleted: doomed.len() as i64, prev_kvs })
    }

    /// Deletes a key that is attached to a lease, if it exists.
    pub(crate) fn delete_attached(&mut self, key: &[u8]) {
        self.pass.deletes += 1;
        self.delete(key);
    }

    /// Deletes one key, if it exists.
    fn delete(&mut self, key: &[u8]) {
        let at = self.next_key();
        let Some(found) = self.before.core.index.write().delete(key, at) else { return };
        self.change(at, true, row::tombstone(key), Some(found));
        if !is_on(Mutant::DeleteKeepsLease) {
            self.lessor.detach(key);
        }
    }

    /// A transaction: all of it, or an error and nothing.
    pub(crate) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, TxnError> {
        let path = Path::decide(self.before, request)?;
        let mut checks = Counts { ranges: path.compares(), ..Counts::default() };
        let checked = path.check(self.before, self.lessor, request, &mut checks.ranges);
        self.counts.add(checks);
        checked?;
        let mut response = self.run(&path, request)?;
        response.header = Some(header(self.revision()));
        Ok(response)
    }

    fn run(&mut self, path: &Path, request: &TxnRequest) -> Result<TxnResponse, TxnError> {
        let ops = path.ops(request);
        let mut nested = path.nested();
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match &op.request {
                Some(Request::RequestRange(range)) => {
                    self.pass.ranges += 1;
                    response(Response::ResponseRange(txn::range_response(&self.view(), range)?))
                }
                Some(Request::RequestPut(put)) => {
                    self.pass.ranges += u64::from(txn::wants_previous(put));
                    response(Response::ResponsePut(self.put_checked(put)?))
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    response(Response::ResponseDeleteRange(self.delete_range(delete)?))
                }
                Some(Request::RequestTxn(request)) => {
                    let path = nested.next().expect("a path has a part for every nested one");
                    let mut answer = match is_on(Mutant::NestedCompareLate) {
                        true => self.run(&Path::decide(&self.view(), request)?, request)?,
                        false => self.run(path, request)?,
                    };
                    answer.header = Some(header(Revision(0)));
                    response(Response::ResponseTxn(answer))
                }
                None => Default::default(),
            });
        }
        Ok(TxnResponse { header: None, succeeded: path.succeeded, responses })
    }
}

fn decode(row: &Bytes, at: RevKey) -> Result<KeyValue, ReadError> {
    proto::decode(row.clone()).map_err(|_| Damage::RowMalformed(at).into())
}
