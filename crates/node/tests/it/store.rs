//! A store in memory, and the hand that makes its log.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::sync::Arc;

use base::{Moment, Revision};
use prost::Message;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestHeader,
    RequestOp, TxnRequest,
};
use proto::raftpb::Entry;
use storage::bolt::{Database, Options};
use storage::disk::Faulty;
use store::{Shared, Store, StoreOptions};

pub(crate) struct Member {
    own: State,
    /// What the other members have while this one is cut off.
    others: Option<State>,
    log: Vec<Entry>,
}

/// The state, and the database below it.
struct State {
    database: Database,
    store: Store,
}

impl State {
    fn new() -> Self {
        let disk = Faulty::new(1);
        let database = Database::open(&disk, Path::new("db"), Options::default()).unwrap();
        let store =
            Store::open(database.view(), StoreOptions::default(), Moment::default()).unwrap();
        Self { database, store }
    }

    fn apply(&mut self, entry: &Entry) {
        self.store.apply(entry, Moment::default()).unwrap().result.unwrap();
    }

    fn commit(&mut self) {
        if let Some(frozen) = self.store.freeze() {
            let view = self.database.commit(frozen.batch).unwrap();
            self.store.committed(view);
        }
    }
}

impl Member {
    pub(crate) fn new() -> Self {
        Self { own: State::new(), others: None, log: Vec::new() }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.own.store.handle()
    }

    /// The newest revision that anyone has.
    pub(crate) fn revision(&self) -> Revision {
        self.others.as_ref().unwrap_or(&self.own).store.handle().revision()
    }

    fn up_to_date(&mut self) -> &mut State {
        self.others.as_mut().unwrap_or(&mut self.own)
    }

    /// From now on only others apply entries.
    pub(crate) fn cut_off(&mut self) {
        let mut others = State::new();
        for entry in &self.log {
            others.apply(entry);
            while others.store.compact_slice().unwrap() {}
        }
        self.others = Some(others);
    }

    /// Gets a snapshot from the others.
    pub(crate) fn install(&mut self) {
        let Some(mut others) = self.others.take() else { return };
        others.commit();
        if others.store.applied() > self.own.store.applied() {
            self.own.store.replace(others.database.view(), Moment::default()).unwrap();
            self.own.database = others.database;
        }
    }

    pub(crate) fn apply(&mut self, mut request: InternalRaftRequest) {
        let next = self.log.len() as u64 + 1;
        request.header = Some(RequestHeader { id: next, ..RequestHeader::default() });
        let data = Some(request.encode_to_vec().into());
        let entry = Entry { r#type: Some(0), term: Some(2), index: Some(next), data };
        self.up_to_date().apply(&entry);
        self.log.push(entry);
    }

    pub(crate) fn txn(&mut self, ops: Vec<RequestOp>) {
        let txn = TxnRequest { success: ops, ..TxnRequest::default() };
        self.apply(InternalRaftRequest { txn: Some(txn), ..InternalRaftRequest::default() });
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        let compaction = Some(CompactionRequest { revision, physical: false });
        self.apply(InternalRaftRequest { compaction, ..InternalRaftRequest::default() });
        while self.up_to_date().store.compact_slice().unwrap() {}
    }

    pub(crate) fn commit(&mut self) {
        self.own.commit();
    }
}

pub(crate) fn put(key: &str, value: &str) -> RequestOp {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

pub(crate) fn delete(key: &str, range_end: &str) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..DeleteRangeRequest::default()
    };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

pub(crate) fn nested(op: RequestOp) -> RequestOp {
    let txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
    RequestOp { request: Some(Request::RequestTxn(txn)) }
}
