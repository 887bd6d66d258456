//! From a configuration to what the member is told, and the lines that a start logs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base::limits;
use net::{Listener, Url};
use node::CommitPace;
use node::requests::compactor::Retention;
use peer::Dial;
use storage::datadir::DataDir;
use storage::disk::Disk;
use storage::{bolt, wal};
use tokio::runtime::Handle;
use worker::bootstrap::{self, FileOptions};

use crate::api::VERSION;
use crate::begin::Begun;
use crate::config::{Config, DEFAULT_NAME, Derived};
use crate::connection::Port;
use crate::log;
use crate::member::{Member, MemberConfig, Network};

/// Bytes of a segment of the log.
const SEGMENT_BYTES: u64 = 64_000_000;

/// Bytes of database pages in memory.
const CACHE_BYTES: usize = 64 << 20;

/// The page size of a database that is made here.
const PAGE_SIZE: u32 = 4096;

/// Compaction, where the flags say 0.
const COMPACTION_BATCH: u64 = 1_000;
const COMPACTION_PAUSE: Duration = Duration::from_millis(10);

/// A quota above this is told, and a request limit above that.
const QUOTA_SUGGESTED_MAX: u64 = 8 << 30;
const REQUEST_SUGGESTED_MAX: u64 = 10 << 20;

/// Where the member keeps its files.
pub(crate) fn directory(config: &Config) -> DataDir {
    let directory = DataDir::new(&config.data_dir);
    if config.wal_dir.is_empty() { directory } else { directory.with_wal(&config.wal_dir) }
}

/// Looks what is in the data directory before anything is made there.
pub(crate) fn check_directory(root: &str) -> Result<(), String> {
    let names = match fs::read_dir(root) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.file_name()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            log::info("Initialize and start etcd server")
                .field("data-dir", root)
                .field("dir-type", "empty")
                .emit();
            return Ok(());
        }
        Err(error) => return Err(format!("failed to list data directory {root}: {error}")),
    };
    let (mut is_member, mut is_proxy) = (false, false);
    for name in names {
        match name.to_str() {
            Some("member") => is_member = true,
            Some("proxy") => is_proxy = true,
            _ => log::warn("found invalid file under data directory")
                .field("filename", &name.to_string_lossy())
                .field("data-dir", root)
                .emit(),
        }
    }
    if is_member && is_proxy {
        return Err("invalid datadir; both member and proxy directories exist".to_owned());
    }
    if is_proxy {
        return Err("v2 http proxy has already been deprecated in 3.6".to_owned());
    }
    let (msg, kind) = match is_member {
        true => ("server has already been initialized", "member"),
        false => ("Initialize and start etcd server", "empty"),
    };
    log::info(msg).field("data-dir", root).field("dir-type", kind).emit();
    Ok(())
}

/// Whether the member has a log, so that it is not new.
pub(crate) fn is_initialized(disk: &dyn Disk, directory: &DataDir) -> Result<bool, String> {
    wal::exists(disk, directory.wal())
        .map_err(|error| format!("{}: cannot look for a log: {error}", directory.wal().display()))
}

/// Refuses a directory without a log that no member may be made in, before others hear of this one.
pub(crate) fn check_new(
    disk: &dyn Disk,
    directory: &DataDir,
    config: &Config,
) -> Result<(), String> {
    bootstrap::check_new(disk, directory, &files(config)).map_err(|error| error.to_string())
}

/// How files are written.
fn files(config: &Config) -> FileOptions {
    let sync = !config.unsafe_no_fsync;
    FileOptions {
        wal: wal::Options { segment_bytes: SEGMENT_BYTES, sync },
        database: bolt::Options { page_size: PAGE_SIZE, cache_bytes: CACHE_BYTES, sync },
    }
}

/// One lane a core.
pub(crate) fn lanes() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the member is told.
pub(crate) fn member(
    config: &Config,
    dir: DataDir,
    begun: Begun,
    network: Network,
) -> MemberConfig {
    let texts = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>();
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let or = |given: u64, default: u64| if given == 0 { default } else { given };
    MemberConfig {
        dir,
        name: config.name.clone(),
        client_urls: texts(&config.advertise_client_urls),
        beginning: begun.beginning,
        force_new_cluster: config.force_new_cluster,
        network: Some(Network { known: begun.known, ..network }),
        files: files(config),
        heartbeat: Duration::from_millis(config.heartbeat_interval_ms),
        election_ticks: u32::try_from(config.election_ticks()).unwrap_or(u32::MAX),
        pre_vote: config.pre_vote,
        snapshot_count: or(config.snapshot_count, 10_000),
        catchup_entries: or(config.snapshot_catchup_entries, limits::CATCHUP_ENTRIES),
        commit_pace: commit_pace(config),
        quota_bytes: config.quota(),
        request_bytes_max: size(config.max_request_bytes),
        compaction_batch: size(or(config.compaction_batch_limit, COMPACTION_BATCH)),
        compaction_pause: match config.compaction_sleep_interval {
            Duration::ZERO => COMPACTION_PAUSE,
            given => given,
        },
        kept: (size(config.max_wals), size(config.max_snapshots)),
        learners_max: size(config.max_learners),
    }
}

