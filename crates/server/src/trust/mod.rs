//! Whether this member's data is what the others have: checked before it serves, and from time to
//! time while it leads.
//!
//! ```text
//!  own hash ──────────────────────────┐
//!  GET /members/hashkv ─► other members ┴─► node::requests::corrupt ─► log, alarm CORRUPT
//! ```
//!
//! *Invariants.* A check that cannot be made, because a member does not answer or is behind, finds
//! nothing: only hashes of the same history accuse.
//!
//! *Absent.* What the hashes mean: `node::requests::corrupt`. The serving side:
//! `crate::http`.
//!
//! *Contract.* `server/etcdserver/corrupt.go` of etcd v3.7.1.

mod tell;

use std::sync::Arc;
use std::time::Duration;

use base::{MemberId, Revision};
use net::Url;
use node::requests::Rejected;
use node::requests::corrupt::{self, CompactionCheck, Peer, Silence, Told};
use peer::client::HashError;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest};
use store::HashKv;
use tokio::time::MissedTickBehavior;

use crate::api::Api;
use crate::cluster::readable;
use crate::config::Config;
use crate::{duties, log};

/// Views that are tried when a compaction overtakes the hashing.
const VIEWS_MAX: usize = 10;

/// Starts the checks that the flags ask for.
pub(crate) fn start(api: &Arc<Api>, config: &Config) {
    if !config.corrupt_check_time.is_zero() {
        tokio::spawn(check_periodically(Arc::clone(api), config.corrupt_check_time));
    }
    if config.gate("CompactHashCheck") {
        tokio::spawn(check_compactions(Arc::clone(api), config.compact_hash_check_time));
    }
}

/// The hash of this member's history up to `at`, 0 for all of it, and its newest revision.
pub(crate) async fn hash(api: &Arc<Api>, at: Revision) -> Result<(HashKv, Revision), Rejected> {
    let reading = Arc::clone(api);
    let hashed = tokio::task::spawn_blocking(move || {
        let began = std::time::Instant::now();
        let mut tries = VIEWS_MAX;
        let hashed = loop {
            let view = reading.store.view();
            tries -= 1;
            match view.hash_kv(at) {
                Err(store::ReadError::Compacted)
                    if tries > 0
                        && reading.store.view().compact_revision() > view.compact_revision() => {}
                hashed => break hashed.map(|hash| (hash, view.revision())),
            }
        };
        reading.metrics.hash_rev_seconds.observe(began.elapsed());
        hashed
    });
    // Only a stop of the process takes the work away.
    let hashed = hashed.await.map_err(|_| Rejected::Stopped)?;
    hashed.map_err(|error| {
        if let store::ReadError::Damaged(damage) = &error {
            crate::damage::tell(damage);
        }
        error.into()
    })
}

/// The hashes of all other members, up to `at`. One after the other, each at its addresses in
/// turn, as etcd does.
async fn ask_peers(api: &Api, at: Revision) -> Vec<Peer> {
    let Some(client) = api.member.peers() else { return Vec::new() };
    let mut peers = Vec::new();
    for (member, urls) in duties::others(&api.member) {
        if !urls.is_empty() {
            let answer = ask(api, &client, &readable(&urls), at).await;
            peers.push(Peer { member, answer });
        }
    }
    peers
}

async fn ask(
    api: &Api,
    client: &peer::Client,
    urls: &[Url],
    at: Revision,
) -> Result<Told, Silence> {
    let (cluster, within) = (api.member.cluster_id(), api.options.request_timeout);
    let mut last = Silence::Failed(String::new());
    for url in urls {
        match client.hashkv(url, cluster, at, within).await {
            Ok(hash) => {
                return Ok(Told {
                    hash: hash.hash,
                    compact_revision: hash.compact_revision,
                    revision: hash.revision,
                });
            }
            Err(error) => {
                log::warn("failed hash kv request")
                    .text("local-member-id", &api.member.id())
                    .field("requested-revision", &at.get())
                    .text("remote-peer-endpoint", url)
                    .text("error", &error)
                    .emit();
                last = match error {
                    HashError::Compacted => Silence::Compacted,
                    HashError::Future => Silence::FutureRevision,
                    HashError::ClusterMismatch => Silence::ClusterIdMismatch,
                    HashError::Other(error) => Silence::Failed(error.to_string()),
                };
            }
        }
    }
    Err(last)
}

