//! The lock service.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::DeleteRangeRequest;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

use super::line::{self, Leaving, Line, Place, Taken};
use super::{lease, refused};
use crate::api::Api;
use crate::grpc::{self, Status};

/// What a waiter is told whose key is gone when its turn comes.
const EXPIRED: &str = "mutex: session is expired";

/// Waits until the caller holds the lock.
pub(crate) async fn lock(api: &Arc<Api>, request: LockRequest) -> Result<LockResponse, Status> {
    let lease = lease(api, request.lease).await?;
    let line = Line::of(&request.name);
    // What waits does not keep the request.
    drop(request);
    let taken = Place::take(api, line, lease, Bytes::new()).await?;
    let mut leaving = Leaving::guard(api, &taken);
    let Taken { place, header, .. } = taken;
    if !place.reach_front(api, &mut leaving).await? {
        leaving.stay();
        return Ok(LockResponse { header, key: place.key });
    }
    // Meanwhile the lease may have ended, which another member may know first.
    api.read_index().await?;
    let view = api.store.view();
    let own = line::get(&view, &place.key)?;
    leaving.stay();
    if own.is_none() {
        return Err(refused(EXPIRED));
    }
    Ok(LockResponse { header: Some(api.member.header(view.revision())), key: place.key })
}

/// Gives the lock to whoever waits next, whoever asks for that.
pub(crate) async fn unlock(
    api: &Arc<Api>,
    request: UnlockRequest,
) -> Result<UnlockResponse, Status> {
    let delete = DeleteRangeRequest { key: request.key, ..DeleteRangeRequest::default() };
    let header = grpc::kv::delete_range(api, delete).await?.header;
    Ok(UnlockResponse { header })
}
