//! Random calls of every kind, decided by a seed.

use base::Rng;
use bytes::Bytes;
use node::requests::check;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::history::Call;

/// Written before everything and never deleted, so that no compaction leaves nothing: then the
/// hash would depend on how far the removal of rows is, in etcd too.
const ANCHOR: &[u8] = b"anchor";

/// Operations in a transaction, as `--max-txn-ops` has it.
pub(super) const TXN_OPS_MAX: usize = 128;

/// Leases that new puts refer to.
const LEASES_MAX: usize = 8;

/// The longest lease that ends within a run, in seconds.
const SHORT_TTL_MAX: u64 = 6;

/// Longer than any run, in seconds: such a lease ends by revocation only.
const LONG_TTL: i64 = 1 << 24;

/// Draws calls.
#[derive(Debug)]
pub(crate) struct Workload {
    keys: u64,
    leases: Vec<i64>,
    next_lease: i64,
    next_value: u64,
}

impl Workload {
    pub(crate) fn new(keys: u64) -> Self {
        Self { keys, leases: Vec::new(), next_lease: 1, next_value: 1 }
    }

    /// The next call, where the state is near `revision`.
    pub(crate) fn next(&mut self, rng: &mut Rng, revision: i64) -> Call {
        if revision <= 1 {
            let key = Bytes::from_static(ANCHOR);
            return Call::Put(PutRequest { key, ..PutRequest::default() });
        }
        match rng.below(100) {
            0..38 => Call::Put(self.put(rng)),
            38..46 => Call::DeleteRange(self.delete(rng)),
            46..60 => match self.txn(rng, 2) {
                txn if check::check_txn(&txn, TXN_OPS_MAX).is_ok() => Call::Txn(txn),
                _ => Call::Put(self.put(rng)),
            },
            60..63 => Call::Txn(self.read_only(rng)),
            63..88 => Call::Range(self.range(rng, revision)),
            88..93 => Call::LeaseGrant(self.grant(rng)),
            93..95 => Call::LeaseRevoke(LeaseRevokeRequest { id: self.lease(rng) }),
            _ => Call::Compact(self.compaction(rng, revision)),
        }
    }

    fn key(&self, rng: &mut Rng) -> Bytes {
        format!("key/{:02}", rng.below(self.keys)).into()
    }

    /// Every value is another one; some are large.
    fn value(&mut self, rng: &mut Rng) -> Bytes {
        self.next_value += 1;
        let len = match rng.below(60) {
            0 => 8_000 + rng.below(8_000),
            1..4 => 1_000 + rng.below(2_000),
            _ => rng.below(40),
        };
        let mut value = self.next_value.to_string().into_bytes();
        value.resize(value.len() + usize::try_from(len).unwrap_or(0), b'.');
        value.into()
    }

    fn put(&mut self, rng: &mut Rng) -> PutRequest {
        let key = self.key(rng);
        let prev_kv = rng.one_in(3);
        match rng.below(12) {
            0 => PutRequest { key, ignore_value: true, prev_kv, ..PutRequest::default() },
            1 => {
                let value = self.value(rng);
                PutRequest { key, value, ignore_lease: true, prev_kv, ..PutRequest::default() }
            }
            2 | 3 => {
                let (value, lease) = (self.value(rng), self.lease(rng));
                PutRequest { key, value, lease, prev_kv, ..PutRequest::default() }
            }
            _ => PutRequest { key, value: self.value(rng), prev_kv, ..PutRequest::default() },
        }
    }

    /// One key, an interval, or everything.
    fn interval(&self, rng: &mut Rng) -> (Bytes, Bytes) {
        let (one, two) = (self.key(rng), self.key(rng));
        match rng.below(8) {
            0 => (Bytes::from_static(b"key/"), Bytes::from_static(b"key0")),
            1 => (one, Bytes::from_static(b"\0")),
            2..6 => (one, Bytes::new()),
            _ => (one.clone().min(two.clone()), one.max(two)),
        }
    }

    fn delete(&self, rng: &mut Rng) -> DeleteRangeRequest {
        let (key, mut range_end) = self.interval(rng);
        if range_end == Bytes::from_static(b"\0") {
            // What keepers have put is theirs.
            range_end = Bytes::from_static(b"key0");
        }
        DeleteRangeRequest { key, range_end, prev_kv: rng.one_in(3) }
    }

