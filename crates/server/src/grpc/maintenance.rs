//! State and care of one member.

use std::sync::Arc;
use std::time::Instant;

use base::{MemberId, Revision};
use node::requests::Rejected;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
};
use store::Response;

use super::kv::mismatched;
use super::range::with_newest_view;
use super::reply::Reply;
use super::status::Status;
use crate::api::{Api, VERSION};
use crate::cluster::downgrade;
use crate::{log, trust};

/// The highest alarm action that etcd knows; it dies of others.
const ALARM_ACTION_MAX: i32 = 2;

/// An alarm as Go's text form of its message.
pub(crate) fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = AlarmType::try_from(alarm.alarm).unwrap_or_default();
    match (alarm.member_id, kind) {
        (0, AlarmType::None) => String::new(),
        (0, kind) => format!("alarm:{}", kind.as_str_name()),
        (id, AlarmType::None) => format!("memberID:{id}"),
        (id, kind) => format!("memberID:{id} alarm:{}", kind.as_str_name()),
    }
}

pub(super) async fn alarm(api: &Api, request: AlarmRequest) -> Result<Reply, Status> {
    if !(0..=ALARM_ACTION_MAX).contains(&request.action) {
        return Err(Rejected::UnknownMethod.into());
    }
    let proposal = api.propose(InternalRaftRequest { alarm: Some(request), ..Default::default() });
    match proposal.await? {
        Response::Alarm(mut response) => {
            api.fill(&mut response.header);
            Ok(Reply::of(&response))
        }
        other => Err(mismatched(&other)),
    }
}

pub(super) fn status(api: &Api, _: &StatusRequest) -> Reply {
    let status = api.member.status();
    let downgrade = api.store.downgrade();
    let mut errors = Vec::new();
    if status.leader == MemberId::NONE {
        errors.push(Rejected::NoLeader.to_string());
    }
    errors.extend(api.store.alarms().iter().map(alarm_text));
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let quota = match api.options.live.quota_backend_bytes() {
        0 => api.store.quota().map_or(0, signed),
        given => given,
    };
    Reply::of(&StatusResponse {
        header: Some(api.header()),
        version: VERSION.to_owned(),
        db_size: signed(api.store.db_size()),
        leader: status.leader.get(),
        raft_index: status.committed.get(),
        raft_term: status.term.get(),
        raft_applied_index: status.applied.get(),
        errors,
        db_size_in_use: signed(api.store.db_size_in_use()),
        is_learner: status.is_learner,
        storage_version: api.store.storage_version().unwrap_or_default(),
        db_size_quota: quota,
        downgrade_info: Some(DowngradeInfo {
            enabled: downgrade.enabled,
            target_version: downgrade.target_version,
        }),
    })
}

/// There is nothing to stop for: free pages are used again as they are. What waits is committed,
/// so that the sizes told afterwards are true.
pub(super) async fn defragment(api: &Api, _: &DefragmentRequest) -> Result<Reply, Status> {
    log::info("starting defragment").emit();
    api.metrics.defragment(api.member.commit_now()).await?;
    log::info("finished defragment").emit();
    Ok(Reply::of(&DefragmentResponse { header: None }))
}

pub(super) async fn hash(api: &Arc<Api>, _: &HashRequest) -> Result<Reply, Status> {
    api.member.commit_now().await?;
    let reading = Arc::clone(api);
    let (hash, revision) = super::blocking(move || {
        let began = Instant::now();
        let hashed =
            with_newest_view(&reading, |view| view.hash().map(|hash| (hash, view.revision())));
        reading.metrics.hash_seconds.observe(began.elapsed());
        hashed
    })
    .await??;
    let header = Some(api.member.header(revision));
    Ok(Reply::of(&HashResponse { header, hash }))
}

pub(super) async fn hash_kv(api: &Arc<Api>, request: &HashKvRequest) -> Result<Reply, Status> {
    let (hash, revision) = trust::hash(api, Revision(request.revision)).await?;
    Ok(Reply::of(&HashKvResponse {
        header: Some(api.member.header(revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision.get(),
        hash_revision: hash.hash_revision.get(),
    }))
}

pub(super) async fn move_leader(api: &Api, request: &MoveLeaderRequest) -> Result<Reply, Status> {
    if !api.member.is_leader() {
        return Err(Rejected::NotLeader.into());
    }
    let target = MemberId(request.target_id);
    if api.store.member(target).is_none_or(|member| member.is_learner) {
        return Err(Rejected::BadLeaderTransferee.into());
    }
    if target != api.member.id() {
        let (own, began) = (api.member.id(), Instant::now());
        let line = |msg: &str| {
            log::info(msg)
                .text("local-member-id", &own)
                .text("current-leader-member-id", &own)
                .text("transferee-member-id", &target)
        };
        line("leadership transfer starting").emit();
        api.member.transfer_leader(target).await?;
        line("leadership transfer finished").duration("took", began.elapsed()).emit();
    }
    Ok(Reply::of(&MoveLeaderResponse { header: None }))
}

pub(super) async fn downgrade(api: &Api, request: &DowngradeRequest) -> Result<Reply, Status> {
    // VALIDATE tells the version from before it waits; there is no other by then.
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => drop(downgrade::validate(api, &request.version).await?),
        Ok(DowngradeAction::Enable) => downgrade::enable(api, &request.version).await?,
        Ok(DowngradeAction::Cancel) => downgrade::cancel(api).await,
        Err(_) => return Err(Rejected::UnknownMethod.into()),
    }
    let version = downgrade::told_version(api)?;
    Ok(Reply::of(&DowngradeResponse { header: Some(api.header()), version }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_have_gos_text() {
        let text = |member_id, alarm: AlarmType| {
            alarm_text(&AlarmMember { member_id, alarm: alarm as i32 })
        };
        assert_eq!(text(5, AlarmType::Nospace), "memberID:5 alarm:NOSPACE");
        assert_eq!(text(0, AlarmType::Corrupt), "alarm:CORRUPT");
    }
}
