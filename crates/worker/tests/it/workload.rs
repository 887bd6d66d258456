//! Random requests of every kind that changes the state, decided by a seed.

use base::{MemberId, Rng};
use bytes::Bytes;
use node::requests::check;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use proto::raftpb::{ConfChange, ConfChangeType};

/// Written first in each life and never deleted, so that no compaction leaves nothing: then the
/// hash would depend on how far the removal is, in etcd too.
pub(crate) const ANCHOR: &[u8] = b"anchor";

const KEYS: u64 = 48;
const TXN_OPS_MAX: usize = 128;
/// Longer than any run: such a lease ends by revocation only.
const LONG_TTL_SECONDS: i64 = 1 << 24;

/// What stands in the log beside the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kinds {
    /// Leases that end within the run.
    pub(crate) short_leases: bool,
    /// Members that come and go.
    pub(crate) members: bool,
    /// Requests of which real etcd dies: transactions that delete without an end and put.
    pub(crate) deadly: bool,
    /// Compactions of the newest revision, whose hash depends on when it is computed.
    pub(crate) newest: bool,
}

impl Kinds {
    pub(crate) const ALL: Self =
        Self { short_leases: true, members: true, deadly: true, newest: true };
}

pub(crate) struct Workload {
    rng: Rng,
    kinds: Kinds,
    anchored: bool,
    alarmed: bool,
    leases: Vec<i64>,
    next_lease: i64,
    next_member: u64,
    learner: Option<MemberId>,
}

/// What to propose.
pub(crate) enum Proposal {
    Request(Box<InternalRaftRequest>),
    Members(ConfChange),
}

impl Workload {
    pub(crate) fn new(seed: u64, kinds: Kinds) -> Self {
        Self {
            rng: Rng::new(seed),
            kinds,
            anchored: false,
            alarmed: false,
            leases: Vec::new(),
            next_lease: 1,
            next_member: 1000,
            learner: None,
        }
    }

    /// The member starts; what was proposed last may be lost.
    pub(crate) fn begin(&mut self) {
        self.anchored = false;
    }

    /// The next proposal, where the state is at `revision`.
    pub(crate) fn next(&mut self, revision: i64) -> Proposal {
        let mut request = InternalRaftRequest::default();
        if !self.anchored {
            self.anchored = true;
            let key = Bytes::from_static(ANCHOR);
            request.put = Some(PutRequest { key, ..PutRequest::default() });
            return Proposal::Request(Box::new(request));
        }
        if self.alarmed && self.rng.one_in(5) {
            self.alarmed = false;
            request.alarm = Some(alarm(AlarmAction::Deactivate));
            return Proposal::Request(Box::new(request));
        }
        match self.rng.below(100) {
            0..50 => request.put = Some(self.put()),
            50..59 => request.delete_range = Some(self.delete(b"\0")),
            59..78 => match self.txn(3) {
                txn if check::check_txn(&txn, TXN_OPS_MAX).is_ok() => request.txn = Some(txn),
                _ => request.put = Some(self.put()),
            },
            78..86 => request.lease_grant = Some(self.grant()),
            86..90 => {
                let id = self.lease();
                request.lease_revoke = Some(LeaseRevokeRequest { id });
            }
            90..97 => request.compaction = Some(self.compaction(revision)),
            97 => {
                self.alarmed = true;
                request.alarm = Some(alarm(AlarmAction::Activate));
            }
            _ if self.kinds.members => return Proposal::Members(self.conf_change()),
            _ => request.put = Some(self.put()),
        }
        Proposal::Request(Box::new(request))
    }

    fn key(&mut self) -> Bytes {
        format!("key/{:02}", self.rng.below(KEYS)).into()
    }

    fn value(&mut self) -> Bytes {
        let len = match self.rng.below(40) {
            0 => 12_000 + self.rng.below(8_000),
            1..6 => 1_000 + self.rng.below(3_000),
            _ => self.rng.below(120),
        };
        let byte = self.rng.next_u64().to_le_bytes()[0];
        vec![byte; usize::try_from(len).unwrap_or(0)].into()
    }

    fn put(&mut self) -> PutRequest {
        let key = self.key();
        let prev_kv = self.rng.one_in(3);
        match self.rng.below(10) {
            0 => PutRequest { key, ignore_value: true, prev_kv, ..PutRequest::default() },
            1 => {
                let value = self.value();
                PutRequest { key, value, ignore_lease: true, prev_kv, ..PutRequest::default() }
            }
            2..5 => {
                let (value, lease) = (self.value(), self.lease());
                PutRequest { key, value, lease, prev_kv, ..PutRequest::default() }
            }
            _ => PutRequest { key, value: self.value(), prev_kv, ..PutRequest::default() },
        }
    }

