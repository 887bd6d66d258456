//! Applies entries of the log.
//!
//! ```text
//!  entry ─► index above the consistent index? ─► Corrupt > Capped > Quota > the state itself
//!                 └ no: nothing is left to do       (alarms)         (answers NoSpace, applies)
//! ```
//!
//! *Invariants.*
//! 1. Entries come without a gap; one at or below the consistent index changes nothing.
//! 2. The applied index advances with every entry, also when its request is refused.
//! 3. An alarm takes effect with the entry after the one that raised it.
//!
//! *Absent.* Authentication: an entry that would change it stops the member. Reads that were put
//! into the log: nobody waits for them.
//!
//! *Contract.* `server/etcdserver/apply` and `apply` of `server/etcdserver/server.go` of etcd
//! v3.7.1.

use std::sync::Arc;

use base::mutant::{Mutant, is_on};
use base::{LeaseId, LogIndex, MemberId, Moment, RequestId, Revision, Term};
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    DeleteRangeResponse, InternalRaftRequest, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseGrantResponse, LeaseRevokeRequest, LeaseRevokeResponse, PutResponse, RangeResponse,
    ResponseHeader, TxnResponse,
};
use proto::membershippb::{
    ClusterMemberAttrSetRequest, ClusterVersionSetRequest, DowngradeInfoSetRequest,
};
use proto::raftpb::{ConfChange, Entry, EntryType};

use crate::error::{ApplyError, ConfChangeError, Fatal};
use crate::lease::LeaseError;
use crate::legacy;
use crate::membership::{Downgrade, Impossible, Member};
use crate::mvcc::row::bodies;
use crate::mvcc::txn::TxnError;
use crate::mvcc::write::Writer;
use crate::operation::{Counts, Operation};
use crate::quota::{self, LEASE_COST};
use crate::schema;
use crate::store::{FIRST_STORED_VERSION, Store};
use crate::version::Version;

/// What became of an entry.
#[derive(Debug)]
pub struct Applied {
    /// Its position.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Who waits for it; nobody for a leader's empty entry.
    pub request: Option<RequestId>,
    /// The answer.
    pub result: Result<Response, ApplyError>,
    /// What became of a conf change. `None` for other entries, and when the entry was in the
    /// state already: then raft's configuration has it too.
    pub conf_change: Option<ConfChanged>,
    /// The answer is due when the compaction has removed its rows and they are committed.
    pub physical_compaction: bool,
    /// The request did not fit the quota: this member is to raise NOSPACE for itself.
    pub raise_no_space: bool,
    /// The cluster's version was lowered: a snapshot is to be written to disk.
    pub force_snapshot: bool,
    /// The entry is a leader's first in its term.
    pub is_empty: bool,
    /// The entry was in the state already.
    pub replayed: bool,
    /// The kind of the request, when it was applied.
    pub operation: Option<Operation>,
    /// What it has done to the keys.
    pub counts: Counts,
}

/// What became of a conf change.
#[derive(Debug)]
pub struct ConfChanged {
    /// What to give to raft: the change, or one of no member when it was refused.
    pub change: ConfChange,
    /// Why it had no effect.
    pub refused: Option<ConfChangeError>,
    /// All members after it.
    pub members: Vec<Member>,
}

/// An answer. Of the header, only the revision is filled in.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a range.
    Range(RangeResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a compaction.
    Compaction(CompactionResponse),
    /// To a lease's grant.
    LeaseGrant(LeaseGrantResponse),
    /// To a lease's revocation.
    LeaseRevoke(LeaseRevokeResponse),
    /// To checkpoints of leases.
    LeaseCheckpoint,
    /// To an alarm request.
    Alarm(AlarmResponse),
    /// To what has no answer.
    Empty,
}

type Outcome = Result<Result<Response, ApplyError>, Fatal>;

/// Keeps a request's own error apart from those that stop the process.
fn outcome<T>(
    index: LogIndex,
    result: Result<T, TxnError>,
    response: impl FnOnce(T) -> Response,
) -> Outcome {
    match result {
        Ok(answer) => Ok(Ok(response(answer))),
        Err(TxnError::Refused(error)) => Ok(Err(error)),
        Err(TxnError::Read(source)) => Err(Fatal::Read { index, source }),
    }
}