/// Compares this member with the others before it takes part. The error ends the process.
pub(crate) async fn check_before_serving(api: &Arc<Api>) -> Result<(), String> {
    let own = api.member.id();
    log::info("starting initial corruption check")
        .text("local-member-id", &own)
        .duration("timeout", api.options.request_timeout)
        .emit();
    let (hash, _) = hash(api, Revision(0))
        .await
        .map_err(|error| format!("{own} failed to fetch hash ({error})"))?;
    let peers = ask_peers(api, hash.hash_revision).await;
    let (is_corrupt, findings) = corrupt::initial(hash, &peers);
    tell::all(own, hash, &findings);
    if is_corrupt {
        let line = format!("{own} found data inconsistency with peers");
        log::error("checkInitialHashKV failed").field("error", &line).emit();
        return Err(line);
    }
    log::info("initial corruption checking passed; no corruption")
        .text("local-member-id", &own)
        .emit();
    Ok(())
}

/// Compares all members at the newest revision while this one leads.
async fn check_periodically(api: Arc<Api>, interval: Duration) {
    log::info("enabled corruption checking")
        .text("local-member-id", &api.member.id())
        .duration("interval", interval)
        .emit();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first one is at once.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if !api.member.is_leader() {
            continue;
        }
        if let Err(error) = check_now(&api).await {
            log::warn("failed to check hash KV").text("error", &error).emit();
        }
    }
}

async fn check_now(api: &Arc<Api>) -> Result<(), Rejected> {
    let (before, _) = hash(api, Revision(0)).await?;
    let peers = ask_peers(api, before.hash_revision).await;
    // What a follower could have at its answer, the leader has from here on.
    api.read_index().await?;
    let (after, revision) = hash(api, Revision(0)).await?;
    let (alarm, findings) = corrupt::periodic(api.member.id(), before, &peers, after, revision);
    tell::all(api.member.id(), before, &findings);
    if let Some(member) = alarm {
        raise(api, member);
    }
    let checked = peers.iter().filter(|peer| peer.answer.is_ok()).count();
    log::info("finished peer corruption check").field("number-of-peers-checked", &checked).emit();
    Ok(())
}

/// Compares the hashes that all members took at the same compactions, while this one leads.
async fn check_compactions(api: Arc<Api>, interval: Duration) {
    let mut check = CompactionCheck::default();
    loop {
        tokio::time::sleep(interval).await;
        if !api.member.is_leader() {
            continue;
        }
        let own = api.member.id();
        log::info("starting compact hash check")
            .text("local-member-id", &own)
            .duration("timeout", api.options.request_timeout)
            .emit();
        let mut checked: usize = 0;
        for hash in check.due(api.store.compaction_hashes()) {
            checked += 1;
            let peers = ask_peers(&api, hash.hash_revision).await;
            if peers.is_empty() {
                continue;
            }
            let verdict = check.compare(own, hash, &peers);
            tell::all(own, hash, &verdict.findings);
            for member in verdict.alarms {
                raise(&api, member);
            }
            if verdict.is_final {
                break;
            }
        }
        log::info("finished compaction hash check")
            .field("number-of-hashes-checked", &checked)
            .emit();
    }
}

/// Raises the alarm for a member, without waiting for it.
fn raise(api: &Arc<Api>, member: MemberId) {
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: member.get(),
        alarm: AlarmType::Corrupt.into(),
    };
    let api = Arc::clone(api);
    tokio::spawn(async move {
        let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
        if let Err(error) = api.propose(request).await {
            log::warn("failed to raise the alarm CORRUPT")
                .text("member-id", &member)
                .text("error", &error)
                .emit();
        }
    });
}
