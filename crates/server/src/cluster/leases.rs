//! Leases, where only the leader can answer: renewals and what is left.

use std::sync::Arc;
use std::time::Duration;

use base::LeaseId;
use node::requests::Rejected;
use node::requests::lease::{self, KeepAlive};
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpointRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{RETRY_INTERVAL, client, confirm_leadership, leader_urls, wait_applied};
use crate::api::Api;
use crate::log;

/// How often it is looked what remains of long leases.
const NOTE_INTERVAL: Duration = Duration::from_millis(500);

/// Leases whose rest is noted in one entry of the log.
const NOTED_MAX: usize = 1_000;

/// Entries that one look may make of it.
const NOTES_MAX: usize = 500;

/// What this member can say of a renewal.
pub(crate) enum Renewed {
    /// The seconds that the lease lives; 0 when there is none.
    Seconds(i64),
    /// Another member leads.
    NotPrimary,
}

/// Renews a lease, here or at the leader; 0 seconds when there is none.
pub(crate) async fn renew(api: &Api, id: LeaseId) -> Result<i64, Rejected> {
    if api.member.is_leader() {
        if !confirm_leadership(api).await {
            return Err(Rejected::NotPrimaryLessor);
        }
        // It may be granted and not applied yet.
        if !api.options.fast_lease_keep_alive || !api.store.lessor().exists(id) {
            wait_applied(api).await?;
        }
        if let Renewed::Seconds(seconds) = renew_here(api, id).await? {
            return Ok(seconds);
        }
    }
    let client = client(api)?;
    let until = Instant::now() + api.options.request_timeout;
    loop {
        for url in leader_urls(api, until).await? {
            let within = until - Instant::now();
            match client.lease_renew(&url, id, within).await {
                Ok(seconds) => return Ok(seconds),
                Err(peer::client::LeaseError::NotFound) => return Ok(0),
                Err(_) => {}
            }
        }
        pause(until).await?;
    }
}

/// Before the next attempt at a leader; the end of all attempts when their time is over.
async fn pause(until: Instant) -> Result<(), Rejected> {
    if Instant::now() + RETRY_INTERVAL >= until {
        tokio::time::sleep_until(until).await;
        return Err(Rejected::Timeout);
    }
    tokio::time::sleep(RETRY_INTERVAL).await;
    Ok(())
}

/// Renews a lease at this member's own lessor.
pub(crate) async fn renew_here(api: &Api, id: LeaseId) -> Result<Renewed, Rejected> {
    let lessor = api.store.lessor();
    let until = Instant::now() + api.options.request_timeout;
    loop {
        match lease::keep_alive(lessor, id, api.now()) {
            KeepAlive::Answer(answer) => {
                if answer.ttl > 0 {
                    api.metrics.leases_renewed.increment();
                }
                return Ok(Renewed::Seconds(answer.ttl));
            }
            KeepAlive::NotPrimary => return Ok(Renewed::NotPrimary),
            KeepAlive::Checkpointed => checkpoint(api, lease::forget_checkpoint(id)).await?,
            KeepAlive::Expiring => {
                let (gone, wait) = oneshot::channel();
                // A client that does not wait any more is not told.
                let waits = lessor.when_removed(id, move || {
                    let _ = gone.send(());
                });
                if !waits {
                    return Err(Rejected::TooManyRequests);
                }
                if tokio::time::timeout_at(until, wait).await.is_err() {
                    return Err(Rejected::Timeout);
                }
            }
        }
    }
}

/// What is left of a lease, told here or by the leader; `None` when there is none.
pub(crate) async fn time_to_live(
    api: &Api,
    request: &LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Rejected> {
    if api.member.is_leader() {
        wait_applied(api).await?;
        return lease::time_to_live(api.store.lessor(), request, api.now());
    }
    let (client, id) = (client(api)?, LeaseId(request.id));
    let until = Instant::now() + api.options.request_timeout;
    loop {
        for url in leader_urls(api, until).await? {
            let within = until - Instant::now();
            match client.lease_ttl(&url, id, request.keys, within).await {
                Ok(answer) => return Ok(answer),
                Err(peer::client::LeaseError::NotFound) => return Ok(lease::no_lease(id)),
                Err(_) => {}
            }
        }
        pause(until).await?;
    }
}

async fn checkpoint(api: &Api, request: LeaseCheckpointRequest) -> Result<(), Rejected> {
    let request = InternalRaftRequest { lease_checkpoint: Some(request), ..Default::default() };
    api.propose(request).await.map(drop)
}

/// Notes in the log from time to time what remains of long leases, so that a new leader does not
/// begin them anew.
pub(super) async fn note_remaining(api: Arc<Api>) {
    loop {
        tokio::time::sleep(NOTE_INTERVAL).await;
        for _ in 0..NOTES_MAX {
            let due = api.store.lessor().due_checkpoints(api.now(), NOTED_MAX);
            let count = due.len();
            if count == 0 {
                break;
            }
            if let Err(error) = checkpoint(&api, lease::checkpoint(due)).await {
                log::warn("failed to checkpoint leases").text("error", &error).emit();
                break;
            }
            if count < NOTED_MAX {
                break;
            }
        }
    }
}
