//! What a member proposes by itself: its name and addresses when it has started; as leader the
//! version of the cluster, and the end of leases whose time is over.
//!
//! *Invariants.* At most one proposal of the attributes and one of the version is under way, and
//! at most [`REVOKES_MAX`] revocations; each is given up after the request timeout and may be
//! proposed again, because proposing twice does no harm.
//!
//! *Absent.* Asking other members for their versions: they come as an input. Checkpoints of leases
//! (an experiment in etcd, off by default).
//!
//! *Contract.* `publishV3`, `monitorClusterVersions`, `monitorDowngrade`, `revokeExpiredLeases` of
//! `server/etcdserver/server.go`, etcd v3.7.1.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{LeaseId, MemberId, Moment, RequestId, RequestIds, limits};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, LeaseRevokeRequest, RequestHeader};
use proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use store::{Operation, Version};

use crate::requests::versions;
use crate::state::State;

/// Revocations of expired leases under way at once.
const REVOKES_MAX: usize = 16;

/// How often leases are looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// How often a leader decides whether the cluster's version changes, and wants to hear the
/// versions of all members before.
pub const VERSIONS_INTERVAL: Duration = Duration::from_secs(4);

/// What a member needs to know for its own proposals.
pub(crate) struct Own {
    pub(crate) member: MemberId,
    pub(crate) attributes: Attributes,
    /// Major and minor of the version that this server announces.
    pub(crate) server_version: (u64, u64),
    pub(crate) ids: Arc<RequestIds>,
    /// After this time a proposal is made again.
    pub(crate) timeout: Duration,
    /// What a new leader gives every lease.
    pub(crate) extend: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    operation: Operation,
    id: RequestId,
    until: Moment,
}

/// How the member's part stands, as raft sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Somebody leads.
    pub(crate) has_leader: bool,
    /// This member leads, and has applied an entry of its term.
    pub(crate) leads: bool,
}

/// The proposals under way, and when to look again.
pub(crate) struct Duties {
    own: Own,
    published: bool,
    publishing: Option<Asked>,
    version: Option<Asked>,
    /// What members said about their versions, until that is looked at.
    told: Option<BTreeMap<MemberId, Option<Version>>>,
    next_version: Moment,
    revokes: BTreeMap<RequestId, Moment>,
    expired: VecDeque<LeaseId>,
    next_expiry: Moment,
    is_primary: bool,
    /// What was proposed here and is applied, and how long that took; not taken out yet.
    done: Vec<(Operation, Duration)>,
}

/// How many requests of its own that are done a member remembers until somebody asks.
const DONE_MAX: usize = 64;

impl Duties {
    pub(crate) fn new(own: Own) -> Self {
        Self {
            own,
            published: false,
            publishing: None,
            version: None,
            told: None,
            next_version: Moment::default(),
            revokes: BTreeMap::new(),
            expired: VecDeque::new(),
            next_expiry: Moment::default(),
            is_primary: false,
            done: Vec::new(),
        }
    }

    /// Takes out which requests of this member's own are done, and how long each took.
    pub(crate) fn take_done(&mut self) -> Vec<(Operation, Duration)> {
        std::mem::take(&mut self.done)
    }

    fn note(&mut self, operation: Operation, until: Moment, now: Moment) {
        if self.done.len() < DONE_MAX {
            self.done.push((operation, self.own.timeout.saturating_sub(until - now)));
        }
    }

