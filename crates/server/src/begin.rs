//! How a member without a log begins: it founds a cluster, or joins one that runs.
//!
//! ```text
//!  new:      --initial-cluster ─► checked ─► do others say that we began before? ─► Found
//!  existing: --initial-cluster ─► GET /members of the others ─► same URLs, their ids ─► Join
//!                                 GET /version, /downgrade/enabled ─► may we join?
//! ```
//!
//! *Invariants.* Nothing is written here. What the operator meant and the cluster says must agree,
//! or the member does not start.
//!
//! *Absent.* Who the others are where `--initial-cluster` does not say it: `discovery`.
//!
//! *Contract.* `server/etcdserver/bootstrap.go`, `cluster_util.go` and
//! `membership.ValidateClusterAndAssignIDs` of etcd v3.7.1.

use std::collections::BTreeMap;
use std::time::Duration;

use base::MemberId;
use net::Url;
use peer::client::{self, Cluster, Versions};
use peer::{Client, Version};
use worker::bootstrap::{Identity, InitialMember, member_id};

use crate::ask::{self, Address};
use crate::config::{ClusterState, Config, InitialCluster};
use crate::member::Beginning;
use crate::{discovery, log};

/// How long a founding member waits for others to say that it began before.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(1);

/// How a member begins.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) beginning: Beginning,
    /// The members that it begins with, or of the cluster that it joins.
    pub(crate) known: Vec<Address>,
}

/// Decides how a member begins, and asks other members where that matters. With a log there is
/// nothing to ask: it says who the member is.
pub(crate) async fn begin(
    config: &Config,
    client: &Client,
    is_initialized: bool,
) -> Result<Begun, String> {
    let parsed = InitialCluster::parse(&config.initial_cluster);
    if is_initialized {
        let beginning = match config.initial_cluster_state {
            ClusterState::Existing => Beginning::Resume,
            // A log that was left half made is completed by what the flags say. What a service said
            // of the members is not asked for again: then such a log is refused.
            ClusterState::New => found(config, &parsed.unwrap_or_default()),
        };
        return Ok(Begun { beginning, known: Vec::new() });
    }
    let cluster = parsed.map_err(|error| error.to_string())?;
    match config.initial_cluster_state {
        ClusterState::New => {
            cluster.check_founding(config).map_err(|error| error.to_string())?;
            refuse_second_beginning(config, client, &cluster).await?;
            let cluster = discovery::join(config, cluster).await?;
            Ok(Begun { beginning: found(config, &cluster), known: founders(config, &cluster) })
        }
        ClusterState::Existing => {
            cluster.check_joining(config).map_err(|error| error.to_string())?;
            if config.discovers() {
                return Err(
                    "discovery URL should not be set when joining existing initial cluster".into(),
                );
            }
            join(config, client, &cluster).await
        }
    }
}

fn found(config: &Config, cluster: &InitialCluster) -> Beginning {
    let members = cluster.members().map(|(name, urls)| InitialMember {
        name: name.to_owned(),
        peer_urls: urls.iter().map(Url::to_string).collect(),
    });
    let token = config.initial_cluster_token.clone();
    Beginning::Found { members: members.collect(), token }
}

/// Who the others are before the log says it: they speak to this one from the first moment on.
fn founders(config: &Config, cluster: &InitialCluster) -> Vec<Address> {
    let members = cluster.members().map(|(_, urls)| {
        let urls: Vec<String> = urls.iter().map(Url::to_string).collect();
        (member_id(&urls, &config.initial_cluster_token), urls)
    });
    members.collect()
}

/// A founding member that its cluster knows as started has lost its directory: beginning again
/// would break promises that it made.
async fn refuse_second_beginning(
    config: &Config,
    client: &Client,
    cluster: &InitialCluster,
) -> Result<(), String> {
    let others = cluster.urls_but_of(&config.name);
    let own = cluster.members().find(|(name, _)| *name == config.name);
    let own: Vec<String> =
        own.map(|(_, urls)| urls.iter().map(Url::to_string).collect()).unwrap_or_default();
    let own = member_id(&own, &config.initial_cluster_token);
    for told in ask::clusters(client, &others, FOUNDING_TIMEOUT, false).await {
        let known = told.members.iter().find(|member| member.id == own);
        if known.is_some_and(|member| !member.client_urls.is_empty()) {
            return Err(format!("member {own} has already been bootstrapped"));
        }
    }
    Ok(())
}

