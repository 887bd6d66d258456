//! Writes.

use node::requests::check::{check_delete_range, check_put};
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, PutRequest,
};
use store::Response;
use store::quota::put_cost;

use super::reply::Reply;
use super::status::Status;
use crate::api::Api;

/// An answer of another kind than the request: the member and the store disagree.
pub(super) fn mismatched(response: &Response) -> Status {
    let kind = match response {
        Response::Put(_) => "put",
        Response::Range(_) => "range",
        Response::DeleteRange(_) => "delete range",
        Response::Txn(_) => "transaction",
        Response::Compaction(_) => "compaction",
        Response::LeaseGrant(_) => "lease grant",
        Response::LeaseRevoke(_) => "lease revocation",
        Response::LeaseCheckpoint => "lease checkpoint",
        Response::Alarm(_) => "alarm",
        Response::Empty => "nothing",
    };
    Status::new(node::requests::Code::Internal, format!("answered with a {kind}"))
}

pub(super) async fn put(api: &Api, request: PutRequest) -> Result<Reply, Status> {
    api.check_quota(put_cost(&request)).await?;
    check_put(&request)?;
    let proposal = api.propose(InternalRaftRequest { put: Some(request), ..Default::default() });
    match proposal.await? {
        Response::Put(mut response) => {
            api.fill(&mut response.header);
            Ok(Reply::of(&response))
        }
        other => Err(mismatched(&other)),
    }
}

/// Deletes keys.
pub(crate) async fn delete_range(
    api: &Api,
    request: DeleteRangeRequest,
) -> Result<DeleteRangeResponse, Status> {
    check_delete_range(&request)?;
    let proposal =
        api.propose(InternalRaftRequest { delete_range: Some(request), ..Default::default() });
    match proposal.await? {
        Response::DeleteRange(mut response) => {
            api.fill(&mut response.header);
            Ok(response)
        }
        other => Err(mismatched(&other)),
    }
}

pub(super) async fn compact(api: &Api, request: CompactionRequest) -> Result<Reply, Status> {
    let proposal =
        api.propose(InternalRaftRequest { compaction: Some(request), ..Default::default() });
    match proposal.await? {
        Response::Compaction(mut response) => {
            api.fill(&mut response.header);
            Ok(Reply::of(&response))
        }
        other => Err(mismatched(&other)),
    }
}