    /// When there may be something to do next.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.is_primary.then(|| self.next_expiry.min(self.next_version))
    }

    /// What members say about their versions, to be looked at if this member leads.
    pub(crate) fn hear_versions(&mut self, versions: Vec<(MemberId, Option<String>)>) {
        let parse = |version: Option<String>| version.as_deref().and_then(Version::parse);
        self.told = Some(versions.into_iter().map(|(id, version)| (id, parse(version))).collect());
    }

    /// A request of ours is applied. True when it made this member known to the cluster.
    pub(crate) fn finished(&mut self, id: RequestId, now: Moment) -> bool {
        if let Some(until) = self.revokes.remove(&id) {
            self.note(Operation::LeaseRevoke, until, now);
        }
        if let Some(version) = self.version.take_if(|asked| asked.id == id) {
            self.note(version.operation, version.until, now);
        }
        let Some(published) = self.publishing.take_if(|asked| asked.id == id) else {
            return false;
        };
        self.note(published.operation, published.until, now);
        self.published = true;
        true
    }

    /// Appends what is to be proposed now.
    pub(crate) fn due(
        &mut self,
        now: Moment,
        standing: Standing,
        members: &dyn Fn() -> Vec<MemberId>,
        state: &dyn State,
        proposals: &mut Vec<(RequestId, Bytes)>,
    ) {
        self.follow_leadership(now, standing.leads, state);
        if standing.has_leader && !self.published && is_over(self.publishing, now) {
            let (id, data) = self.publication();
            let until = now + self.own.timeout;
            self.publishing = Some(Asked { operation: Operation::ClusterMemberAttrSet, id, until });
            proposals.push((id, data));
        }
        if !self.is_primary {
            return;
        }
        if now >= self.next_version {
            self.next_version = now + VERSIONS_INTERVAL;
            if members() == [self.own.member] {
                self.told = Some(BTreeMap::new());
            }
        }
        if let Some(told) = self.told.take()
            && is_over(self.version, now)
        {
            self.decide_version(now, &members(), told, state, proposals);
        }
        self.revoke_expired(now, state, proposals);
    }

    fn follow_leadership(&mut self, now: Moment, leads: bool, state: &dyn State) {
        if leads == self.is_primary {
            return;
        }
        self.is_primary = leads;
        self.expired.clear();
        self.revokes.clear();
        self.version = None;
        if leads {
            // What was told already was asked for in the hope of leading.
            state.promote(now, self.own.extend);
            (self.next_version, self.next_expiry) = (now, now + EXPIRY_INTERVAL);
        } else {
            self.told = None;
            state.demote();
        }
    }

    /// Sets the version of the cluster by what its members are, or ends a downgrade that every
    /// one of them has made.
    fn decide_version(
        &mut self,
        now: Moment,
        members: &[MemberId],
        mut told: BTreeMap<MemberId, Option<Version>>,
        state: &dyn State,
        proposals: &mut Vec<(RequestId, Bytes)>,
    ) {
        let (major, minor) = self.own.server_version;
        told.insert(self.own.member, Some(Version::new(major, minor)));
        let of = |id: &MemberId| told.get(id).and_then(Option::as_ref);
        let all: Option<Vec<&Version>> = members.iter().map(of).collect();
        let lowest = all.and_then(|all| all.into_iter().min_by_key(|version| version.pair()));
        let (current, downgrade) = (state.cluster_version(), state.downgrade());
        let current = match current.as_deref().map(Version::parse) {
            // It cannot be read: then it is not ours to change.
            Some(None) => return,
            current => current.flatten(),
        };
        let target = Version::parse(&downgrade.target_version).filter(|_| downgrade.enabled);
        let is_down =
            target.is_some_and(|target| versions::is_downgraded(&target, members.iter().map(of)));
        let (operation, (id, data)) = if is_down {
            let request = self.request(|request| {
                request.downgrade_info_set = Some(DowngradeInfoSetRequest::default());
            });
            (Operation::DowngradeInfoSet, request)
        } else {
            // A target that no member can go to is the operator's to take back.
            let Ok(Some(version)) = versions::decide(current.as_ref(), lowest, &downgrade) else {
                return;
            };
            let ver = version.to_string();
            let request = self.request(|request| {
                request.cluster_version_set = Some(ClusterVersionSetRequest { ver });
            });
            (Operation::ClusterVersionSet, request)
        };
        self.version = Some(Asked { operation, id, until: now + self.own.timeout });
        proposals.push((id, data));
    }

    fn revoke_expired(
        &mut self,
        now: Moment,
        state: &dyn State,
        proposals: &mut Vec<(RequestId, Bytes)>,
    ) {
        self.revokes.retain(|_, until| *until > now);
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRY_INTERVAL;
            if self.expired.is_empty() {
                self.expired.extend(state.expired_leases(now, limits::LEASE_EXPIRE_BATCH_MAX));
            }
        }
        while self.revokes.len() < REVOKES_MAX {
            let Some(lease) = self.expired.pop_front() else { break };
            let (id, data) = self.request(|request| {
                request.lease_revoke = Some(LeaseRevokeRequest { id: lease.0 });
            });
            self.revokes.insert(id, now + self.own.timeout);
            proposals.push((id, data));
        }
    }

    fn publication(&self) -> (RequestId, Bytes) {
        self.request(|request| {
            request.cluster_member_attr_set = Some(ClusterMemberAttrSetRequest {
                member_id: self.own.member.0,
                member_attributes: Some(self.own.attributes.clone()),
            });
        })
    }

    fn request(&self, fill: impl FnOnce(&mut InternalRaftRequest)) -> (RequestId, Bytes) {
        let id = self.own.ids.next();
        let header = Some(RequestHeader { id: id.0, ..RequestHeader::default() });
        let mut request = InternalRaftRequest { header, ..InternalRaftRequest::default() };
        fill(&mut request);
        (id, request.encode_to_vec().into())
    }
}

fn is_over(asked: Option<Asked>, now: Moment) -> bool {
    asked.is_none_or(|asked| now >= asked.until)
}