/// When the database is committed.
fn commit_pace(config: &Config) -> CommitPace {
    let default = CommitPace::default();
    CommitPace {
        interval: match config.backend_batch_interval {
            Duration::ZERO => default.interval,
            given => given,
        },
        changes_max: match config.backend_batch_limit {
            0 => default.changes_max,
            given => usize::try_from(given).unwrap_or(usize::MAX),
        },
    }
}

/// How other members are reached. The runtime is where it happens.
pub(crate) fn network(config: &Config, dial: Arc<dyn Dial>, runtime: Handle) -> Network {
    Network {
        urls: config.initial_advertise_peer_urls.clone(),
        dial,
        runtime,
        known: Vec::new(),
        version: peer::Version::ETCD,
    }
}

/// From which address other members are reached: with the gate for it, from the first one that this
/// member advertises and others can reach.
pub(crate) fn local_address(config: &Config) -> Option<IpAddr> {
    if !config.gate("SetMemberLocalAddr") {
        return None;
    }
    let urls = &config.initial_advertise_peer_urls;
    let local = urls
        .iter()
        .filter_map(|url| url.host().parse::<IpAddr>().ok())
        .find(|address| !address.is_loopback() && !address.is_unspecified());
    if let Some(local) = local {
        log::info("setting member local address").text("LocalAddr", &local).emit();
        return Some(local);
    }
    log::warn("unable to set a member local address due to lack of suitable local addresses")
        .texts("advertise-peer-urls", urls)
        .emit();
    None
}

/// What followed from other flags.
pub(crate) fn log_derived(derived: &Derived, config: &Config) {
    match &derived.host {
        Ok(None) => {}
        Ok(Some(host)) => {
            log::info("detected default host for advertise").text("host", host).emit();
        }
        Err(error) => {
            log::info("failed to detect default host").field("error", error).emit();
        }
    }
    if derived.data_dir {
        log::warn("'data-dir' was empty; using default").field("data-dir", &config.data_dir).emit();
    }
}

/// The member has its directory open.
pub(crate) fn log_started(config: &Config, member: &Member) {
    let version = member.store().cluster_version();
    log::info("starting etcd server")
        .text("local-member-id", &member.id())
        .field("local-server-version", VERSION)
        .text("cluster-id", &member.cluster_id())
        .field("cluster-version", version.as_deref().unwrap_or("to_be_decided"))
        .emit();
    if member.store().members().is_empty() {
        log::info("waiting for the leader of the cluster that this member was added to")
            .field("name", &config.name)
            .emit();
    }
}

