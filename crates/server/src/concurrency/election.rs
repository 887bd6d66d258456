//! The election service, but for the stream that observes.

use std::sync::Arc;

use bytes::Bytes;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};

use super::line::{Leaving, Line, Place, Taken};
use super::{lease, refused};
use crate::api::Api;
use crate::grpc::Status;

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const LEADER_MISSING: &str = "\"leader\" field must be provided";

/// Waits until the caller leads.
pub(crate) async fn campaign(
    api: &Arc<Api>,
    request: CampaignRequest,
) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease: brought, value } = request;
    // What waits does not keep the request, of which its fields are slices.
    let name = Bytes::copy_from_slice(&name);
    let lease = lease(api, brought).await?;
    let taken = Place::take(api, Line::of(&name), lease, value.clone()).await?;
    let mut leaving = Leaving::guard(api, &taken);
    let Taken { place, header, before } = taken;
    if before.is_some_and(|before| before != value) {
        match place.put(api, lease, value).await {
            Ok(answer) if answer.succeeded => {}
            // The key is another's, or gone.
            Ok(_) => return Err(refused(NOT_LEADER)),
            Err(status) => {
                leaving.leave();
                return Err(status);
            }
        }
    } else {
        drop(value);
    }
    place.reach_front(api, &mut leaving).await?;
    leaving.stay();
    let leader = LeaderKey { name, key: place.key, rev: place.created, lease };
    Ok(CampaignResponse { header, leader: Some(leader) })
}

/// The place of a leader as it names it itself.
fn place(leader: &LeaderKey) -> Place {
    Place { line: Line::of(&leader.name), key: leader.key.clone(), created: leader.rev }
}

/// Gives a leader another value.
pub(crate) async fn proclaim(
    api: &Arc<Api>,
    request: ProclaimRequest,
) -> Result<ProclaimResponse, Status> {
    let leader = request.leader.ok_or_else(|| refused(LEADER_MISSING))?;
    let lease = lease(api, leader.lease).await?;
    let answer = place(&leader).put(api, lease, request.value).await?;
    if !answer.succeeded {
        return Err(refused(NOT_LEADER));
    }
    Ok(ProclaimResponse { header: answer.header })
}

/// Lets the next one lead.
pub(crate) async fn resign(
    api: &Arc<Api>,
    request: ResignRequest,
) -> Result<ResignResponse, Status> {
    let leader = request.leader.ok_or_else(|| refused(LEADER_MISSING))?;
    // etcd opens a session for it, and that has a lease.
    lease(api, leader.lease).await?;
    let answer = place(&leader).leave(api).await?;
    Ok(ResignResponse { header: answer.header })
}

/// Tells who leads.
pub(crate) async fn leader(
    api: &Arc<Api>,
    request: LeaderRequest,
) -> Result<LeaderResponse, Status> {
    api.read_index().await?;
    let (view, first) = Line::of(&request.name).first(api).await?;
    let kv = Some(first.ok_or_else(|| refused(NO_LEADER))?);
    Ok(LeaderResponse { header: Some(api.member.header(view.revision())), kv })
}
