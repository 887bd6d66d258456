//! A store in memory, and the hand that makes its log.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::sync::Arc;

use base::Moment;
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
    database: Database,
    store: Store,
    next: u64,
}

impl Member {
    pub(crate) fn new() -> Self {
        let disk = Faulty::new(1);
        let database = Database::open(&disk, Path::new("db"), Options::default()).unwrap();
        let store =
            Store::open(database.view(), StoreOptions::default(), Moment::default()).unwrap();
        Self { database, store, next: 1 }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.store.handle()
    }

    pub(crate) fn apply(&mut self, mut request: InternalRaftRequest) {
        request.header = Some(RequestHeader { id: self.next, ..RequestHeader::default() });
        let data = Some(request.encode_to_vec().into());
        let entry = Entry { r#type: Some(0), term: Some(2), index: Some(self.next), data };
        self.next += 1;
        self.store.apply(&entry, Moment::default()).unwrap().result.unwrap();
    }

    pub(crate) fn txn(&mut self, ops: Vec<RequestOp>) {
        let txn = TxnRequest { success: ops, ..TxnRequest::default() };
        self.apply(InternalRaftRequest { txn: Some(txn), ..InternalRaftRequest::default() });
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        let compaction = Some(CompactionRequest { revision, physical: false });
        self.apply(InternalRaftRequest { compaction, ..InternalRaftRequest::default() });
        while self.store.compact_slice().unwrap() {}
    }

    pub(crate) fn commit(&mut self) {
        if let Some(frozen) = self.store.freeze() {
            let view = self.database.commit(frozen.batch).unwrap();
            self.store.committed(view);
        }
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
