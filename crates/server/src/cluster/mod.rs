//! What members ask of each other beside raft: what only the leader knows, and what each must
//! tell.
//!
//! ```text
//!  gRPC handler ─┬─► this member leads ──► lessor, progress of learners
//!                └─► another does ───────► peer::Client ──HTTP──► http::forwarded there
//! ```
//!
//! *Invariants.* Whoever is asked may have ceased to lead meanwhile: then the question goes on to
//! the new leader, until the request's time is over.
//!
//! *Absent.* What a request means: `node::requests`. Raft's own messages: `peer`.
//!
//! *Contract.* `server/etcdserver/v3_server.go` and `server.go` of etcd v3.7.1, what they say about
//! leaders.

pub(crate) mod downgrade;
pub(crate) mod leases;
pub(crate) mod members;

use std::sync::Arc;
use std::time::Duration;

use net::Url;
use node::requests::Rejected;
use store::lease::Checkpoints;
use tokio::time::Instant;

use crate::api::Api;
use crate::config::Config;
use crate::log;

/// Between two questions to leaders that could not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How long a leader waits for its state to reach what is committed.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it looks whether that has happened.
const APPLY_POLL: Duration = Duration::from_millis(1);

/// After so many lengths of a tick without one, leadership is to be confirmed.
const SILENT_TICKS: u32 = 3;

/// Starts what a member does for the cluster by itself.
pub(crate) fn start(api: &Arc<Api>, config: &Config) {
    if config.gate("LeaseCheckpoint") {
        let checkpoints = match config.gate("LeaseCheckpointPersist") {
            true => Checkpoints::Kept,
            false => Checkpoints::On,
        };
        api.store.lessor().set_checkpoints(checkpoints);
        tokio::spawn(leases::note_remaining(Arc::clone(api)));
    }
    crate::trust::start(api, config);
}

/// Waits until everything is applied that is committed now.
pub(crate) async fn wait_applied(api: &Api) -> Result<(), Rejected> {
    let target = api.member.status().committed;
    let until = Instant::now() + APPLY_TIMEOUT;
    while api.member.status().applied < target {
        if Instant::now() >= until {
            return Err(Rejected::TimeoutWaitAppliedIndex);
        }
        tokio::time::sleep(APPLY_POLL).await;
    }
    Ok(())
}

/// Whether this member, which believes that it leads, still does. One whose threads have just been
/// stopped for a while may have missed an election.
pub(crate) async fn confirm_leadership(api: &Api) -> bool {
    let heartbeat = api.options.heartbeat;
    if api.member.since_tick(api.now()) < heartbeat * SILENT_TICKS {
        return true;
    }
    match api.read_index().await {
        Ok(()) => api.member.is_leader(),
        Err(error) => {
            log::warn("Failed to check current member's leadership").text("error", &error).emit();
            false
        }
    }
}

/// Where the leader is reached. Waits for one.
async fn leader_urls(api: &Api, until: Instant) -> Result<Vec<Url>, Rejected> {
    loop {
        if let Some(leader) = api.store.member(api.member.status().leader) {
            let urls = readable(&leader.peer_urls);
            return if urls.is_empty() { Err(Rejected::NoLeader) } else { Ok(urls) };
        }
        let next = Instant::now() + api.options.election_timeout;
        tokio::time::sleep_until(next.min(until)).await;
        if Instant::now() >= until {
            return Err(Rejected::NoLeader);
        }
    }
}

/// The addresses that can be dialed: members may have been given what is none.
pub(crate) fn readable(urls: &[String]) -> Vec<Url> {
    urls.iter().filter_map(|url| Url::parse(url).ok()).collect()
}

/// Whoever asks other members. A member without a network has no leader but itself.
fn client(api: &Api) -> Result<peer::Client, Rejected> {
    api.member.peers().ok_or(Rejected::NoLeader)
}
