//! The table of flags: every flag of etcd 3.7.1, once.
//!
//! A new flag is a row here and a field in [`Config`]; parsing, environment and help follow from
//! the row, and its place in a configuration file from a row of `keys`.

use net::Url;

use super::gates::set_feature_gates;
use super::value::{parse_count, parse_duration, parse_i64, parse_u32_verbose, parse_u64};
use super::{ClusterState, Config};

/// One flag.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) group: Group,
    /// Shown by `-h`.
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) effect: Effect,
}

/// Where `-h` lists a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Profiling,
    Logging,
    Tracing,
    Features,
    Unsafe,
    /// Not listed.
    Hidden,
}

/// What giving a flag does.
pub(super) enum Effect {
    /// Sets a value; the error is the reason after `invalid value … for flag …:`.
    Value(fn(&mut Config, &str) -> Result<(), String>),
    /// The same, where the flag alone means `true`.
    Switch(fn(&mut Config, bool)),
    /// Read by etcd and without effect there.
    Ignored,
    /// `--version`.
    Version,
}

impl Flag {
    /// Whether the flag needs no value.
    pub(super) fn is_switch(&self) -> bool {
        matches!(self.effect, Effect::Switch(_) | Effect::Ignored | Effect::Version)
    }

    /// Its name in the environment.
    pub(super) fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The name of a flag in the environment.
pub(super) fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

/// How the help of a flag begins that has nothing to change here.
const WITHOUT_EFFECT: &str = "Without effect here: ";

impl Config {
    /// Flags that were given and have nothing to change here, and why that is.
    pub(crate) fn flags_without_effect(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str)> {
        FLAGS.iter().filter(|flag| self.given.contains(flag.name)).filter_map(|flag| {
            match flag.effect {
                Effect::Ignored => Some((flag.name, "etcd reads and ignores it, too")),
                _ => flag.help.strip_prefix(WITHOUT_EFFECT).map(|why| (flag.name, why)),
            }
        })
    }
}

/// The flag of this name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

type Set = Result<(), String>;

fn assign<T>(field: &mut T, value: Result<T, String>) -> Set {
    *field = value?;
    Ok(())
}

/// As in etcd, nothing leaves what was there.
fn assign_urls(field: &mut Vec<Url>, text: &str) -> Set {
    if text.is_empty() {
        return Ok(());
    }
    assign(field, Url::parse_list(text).map_err(|error| error.to_string()))
}

/// The words of a list, of which one may be empty.
fn all_words(text: &str) -> Vec<String> {
    let mut words: Vec<_> = text.split(',').map(str::to_owned).collect();
    words.sort();
    words.dedup();
    words
}

/// The words of a list that may be empty.
fn list(text: &str) -> Vec<String> {
    words(text).filter(|word| !word.is_empty()).collect()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(',').map(|word| word.trim().to_owned())
}

fn set_log_outputs(config: &mut Config, text: &str) -> Set {
    let mut outputs: Vec<_> = words(text).collect();
    outputs.sort();
    outputs.dedup();
    config.log_outputs = outputs;
    Ok(())
}

fn set_cluster_state(config: &mut Config, text: &str) -> Set {
    config.initial_cluster_state = match text {
        "new" => ClusterState::New,
        "existing" => ClusterState::Existing,
        _ => return Err("invalid value".to_owned()),
    };
    Ok(())
}

fn set_discovery_fallback(config: &mut Config, text: &str) -> Set {
    match text {
        "exit" | "proxy" => assign(&mut config.discovery_fallback, Ok(text.to_owned())),
        _ => Err("invalid value".to_owned()),
    }
}

pub(super) fn set_cors(config: &mut Config, text: &str) -> Set {
    let any = |text: &str| text.is_empty() || text == "*";
    config.cors = match text {
        text if any(text) => ["*".to_owned()].into(),
        text => words(text)
            .map(|word| match any(&word) {
                true => Ok("*".to_owned()),
                false => Url::parse(&word).map(|url| url.to_string()).map_err(|e| e.to_string()),
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(())
}

pub(super) fn set_host_whitelist(config: &mut Config, text: &str) -> Set {
    config.host_whitelist = match text {
        "" | "*" => ["*".to_owned()].into(),
        text => words(text).collect(),
    };
    Ok(())
}

/// Shortens a row: an unsigned number, one that etcd lets be negative, a duration, a text.
macro_rules! set {
    (u64 $field:ident) => {
        Effect::Value(|config, text| assign(&mut config.$field, parse_u64(text)))
    };
    (count $field:ident) => {
        Effect::Value(|config, text| assign(&mut config.$field, parse_count(text)))
    };
    (duration $($field:ident).+) => {
        Effect::Value(|config, text| assign(&mut config.$($field).+, parse_duration(text)))
    };
    (text $($field:ident).+) => {
        Effect::Value(|config, text| assign(&mut config.$($field).+, Ok(text.to_owned())))
    };
    (words $($field:ident).+) => {
        Effect::Value(|config, text| assign(&mut config.$($field).+, Ok(list(text))))
    };
    (all $($field:ident).+) => {
        Effect::Value(|config, text| assign(&mut config.$($field).+, Ok(all_words(text))))
    };
    (urls $field:ident) => {
        Effect::Value(|config, text| assign_urls(&mut config.$field, text))
    };
    (bool $($field:ident).+) => {
        Effect::Switch(|config, on| config.$($field).+ = on)
    };
}

/// Shortens the table.
macro_rules! flags {
    ($($group:ident $name:literal $default:literal $effect:expr, $help:literal;)*) => {
        &[$(Flag {
            name: $name,
            group: Group::$group,
            default: $default,
            help: $help,
            effect: $effect,
        }),*]
    };
}

/// Every flag, in the order of `-h`.
#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = flags! {
    Member "name" "default" set!(text name), "The member's name for people.";
    Member "data-dir" "${name}.etcd" set!(text data_dir), "The directory that holds everything the member keeps.";
    Member "wal-dir" "" set!(text wal_dir), "A directory of its own for the write-ahead log.";
    Member "snapshot-count" "10000" set!(u64 snapshot_count), "Applied entries after which a snapshot goes to disk.";
    Member "heartbeat-interval" "100" set!(u64 heartbeat_interval_ms), "Milliseconds between heartbeats.";
    Member "election-timeout" "1000" set!(u64 election_timeout_ms), "Milliseconds without a leader until an election.";
    Member "initial-election-tick-advance" "true" set!(bool initial_election_tick_advance), "Shorten the first wait for an election.";
    Member "listen-peer-urls" "http://localhost:2380" set!(urls listen_peer_urls), "Where to listen for members.";
    Member "listen-client-urls" "http://localhost:2379" set!(urls listen_client_urls), "Where to listen for clients: gRPC, and HTTP unless it has URLs of its own.";
    Member "listen-client-http-urls" "" set!(urls listen_client_http_urls), "Where to listen for HTTP alone; takes HTTP away from --listen-client-urls.";
    Member "max-snapshots" "5" set!(u64 max_snapshots), "Snapshot files to keep (0: all). Deprecated by etcd 3.6.";
    Member "max-wals" "5" set!(u64 max_wals), "Log files to keep (0: all).";
    Member "memory-mlock" "false" set!(bool memory_mlock), "Keep the member's memory from being swapped out.";
    Member "quota-backend-bytes" "0"
        Effect::Value(|config, text| assign(&mut config.quota_backend_bytes, parse_i64(text))),
        "Bytes the database may take before writes are refused (0: 2 GiB, negative: no limit).";
    Member "backend-bbolt-freelist-type" "map" Effect::Value(|_, _| Ok(())), "Without effect here: free pages are always kept in a map.";
    Member "backend-batch-interval" "" set!(duration backend_batch_interval), "The longest wait of changes for the database's commit (0: 100ms).";
    Member "backend-batch-limit" "0" set!(count backend_batch_limit), "Changes that force the database's commit (0: 10000).";
    Member "max-txn-ops" "128" set!(u64 max_txn_ops), "Operations that a transaction may have.";
    Member "max-request-bytes" "1572864" set!(u64 max_request_bytes), "Bytes that a write request may have.";
    Member "max-concurrent-streams" "math.MaxUint32"
        Effect::Value(|config, text| {
            assign(&mut config.max_concurrent_streams, parse_u32_verbose(text))
        }),
        "Requests that one connection may have open.";
    Member "grpc-keepalive-min-time" "5s" set!(duration grpc_keepalive_min_time), "The shortest interval at which a client may ping (0: 5m); without an open stream it is 2h.";
    Member "grpc-keepalive-interval" "2h" set!(duration grpc_keepalive_interval), "The interval at which silent clients are pinged (0: 2h, and the timeout 20s).";
    Member "grpc-keepalive-timeout" "20s" set!(duration grpc_keepalive_timeout), "How long to wait for the answer to a ping (0: 20s, and the interval 2h).";
    Member "socket-reuse-port" "false" set!(bool socket_reuse_port), "Let several processes listen on one port.";
    Member "socket-reuse-address" "false" set!(bool socket_reuse_address), "Without effect here: it is always so.";
    Member "enable-grpc-gateway" "true" set!(bool enable_grpc_gateway), "Serve the API as JSON under /v3.";
    Member "raft-read-timeout" "5s" set!(duration raft_read_timeout), "How long a read from another member may take.";
    Member "raft-write-timeout" "5s" set!(duration raft_write_timeout), "How long a write to another member may take.";
    Member "feature-gates" "" Effect::Value(set_feature_gates), "NAME=true,NAME=false: experimental features.";

    Clustering "initial-advertise-peer-urls" "http://localhost:2380" set!(urls initial_advertise_peer_urls), "Where other members reach this one.";
    Clustering "initial-cluster" "default=http://localhost:2380" set!(text initial_cluster), "NAME=URL,NAME=URL: the founding members.";
    Clustering "initial-cluster-state" "new" Effect::Value(set_cluster_state), "new: found the cluster. existing: join the one this member was added to.";
    Clustering "initial-cluster-token" "etcd-cluster" set!(text initial_cluster_token), "Keeps clusters with equal URLs apart.";
    Clustering "advertise-client-urls" "http://localhost:2379" set!(urls advertise_client_urls), "Where clients reach this member.";
    Clustering "discovery-token" "" set!(text discovery.token), "The token of etcd's discovery service.";
    Clustering "discovery-endpoints" "" set!(all discovery.endpoints), "The members of etcd's discovery service.";
    Clustering "discovery-dial-timeout" "2s" set!(duration discovery.dial_timeout), "For the discovery service.";
    Clustering "discovery-request-timeout" "5s" set!(duration discovery.request_timeout), "For the discovery service.";
    Clustering "discovery-keepalive-time" "2s" set!(duration discovery.keepalive_time), "For the discovery service.";
    Clustering "discovery-keepalive-timeout" "6s" set!(duration discovery.keepalive_timeout), "For the discovery service.";
    Clustering "discovery-insecure-transport" "true" set!(bool discovery.insecure_transport), "For the discovery service.";
    Clustering "discovery-insecure-skip-tls-verify" "false" set!(bool discovery.insecure_skip_tls_verify), "For the discovery service.";
    Clustering "discovery-cert" "" set!(text discovery.cert), "For the discovery service.";
    Clustering "discovery-key" "" set!(text discovery.key), "For the discovery service.";
    Clustering "discovery-cacert" "" set!(text discovery.cacert), "For the discovery service.";
    Clustering "discovery-user" "" set!(text discovery.user), "For the discovery service.";
    Clustering "discovery-password" "" set!(text discovery.password), "For the discovery service.";
    Clustering "discovery-srv" "" set!(text discovery_srv), "A DNS domain whose SRV records name the members.";
    Clustering "discovery-srv-name" "" set!(text discovery_srv_name), "The suffix of the SRV records' service name.";
    Clustering "discovery-fallback" "exit" Effect::Value(set_discovery_fallback), "What to do when discovery fails.";
    Clustering "strict-reconfig-check" "true" set!(bool strict_reconfig_check), "Refuse changes of members that would lose the quorum.";
    Clustering "pre-vote" "true" set!(bool pre_vote), "Ask around before an election, so that a returning member does not disturb.";
    Clustering "auto-compaction-retention" "0" set!(text auto_compaction_retention), "History to keep: hours or a duration, or a count of revisions (0: all).";
    Clustering "auto-compaction-mode" "periodic" set!(text auto_compaction_mode), "periodic or revision: the meaning of --auto-compaction-retention.";
    Clustering "v2-deprecation" "write-only" Effect::Value(set_v2_deprecation), "Without effect.";

    Security "cert-file" "" set!(text client_tls.cert_file), "The certificate for clients.";
    Security "key-file" "" set!(text client_tls.key_file), "The key of --cert-file.";
    Security "client-cert-file" "" set!(text client_tls.client_cert_file), "The certificate to present as a client.";
    Security "client-key-file" "" set!(text client_tls.client_key_file), "The key of --client-cert-file.";
    Security "client-cert-auth" "false" set!(bool client_tls.client_cert_auth), "Demand certificates from clients.";
    Security "client-crl-file" "" set!(text client_tls.crl_file), "Client certificates that are revoked.";
    Security "client-cert-allowed-hostname" "" set!(words client_tls.allowed_hostnames), "Names that a client certificate may have.";
    Security "trusted-ca-file" "" set!(text client_tls.trusted_ca_file), "Who may sign client certificates.";
    Security "auto-tls" "false" set!(bool client_tls.auto_tls), "Make a certificate for clients.";
    Security "peer-cert-file" "" set!(text peer_tls.cert_file), "The certificate for members.";
    Security "peer-key-file" "" set!(text peer_tls.key_file), "The key of --peer-cert-file.";
    Security "peer-client-cert-file" "" set!(text peer_tls.client_cert_file), "The certificate to present to members.";
    Security "peer-client-key-file" "" set!(text peer_tls.client_key_file), "The key of --peer-client-cert-file.";
    Security "peer-client-cert-auth" "false" set!(bool peer_tls.client_cert_auth), "Demand certificates from members.";
    Security "peer-trusted-ca-file" "" set!(text peer_tls.trusted_ca_file), "Who may sign members' certificates.";
    Security "peer-crl-file" "" set!(text peer_tls.crl_file), "Members' certificates that are revoked.";
    Security "peer-cert-allowed-cn" "" set!(words peer_tls.allowed_cns), "Common names that a member's certificate may have.";
    Security "peer-cert-allowed-hostname" "" set!(words peer_tls.allowed_hostnames), "Names that a member's certificate may have.";
    Security "peer-auto-tls" "false" set!(bool peer_tls.auto_tls), "Make a certificate for members.";
    Security "peer-skip-client-san-verification" "false" set!(bool peer_tls.skip_client_san_verification), "Accept a member's certificate from any address.";
    Security "self-signed-cert-validity" "1" set!(u64 self_signed_cert_validity), "Years that a made certificate is valid.";
    Security "cipher-suites" "" Effect::Value(|config, text| {
            assign(&mut config.cipher_suites, Ok(text.split(',').map(str::to_owned).collect()))
        }), "The ciphers for TLS.";
    Security "tls-min-version" "TLS1.2" set!(text tls_min_version), "The oldest TLS to accept.";
    Security "tls-max-version" "" set!(text tls_max_version), "The newest TLS to accept.";
    Security "cors" "*" Effect::Value(set_cors), "Origins whose pages may call (* or empty: all).";
    Security "host-whitelist" "*" Effect::Value(set_host_whitelist), "Host names that plain HTTP requests may carry (* or empty: all).";

    Auth "auth-token" "simple" set!(text auth_token), "The kind of token: simple or jwt.";
    Auth "bcrypt-cost" "10" set!(u64 bcrypt_cost), "The cost of hashing a password.";
    Auth "auth-token-ttl" "300" set!(u64 auth_token_ttl), "Seconds that a token lives.";

    Profiling "enable-pprof" "false" set!(bool enable_pprof), "Serve profiles under /debug/pprof/.";
    Profiling "metrics" "basic" set!(text metrics), "basic or extensive.";
    Profiling "listen-metrics-urls" "" set!(urls listen_metrics_urls), "Where to listen for /metrics, /health, /livez and /readyz alone.";

    Logging "logger" "zap" set!(text logger), "zap, the only one.";
    Logging "log-outputs" "default" Effect::Value(set_log_outputs), "default or stderr, stdout, or files.";
    Logging "log-level" "info" set!(text log_level), "debug, info, warn, error, panic or fatal.";
    Logging "log-format" "json" set!(text log_format), "json or console.";
    Logging "enable-log-rotation" "false" set!(bool enable_log_rotation), "Start a new log file when one is full.";
    Logging "log-rotation-config-json" "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}" set!(text log_rotation_config_json), "When a log file is full.";
    Logging "warning-unary-request-duration" "300ms" set!(duration warning_unary_request_duration), "Requests that take longer are logged.";

    Tracing "enable-distributed-tracing" "false" set!(bool tracing.enabled), "Send traces by OpenTelemetry.";
    Tracing "distributed-tracing-address" "localhost:4317" set!(text tracing.address), "Where to send them.";
    Tracing "distributed-tracing-service-name" "etcd" set!(text tracing.service_name), "The service's name in them.";
    Tracing "distributed-tracing-instance-id" "" set!(text tracing.instance_id), "The member's name in them.";
    Tracing "distributed-tracing-sampling-rate" "0" Effect::Value(|config, text| {
            assign(&mut config.tracing.sampling_rate, parse_i64(text))
        }), "How many of a million requests are traced.";

    Features "snapshot-catchup-entries" "5000" set!(u64 snapshot_catchup_entries), "Log entries to keep in memory for members that lag.";
    Features "corrupt-check-time" "0s" set!(duration corrupt_check_time), "The interval of comparing hashes with other members (0: never).";
    Features "compact-hash-check-time" "1m" set!(duration compact_hash_check_time), "The interval of comparing hashes after compactions.";
    Features "compaction-batch-limit" "1000" set!(count compaction_batch_limit), "Revisions that a compaction removes at once.";
    Features "compaction-sleep-interval" "10ms" set!(duration compaction_sleep_interval), "The pause between them.";
    Features "watch-progress-notify-interval" "10m" set!(duration watch_progress_notify_interval), "How often a quiet watch reports its progress.";
    Features "warning-apply-duration" "100ms" set!(duration warning_apply_duration), "Requests that take longer to apply are logged.";
    Features "downgrade-check-time" "5s" set!(duration downgrade_check_time), "Without effect here: whether a downgrade is complete is seen when members tell their versions.";
    Features "bootstrap-defrag-threshold-megabytes" "0" set!(u64 bootstrap_defrag_threshold_megabytes), "Without effect here: free pages are used again as they are.";
    Features "max-learners" "1" set!(count max_learners), "Learners that a cluster may have.";

    Unsafe "force-new-cluster" "false" set!(bool force_new_cluster), "Found a cluster of one from this directory.";
    Unsafe "unsafe-no-fsync" "false" set!(bool unsafe_no_fsync), "Do not wait for the disk. LOSES DATA when the machine fails.";

    Hidden "config-file" "" set!(text config_file), "A file with the configuration.";
    Hidden "version" "false" Effect::Version, "Print the version.";
    Hidden "cluster-active-size" "" Effect::Ignored, "";
    Hidden "cluster-remove-delay" "" Effect::Ignored, "";
    Hidden "cluster-sync-interval" "" Effect::Ignored, "";
    Hidden "config" "" Effect::Ignored, "";
    Hidden "force" "" Effect::Ignored, "";
    Hidden "max-result-buffer" "" Effect::Ignored, "";
    Hidden "max-retry-attempts" "" Effect::Ignored, "";
    Hidden "peer-heartbeat-interval" "" Effect::Ignored, "";
    Hidden "peer-election-timeout" "" Effect::Ignored, "";
    Hidden "retry-interval" "" Effect::Ignored, "";
    Hidden "snapshot" "" Effect::Ignored, "";
    Hidden "v" "" Effect::Ignored, "";
    Hidden "vv" "" Effect::Ignored, "";
    Hidden "test.coverprofile" "" Effect::Ignored, "";
    Hidden "test.outputdir" "" Effect::Ignored, "";
};

fn set_v2_deprecation(_: &mut Config, text: &str) -> Set {
    match text {
        "write-only" | "write-only-skip-check" | "write-only-drop-data" | "gone" => Ok(()),
        _ => Err(format!("invalid value {text:?}")),
    }
}