impl Store {
    /// Applies the next entry. An error stops the process: the state is undefined then.
    pub fn apply(&mut self, entry: &Entry, now: Moment) -> Result<Applied, Fatal> {
        let (index, term) = (LogIndex(entry.index()), Term(entry.term()));
        let mut applied = Applied {
            index,
            term,
            request: None,
            result: Ok(Response::Empty),
            conf_change: None,
            physical_compaction: false,
            raise_no_space: false,
            force_snapshot: false,
            is_empty: false,
            replayed: index <= self.applied.0,
            operation: None,
            counts: Counts::default(),
        };
        let data = entry.data.clone().unwrap_or_default();
        let legacy = match entry.r#type() {
            EntryType::EntryNormal => legacy::translated(&data),
            _ => None,
        };
        let legacy = legacy.transpose().map_err(|what| fatal(index, what))?;
        // etcd 3.7 panics where such an entry follows the last snapshot.
        applied.force_snapshot = legacy.is_some();
        if applied.replayed {
            return Ok(applied);
        }
        if index != self.applied.0.next() {
            return Err(fatal(index, format!("does not follow entry {}", self.applied.0)));
        }
        match EntryType::try_from(entry.r#type.unwrap_or_default()) {
            Ok(EntryType::EntryNormal) if data.is_empty() => applied.is_empty = true,
            Ok(EntryType::EntryNormal) => match legacy {
                Some(request) => self.apply_cluster(&request, &mut applied).unwrap_or(Ok(()))?,
                None => self.apply_normal(data, &mut applied, now)?,
            },
            Ok(EntryType::EntryConfChange) => self.apply_conf_change(data, &mut applied)?,
            Ok(EntryType::EntryConfChangeV2) | Err(_) => {
                let number = entry.r#type.unwrap_or_default();
                return Err(fatal(index, format!("entry type {number} is not in use by etcd")));
            }
        }
        applied.counts = std::mem::take(&mut self.counts);
        self.applied = (index, term);
        Ok(applied)
    }

    /// Refuses an entry that cannot be applied here, whatever the state is. Before a member opens
    /// its log for writing it asks this of what is committed, so that a directory that needs etcd
    /// stays what it was. `database` has the entries up to there already.
    pub fn check(entry: &Entry, database: LogIndex) -> Result<(), Fatal> {
        let index = LogIndex(entry.index());
        let data = entry.data.clone().unwrap_or_default();
        if entry.r#type() != EntryType::EntryNormal || data.is_empty() {
            return Ok(());
        }
        if let Some(translated) = legacy::translated(&data) {
            return translated.map(|_| ()).map_err(|what| fatal(index, what));
        }
        // What cannot be read is told when it is applied.
        if index <= database || check_nesting(&data).is_err() {
            return Ok(());
        }
        match proto::decode::<InternalRaftRequest>(data).ok().as_ref().and_then(auth_request) {
            Some(name) => Err(fatal(index, needs_auth(name))),
            None => Ok(()),
        }
    }

    fn apply_conf_change(&mut self, data: Bytes, applied: &mut Applied) -> Result<(), Fatal> {
        let index = applied.index;
        let mut change = proto::decode::<ConfChange>(data)
            .map_err(|error| fatal(index, format!("not a conf change: {error}")))?;
        applied.request = Some(RequestId(change.id()));
        let mut membership = self.shared.membership.write();
        let table = &self.tables.active;
        let result = membership
            .change(&change, self.options.learners_max, table)
            .map_err(|Impossible(what)| fatal(index, what))?;
        if result.is_ok() {
            let row = serde_json::to_vec(&membership.conf_state())
                .map_err(|error| fatal(index, error.to_string()))?;
            table.put(schema::META, schema::name(schema::CONF_STATE), Bytes::from(row));
        } else {
            change.node_id = Some(MemberId::NONE.0);
        }
        let members = membership.members().cloned().collect();
        applied.conf_change = Some(ConfChanged { change, refused: result.err(), members });
        Ok(())
    }

    fn apply_normal(
        &mut self,
        data: Bytes,
        applied: &mut Applied,
        now: Moment,
    ) -> Result<(), Fatal> {
        let index = applied.index;
        check_nesting(&data).map_err(|what| fatal(index, what))?;
        let request: InternalRaftRequest =
            proto::decode(data).map_err(|error| fatal(index, format!("not a request: {error}")))?;
        applied.request = Some(match (request.id, &request.header) {
            (0, None) => return Err(fatal(index, "request without an id".into())),
            (0, Some(header)) => RequestId(header.id),
            (id, _) => RequestId(id),
        });
        applied.operation = Operation::of(&request);
        if let Some(result) = self.apply_cluster(&request, applied) {
            return result;
        }
        let no_space_before = self.shared.is_raised(AlarmType::Nospace);
        applied.result = match self.refused_by_alarm(&request) {
            Some(error) => Err(error),
            None => {
                let fits = self.fits_quota(&request);
                match self.apply_request(&request, applied, now)? {
                    // Applied all the same: the quota is this member's, the state is everyone's.
                    Ok(_) if !fits => Err(ApplyError::NoSpace),
                    result => result,
                }
            }
        };
        applied.raise_no_space = applied.result == Err(ApplyError::NoSpace) && !no_space_before;
        Ok(())
    }

    /// Requests that no alarm stops. `None` for others.
    fn apply_cluster(
        &mut self,
        request: &InternalRaftRequest,
        applied: &mut Applied,
    ) -> Option<Result<(), Fatal>> {
        let index = applied.index;
        if let Some(set) = &request.cluster_version_set {
            return Some(self.set_cluster_version(set, applied));
        }
        if let Some(set) = &request.cluster_member_attr_set {
            return Some(self.set_attributes(set).map_err(|Impossible(what)| fatal(index, what)));
        }
        if let Some(set) = &request.downgrade_info_set {
            self.set_downgrade(set);
            return Some(Ok(()));
        }
        request.downgrade_version_test.is_some().then_some(Ok(()))
    }

    fn set_cluster_version(
        &mut self,
        set: &ClusterVersionSetRequest,
        applied: &mut Applied,
    ) -> Result<(), Fatal> {
        let version = Version::parse(&set.ver)
            .ok_or_else(|| fatal(applied.index, format!("bad cluster version {:?}", set.ver)))?;
        let (major, minor) = self.options.server_version;
        if version.pair() > (major, minor) {
            return Err(fatal(
                applied.index,
                format!("cluster version {version} is above this server's {major}.{minor}"),
            ));
        }
        let mut membership = self.shared.membership.write();
        applied.force_snapshot |=
            membership.version().is_some_and(|before| version.pair() < before.pair());
        membership.set_version(version, &self.tables.active);
        drop(membership);
        self.follow_cluster_version();
        Ok(())
    }

    fn set_attributes(&mut self, set: &ClusterMemberAttrSetRequest) -> Result<(), Impossible> {
        let attributes = set.member_attributes.clone().unwrap_or_default();
        let (name, client_urls) = (attributes.name, attributes.client_urls);
        let id = MemberId(set.member_id);
        self.shared.membership.write().set_attributes(id, name, client_urls, self.table())
    }

    fn set_downgrade(&mut self, set: &DowngradeInfoSetRequest) {
        let target_version = if set.enabled { set.ver.clone() } else { String::new() };
        let downgrade = Downgrade { target_version, enabled: set.enabled };
        self.shared.membership.write().set_downgrade(downgrade, &self.tables.active);
    }

    fn refused_by_alarm(&self, request: &InternalRaftRequest) -> Option<ApplyError> {
        let alarms = self.shared.alarms.read();
        let touches_state = request.put.is_some()
            || request.range.is_some()
            || request.delete_range.is_some()
            || request.txn.is_some()
            || request.compaction.is_some()
            || request.lease_grant.is_some()
            || request.lease_revoke.is_some();
        if touches_state && alarms.is_raised(AlarmType::Corrupt) {
            return Some(ApplyError::Corrupt);
        }
        let takes_space = request.put.is_some()
            || request.lease_grant.is_some()
            || request.txn.as_ref().is_some_and(|txn| quota::txn_cost(txn) > 0);
        (takes_space && alarms.is_raised(AlarmType::Nospace)).then_some(ApplyError::NoSpace)
    }

    fn fits_quota(&self, request: &InternalRaftRequest) -> bool {
        let cost = if let Some(put) = &request.put {
            quota::put_cost(put)
        } else if let Some(txn) = &request.txn {
            quota::txn_cost(txn)
        } else if request.lease_grant.is_some() {
            LEASE_COST
        } else {
            0
        };
        quota::fits(self.shared.quota(), self.tables.database.size_bytes(), cost)
    }

    fn apply_request(
        &mut self,
        request: &InternalRaftRequest,
        applied: &mut Applied,
        now: Moment,
    ) -> Outcome {
        let index = applied.index;
        if request.range.is_some() || asks_auth(request) {
            return Ok(Ok(Response::Empty));
        }
        if let Some(put) = &request.put {
            return outcome(index, self.write(|writer| writer.put(put)), Response::Put);
        }
        if let Some(delete) = &request.delete_range {
            let result = self.write(|writer| writer.delete_range(delete));
            return outcome(index, result, Response::DeleteRange);
        }
        if let Some(txn) = &request.txn {
            return outcome(index, self.write(|writer| writer.txn(txn)), Response::Txn);
        }
        if let Some(compaction) = &request.compaction {
            return Ok(self.compact(compaction, applied));
        }
        if let Some(grant) = &request.lease_grant {
            return Ok(self.grant(grant, now));
        }
        if let Some(revoke) = &request.lease_revoke {
            return outcome(index, self.revoke(revoke), Response::LeaseRevoke);
        }
        if let Some(alarm) = &request.alarm {
            return Ok(self.alarm(*alarm));
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            self.checkpoint(checkpoint, now);
            return Ok(Ok(Response::LeaseCheckpoint));
        }
        Err(fatal(index, unknown(request)))
    }

    /// Runs one transaction and publishes what it changed.
    fn write<T>(
        &mut self,
        run: impl FnOnce(&mut Writer<'_>) -> Result<T, TxnError>,
    ) -> Result<T, TxnError> {
        let mut writer = Writer::new(&self.view, &self.shared.lessor, &self.tables.active);
        let answer = run(&mut writer);
        self.counts = writer.counts();
        let answer = answer?;
        let changes = writer.into_changes();
        self.publish_changes(&changes);
        Ok(answer)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.view.revision().0, ..ResponseHeader::default() })
    }

    fn compact(
        &mut self,
        request: &CompactionRequest,
        applied: &mut Applied,
    ) -> Result<Response, ApplyError> {
        let at = Revision(request.revision);
        if at <= self.compacted {
            return Err(ApplyError::Compacted);
        }
        if at > self.view.revision() {
            return Err(ApplyError::FutureRevision);
        }
        self.begin_compaction(at);
        applied.physical_compaction = request.physical;
        Ok(Response::Compaction(CompactionResponse { header: self.header() }))
    }

    fn grant(&mut self, request: &LeaseGrantRequest, now: Moment) -> Result<Response, ApplyError> {
        let lease = self.shared.lessor.grant(LeaseId(request.id), request.ttl, now)?;
        let key = schema::lease(LeaseId(lease.id));
        self.table().put(schema::LEASE, key, Bytes::from(lease.encode_to_vec()));
        Ok(Response::LeaseGrant(LeaseGrantResponse {
            header: self.header(),
            id: lease.id,
            ttl: lease.ttl,
            error: String::new(),
        }))
    }

    fn revoke(&mut self, request: &LeaseRevokeRequest) -> Result<LeaseRevokeResponse, TxnError> {
        let id = LeaseId(request.id);
        let shared = Arc::clone(&self.shared);
        let mut keys = shared.lessor.keys(id).ok_or(ApplyError::LeaseNotFound)?;
        if is_on(Mutant::RevokeInAnyOrder) && self.options.member.0 % 2 == 1 {
            keys.reverse();
        }
        self.write(|writer| {
            for key in &keys {
                writer.delete_attached(key);
            }
            // Whoever is told of the deletions must find the lease gone.
            shared.lessor.remove(id);
            Ok(())
        })?;
        if !is_on(Mutant::RevokeLeavesRow) {
            self.table().delete(schema::LEASE, schema::lease(id));
        }
        Ok(LeaseRevokeResponse { header: self.header() })
    }

    fn checkpoint(&mut self, request: &LeaseCheckpointRequest, now: Moment) {
        let version = self.shared.membership.read().version().map(Version::pair);
        let persist = version.is_some_and(|version| version >= FIRST_STORED_VERSION)
            || self.shared.lessor.keeps_checkpoints();
        for checkpoint in &request.checkpoints {
            let id = LeaseId(checkpoint.id);
            let row = self.shared.lessor.checkpoint(id, checkpoint.remaining_ttl, now);
            if let Some(row) = row.filter(|_| persist) {
                let row = Bytes::from(row.encode_to_vec());
                self.table().put(schema::LEASE, schema::lease(id), row);
            }
        }
    }

    fn alarm(&mut self, request: AlarmRequest) -> Result<Response, ApplyError> {
        let mut alarms = self.shared.alarms.write();
        let table = &self.tables.active;
        let (member, alarm) = (MemberId(request.member_id), request.alarm);
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => alarms.list(alarm),
            Ok(AlarmAction::Activate) if alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => vec![alarms.activate(member, alarm, table)],
            Ok(AlarmAction::Deactivate) => {
                alarms.deactivate(member, alarm, table).into_iter().collect()
            }
            Err(_) => return Err(ApplyError::InvalidAlarmAction),
        };
        Ok(Response::Alarm(AlarmResponse { header: None, alarms }))
    }
}

