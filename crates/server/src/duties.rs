//! What a member does now and then that needs other members' answers.
//!
//! *Invariants.* Nothing here decides: answers are handed to the node, and lines are logged. Each
//! duty has one question under way at most.
//!
//! *Absent.* Comparing hashes (`trust`).
//!
//! *Contract.* `adjustTicks`, `monitorClusterVersions` in `server/etcdserver/server.go` of etcd
//! v3.7.1.

use std::time::{Duration, Instant};

use base::{ClusterId, MemberId};
use net::Url;
use peer::client::Cluster;
use tokio::sync::mpsc;

use crate::ask::{self, Address};
use crate::config::Config;
use crate::log;
use crate::member::Member;

/// How often, and how long, to look whether others are connected.
const CONNECTED_POLL: Duration = Duration::from_millis(50);
const CONNECTED_WAIT_MAX: Duration = Duration::from_secs(5);

/// How often to look whether this member has begun to lead.
const LEADING_POLL: Duration = Duration::from_millis(100);

/// How long others have to say whose member is at this member's address.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(2);

/// All members but this one, with their addresses.
pub(crate) fn others(member: &Member) -> Vec<Address> {
    let others = member.store().members().into_iter().filter(|other| other.id != member.id());
    others.map(|other| (other.id, other.peer_urls)).collect()
}

/// A member that has just started, and is connected, does not wait a whole election timeout: were
/// there a leader, it would have spoken by now.
pub(crate) async fn hasten_election(member: Member, config: Config) {
    let (Some(transport), false) = (member.transport().cloned(), others(&member).is_empty()) else {
        return;
    };
    let ticks = config.election_ticks();
    if !config.initial_election_tick_advance {
        log::info("skipping initial election tick advance").field("election-ticks", &ticks).emit();
        return;
    }
    log::info("starting initial election tick advance").field("election-ticks", &ticks).emit();
    let until = Instant::now() + CONNECTED_WAIT_MAX;
    while Instant::now() < until {
        tokio::time::sleep(CONNECTED_POLL).await;
        let active = transport.active_peers();
        if active > 1 {
            log::info("initialized peer connections; fast-forwarding election ticks")
                .text("local-member-id", &member.id())
                .field("forward-ticks", &ticks.saturating_sub(2))
                .field("election-ticks", &ticks)
                .field("active-remote-members", &active)
                .emit();
            member.tell_connected();
            return;
        }
    }
}

/// While this member leads: asks the others for their versions, for the node to decide the
/// cluster's.
pub(crate) async fn ask_versions(member: Member) {
    let Some(client) = member.peers() else { return };
    let mut asked: Option<Instant> = None;
    loop {
        tokio::time::sleep(LEADING_POLL).await;
        if !member.is_leader() {
            asked = None;
            continue;
        }
        if asked.is_some_and(|asked| asked.elapsed() < node::VERSIONS_INTERVAL) {
            continue;
        }
        asked = Some(Instant::now());
        let others = others(&member);
        let told = ask::versions(&client, &others, member.request_timeout()).await;
        let versions = told.into_iter().map(|(id, told)| (id, told.map(|told| told.server)));
        member.tell_versions(versions.collect());
    }
}

/// Ends a process whose directory is of another cluster than the one that has its address: the
/// members of that one would refuse it for ever, and it them.
///
/// Only a quorum of the other cluster counts, and only while nobody of the own cluster answers.
pub(crate) async fn find_strangers(member: Member, config: Config, found: mpsc::Sender<String>) {
    let Some(client) = member.peers() else { return };
    let named = crate::config::InitialCluster::parse(&config.initial_cluster).unwrap_or_default();
    let mut urls = named.urls_but_of(&config.name);
    let known = others(&member).into_iter().flat_map(|(_, urls)| urls);
    urls.extend(known.filter_map(|url| Url::parse(&url).ok()));
    urls.retain(|url| !config.initial_advertise_peer_urls.contains(url));
    urls.sort_by_key(Url::to_string);
    urls.dedup();
    if urls.is_empty() {
        return;
    }
    let told = ask::clusters(&client, &urls, STRANGER_TIMEOUT, false).await;
    let own: Vec<String> = config.initial_advertise_peer_urls.iter().map(Url::to_string).collect();
    if let Some((cluster, claimed)) = stranger(member.cluster_id(), &own, &told) {
        let line = format!(
            "data directory {} belongs to member {} of cluster {}, but the members at its peers' \
             addresses form cluster {cluster}, which knows {} as member {claimed}: start it on its \
             own directory, or remove the directory and add the member anew",
            config.data_dir,
            member.id(),
            member.cluster_id(),
            own.join(",")
        );
        drop(found.try_send(line));
    }
}

/// The other cluster that has taken this member's place, and the member that it expects there.
fn stranger(own: ClusterId, urls: &[String], told: &[Cluster]) -> Option<(ClusterId, MemberId)> {
    if told.iter().any(|cluster| cluster.id == own) {
        return None;
    }
    let other = told.first()?;
    let expected = other
        .members
        .iter()
        .find(|member| member.peer_urls.iter().any(|url| urls.contains(url)))?;
    let voters = other.members.iter().filter(|member| !member.is_learner).count();
    let agree = told.iter().filter(|cluster| cluster.id == other.id).count();
    (agree > voters / 2).then_some((other.id, expected.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: u64) -> Cluster {
        let member = |id: u64| peer::client::Member {
            id: MemberId(id),
            peer_urls: vec![format!("http://m{id}:2380")],
            is_learner: false,
            name: String::new(),
            client_urls: Vec::new(),
        };
        Cluster { id: ClusterId(id), members: (1..=3).map(member).collect() }
    }

    #[test]
    fn only_a_quorum_of_strangers_counts() {
        let own = ["http://m1:2380".to_owned()];
        let judge = |told: &[Cluster]| stranger(ClusterId(7), &own, told);
        let two = [cluster(8), cluster(8)];
        assert_eq!(judge(&two), Some((ClusterId(8), MemberId(1))));
        assert_eq!(judge(&two[..1]), None, "one stranger may be the one that is wrong");
        assert_eq!(judge(&[cluster(8), cluster(7), cluster(8)]), None, "one of ours answers");
        assert_eq!(judge(&[cluster(8), cluster(9)]), None, "strangers to each other");
        let elsewhere = ["http://m9:2380".to_owned()];
        assert_eq!(stranger(ClusterId(7), &elsewhere, &two), None, "it does not know this one");
        assert_eq!(judge(&[]), None);
    }
}
