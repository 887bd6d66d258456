//! What lease requests mean on the member that can answer them: the leader. Others ask it.
//!
//! *Invariants.* A lease that does not exist is no error: a keepalive is answered with TTL 0, a
//! question with TTL -1.
//!
//! *Absent.* Asking the leader (the server's part), granting and revoking (the log's).
//!
//! *Contract.* `server/etcdserver/v3_server.go` of etcd v3.7.1, `LeaseRenew` and
//! `LeaseTimeToLive`.

use base::{LeaseId, Moment, RequestIds};
use proto::etcdserverpb::{
    LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use store::lease::{Lessor, REMAINING_FOREVER, RenewError};

use super::error::Rejected;

/// What became of a keepalive.
#[derive(Debug, Clone, PartialEq)]
pub enum KeepAlive {
    /// The answer; its header is the server's to fill.
    Answer(LeaseKeepAliveResponse),
    /// The lease has expired and is being revoked: ask again once [`Lessor::when_removed`] calls
    /// (it is gone, or another member leads).
    Expiring,
    /// The log says what remains of the lease: propose [`forget_checkpoint`], then ask again.
    Checkpointed,
    /// This member does not lead: the leader is to be asked.
    NotPrimary,
}

/// Gives a grant that names no lease a fresh one.
pub fn choose_id(request: &mut LeaseGrantRequest, ids: &RequestIds) {
    if request.id == 0 {
        request.id = ids.next_lease().get();
    }
}

/// The request after which nothing is known of what remained of a lease.
pub fn forget_checkpoint(id: LeaseId) -> LeaseCheckpointRequest {
    checkpoint([(id, 0)])
}

/// The request that notes what remains of leases.
pub fn checkpoint(leases: impl IntoIterator<Item = (LeaseId, i64)>) -> LeaseCheckpointRequest {
    let one = |(id, remaining_ttl): (LeaseId, i64)| LeaseCheckpoint { id: id.get(), remaining_ttl };
    LeaseCheckpointRequest { checkpoints: leases.into_iter().map(one).collect() }
}

/// The answer to a keepalive.
pub fn kept_alive(id: LeaseId, ttl: i64) -> LeaseKeepAliveResponse {
    LeaseKeepAliveResponse { header: None, id: id.get(), ttl }
}

/// Renews a lease.
pub fn keep_alive(lessor: &Lessor, id: LeaseId, now: Moment) -> KeepAlive {
    match lessor.renew(id, now) {
        Ok(ttl) => KeepAlive::Answer(kept_alive(id, ttl)),
        Err(RenewError::NotFound) => KeepAlive::Answer(kept_alive(id, 0)),
        Err(RenewError::Expiring) => KeepAlive::Expiring,
        Err(RenewError::Checkpointed) => KeepAlive::Checkpointed,
        Err(RenewError::NotPrimary) => KeepAlive::NotPrimary,
    }
}

/// What a lease that does not exist has left.
pub const NO_LEASE_TTL: i64 = -1;

/// The answer about a lease that does not exist.
pub fn no_lease(id: LeaseId) -> LeaseTimeToLiveResponse {
    let (id, ttl) = (id.get(), NO_LEASE_TTL);
    LeaseTimeToLiveResponse { id, ttl, ..LeaseTimeToLiveResponse::default() }
}

/// Tells what a lease has left. Only a leader knows.
pub fn time_to_live(
    lessor: &Lessor,
    request: &LeaseTimeToLiveRequest,
    now: Moment,
) -> Result<LeaseTimeToLiveResponse, Rejected> {
    let id = request.id;
    Ok(match lessor.time_to_live(LeaseId(id), now) {
        None => no_lease(LeaseId(id)),
        Some(found) if found.remaining == REMAINING_FOREVER => {
            return Err(Rejected::LeaderChanged);
        }
        Some(found) => LeaseTimeToLiveResponse {
            header: None,
            id,
            ttl: found.remaining,
            granted_ttl: found.granted,
            keys: if request.keys { found.keys } else { Vec::new() },
        },
    })
}

/// All leases.
pub fn leases(lessor: &Lessor) -> LeaseLeasesResponse {
    let status = |id: LeaseId| LeaseStatus { id: id.get() };
    let leases = lessor.leases().into_iter().map(status).collect();
    LeaseLeasesResponse { header: None, leases }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_unknown_is_no_error() {
        let lessor = Lessor::new(2);
        let now = Moment::default();
        assert_eq!(keep_alive(&lessor, LeaseId(1), now), KeepAlive::NotPrimary);
        lessor.promote(now, Duration::ZERO);
        let answer = KeepAlive::Answer(kept_alive(LeaseId(1), 0));
        assert_eq!(keep_alive(&lessor, LeaseId(1), now), answer);
        let request = LeaseTimeToLiveRequest { id: 1, keys: true };
        assert_eq!(time_to_live(&lessor, &request, now).unwrap().ttl, -1);

        lessor.grant(LeaseId(1), 5, now).unwrap();
        lessor.attach(LeaseId(1), "k".into());
        assert_eq!(time_to_live(&lessor, &request, now).unwrap().keys, ["k"]);
        let late = now + Duration::from_secs(5);
        assert_eq!(keep_alive(&lessor, LeaseId(1), late), KeepAlive::Expiring);

        lessor.demote();
        assert_eq!(time_to_live(&lessor, &request, late), Err(Rejected::LeaderChanged));
    }
}
