//! Joins a cluster through etcd's v3 discovery service: any etcd that holds the cluster's size and
//! to which each member adds itself.
//!
//! ```text
//!  /_etcd/registry/TOKEN/_config/size       N
//!  /_etcd/registry/TOKEN/members/ID         NAME=URL[,NAME=URL]
//!
//!  size ─► members: is there a place? ─► add itself ─► once more ─► watch until there are N
//! ```
//!
//! *Invariants.* 1. The first N by their revision of creation are the cluster, on every member. 2.
//! Adding itself twice changes nothing: a start that was interrupted is begun again.
//!
//! *Contract.* `server/etcdserver/api/v3discovery/discovery.go` of etcd v3.7.1.

use std::time::Duration;

use base::MemberId;
use bytes::Bytes;
use proto::mvccpb::KeyValue;
use thiserror::Error;
use worker::bootstrap::member_id;

use super::service::{Failure, Service};
use crate::config::{Config, InitialCluster};
use crate::log;

const PREFIX: &str = "_etcd/registry";

/// Members that a cluster may have, far above what makes sense.
const MEMBERS_MAX: usize = 1_000;

/// Attempts without an answer, which is etcd's bound: the operator ends the wait, not the member.
const RETRIES_MAX: u32 = u32::MAX;

/// Pauses double up to two to the power of this many seconds.
const DOUBLINGS_MAX: u32 = 8;

/// Why there is no cluster.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum RegistryError {
    #[error("discovery: size key not found")]
    SizeNotFound,
    #[error("discovery: size key is bad")]
    BadSize,
    #[error("discovery: cluster is full")]
    Full,
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    #[error("discovery: found duplicate name")]
    DuplicateName,
    #[error("discovery: too many retries")]
    TooManyRetries,
    /// The service refuses this member.
    #[error("{0}")]
    Refused(String),
}

/// A member that has added itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    created: i64,
    key: String,
    /// In the form of `--initial-cluster`.
    urls: String,
}

/// The whole cluster of which this member, `own`, knows only itself; without a discovery service
/// `own` is the whole.
pub(crate) async fn join(config: &Config, own: InitialCluster) -> Result<InitialCluster, String> {
    if !config.discovers() {
        return Ok(own);
    }
    log::info("Bootstrapping cluster using v3 discovery.").emit();
    let urls: Vec<String> =
        config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    let id = member_id(&urls, &config.initial_cluster_token);
    let mut registry = Registry::new(config, id);
    let cluster = match registry.join(own.to_string()).await {
        Ok(cluster) => cluster,
        Err(error) => {
            line(log::error("discovery failed to join cluster"), config)
                .text("error", &error)
                .emit();
            let told = format!("failed to join discovery cluster ({error})");
            log::warn("failed to bootstrap; discovery token was already used")
                .field("discovery-token", &config.discovery.token)
                .field("discovery-endpoints", &config.discovery.endpoints)
                .field("error", &told)
                .emit();
            log::warn("do not reuse discovery token; generate a new one to bootstrap a cluster")
                .emit();
            return Err(told);
        }
    };
    line(log::info("discovery joined cluster successfully"), config)
        .text("cluster", &cluster)
        .emit();
    if cluster.check_joining(config).is_err() {
        return Err(format!("discovery cluster {cluster} has duplicate url"));
    }
    Ok(cluster)
}

/// What every line about the service says of it.
fn line(line: log::Line, config: &Config) -> log::Line {
    line.field("discovery-token", &config.discovery.token)
        .field("discovery-endpoints", &config.discovery.endpoints.join(","))
}

struct Registry<'a> {
    config: &'a Config,
    service: Service,
    size_key: String,
    members_prefix: String,
    own_key: String,
    retries: u32,
}

/// What the service knows at some revision.
struct State {
    size: usize,
    members: Vec<Registered>,
    revision: i64,
}

impl<'a> Registry<'a> {
    fn new(config: &'a Config, own: MemberId) -> Self {
        let token = &config.discovery.token;
        let members_prefix = joined(&[PREFIX, token, "members"]);
        Self {
            config,
            service: Service::new(&config.discovery),
            size_key: joined(&[PREFIX, token, "_config/size"]),
            own_key: format!("{members_prefix}/{own}"),
            members_prefix,
            retries: 0,
        }
    }

