//! What the operator asked for: flags, environment or a file, and the checks on them.
//!
//! ```text
//!  arguments ─► parse ─► Config ─► check ─► the member, the listeners, the log
//!  ETCD_*    ─►   ▲ one table of flags (`flags`), one of flags that are no more (`old`)
//!  a file    ─► file ─► keys (one table) ─► the same; SIGHUP: read again (`reload`)
//! ```
//!
//! *Invariants.* 1. A flag that etcd 3.7.1 has is either honoured or refused by name; one that has
//! nothing to change here is told at the start. 2. Texts and exit codes of refusals are etcd's.
//!
//! *Absent.* What TLS, discovery, logs and tracing do with what stands here.
//!
//! *Contract.* `server/etcdmain/config.go` and `server/embed/config.go` of etcd v3.7.1.

mod check;
mod check_bootstrap;
mod check_tls;
mod cluster;
mod compaction;
#[cfg(test)]
mod deploy;
mod file;
mod flags;
mod gates;
mod groups;
mod help;
mod host;
mod keys;
mod old;
mod parse;
mod reload;
mod secret;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use base::limits;
use net::Url;

pub(crate) use cluster::InitialCluster;
pub(crate) use gates::FEATURE_GATES;
pub(crate) use groups::{Discovery, Tls, Tracing};
pub(crate) use help::{flag_listing, usage};
pub(crate) use keys::kind;
pub(crate) use parse::{Notice, Outcome, Refusal, from_command_line};
pub(crate) use reload::Reloaded;
pub(crate) use secret::shown_words;
pub(crate) use value::show_duration;

pub(crate) const DEFAULT_NAME: &str = "default";
pub(crate) const ADVERTISE_MISSING: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
const RAFT_TIMEOUT: Duration = Duration::from_secs(5);
const ROTATION: &str = "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \
                        \"localtime\": false, \"compress\": false}";

