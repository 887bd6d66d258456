//! Leases.

use std::sync::Arc;
use std::time::Duration;

use base::{LeaseId, MemberId};
use node::requests::Rejected;
use node::requests::lease::{self, KeepAlive};
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use store::Response;
use store::lease::Lessor;
use store::quota::LEASE_COST;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::kv::mismatched;
use super::reply::Reply;
use super::status::Status;
use super::stream::Stream;
use super::wire::{self, Messages};
use crate::api::Api;

/// How often a renewal looks whether somebody leads again, as etcd between two attempts.
const LEADER_POLL: Duration = Duration::from_millis(50);

pub(super) async fn grant(api: &Api, mut request: LeaseGrantRequest) -> Result<Reply, Status> {
    api.check_quota(LEASE_COST).await?;
    lease::choose_id(&mut request, &api.lease_ids);
    let proposal =
        api.propose(InternalRaftRequest { lease_grant: Some(request), ..Default::default() });
    match proposal.await? {
        Response::LeaseGrant(mut response) => {
            api.fill(&mut response.header);
            Ok(Reply::of(&response))
        }
        other => Err(mismatched(&other)),
    }
}

pub(super) async fn revoke(api: &Api, request: LeaseRevokeRequest) -> Result<Reply, Status> {
    let proposal =
        api.propose(InternalRaftRequest { lease_revoke: Some(request), ..Default::default() });
    match proposal.await? {
        Response::LeaseRevoke(mut response) => {
            api.fill(&mut response.header);
            Ok(Reply::of(&response))
        }
        other => Err(mismatched(&other)),
    }
}

pub(super) async fn time_to_live(
    api: &Api,
    request: &LeaseTimeToLiveRequest,
) -> Result<Reply, Status> {
    // A lease that was granted just now must be found.
    api.read_index().await?;
    let header = Some(api.header());
    let told = lease::time_to_live(api.store.lessor(), request, api.now());
    Ok(Reply::of(&LeaseTimeToLiveResponse { header, ..told? }))
}

pub(super) fn leases(api: &Api, _: &LeaseLeasesRequest) -> Result<Reply, Status> {
    let header = Some(api.header());
    Ok(Reply::of(&LeaseLeasesResponse { header, ..lease::leases(api.store.lessor()) }))
}

pub(super) async fn keep_alive(stream: &mut Stream, mut requests: Messages) -> Result<(), Status> {
    let api = Arc::clone(&stream.call.api);
    loop {
        let request = tokio::select! {
            biased;
            status = stream.interrupted() => return Err(status),
            request = requests.next() => request?,
        };
        let Some(message) = request else { return Ok(()) };
        stream.call.received(message.len());
        let request: LeaseKeepAliveRequest = wire::decode_streamed(&message)?;
        // Before the renewal, so that a lease seen alive at a revision was alive at it.
        let header = Some(api.header());
        let renewed = tokio::select! {
            biased;
            renewed = renew(&api, LeaseId(request.id)) => renewed?,
            status = stream.interrupted() => return Err(status),
        };
        stream.message(&LeaseKeepAliveResponse { header, ..renewed }).await?;
    }
}

/// Renews a lease, where it needs be after others have done their part: the grant is applied, the
/// revocation is done, somebody leads.
async fn renew(api: &Api, id: LeaseId) -> Result<LeaseKeepAliveResponse, Status> {
    let lessor = api.store.lessor();
    if !lessor.exists(id) {
        // It may be granted and not applied yet.
        api.read_index().await?;
    }
    let deadline = Instant::now() + api.options.request_timeout;
    loop {
        match lease::keep_alive(lessor, id, api.now()) {
            Ok(KeepAlive::Answer(renewed)) => {
                if renewed.ttl > 0 {
                    api.metrics.leases_renewed.increment();
                }
                return Ok(renewed);
            }
            // Removed, which the next turn finds; or the member leads no more, and it lives on.
            Ok(KeepAlive::Expiring) => until_removed(lessor, id, deadline).await?,
            Err(Rejected::NotPrimaryLessor) => until_leading(api, deadline).await?,
            Err(other) => return Err(other.into()),
        }
    }
}

async fn until_removed(lessor: &Lessor, id: LeaseId, deadline: Instant) -> Result<(), Status> {
    let (gone, wait) = oneshot::channel();
    // A client that does not wait any more is not told.
    if !lessor.when_removed(id, move || {
        let _ = gone.send(());
    }) {
        return Err(Rejected::TooManyRequests.into());
    }
    match timeout_at(deadline, wait).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Rejected::Timeout.into()),
    }
}

/// Waits until this member can renew leases: it leads, and has promoted them. A leader elsewhere
/// would have to be asked.
async fn until_leading(api: &Api, deadline: Instant) -> Result<(), Status> {
    while Instant::now() < deadline {
        let leader = api.member.status().leader;
        if leader != MemberId::NONE && leader != api.member.id() {
            return Err(Rejected::NotPrimaryLessor.into());
        }
        if api.store.lessor().is_primary() {
            return Ok(());
        }
        sleep(LEADER_POLL).await;
    }
    Err(match api.member.status().leader {
        MemberId::NONE => Rejected::NoLeader.into(),
        _ => Rejected::Timeout.into(),
    })
}