    async fn join(&mut self, urls: String) -> Result<InitialCluster, RegistryError> {
        self.check().await?;
        self.register(&urls).await?;
        let mut state = self.check().await?;
        while state.members.len() < state.size {
            let Err(error) = self.wait(&mut state).await else { break };
            // A watch that fails at once would fail again at once.
            self.pause("waiting for other nodes", error).await?;
            // What is there now is asked for again.
            state = self.check().await?;
        }
        cluster_of(&state)
    }

    /// The state, with a place for this member in it.
    async fn check(&mut self) -> Result<State, RegistryError> {
        loop {
            let error = match self.state().await {
                Ok(state) => {
                    self.retries = 0;
                    let mut first = state.members.iter().take(state.size);
                    let is_full = state.members.len() >= state.size;
                    if is_full && !first.any(|member| member.key == self.own_key) {
                        return Err(RegistryError::Full);
                    }
                    return Ok(state);
                }
                Err(Unknown::Final(error)) => return Err(error),
                Err(Unknown::Failure(error)) => error,
            };
            self.pause("cluster status check", error).await?;
        }
    }

    async fn state(&mut self) -> Result<State, Unknown> {
        let size = match self.service.get(&self.size_key).await {
            Ok(size) => size.ok_or(RegistryError::SizeNotFound)?,
            Err(error) => {
                self.line(log::warn("failed to get cluster size from discovery service"))
                    .field("clusterSizeKey", &self.size_key)
                    .text("error", &error)
                    .emit();
                return Err(Unknown::Failure(error));
            }
        };
        let size = read_size(&size).ok_or(RegistryError::BadSize)?;
        match self.service.list(&self.members_prefix, MEMBERS_MAX).await {
            Ok((keys, revision)) => {
                let mut state = State { size, members: Vec::new(), revision };
                for key in keys {
                    self.add(&mut state, &key);
                }
                Ok(state)
            }
            Err(error) => {
                self.line(log::warn("failed to get cluster members from discovery service"))
                    .field("membersKeyPrefix", &self.members_prefix)
                    .text("error", &error)
                    .emit();
                Err(Unknown::Failure(error))
            }
        }
    }

    async fn register(&mut self, urls: &str) -> Result<(), RegistryError> {
        loop {
            let Err(error) = self.service.put(&self.own_key, urls).await else {
                self.retries = 0;
                self.line(log::info("register member itself successfully"))
                    .field("memberKey", &self.own_key)
                    .field("memberInfo", urls)
                    .emit();
                return Ok(());
            };
            self.line(log::warn("failed to register members itself to the discovery service"))
                .field("memberKey", &self.own_key)
                .text("error", &error)
                .emit();
            self.pause("register member itself", error).await?;
        }
    }

    /// Adds those that come, until all are there; fails when no more can be heard.
    async fn wait(&mut self, state: &mut State) -> Result<(), Failure> {
        let counts = |line: log::Line, state: &State| {
            line.field("clusterSize", &state.size)
                .field("found-peers", &state.members.len())
                .emit();
        };
        counts(self.line(log::info("waiting for peers from discovery service")), state);
        let watched = self.service.watch(&self.members_prefix, state.revision + 1).await;
        let mut watch = match watched {
            Ok(watch) => watch,
            Err(error) => {
                self.line(log::warn("failed to watch the discovery service"))
                    .text("error", &error)
                    .emit();
                return Err(error);
            }
        };
        while state.members.len() < state.size {
            match watch.next().await {
                Ok(keys) => keys.iter().for_each(|key| self.add(state, key)),
                Err(error) => {
                    self.line(log::warn("failed to watch the discovery service"))
                        .text("error", &error)
                        .emit();
                    return Err(error);
                }
            }
        }
        counts(self.line(log::info("found all needed peers from discovery service")), state);
        Ok(())
    }

    fn add(&self, state: &mut State, key: &KeyValue) {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        let (name, urls) = (text(&key.key), text(&key.value));
        let known = state.members.iter().any(|member| member.key == name);
        let line = match () {
            () if !urls.contains('=') => {
                log::warn("invalid peer info returned from discovery service")
            }
            () if known => log::warn("found duplicate peer from discovery service"),
            () if state.members.len() >= MEMBERS_MAX => {
                log::warn("more peers than a cluster may have in the discovery service")
            }
            () => {
                let created = key.create_revision;
                let at = state.members.partition_point(|member| member.created <= created);
                let member = Registered { created, key: name.clone(), urls: urls.clone() };
                state.members.insert(at, member);
                log::info("found peer from discovery service")
            }
        };
        self.line(line).field("memberKey", &name).field("memberInfo", &urls).emit();
    }