    fn range(&self, rng: &mut Rng, revision: i64) -> RangeRequest {
        let (key, range_end) = self.interval(rng);
        let back = i64::try_from(rng.below(20)).unwrap_or(0);
        let mut request =
            RangeRequest { key, range_end, serializable: rng.one_in(4), ..RangeRequest::default() };
        match rng.below(12) {
            0 => request.revision = (revision - back).max(1),
            1 => request.limit = 1 + back,
            2 => request.count_only = true,
            3 => request.keys_only = true,
            4 => {
                let orders = [SortOrder::Ascend, SortOrder::Descend];
                let targets = [SortTarget::Version, SortTarget::Create, SortTarget::Mod];
                request.sort_order = (*rng.pick(&orders)).into();
                request.sort_target = (*rng.pick(&targets)).into();
            }
            5 => request.min_mod_revision = (revision - back).max(1),
            _ => {}
        }
        request
    }

    fn txn(&mut self, rng: &mut Rng, depth: u64) -> TxnRequest {
        TxnRequest {
            compare: (0..rng.below(3)).map(|_| self.compare(rng)).collect(),
            success: (0..1 + rng.below(3)).map(|_| self.operation(rng, depth)).collect(),
            failure: (0..rng.below(3)).map(|_| self.operation(rng, depth)).collect(),
        }
    }

    fn read_only(&mut self, rng: &mut Rng) -> TxnRequest {
        let range = |rng: &mut Rng| {
            let (key, range_end) = self.interval(rng);
            let range = RangeRequest { key, range_end, ..RangeRequest::default() };
            RequestOp { request: Some(Request::RequestRange(range)) }
        };
        let success = (0..1 + rng.below(3)).map(|_| range(rng)).collect();
        TxnRequest { success, ..TxnRequest::default() }
    }

    fn compare(&self, rng: &mut Rng) -> Compare {
        let result = *rng.pick(&[
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]);
        let number = i64::try_from(rng.below(4)).unwrap_or(0);
        let (target, union) = match rng.below(3) {
            0 => (CompareTarget::Version, TargetUnion::Version(number)),
            1 => (CompareTarget::Mod, TargetUnion::ModRevision(number * 100)),
            _ => (CompareTarget::Create, TargetUnion::CreateRevision(number * 50)),
        };
        Compare {
            result: result.into(),
            target: target.into(),
            key: self.key(rng),
            range_end: Bytes::new(),
            target_union: Some(union),
        }
    }

    fn operation(&mut self, rng: &mut Rng, depth: u64) -> RequestOp {
        let request = match rng.below(8) {
            0 if depth > 0 => Request::RequestTxn(self.txn(rng, depth - 1)),
            0..3 => {
                let (key, range_end) = self.interval(rng);
                let range = RangeRequest { key, range_end, limit: 5, ..RangeRequest::default() };
                Request::RequestRange(range)
            }
            3 => Request::RequestDeleteRange(self.delete(rng)),
            _ => Request::RequestPut(self.put(rng)),
        };
        RequestOp { request: Some(request) }
    }

    /// Most leases are asked for while they live, some never were.
    fn lease(&self, rng: &mut Rng) -> i64 {
        if self.leases.is_empty() { 7 } else { *rng.pick(&self.leases) }
    }

    /// A lease that nobody asked for before, but now and then.
    pub(crate) fn grant(&mut self, rng: &mut Rng) -> LeaseGrantRequest {
        self.next_lease += i64::from(!rng.one_in(12));
        let id = self.next_lease;
        self.leases.push(id);
        if self.leases.len() > LEASES_MAX {
            self.leases.remove(0);
        }
        let short = i64::try_from(2 + rng.below(SHORT_TTL_MAX - 1)).unwrap_or(2);
        LeaseGrantRequest { ttl: if rng.one_in(2) { short } else { LONG_TTL }, id }
    }

    /// A short lease of its own.
    pub(super) fn own_lease(&mut self, rng: &mut Rng) -> LeaseGrantRequest {
        self.next_lease += 1;
        let ttl = i64::try_from(2 + rng.below(SHORT_TTL_MAX - 1)).unwrap_or(2);
        LeaseGrantRequest { ttl, id: self.next_lease }
    }

    fn compaction(&self, rng: &mut Rng, revision: i64) -> CompactionRequest {
        let back = match rng.below(4) {
            0 => 0,
            1 => 1 + rng.below(8),
            _ => 1 + rng.below(80),
        };
        let revision = revision - i64::try_from(back).unwrap_or(0);
        CompactionRequest { revision: revision.max(1), physical: rng.one_in(3) }
    }
}