    /// `end` stands behind all keys.
    fn delete(&mut self, end: &'static [u8]) -> DeleteRangeRequest {
        let (one, two) = (self.key(), self.key());
        let prev_kv = self.rng.one_in(3);
        match self.rng.below(8) {
            // Everything but the anchor.
            0 => DeleteRangeRequest {
                key: Bytes::from_static(b"key/"),
                range_end: Bytes::from_static(end),
                prev_kv,
            },
            1..5 => DeleteRangeRequest { key: one, range_end: Bytes::new(), prev_kv },
            _ => DeleteRangeRequest {
                key: one.clone().min(two.clone()),
                range_end: one.max(two),
                prev_kv,
            },
        }
    }

    fn txn(&mut self, depth: u64) -> TxnRequest {
        let compare = (0..self.rng.below(3)).map(|_| self.compare()).collect();
        let success = (0..1 + self.rng.below(4)).map(|_| self.op(depth)).collect();
        let failure = (0..self.rng.below(3)).map(|_| self.op(depth)).collect();
        TxnRequest { compare, success, failure }
    }

    fn compare(&mut self) -> Compare {
        let result = *self.rng.pick(&[
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]);
        let number = i64::try_from(self.rng.below(4)).unwrap_or(0);
        let (target, union) = match self.rng.below(3) {
            0 => (CompareTarget::Version, TargetUnion::Version(number)),
            1 => (CompareTarget::Mod, TargetUnion::ModRevision(number * 100)),
            _ => (CompareTarget::Lease, TargetUnion::Lease(number)),
        };
        Compare {
            result: result.into(),
            target: target.into(),
            key: self.key(),
            range_end: Bytes::new(),
            target_union: Some(union),
        }
    }

    fn op(&mut self, depth: u64) -> RequestOp {
        let request = match self.rng.below(8) {
            0 if depth > 0 => Request::RequestTxn(self.txn(depth - 1)),
            0 | 1 => Request::RequestRange(RangeRequest {
                key: self.key(),
                range_end: Bytes::from_static(b"\0"),
                limit: 5,
                ..RangeRequest::default()
            }),
            2 | 3 => Request::RequestDeleteRange(self.delete(if self.kinds.deadly {
                b"\0"
            } else {
                b"key0"
            })),
            _ => Request::RequestPut(self.put()),
        };
        RequestOp { request: Some(request) }
    }

    /// Most leases are asked for while they live, some never were.
    fn lease(&mut self) -> i64 {
        if self.leases.is_empty() { 7 } else { *self.rng.pick(&self.leases) }
    }

    fn grant(&mut self) -> LeaseGrantRequest {
        self.next_lease += i64::from(!self.rng.one_in(8));
        let id = self.next_lease;
        self.leases.push(id);
        if self.leases.len() > 8 {
            self.leases.remove(0);
        }
        let is_short = self.kinds.short_leases && self.rng.one_in(3);
        let short = i64::try_from(self.rng.below(20)).unwrap_or(1) + 1;
        LeaseGrantRequest { ttl: if is_short { short } else { LONG_TTL_SECONDS }, id }
    }

    fn compaction(&mut self, revision: i64) -> CompactionRequest {
        let back = match self.rng.below(4) {
            0 => u64::from(!self.kinds.newest),
            1 => 1 + self.rng.below(8),
            _ => 1 + self.rng.below(80),
        };
        let revision = revision - i64::try_from(back).unwrap_or(0);
        CompactionRequest { revision: revision.max(1), physical: self.rng.one_in(3) }
    }

    /// A learner comes, or the one that is there goes. It never talks.
    fn conf_change(&mut self) -> ConfChange {
        if let Some(learner) = self.learner.take() {
            return ConfChange {
                r#type: Some(ConfChangeType::ConfChangeRemoveNode.into()),
                node_id: Some(learner.get()),
                ..ConfChange::default()
            };
        }
        self.next_member += 1;
        let id = MemberId(self.next_member);
        self.learner = Some(id);
        let member = store::Member {
            id,
            peer_urls: vec![format!("http://127.0.0.1:{}", 10_000 + self.next_member)],
            is_learner: true,
            ..store::Member::default()
        };
        ConfChange {
            r#type: Some(ConfChangeType::ConfChangeAddLearnerNode.into()),
            node_id: Some(id.get()),
            context: Some(member.to_json().into()),
            ..ConfChange::default()
        }
    }
}

fn alarm(action: AlarmAction) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id: 77, alarm: AlarmType::Nospace.into() }
}
