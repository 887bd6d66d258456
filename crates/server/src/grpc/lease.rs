//! Leases.

use std::sync::Arc;

use base::LeaseId;
use node::requests::{Rejected, lease};
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use store::Response;
use store::quota::LEASE_COST;

use super::kv::mismatched;
use super::reply::Reply;
use super::status::Status;
use super::stream::Stream;
use super::wire::{self, Messages};
use crate::api::Api;
use crate::cluster::leases;
use crate::metrics::Broken;

/// Grants a lease.
pub(crate) async fn grant(
    api: &Api,
    mut request: LeaseGrantRequest,
) -> Result<LeaseGrantResponse, Status> {
    api.check_quota(LEASE_COST).await?;
    lease::choose_id(&mut request, &api.lease_ids);
    let proposal =
        api.propose(InternalRaftRequest { lease_grant: Some(request), ..Default::default() });
    match proposal.await? {
        Response::LeaseGrant(mut response) => {
            api.fill(&mut response.header);
            Ok(response)
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
    let told = leases::time_to_live(api, request).await?;
    Ok(Reply::of(&LeaseTimeToLiveResponse { header: Some(api.header()), ..told }))
}

pub(super) fn list(api: &Api, _: &LeaseLeasesRequest) -> Result<Reply, Status> {
    let header = Some(api.header());
    Ok(Reply::of(&LeaseLeasesResponse { header, ..lease::leases(api.store.lessor()) }))
}

pub(super) async fn keep_alive(stream: &mut Stream, mut requests: Messages) -> Result<(), Status> {
    let api = Arc::clone(&stream.call.api);
    loop {
        let request = tokio::select! {
            biased;
            status = stream.interrupted() => return Err(status),
            request = requests.next() => request.inspect_err(|status| tell_broken(&api, status))?,
        };
        let Some(message) = request else { return Ok(()) };
        stream.call.received(message.len());
        let LeaseKeepAliveRequest { id } =
            wire::decode_streamed(&message).inspect_err(|status| {
                tell_broken(&api, status);
                stream.call.received_nonsense();
            })?;
        // Before the renewal, so that a lease seen alive at a revision was alive at it.
        let header = Some(api.header());
        let ttl = tokio::select! {
            biased;
            seconds = leases::renew(&api, LeaseId(id)) => seconds?,
            status = stream.interrupted() => return Err(status),
        };
        stream.message(&LeaseKeepAliveResponse { header, id, ttl }).await?;
    }
}

/// A client that goes breaks nothing.
fn tell_broken(api: &Api, status: &Status) {
    if *status != Rejected::Canceled.into() {
        api.metrics.broken(Broken::Lease);
    }
}