/// The start-up line, with the keys that tools look for.
pub(crate) fn log_start(config: &Config, directory: &DataDir, is_initialized: bool) {
    let heartbeat = Duration::from_millis(config.heartbeat_interval_ms);
    let election = heartbeat * u32::try_from(config.election_ticks()).unwrap_or(u32::MAX);
    let retention = match config.retention() {
        Ok(Some(Retention::Period(period))) => period,
        // So does etcd tell it.
        Ok(Some(Retention::Revisions(kept))) => Duration::from_nanos(kept.unsigned_abs()),
        _ => Duration::ZERO,
    };
    let quota = config
        .quota()
        .map_or(config.quota_backend_bytes, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    log::info("starting an etcd server")
        .field("etcd-version", VERSION)
        .field("quorate-version", env!("CARGO_PKG_VERSION"))
        .field("go-os", std::env::consts::OS)
        .field("go-arch", go_arch())
        .field("max-cpu-set", &lanes())
        .field("max-cpu-available", &lanes())
        .field("member-initialized", &is_initialized)
        .field("name", &config.name)
        .field("data-dir", &config.data_dir)
        .field("wal-dir", &config.wal_dir)
        .text("member-dir", &directory.member().display())
        .field("force-new-cluster", &config.force_new_cluster)
        .duration("heartbeat-interval", heartbeat)
        .duration("election-timeout", election)
        .field("initial-election-tick-advance", &config.initial_election_tick_advance)
        .field("snapshot-count", &config.snapshot_count)
        .field("max-wals", &config.max_wals)
        .field("max-snapshots", &config.max_snapshots)
        .field("snapshot-catchup-entries", &config.snapshot_catchup_entries)
        .texts("initial-advertise-peer-urls", &config.initial_advertise_peer_urls)
        .texts("listen-peer-urls", &config.listen_peer_urls)
        .texts("advertise-client-urls", &config.advertise_client_urls)
        .texts("listen-client-urls", &config.listen_client_urls)
        .texts("listen-metrics-urls", &config.listen_metrics_urls)
        .field("cors", &config.cors)
        .field("host-whitelist", &config.host_whitelist)
        .field("initial-cluster", &config.initial_cluster)
        .field("initial-cluster-state", config.initial_cluster_state.text())
        .field("initial-cluster-token", &config.initial_cluster_token)
        .field("quota-backend-bytes", &quota)
        .field("max-request-bytes", &config.max_request_bytes)
        .field("max-concurrent-streams", &config.max_concurrent_streams)
        .field("pre-vote", &config.pre_vote)
        .duration("corrupt-check-time-interval", config.corrupt_check_time)
        .duration("compact-check-time-interval", config.compact_hash_check_time)
        .field("auto-compaction-mode", &config.auto_compaction_mode)
        .duration("auto-compaction-retention", retention)
        .duration("downgrade-check-interval", config.downgrade_check_time)
        .field("max-learners", &config.max_learners)
        .field("v2-deprecation", "write-only")
        .emit();
    log_doubts(config);
}

/// What is allowed and hardly meant.
fn log_doubts(config: &Config) {
    if config.max_request_bytes > REQUEST_SUGGESTED_MAX {
        log::warn("exceeded recommended request limit")
            .field("max-request-bytes", &config.max_request_bytes)
            .field("recommended-request-bytes", &REQUEST_SUGGESTED_MAX)
            .emit();
    }
    if config.quota().is_some_and(|quota| quota > QUOTA_SUGGESTED_MAX) {
        log::warn("quota exceeds the maximum value")
            .field("quota-size-bytes", &config.quota_backend_bytes)
            .field("quota-maximum-size-bytes", &QUOTA_SUGGESTED_MAX)
            .emit();
    }
    if config.unsafe_no_fsync {
        log::warn("--unsafe-no-fsync: acknowledged writes are lost when the machine fails").emit();
    }
    if config.bootstrap_defrag_threshold_megabytes > 0 {
        log::info("Skipping defragmentation").emit();
    }
}

/// The machine's kind by Go's name.
pub(crate) fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What the operator may want to know before anything is done.
pub(crate) fn log_warnings(config: &Config) {
    for (flag, msg) in [
        (
            "max-snapshots",
            "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        ),
        (
            "v2-deprecation",
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value \
             is enforced, ignoring user input.",
        ),
    ] {
        if config.given.contains(flag) {
            log::warn(msg).emit();
        }
    }
    if config.gate("LeaseCheckpoint") && !config.gate("LeaseCheckpointPersist") {
        let msg = "Detected that checkpointing is enabled without persistence. Consider enabling \
                   feature gate LeaseCheckpointPersist";
        log::warn(msg).emit();
    }
    for (gate, why) in config.gates_without_effect() {
        log::info("feature gate is without effect").field("gate", &gate).field("why", why).emit();
    }
    for (flag, why) in config.flags_without_effect() {
        log::info("flag is without effect").field("flag", flag).field("why", why).emit();
    }
    for flag in ["bcrypt-cost", "auth-token-ttl"] {
        if config.given.contains(flag) {
            log::info("flag is without effect until authentication is supported")
                .field("flag", flag)
                .emit();
        }
    }
    if config.listen_client_http_urls.is_empty() {
        let msg = "Running http and grpc server on single port. This is not recommended for \
                   production.";
        log::warn(msg).emit();
    }
    if config.name == DEFAULT_NAME {
        let msg = "it isn't recommended to use default name, please set a value for --name. Note \
                   that etcd might run into issue when multiple members have the same default name";
        log::warn(msg).field("name", &config.name).emit();
    }
}

/// The member is known to its cluster.
pub(crate) fn log_published(config: &Config, member: &Member) {
    let urls: Vec<_> = config.advertise_client_urls.iter().map(Url::to_string).collect();
    let attributes = format!("{{Name:{} ClientURLs:[{}]}}", config.name, urls.join(" "));
    log::info("published local member to cluster through raft")
        .text("local-member-id", &member.id())
        .field("local-member-attributes", &attributes)
        .text("cluster-id", &member.cluster_id())
        .duration("publish-timeout", config.request_timeout())
        .emit();
}

/// A client port is served.
pub(crate) fn log_serving(listener: &Listener, port: Port) {
    let traffic = match port {
        Port::Grpc => "grpc",
        Port::Http => "http",
        _ => "grpc+http",
    };
    log::info(match listener.is_tls() {
        true => "serving client traffic securely",
        false => "serving client traffic insecurely; this is strongly discouraged!",
    })
    .field("traffic", traffic)
    .field("address", listener.address())
    .emit();
}

/// The beginning and the end of a stop.
pub(crate) fn log_closing(config: &Config, msg: &str) {
    log::info(msg)
        .field("name", &config.name)
        .field("data-dir", &config.data_dir)
        .texts("advertise-peer-urls", &config.initial_advertise_peer_urls)
        .texts("advertise-client-urls", &config.advertise_client_urls)
        .emit();
}