async fn join(config: &Config, client: &Client, local: &InitialCluster) -> Result<Begun, String> {
    let others = local.urls_but_of(&config.name);
    let told = ask::clusters(client, &others, client::MEMBERS_TIMEOUT, true).await;
    let mut refused = "cannot fetch cluster info from peer urls: could not retrieve cluster \
                       information from the given URLs"
        .to_owned();
    // A member that lags may not know of this one yet; another one will.
    for cluster in told.iter().filter(|cluster| !cluster.members.is_empty()) {
        let ids = match assign_ids(local, cluster) {
            Ok(ids) => ids,
            Err(reason) => {
                refused = format!("error validating peerURLs {}: {reason}", show_cluster(cluster));
                continue;
            }
        };
        let Some(own) = ids.get(config.name.as_str()).copied() else { continue };
        let known: Vec<Address> =
            cluster.members.iter().map(|member| (member.id, member.peer_urls.clone())).collect();
        let others: Vec<Address> = known.iter().filter(|(id, _)| *id != own).cloned().collect();
        if !is_compatible(client, &others, config.request_timeout()).await {
            return Err("incompatible with current running cluster".to_owned());
        }
        let learners = cluster.members.iter().filter(|member| member.is_learner).count() as u64;
        if learners > config.max_learners {
            return Err("membership: too many learner members in cluster".to_owned());
        }
        let beginning = Beginning::Join(Identity { member: own, cluster: cluster.id });
        return Ok(Begun { beginning, known });
    }
    Err(refused)
}

/// Finds the id of each member that the operator names by its peer URLs.
fn assign_ids<'a>(
    local: &'a InitialCluster,
    cluster: &Cluster,
) -> Result<BTreeMap<&'a str, MemberId>, String> {
    if local.len() != cluster.members.len() {
        return Err("member count is unequal".to_owned());
    }
    let mut ids = BTreeMap::new();
    for member in &cluster.members {
        let urls = &member.peer_urls;
        match local.name_of(urls) {
            Ok(name) => {
                ids.insert(name, member.id);
            }
            Err(reason) => {
                return Err(format!(
                    "PeerURLs: no match found for existing member ({}, [{}]), last resolver error \
                     ({reason})",
                    member.id,
                    urls.join(" ")
                ));
            }
        }
    }
    Ok(ids)
}

/// Whether this server may take part: some member tells a version of the cluster, and none tells
/// one that is out of range.
async fn is_compatible(client: &Client, others: &[Address], within: Duration) -> bool {
    let versions = ask::versions(client, others, within).await;
    let range = version_range(ask::downgrade_enabled(client, others, within).await);
    suits(&versions, range)
}

/// The versions of a cluster that this server may join: while it is being downgraded, only the one
/// above our own, which then comes down to ours.
fn version_range(is_downgrading: bool) -> (Version, Version) {
    let own = Version::new(Version::ETCD.major, Version::ETCD.minor, 0);
    if is_downgrading {
        let above = Version::new(own.major, own.minor + 1, 0);
        return (above, above);
    }
    (Version::MIN_CLUSTER, own)
}

fn suits(versions: &[(MemberId, Option<Versions>)], (min, max): (Version, Version)) -> bool {
    let mut is_told = false;
    for (id, told) in versions {
        let Some(Versions { cluster, .. }) = told else { continue };
        let refuse = |msg: &str, bound: &str, version: Version| {
            log::warn(msg)
                .text("remote-member-id", id)
                .field("remote-member-cluster-version", cluster)
                .text(bound, &version)
                .emit();
            false
        };
        match cluster.parse::<Version>() {
            Err(error) => log::warn("failed to parse cluster version of remote member")
                .text("remote-member-id", id)
                .field("remote-member-cluster-version", cluster)
                .text("error", &error)
                .emit(),
            Ok(version) if version < min => {
                let msg = "cluster version of remote member is not compatible; too low";
                return refuse(msg, "minimum-cluster-version-supported", min);
            }
            Ok(version) if version > max => {
                let msg = "cluster version of remote member is not compatible; too high";
                return refuse(msg, "maximum-cluster-version-supported", max);
            }
            Ok(_) => is_told = true,
        }
    }
    is_told
}

