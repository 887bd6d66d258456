//! A naive key space: every row in one map, every rule of etcd followed by the letter and at
//! any cost. Written from the description of the behaviour, not from the store.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, response_op,
};
use proto::mvccpb::KeyValue;
use store::ApplyError;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub tombstone: bool,
    pub kv: KeyValue,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// (main, sub) to what was written.
    pub rows: BTreeMap<(i64, i64), Row>,
    pub revision: i64,
    pub compacted: i64,
    pub leases: BTreeSet<i64>,
    /// Hashes of compactions: (revision, previous compaction) and hash.
    pub hashes: BTreeMap<i64, (i64, u32)>,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

pub(crate) fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { revision: 1, compacted: -1, ..Self::default() }
    }

    /// Live keys at `at`, ascending.
    pub(crate) fn state(&self, at: i64) -> BTreeMap<Vec<u8>, KeyValue> {
        let mut state = BTreeMap::new();
        for (_, row) in self.rows.range(..=(at, i64::MAX)) {
            if row.tombstone {
                state.remove(&row.kv.key[..]);
            } else {
                state.insert(row.kv.key.to_vec(), row.kv.clone());
            }
        }
        state
    }

    pub(crate) fn range(
        &self,
        r: &RangeRequest,
        current: i64,
    ) -> Result<RangeResponse, ApplyError> {
        let at = if r.revision <= 0 { current } else { r.revision };
        if at > current {
            return Err(ApplyError::FutureRevision);
        }
        if at < self.compacted {
            return Err(ApplyError::Compacted);
        }
        let state = self.state(at);
        let inside = state.into_iter().filter(|(key, _)| within(key, &r.key, &r.range_end));
        let mut kvs: Vec<KeyValue> = inside.map(|(_, kv)| kv).collect();
        let count = kvs.len() as i64;
        let header = header(current);
        if r.count_only {
            return Ok(RangeResponse { header, kvs: vec![], more: false, count });
        }
        let filtered =
            [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision]
                != [0; 4];
        // Order 0 none, 1 ascending, 2 descending. Target 0 key, 4 value.
        let pushed = (r.sort_order == 0 || (r.sort_target == 0 && r.sort_order == 1)) && !filtered;
        if pushed && r.limit > 0 {
            kvs.truncate(r.limit as usize + 1);
        }
        kvs.retain(|kv| {
            (r.max_mod_revision == 0 || kv.mod_revision <= r.max_mod_revision)
                && (r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision)
                && (r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision)
                && (r.min_create_revision == 0 || kv.create_revision >= r.min_create_revision)
        });
        let order = if r.sort_target != 0 && r.sort_order == 0 { 1 } else { r.sort_order };
        let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
            let ordering = match r.sort_target {
                0 => a.key.cmp(&b.key),
                1 => a.version.cmp(&b.version),
                2 => a.create_revision.cmp(&b.create_revision),
                3 => a.mod_revision.cmp(&b.mod_revision),
                _ => a.value.cmp(&b.value),
            };
            if order == 2 { ordering.reverse() } else { ordering }
        };
        if order != 0 {
            kvs.sort_by(compare);
        }
        let more = r.limit > 0 && kvs.len() > r.limit as usize;
        if more {
            kvs.truncate(r.limit as usize);
        }
        if r.keys_only {
            for kv in &mut kvs {
                kv.value = Default::default();
                if r.sort_target != 4 {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { header, kvs, more, count })
    }

    /// The rows that a transaction in progress has written have the next revision.
    fn current(&self) -> i64 {
        match self.rows.last_key_value() {
            Some(((main, _), _)) if *main > self.revision => *main,
            _ => self.revision,
        }
    }

    fn next_name(&self) -> (i64, i64) {
        let main = self.revision + 1;
        (main, self.rows.range((main, 0)..).count() as i64)
    }

    fn check_put(&self, r: &PutRequest) -> Result<(), ApplyError> {
        if r.lease != 0 && !self.leases.contains(&r.lease) {
            return Err(ApplyError::LeaseNotFound);
        }
        let exists = self.state(self.current()).contains_key(&r.key[..]);
        if (r.ignore_value || r.ignore_lease) && !exists {
            return Err(ApplyError::KeyNotFound);
        }
        Ok(())
    }

    fn put_now(&mut self, r: &PutRequest) -> PutResponse {
        let old = self.state(self.current()).remove(&r.key[..]);
        let name = self.next_name();
        let zero = KeyValue::default();
        let before = old.as_ref().unwrap_or(&zero);
        let kv = KeyValue {
            key: r.key.clone(),
            create_revision: if old.is_some() { before.create_revision } else { name.0 },
            mod_revision: name.0,
            version: before.version + 1,
            value: if r.ignore_value { before.value.clone() } else { r.value.clone() },
            lease: if r.ignore_lease { before.lease } else { r.lease },
        };
        self.rows.insert(name, Row { tombstone: false, kv });
        PutResponse { header: header(name.0), prev_kv: old.filter(|_| r.prev_kv) }
    }

    fn delete_now(&mut self, r: &DeleteRangeRequest) -> DeleteRangeResponse {
        let state = self.state(self.current());
        let doomed: Vec<KeyValue> =
            state.into_values().filter(|kv| within(&kv.key, &r.key, &r.range_end)).collect();
        for kv in &doomed {
            let kv = KeyValue { key: kv.key.clone(), ..KeyValue::default() };
            self.rows.insert(self.next_name(), Row { tombstone: true, kv });
        }
        DeleteRangeResponse {
            header: header(self.current()),
            deleted: doomed.len() as i64,
            prev_kvs: if r.prev_kv { doomed } else { vec![] },
        }
    }

    fn done<T>(&mut self, answer: T) -> T {
        self.revision = self.current();
        answer
    }

    pub(crate) fn put(&mut self, r: &PutRequest) -> Result<PutResponse, ApplyError> {
        self.check_put(r)?;
        let answer = self.put_now(r);
        Ok(self.done(answer))
    }

    pub(crate) fn delete(&mut self, r: &DeleteRangeRequest) -> DeleteRangeResponse {
        let answer = self.delete_now(r);
        self.done(answer)
    }

    pub(crate) fn grant(&mut self, id: i64) -> Result<(), ApplyError> {
        if id == 0 {
            return Err(ApplyError::LeaseNotFound);
        }
        if self.leases.insert(id) { Ok(()) } else { Err(ApplyError::LeaseExists) }
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<i64, ApplyError> {
        if !self.leases.remove(&id) {
            return Err(ApplyError::LeaseNotFound);
        }
        for (key, kv) in self.state(self.revision) {
            if kv.lease == id {
                self.delete_now(&DeleteRangeRequest { key: key.into(), ..Default::default() });
            }
        }
        self.done(());
        Ok(self.revision)
    }

    fn compare(&self, c: &Compare) -> bool {
        let state = self.state(self.revision);
        let kvs: Vec<&KeyValue> =
            state.values().filter(|kv| within(&kv.key, &c.key, &c.range_end)).collect();
        let zero = KeyValue::default();
        if kvs.is_empty() {
            return c.target != 3 && one(c, &zero);
        }
        kvs.into_iter().all(|kv| one(c, kv))
    }

    /// Whether the branches hold, in the order in which the transactions are met.
    fn path(&self, t: &TxnRequest, path: &mut Vec<bool>) {
        let held = t.compare.iter().all(|c| self.compare(c));
        path.push(held);
        for op in branch(t, held) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                self.path(nested, path);
            }
        }
    }

    fn check(&self, t: &TxnRequest, path: &mut &[bool]) -> Result<(), ApplyError> {
        let (held, rest) = path.split_first().expect("a branch for each");
        *path = rest;
        for op in branch(t, *held) {
            match op.request.as_ref().expect("set") {
                Request::RequestRange(r) => {
                    if r.revision > self.revision {
                        return Err(ApplyError::FutureRevision);
                    }
                    if r.revision != 0 && r.revision < self.compacted {
                        return Err(ApplyError::Compacted);
                    }
                }
                Request::RequestPut(r) => self.check_put(r)?,
                Request::RequestDeleteRange(_) => {}
                Request::RequestTxn(r) => self.check(r, path)?,
            }
        }
        Ok(())
    }

    fn run(&mut self, t: &TxnRequest, path: &mut &[bool]) -> TxnResponse {
        let (held, rest) = path.split_first().expect("a branch for each");
        *path = rest;
        let mut responses = vec![];
        for op in branch(t, *held) {
            use response_op::Response::*;
            let response = match op.request.as_ref().expect("set") {
                Request::RequestRange(r) => {
                    ResponseRange(self.range(r, self.current()).expect("checked"))
                }
                Request::RequestPut(r) => ResponsePut(self.put_now(r)),
                Request::RequestDeleteRange(r) => ResponseDeleteRange(self.delete_now(r)),
                Request::RequestTxn(r) => ResponseTxn(self.run(r, path)),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        TxnResponse { header: header(0), succeeded: *held, responses }
    }

    pub(crate) fn txn(&mut self, t: &TxnRequest) -> Result<TxnResponse, ApplyError> {
        let mut path = vec![];
        self.path(t, &mut path);
        self.check(t, &mut path.as_slice())?;
        let mut answer = self.run(t, &mut path.as_slice());
        self.done(());
        answer.header = header(self.revision);
        Ok(answer)
    }

    /// Per key the newest row up to `at`.
    fn newest(&self, at: i64) -> BTreeMap<Vec<u8>, ((i64, i64), bool)> {
        let mut newest = BTreeMap::new();
        for (name, row) in self.rows.range(..=(at, i64::MAX)) {
            newest.insert(row.kv.key.to_vec(), (*name, row.tombstone));
        }
        newest
    }

    fn hash_with(&self, at: i64, compacted: i64, keep: &BTreeSet<(i64, i64)>) -> u32 {
        let mut hash = crc32c::crc32c(b"key");
        for (name, row) in &self.rows {
            let main = name.0;
            if main > at
                || (main <= compacted && !keep.is_empty() && !keep.contains(name))
                || (main == compacted && row.tombstone)
            {
                continue;
            }
            let mut key = main.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend(name.1.to_be_bytes());
            if row.tombstone {
                key.push(b't');
            }
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &row.kv.encode_to_vec());
        }
        hash
    }

    /// (hash, compact revision, hash revision)
    pub(crate) fn hash_kv(&self, at: i64) -> Result<(u32, i64, i64), ApplyError> {
        if let Some(&(previous, hash)) = self.hashes.get(&at) {
            return Ok((hash, previous, at));
        }
        if at > 0 && at < self.compacted {
            return Err(ApplyError::Compacted);
        }
        if at > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        let upto = if at == 0 { self.revision } else { at };
        // A key that is deleted at that very revision counts as deleted, though it be put again.
        let deleted: BTreeSet<_> = self
            .rows
            .range((upto, 0)..=(upto, i64::MAX))
            .filter(|(_, row)| row.tombstone)
            .map(|(_, row)| row.kv.key.to_vec())
            .collect();
        let newest = self.newest(upto).into_iter();
        let keep = newest
            .filter(|(key, (_, tombstone))| !tombstone && !deleted.contains(key))
            .map(|(_, (name, _))| name)
            .collect();
        Ok((self.hash_with(upto, self.compacted, &keep), self.compacted, upto))
    }

    /// `first` says that no other compaction is under way.
    pub(crate) fn compact(&mut self, at: i64, first: bool) -> Result<(), ApplyError> {
        if at <= self.compacted {
            return Err(ApplyError::Compacted);
        }
        if at > self.revision {
            return Err(ApplyError::FutureRevision);
        }
        let newest = self.newest(at).into_values();
        let keep: BTreeSet<_> = newest
            .filter(|(name, tombstone)| !tombstone || name.0 == at)
            .map(|(name, _)| name)
            .collect();
        if first {
            let hash = self.hash_with(at, self.compacted, &keep);
            self.hashes.insert(at, (self.compacted, hash));
            while self.hashes.len() > 10 {
                self.hashes.pop_first();
            }
        }
        self.rows.retain(|name, _| name.0 > at || keep.contains(name));
        self.compacted = at;
        Ok(())
    }
}

fn branch(t: &TxnRequest, held: bool) -> &[RequestOp] {
    if held { &t.success } else { &t.failure }
}

fn one(c: &Compare, kv: &KeyValue) -> bool {
    let number = |is: i64| {
        is.cmp(&match (c.target, &c.target_union) {
            (0, Some(TargetUnion::Version(n)))
            | (1, Some(TargetUnion::CreateRevision(n)))
            | (2, Some(TargetUnion::ModRevision(n)))
            | (4, Some(TargetUnion::Lease(n))) => *n,
            _ => 0,
        })
    };
    let ordering = match c.target {
        0 => number(kv.version),
        1 => number(kv.create_revision),
        2 => number(kv.mod_revision),
        3 => match &c.target_union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value[..].cmp(&[]),
        },
        4 => number(kv.lease),
        _ => Ordering::Equal,
    };
    match c.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}