/// Everything that a flag can set. Fields are named as their flags.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) data_dir: String,
    pub(crate) wal_dir: String,
    pub(crate) snapshot_count: u64,
    pub(crate) snapshot_catchup_entries: u64,
    pub(crate) heartbeat_interval_ms: u64,
    pub(crate) election_timeout_ms: u64,
    pub(crate) initial_election_tick_advance: bool,
    pub(crate) listen_peer_urls: Vec<Url>,
    pub(crate) listen_client_urls: Vec<Url>,
    pub(crate) listen_client_http_urls: Vec<Url>,
    pub(crate) listen_metrics_urls: Vec<Url>,
    pub(crate) initial_advertise_peer_urls: Vec<Url>,
    /// Empty when it was not given but `listen_client_urls` was, which is refused.
    pub(crate) advertise_client_urls: Vec<Url>,
    pub(crate) initial_cluster: String,
    pub(crate) initial_cluster_state: ClusterState,
    pub(crate) initial_cluster_token: String,
    pub(crate) discovery: Discovery,
    pub(crate) discovery_srv: String,
    pub(crate) discovery_srv_name: String,
    /// `exit` or `proxy`.
    pub(crate) discovery_fallback: String,
    /// What the certificates of other members must name, where the SRV records of that domain and
    /// no authority of one's own say who they are. No flag: found at the start.
    pub(crate) peer_server_name: Option<String>,
    pub(crate) strict_reconfig_check: bool,
    pub(crate) pre_vote: bool,
    pub(crate) memory_mlock: bool,
    pub(crate) socket_reuse_port: bool,
    pub(crate) socket_reuse_address: bool,
    pub(crate) enable_grpc_gateway: bool,
    pub(crate) raft_read_timeout: Duration,
    pub(crate) raft_write_timeout: Duration,
    pub(crate) max_snapshots: u64,
    pub(crate) max_wals: u64,
    /// As given: 0 is the default, negative is without limit.
    pub(crate) quota_backend_bytes: i64,
    pub(crate) backend_batch_interval: Duration,
    pub(crate) backend_batch_limit: u64,
    pub(crate) max_txn_ops: u64,
    pub(crate) max_request_bytes: u64,
    pub(crate) max_concurrent_streams: u32,
    pub(crate) grpc_keepalive_min_time: Duration,
    pub(crate) grpc_keepalive_interval: Duration,
    pub(crate) grpc_keepalive_timeout: Duration,
    pub(crate) auto_compaction_mode: String,
    pub(crate) auto_compaction_retention: String,
    pub(crate) compaction_batch_limit: u64,
    pub(crate) compaction_sleep_interval: Duration,
    pub(crate) client_tls: Tls,
    pub(crate) peer_tls: Tls,
    /// In years.
    pub(crate) self_signed_cert_validity: u64,
    pub(crate) cipher_suites: Vec<String>,
    pub(crate) tls_min_version: String,
    pub(crate) tls_max_version: String,
    /// `simple`, or `jwt` with its options.
    pub(crate) auth_token: String,
    pub(crate) bcrypt_cost: u64,
    /// In seconds.
    pub(crate) auth_token_ttl: u64,
    pub(crate) cors: BTreeSet<String>,
    pub(crate) host_whitelist: BTreeSet<String>,
    pub(crate) logger: String,
    pub(crate) log_level: String,
    pub(crate) log_outputs: Vec<String>,
    pub(crate) log_format: String,
    pub(crate) enable_log_rotation: bool,
    pub(crate) log_rotation_config_json: String,
    pub(crate) enable_pprof: bool,
    /// `basic` or `extensive`.
    pub(crate) metrics: String,
    pub(crate) tracing: Tracing,
    pub(crate) watch_progress_notify_interval: Duration,
    pub(crate) warning_apply_duration: Duration,
    pub(crate) warning_unary_request_duration: Duration,
    pub(crate) max_learners: u64,
    /// Zero is never.
    pub(crate) corrupt_check_time: Duration,
    pub(crate) compact_hash_check_time: Duration,
    /// Zero is never.
    pub(crate) downgrade_check_time: Duration,
    pub(crate) force_new_cluster: bool,
    pub(crate) unsafe_no_fsync: bool,
    pub(crate) bootstrap_defrag_threshold_megabytes: u64,
    /// Gates that were named, with what was asked of them.
    pub(crate) feature_gates: BTreeMap<String, bool>,
    /// Flags that were given on the command line or in the environment.
    pub(crate) given: BTreeSet<&'static str>,
    /// The configuration file; empty when there is none.
    pub(crate) config_file: String,
    /// What the configuration file says, by key.
    pub(crate) file_values: BTreeMap<String, serde_json::Value>,
    /// An initial cluster state of the configuration file that is none.
    pub(crate) unknown_state: Option<String>,
    /// Why the first flag that asks for what is not built here yet is refused.
    pub(crate) unbuilt: Option<String>,
}