impl From<LeaseError> for ApplyError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::NotFound => Self::LeaseNotFound,
            LeaseError::Exists => Self::LeaseExists,
            LeaseError::TtlTooLarge => Self::TtlTooLarge,
        }
    }
}

fn fatal(index: LogIndex, what: String) -> Fatal {
    Fatal::Entry { index, what }
}

/// Whether it asks about authentication and changes nothing while that is off: etcd takes reads
/// into its log, too.
const fn asks_auth(request: &InternalRaftRequest) -> bool {
    request.auth_status.is_some()
        || request.authenticate.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_get.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_get.is_some()
        || request.auth_role_list.is_some()
}

/// The name of a request that changes users, roles or whether they matter.
fn auth_request(request: &InternalRaftRequest) -> Option<&'static str> {
    let auth = [
        ("auth enable", request.auth_enable.is_some()),
        ("user add", request.auth_user_add.is_some()),
        ("user delete", request.auth_user_delete.is_some()),
        ("user change password", request.auth_user_change_password.is_some()),
        ("user grant role", request.auth_user_grant_role.is_some()),
        ("user revoke role", request.auth_user_revoke_role.is_some()),
        ("role add", request.auth_role_add.is_some()),
        ("role delete", request.auth_role_delete.is_some()),
        ("role grant permission", request.auth_role_grant_permission.is_some()),
        ("role revoke permission", request.auth_role_revoke_permission.is_some()),
    ];
    auth.iter().find(|(_, is_set)| *is_set).map(|(name, _)| *name)
}

fn needs_auth(name: &str) -> String {
    format!(
        "authentication request ({name}), which this version cannot apply; let etcd apply it \
         (start and stop it on this directory) and disable authentication first"
    )
}

/// Says what a request is that nothing here knows.
fn unknown(request: &InternalRaftRequest) -> String {
    match auth_request(request) {
        Some(name) => needs_auth(name),
        None => "empty request, or one that etcd 3.7 does not know".into(),
    }
}

/// Bounds the nesting of a transaction before the recursive decoder sees it.
fn check_nesting(data: &[u8]) -> Result<(), String> {
    const TXN: u64 = 6;
    bodies(data, TXN).try_for_each(|txn| {
        proto::check_nesting(txn, base::limits::TXN_DEPTH_MAX).map_err(|error| error.to_string())
    })
}