    /// Waits before the next attempt.
    async fn pause(&mut self, reason: &str, error: Failure) -> Result<(), RegistryError> {
        if let Failure::Refused(text) = error {
            return Err(RegistryError::Refused(text));
        }
        if self.retries == RETRIES_MAX {
            return Err(RegistryError::TooManyRetries);
        }
        self.retries += 1;
        let pause = Duration::from_secs(1 << self.retries.min(DOUBLINGS_MAX));
        self.line(log::warn("retry connecting to discovery service"))
            .field("reason", reason)
            .duration("backoff", pause)
            .emit();
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn line(&self, line: log::Line) -> log::Line {
        self::line(line, self.config)
    }
}

/// Why the state is not known.
enum Unknown {
    Final(RegistryError),
    Failure(Failure),
}

impl From<RegistryError> for Unknown {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

fn read_size(text: &[u8]) -> Option<usize> {
    let size: usize = std::str::from_utf8(text).ok()?.parse().ok()?;
    (1..=MEMBERS_MAX).contains(&size).then_some(size)
}

/// The first members that fill the cluster.
fn cluster_of(state: &State) -> Result<InitialCluster, RegistryError> {
    let first = state.members.iter().take(state.size);
    let urls: Vec<&str> = first.map(|member| member.urls.as_str()).collect();
    let cluster = InitialCluster::parse(&urls.join(",")).map_err(|_| RegistryError::InvalidUrl)?;
    // Two members of one name would be taken for one with both URLs, and neither would be it.
    if cluster.len() < urls.len() {
        return Err(RegistryError::DuplicateName);
    }
    Ok(cluster)
}

/// A key of these parts, without what a path does not need, as Go joins paths.
fn joined(parts: &[&str]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for word in parts.iter().flat_map(|part| part.split('/')) {
        match word {
            "" | "." => {}
            ".." => drop(kept.pop()),
            word => kept.push(word),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(config: &Config) -> Registry<'_> {
        Registry::new(config, MemberId(0xa))
    }

    fn key(id: &str, created: i64, value: &str) -> KeyValue {
        KeyValue {
            key: format!("/_etcd/registry/t/members/{id}").into(),
            value: value.to_owned().into(),
            create_revision: created,
            ..KeyValue::default()
        }
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.discovery.token = "t".to_owned();
        config
    }

    #[test]
    fn keys_are_paths() {
        let config = config();
        let registry = registry(&config);
        assert_eq!(registry.size_key, "/_etcd/registry/t/_config/size");
        assert_eq!(registry.own_key, "/_etcd/registry/t/members/a");
        assert_eq!(joined(&[PREFIX, "a//b/./c/", "members"]), "/_etcd/registry/a/b/c/members");
        assert_eq!(joined(&[PREFIX, "..", "members"]), "/_etcd/members");
    }

    #[test]
    fn the_first_to_come_are_the_cluster() {
        let config = config();
        let registry = registry(&config);
        let mut state = State { size: 2, members: Vec::new(), revision: 1 };
        for (id, created, value) in [
            ("1", 9, "c=http://127.0.0.1:3"),
            ("2", 5, " b=http://127.0.0.1:2 "),
            ("3", 4, "nonsense"),
            ("4", 3, "a=http://127.0.0.1:1"),
            ("4", 2, "again=http://127.0.0.1:1"),
        ] {
            registry.add(&mut state, &key(id, created, value));
        }
        assert_eq!(state.members.len(), 3);
        let cluster = cluster_of(&state).expect("a cluster").to_string();
        assert_eq!(cluster, "a=http://127.0.0.1:1,b=http://127.0.0.1:2");
    }

    #[test]
    fn a_cluster_that_cannot_be_is_refused() {
        let config = config();
        let registry = registry(&config);
        for (second, error) in [
            ("a=http://127.0.0.1:2", RegistryError::DuplicateName),
            ("b=nonsense", RegistryError::InvalidUrl),
        ] {
            let mut state = State { size: 2, members: Vec::new(), revision: 1 };
            registry.add(&mut state, &key("1", 1, "a=http://127.0.0.1:1"));
            registry.add(&mut state, &key("2", 2, second));
            assert_eq!(cluster_of(&state), Err(error));
        }
    }

    #[test]
    fn a_size_is_a_positive_number() {
        let read = |text: &str| read_size(text.as_bytes());
        assert_eq!([read("3"), read("+3"), read("1000")], [Some(3), Some(3), Some(1000)]);
        for bad in ["0", "-1", "", " 3", "3\n", "x", "1001", "99999999999999999999"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
