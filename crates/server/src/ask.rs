//! Asks other members who they are: the cluster, their versions, whether a downgrade is under way.
//!
//! *Invariants.* Every question ends within the time it is given; members are asked side by side,
//! the addresses of one member one after the other.
//!
//! *Absent.* What follows from the answers: `begin` and the node decide.
//!
//! *Contract.* `server/etcdserver/cluster_util.go` of etcd v3.7.1.

use std::time::Duration;

use base::MemberId;
use net::Url;
use peer::Client;
use peer::client::{ClientError, Cluster, Versions};
use tokio::task::JoinSet;

use crate::log;

/// A member and where others reach it.
pub(crate) type Address = (MemberId, Vec<String>);

/// The answers to `GET /members` of these addresses, in the order in which they come in. `tell`
/// says whether failures are worth a line.
pub(crate) async fn clusters(
    client: &Client,
    urls: &[Url],
    within: Duration,
    tell: bool,
) -> Vec<Cluster> {
    let mut asked = JoinSet::new();
    for url in urls {
        let (client, url) = (client.clone(), url.clone());
        asked.spawn(async move {
            let answer = client.members(&url, within).await;
            (url, answer)
        });
    }
    let mut clusters = Vec::new();
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((_, Ok(cluster))) => clusters.push(cluster),
            Ok((url, Err(error))) if tell => {
                let msg = match error {
                    ClientError::Call(_) => "failed to get cluster response",
                    _ => "failed to unmarshal cluster response",
                };
                let address = format!("{url}/members");
                log::warn(msg).field("address", &address).text("error", &error).emit();
            }
            // A task that panicked has said so.
            Ok(_) | Err(_) => {}
        }
    }
    clusters
}

/// What each of these members says of its version; `None` for those that do not answer.
pub(crate) async fn versions(
    client: &Client,
    members: &[Address],
    within: Duration,
) -> Vec<(MemberId, Option<Versions>)> {
    let mut asked = JoinSet::new();
    for (id, urls) in members.iter().cloned() {
        let client = client.clone();
        asked.spawn(async move { (id, version(&client, id, &urls, within).await) });
    }
    let mut versions = asked.join_all().await;
    versions.sort_by_key(|(id, _)| *id);
    versions
}

async fn version(
    client: &Client,
    id: MemberId,
    urls: &[String],
    within: Duration,
) -> Option<Versions> {
    let mut last = "it has no address".to_owned();
    for url in readable(urls) {
        match client.version(&url, within).await {
            Ok(versions) => return Some(versions),
            Err(error) => last = unreached(&url, "/version", id, &error),
        }
    }
    log::warn("failed to get version").text("remote-member-id", &id).field("error", &last).emit();
    None
}

/// Whether a downgrade is under way, as the first of these members that answers says; each of them
/// would have asked the leader.
pub(crate) async fn downgrade_enabled(
    client: &Client,
    members: &[Address],
    within: Duration,
) -> bool {
    for (id, urls) in members {
        let mut last = "it has no address".to_owned();
        for url in readable(urls) {
            match client.downgrade_enabled(&url, within).await {
                Ok(is_enabled) => return is_enabled,
                Err(error) => last = unreached(&url, "/downgrade/enabled", *id, &error),
            }
        }
        log::warn("failed to get downgrade enabled status")
            .text("remote-member-id", id)
            .field("error", &last)
            .emit();
    }
    false
}

/// The addresses that can be dialed: others come from the cluster, and are not ours to refuse.
fn readable(urls: &[String]) -> impl Iterator<Item = Url> + '_ {
    urls.iter().filter_map(|url| Url::parse(url).ok())
}

fn unreached(url: &Url, path: &str, id: MemberId, error: &ClientError) -> String {
    let msg = match error {
        ClientError::Call(_) => "failed to reach the peer URL",
        _ => "failed to unmarshal response",
    };
    let error = error.to_string();
    log::warn(msg)
        .field("address", &format!("{url}{path}"))
        .text("remote-member-id", &id)
        .field("error", &error)
        .emit();
    error
}