/// A cluster as etcd prints it.
fn show_cluster(cluster: &Cluster) -> String {
    let show = |member: &client::Member| {
        format!(
            "&{{ID:{} RaftAttributes:{{PeerURLs:[{}] IsLearner:{}}} Attributes:{{Name:{} \
             ClientURLs:[{}]}}}}",
            member.id,
            member.peer_urls.join(" "),
            member.is_learner,
            member.name,
            member.client_urls.join(" ")
        )
    };
    let members: Vec<_> = cluster.members.iter().map(show).collect();
    format!("{{ClusterID:{} Members:[{}] RemovedMemberIDs:[]}}", cluster.id, members.join(" "))
}

#[cfg(test)]
mod tests {
    use base::ClusterId;

    use super::*;

    fn member(id: u64, url: &str) -> client::Member {
        client::Member {
            id: MemberId(id),
            peer_urls: vec![url.to_owned()],
            is_learner: id == 3,
            name: format!("m{id}"),
            client_urls: Vec::new(),
        }
    }

    fn told(cluster: &str) -> Option<Versions> {
        let cluster = cluster.to_owned();
        Some(Versions { server: "3.7.1".to_owned(), cluster, storage: String::new(), quorate: 0 })
    }

    #[test]
    fn ids_come_from_the_members_with_the_same_urls() {
        let local = "a=http://127.0.0.1:1,b=http://127.0.0.1:2,c=http://127.0.0.1:3";
        let local = InitialCluster::parse(local).expect("valid");
        let mut cluster = Cluster {
            id: ClusterId(9),
            members: vec![
                member(7, "http://127.0.0.1:2"),
                member(3, "http://127.0.0.1:1"),
                member(5, "http://127.0.0.1:3"),
            ],
        };
        let ids = assign_ids(&local, &cluster).expect("all are found");
        let expected = [("a", MemberId(3)), ("b", MemberId(7)), ("c", MemberId(5))];
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), expected);
        // As in etcd, `localhost` is itself alone.
        cluster.members[0].peer_urls = vec!["http://localhost:2".to_owned()];
        let refused = assign_ids(&local, &cluster).expect_err("nobody has this URL");
        let end = "(resolved urls: \"http://localhost:2\" != \"http://127.0.0.1:3\")";
        assert!(refused.ends_with(end), "{refused}");
        cluster.members[0].peer_urls = vec!["http://127.0.0.9:2".to_owned()];
        let refused = assign_ids(&local, &cluster).expect_err("nobody has this URL");
        let start = "PeerURLs: no match found for existing member (7, [http://127.0.0.9:2]), last";
        assert!(refused.starts_with(start), "{refused}");
        cluster.members.pop();
        assert_eq!(assign_ids(&local, &cluster), Err("member count is unequal".to_owned()));
        cluster.members.pop();
        let shown = "{ClusterID:9 Members:[&{ID:7 RaftAttributes:{PeerURLs:[http://127.0.0.9:2] \
                     IsLearner:false} Attributes:{Name:m7 ClientURLs:[]}}] RemovedMemberIDs:[]}";
        assert_eq!(show_cluster(&cluster), shown);
    }

    #[test]
    fn a_cluster_is_joined_when_its_version_is_in_range() {
        let of =
            |texts: &[&str]| texts.iter().map(|text| (MemberId(1), told(text))).collect::<Vec<_>>();
        let range = version_range(false);
        assert!(suits(&of(&["3.7.0"]), range));
        assert!(suits(&of(&["3.6.0", "not_decided"]), range));
        assert!(!suits(&of(&["not_decided"]), range));
        assert!(!suits(&of(&["3.7.0", "3.8.0"]), range));
        assert!(!suits(&of(&["2.3.0", "3.7.0"]), range));
        assert!(!suits(&[(MemberId(1), None)], range));
        assert!(suits(&[(MemberId(1), None), (MemberId(2), told("3.7.0"))], range));
        assert!(suits(&of(&["3.8.0"]), version_range(true)));
        assert!(!suits(&of(&["3.7.0"]), version_range(true)));
    }
}