/// Whether the member founds its cluster or was added to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Existing => "existing",
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let urls = |text: &str| Url::parse(text).into_iter().collect::<Vec<_>>();
        let all = || BTreeSet::from(["*".to_owned()]);
        Self {
            name: DEFAULT_NAME.to_owned(),
            data_dir: String::new(),
            wal_dir: String::new(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: limits::CATCHUP_ENTRIES,
            heartbeat_interval_ms: 100,
            election_timeout_ms: 1_000,
            initial_election_tick_advance: true,
            listen_peer_urls: urls(DEFAULT_PEER_URL),
            listen_client_urls: urls(DEFAULT_CLIENT_URL),
            listen_client_http_urls: Vec::new(),
            listen_metrics_urls: Vec::new(),
            initial_advertise_peer_urls: urls(DEFAULT_PEER_URL),
            advertise_client_urls: urls(DEFAULT_CLIENT_URL),
            initial_cluster: format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}"),
            initial_cluster_state: ClusterState::New,
            initial_cluster_token: "etcd-cluster".to_owned(),
            discovery: Discovery::default(),
            discovery_srv: String::new(),
            discovery_srv_name: String::new(),
            discovery_fallback: "exit".to_owned(),
            peer_server_name: None,
            strict_reconfig_check: true,
            pre_vote: true,
            memory_mlock: false,
            socket_reuse_port: false,
            socket_reuse_address: false,
            enable_grpc_gateway: true,
            raft_read_timeout: RAFT_TIMEOUT,
            raft_write_timeout: RAFT_TIMEOUT,
            max_snapshots: 5,
            max_wals: 5,
            quota_backend_bytes: 0,
            backend_batch_interval: Duration::ZERO,
            backend_batch_limit: 0,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            grpc_keepalive_min_time: Duration::from_secs(5),
            grpc_keepalive_interval: Duration::from_secs(7_200),
            grpc_keepalive_timeout: Duration::from_secs(20),
            auto_compaction_mode: "periodic".to_owned(),
            auto_compaction_retention: "0".to_owned(),
            compaction_batch_limit: 0,
            compaction_sleep_interval: Duration::ZERO,
            client_tls: Tls::default(),
            peer_tls: Tls::default(),
            self_signed_cert_validity: 1,
            cipher_suites: Vec::new(),
            tls_min_version: "TLS1.2".to_owned(),
            tls_max_version: String::new(),
            auth_token: "simple".to_owned(),
            bcrypt_cost: 10,
            auth_token_ttl: 300,
            cors: all(),
            host_whitelist: all(),
            logger: "zap".to_owned(),
            log_level: "info".to_owned(),
            log_outputs: vec!["default".to_owned()],
            log_format: "json".to_owned(),
            enable_log_rotation: false,
            log_rotation_config_json: ROTATION.to_owned(),
            enable_pprof: false,
            metrics: "basic".to_owned(),
            tracing: Tracing::default(),
            watch_progress_notify_interval: Duration::ZERO,
            warning_apply_duration: Duration::from_millis(100),
            warning_unary_request_duration: Duration::from_millis(300),
            max_learners: 1,
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: Duration::from_secs(60),
            downgrade_check_time: Duration::from_secs(5),
            force_new_cluster: false,
            unsafe_no_fsync: false,
            bootstrap_defrag_threshold_megabytes: 0,
            feature_gates: BTreeMap::new(),
            given: BTreeSet::new(),
            config_file: String::new(),
            file_values: BTreeMap::new(),
            unknown_state: None,
            unbuilt: None,
        }
    }
}

impl Config {
    /// The space quota in bytes; `None` is without limit.
    pub(crate) fn quota(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(limits::QUOTA_DEFAULT_BYTES),
            given => u64::try_from(given).ok(),
        }
    }

    /// Whether `/debug/pprof/` is there.
    pub(crate) fn serves_profiles(&self) -> bool {
        self.enable_pprof || self.log_level == "debug"
    }

    /// How long the server lets a request wait: 5 s and two elections.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * Duration::from_millis(self.election_timeout_ms)
    }

    /// How long reaching another member may take.
    pub(crate) fn peer_dial_timeout(&self) -> Duration {
        peer::limits::DIAL_TIMEOUT_EXTRA + Duration::from_millis(self.election_timeout_ms)
    }

    /// Ticks without a leader until an election.
    pub(crate) fn election_ticks(&self) -> u64 {
        self.election_timeout_ms / self.heartbeat_interval_ms
    }

    /// The largest gRPC message that is read.
    pub(crate) fn receive_bytes_max(&self) -> usize {
        usize::try_from(self.max_request_bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(limits::GRPC_OVERHEAD_BYTES)
    }

    /// Fills in what follows from other values: URLs to advertise from the machine's address, the
    /// initial cluster from the name, the data directory from the name.
    pub(crate) fn derive(&mut self) -> Derived {
        let default_cluster = format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}");
        let host = self.advertise_default_host();
        if self.name != DEFAULT_NAME && self.initial_cluster == default_cluster {
            let members: Vec<_> = self
                .initial_advertise_peer_urls
                .iter()
                .map(|url| format!("{}={url}", self.name))
                .collect();
            self.initial_cluster = members.join(",");
        }
        let data_dir = self.data_dir.is_empty();
        if data_dir {
            self.data_dir = format!("{}.etcd", self.name);
        }
        Derived { data_dir, host }
    }
}

/// What [`Config::derive`] has filled in, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Derived {
    /// Whether the data directory follows from the name.
    pub(crate) data_dir: bool,
    /// The machine's address, where it is advertised; the reason why it was not found.
    pub(crate) host: Result<Option<IpAddr>, String>,
}

#[cfg(test)]
mod tests;
