//! State and care of one member.

use std::sync::Arc;
use std::time::Instant;

use base::{MemberId, Revision};
use node::requests::{Code, Rejected};
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    InternalRaftRequest, MoveLeaderRequest, MoveLeaderResponse, StatusRequest, StatusResponse,
};
use proto::membershippb::DowngradeInfoSetRequest;
use store::Response;

use super::kv::mismatched;
use super::range::with_newest_view;
use super::reply::Reply;
use super::status::Status;
use crate::api::{Api, VERSION};
use crate::log;

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
    let quota = match api.options.quota_backend_bytes {
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
    api.member.commit_now().await?;
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
    let at = Revision(request.revision);
    let reading = Arc::clone(api);
    let (hash, revision) = super::blocking(move || {
        let began = Instant::now();
        let hashed =
            with_newest_view(&reading, |view| view.hash_kv(at).map(|hash| (hash, view.revision())));
        reading.metrics.hash_rev_seconds.observe(began.elapsed());
        hashed
    })
    .await??;
    Ok(Reply::of(&HashKvResponse {
        header: Some(api.member.header(revision)),
        hash: hash.hash,
        compact_revision: hash.compact_revision.get(),
        hash_revision: hash.hash_revision.get(),
    }))
}

pub(super) fn move_leader(api: &Api, request: &MoveLeaderRequest) -> Result<Reply, Status> {
    let (own, leader) = (api.member.id(), api.member.status().leader);
    if leader != own {
        return Err(Rejected::NotLeader.into());
    }
    let target = MemberId(request.target_id);
    if api.store.member(target).is_none_or(|member| member.is_learner) {
        return Err(Rejected::BadLeaderTransferee.into());
    }
    if target != own {
        let text = "moving the leadership is not supported by this version of quorate";
        return Err(Status::new(Code::Unimplemented, text));
    }
    Ok(Reply::of(&MoveLeaderResponse { header: None }))
}

pub(super) async fn downgrade(api: &Api, request: &DowngradeRequest) -> Result<Reply, Status> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => validate_downgrade(api, &request.version).await?,
        Ok(DowngradeAction::Enable) => {
            validate_downgrade(api, &request.version).await?;
            let text = "downgrading a cluster is not supported by this version of quorate";
            return Err(Status::new(Code::Unimplemented, text));
        }
        Ok(DowngradeAction::Cancel) => {
            let cancel = DowngradeInfoSetRequest { enabled: false, ..Default::default() };
            api.propose(InternalRaftRequest {
                downgrade_info_set: Some(cancel),
                ..InternalRaftRequest::default()
            })
            .await?;
        }
        Err(_) => return Err(Rejected::UnknownMethod.into()),
    }
    let version = cluster_version(api)?;
    let version = format!("{}.{}", version.0, version.1);
    Ok(Reply::of(&DowngradeResponse { header: Some(api.header()), version }))
}

async fn validate_downgrade(api: &Api, target: &str) -> Result<(), Status> {
    let (major, minor) = parse_version(target).ok_or(Rejected::WrongDowngradeVersionFormat)?;
    api.read_index().await?;
    let current = cluster_version(api)?;
    if (major, minor.checked_add(1)) != (current.0, Some(current.1)) {
        return Err(Rejected::InvalidDowngradeTargetVersion.into());
    }
    if api.store.downgrade().enabled {
        return Err(Rejected::DowngradeInProcess.into());
    }
    Ok(())
}

fn cluster_version(api: &Api) -> Result<(u64, u64), Rejected> {
    let version = api.store.cluster_version();
    version.as_deref().and_then(parse_version).ok_or(Rejected::ClusterVersionUnavailable)
}

/// Major and minor of `M.m` or `M.m.p`.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let numbers: Vec<u64> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
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

    #[test]
    fn versions_have_two_or_three_numbers() {
        assert_eq!(parse_version("3.6"), Some((3, 6)));
        assert_eq!(parse_version("3.6.14"), Some((3, 6)));
        for text in ["3", "", "3.x", "3.6.0.1", "v3.6"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }
}
