//! The table of keys that a configuration file has, and how values of JSON become the
//! configuration.
//!
//! *Invariants.* 1. Keys are found by their letters, whatever their case; of two that differ by
//! case alone the later counts. 2. A value of another type is refused in Go's words; the first one
//! by the order of keys is told.
//!
//! *Absent.* Reading YAML and what follows from several keys (`file`).
//!
//! *Contract.* The tags of `embed.Config` of etcd v3.7.1, and Go's `encoding/json`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};

use super::Config;
use super::flags::{Effect, find};

/// A type of Go's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    Text,
    /// A text by a name of its own.
    Named(&'static str),
    Bool,
    Uint,
    Uint32,
    Uint64,
    Int,
    Int64,
    /// In nanoseconds.
    Duration,
    List,
}

/// Where a value goes.
#[derive(Clone, Copy)]
enum To {
    /// To the flag of this name, which is also the key's when it is empty.
    Flag(&'static str),
    /// To a list as it is.
    List(fn(&mut Config) -> &mut Vec<String>),
    /// It is read when all keys have been: [`Texts`].
    Later,
    /// etcd reads it; it is without effect here.
    Nowhere,
}

struct Key {
    path: &'static str,
    go: Go,
    to: To,
}

/// Texts that are read when all keys have been, by their keys.
pub(super) type Texts = BTreeMap<&'static str, String>;

/// Keys below which there are others: path, type, and the name that Go gives the structure.
const SECTIONS: [(&str, &str, &str); 7] = [
    ("client-transport-security", "embed.securityConfig", "securityConfig"),
    ("peer-transport-security", "embed.securityConfig", "securityConfig"),
    ("socket-options", "transport.SocketOpts", "SocketOpts"),
    ("discovery-config", "v3discovery.DiscoveryConfig", "DiscoveryConfig"),
    ("discovery-config.client", "clientv3.ConfigSpec", "ConfigSpec"),
    ("discovery-config.client.secure", "clientv3.SecureConfig", "SecureConfig"),
    ("discovery-config.client.auth", "clientv3.AuthConfig", "AuthConfig"),
];

/// Shortens the table.
macro_rules! keys {
    ($($path:literal $go:expr $(, $to:expr)?;)*) => {
        &[$(Key { path: $path, go: $go, to: keys!(@ $($to)?) }),*]
    };
    (@) => { To::Flag("") };
    (@ $to:expr) => { $to };
}

/// Every key with a value.
#[rustfmt::skip]
static KEYS: &[Key] = keys! {
    "name" Go::Text;
    "data-dir" Go::Text;
    "wal-dir" Go::Text;
    "snapshot-count" Go::Uint64;
    "snapshot-catchup-entries" Go::Uint64;
    "max-snapshots" Go::Uint;
    "max-wals" Go::Uint;
    "heartbeat-interval" Go::Uint;
    "election-timeout" Go::Uint;
    "initial-election-tick-advance" Go::Bool;
    "backend-batch-interval" Go::Duration;
    "backend-batch-limit" Go::Int;
    "backend-bbolt-freelist-type" Go::Text;
    "quota-backend-bytes" Go::Int64;
    "max-txn-ops" Go::Uint;
    "max-request-bytes" Go::Uint;
    "max-concurrent-streams" Go::Uint32;
    "self-signed-cert-validity" Go::Uint;
    "cipher-suites" Go::List, To::List(|config| &mut config.cipher_suites);
    "tls-min-version" Go::Text;
    "tls-max-version" Go::Text;
    "initial-cluster-state" Go::Text, To::Later;
    "discovery-srv" Go::Text;
    "discovery-srv-name" Go::Text;
    "initial-cluster" Go::Text;
    "initial-cluster-token" Go::Text;
    "strict-reconfig-check" Go::Bool;
    "auto-compaction-mode" Go::Text;
    "auto-compaction-retention" Go::Text;
    "grpc-keepalive-min-time" Go::Duration;
    "grpc-keepalive-interval" Go::Duration;
    "grpc-keepalive-timeout" Go::Duration;
    "pre-vote" Go::Bool;
    "auth-token" Go::Text;
    "bcrypt-cost" Go::Uint;
    "auth-token-ttl" Go::Uint;
    "corrupt-check-time" Go::Duration;
    "compact-hash-check-time" Go::Duration;
    "compaction-batch-limit" Go::Int;
    "compaction-sleep-interval" Go::Duration;
    "watch-progress-notify-interval" Go::Duration;
    "warning-apply-duration" Go::Duration;
    "bootstrap-defrag-threshold-megabytes" Go::Uint;
    "warning-unary-request-duration" Go::Duration;
    "max-learners" Go::Int;
    "force-new-cluster" Go::Bool;
    "enable-pprof" Go::Bool;
    "metrics" Go::Text;
    "listen-metrics-urls" Go::Text, To::Later;
    "enable-distributed-tracing" Go::Bool;
    "distributed-tracing-address" Go::Text;
    "distributed-tracing-service-name" Go::Text;
    "distributed-tracing-instance-id" Go::Text;
    "distributed-tracing-sampling-rate" Go::Int;
    "logger" Go::Text;
    "log-level" Go::Text;
    "log-format" Go::Text;
    "log-outputs" Go::List, To::List(|config| &mut config.log_outputs);
    "enable-log-rotation" Go::Bool;
    "log-rotation-config-json" Go::Text;
    "enable-grpc-gateway" Go::Bool;
    "unsafe-no-fsync" Go::Bool;
    "downgrade-check-time" Go::Duration;
    "memory-mlock" Go::Bool;
    "v2-deprecation" Go::Named("config.V2DeprecationEnum"), To::Later;
    "listen-peer-urls" Go::Text, To::Later;
    "listen-client-urls" Go::Text, To::Later;
    "listen-client-http-urls" Go::Text, To::Later;
    "initial-advertise-peer-urls" Go::Text, To::Later;
    "advertise-client-urls" Go::Text, To::Later;
    "cors" Go::Text, To::Later;
    "host-whitelist" Go::Text, To::Later;
    "feature-gates" Go::Text, To::Later;

    "client-transport-security.cert-file" Go::Text, To::Flag("cert-file");
    "client-transport-security.key-file" Go::Text, To::Flag("key-file");
    "client-transport-security.client-cert-file" Go::Text, To::Flag("client-cert-file");
    "client-transport-security.client-key-file" Go::Text, To::Flag("client-key-file");
    "client-transport-security.client-cert-auth" Go::Bool, To::Flag("client-cert-auth");
    "client-transport-security.trusted-ca-file" Go::Text, To::Flag("trusted-ca-file");
    "client-transport-security.auto-tls" Go::Bool, To::Flag("auto-tls");
    "client-transport-security.allowed-cn" Go::List, To::List(|config| &mut config.client_tls.allowed_cns);
    "client-transport-security.allowed-hostname" Go::List, To::List(|config| &mut config.client_tls.allowed_hostnames);
    "client-transport-security.skip-client-san-verification" Go::Bool, To::Nowhere;
    "peer-transport-security.cert-file" Go::Text, To::Flag("peer-cert-file");
    "peer-transport-security.key-file" Go::Text, To::Flag("peer-key-file");
    "peer-transport-security.client-cert-file" Go::Text, To::Flag("peer-client-cert-file");
    "peer-transport-security.client-key-file" Go::Text, To::Flag("peer-client-key-file");
    "peer-transport-security.client-cert-auth" Go::Bool, To::Flag("peer-client-cert-auth");
    "peer-transport-security.trusted-ca-file" Go::Text, To::Flag("peer-trusted-ca-file");
    "peer-transport-security.auto-tls" Go::Bool, To::Flag("peer-auto-tls");
    "peer-transport-security.allowed-cn" Go::List, To::List(|config| &mut config.peer_tls.allowed_cns);
    "peer-transport-security.allowed-hostname" Go::List, To::List(|config| &mut config.peer_tls.allowed_hostnames);
    "peer-transport-security.skip-client-san-verification" Go::Bool, To::Flag("peer-skip-client-san-verification");

    "socket-options.reuse-port" Go::Bool, To::Flag("socket-reuse-port");
    "socket-options.reuse-address" Go::Bool, To::Flag("socket-reuse-address");

    "discovery-config.token" Go::Text, To::Flag("discovery-token");
    "discovery-config.client.endpoints" Go::List, To::List(|config| &mut config.discovery.endpoints);
    "discovery-config.client.request-timeout" Go::Duration, To::Flag("discovery-request-timeout");
    "discovery-config.client.dial-timeout" Go::Duration, To::Flag("discovery-dial-timeout");
    "discovery-config.client.keepalive-time" Go::Duration, To::Flag("discovery-keepalive-time");
    "discovery-config.client.keepalive-timeout" Go::Duration, To::Flag("discovery-keepalive-timeout");
    "discovery-config.client.max-request-bytes" Go::Int, To::Nowhere;
    "discovery-config.client.max-recv-bytes" Go::Int, To::Nowhere;
    "discovery-config.client.secure.cert" Go::Text, To::Flag("discovery-cert");
    "discovery-config.client.secure.key" Go::Text, To::Flag("discovery-key");
    "discovery-config.client.secure.cacert" Go::Text, To::Flag("discovery-cacert");
    "discovery-config.client.secure.server-name" Go::Text, To::Nowhere;
    "discovery-config.client.secure.insecure-transport" Go::Bool, To::Flag("discovery-insecure-transport");
    "discovery-config.client.secure.insecure-skip-tls-verify" Go::Bool, To::Flag("discovery-insecure-skip-tls-verify");
    "discovery-config.client.auth.username" Go::Text, To::Flag("discovery-user");
    "discovery-config.client.auth.password" Go::Text, To::Flag("discovery-password");
    "discovery-config.client.auth.token" Go::Text, To::Nowhere;
};

/// What a file says: known values by the path of their key, and keys that are not known.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Flat {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) unknown: Vec<(String, Value)>,
}

/// Finds the keys of a file. Values keep their types; sections must be some.
pub(super) fn flatten(file: &Value) -> Result<Flat, String> {
    let mut flat = Flat::default();
    match file {
        Value::Null => {}
        Value::Object(map) => flatten_section(map, "", &mut flat)?,
        other => {
            let of = "json: cannot unmarshal";
            return Err(format!("{of} {} into Go value of type embed.configYAML", kind(other)));
        }
    }
    Ok(flat)
}

fn flatten_section(map: &Map<String, Value>, above: &str, flat: &mut Flat) -> Result<(), String> {
    for (key, value) in map {
        let path = match above {
            "" => key.to_lowercase(),
            above => format!("{above}.{}", key.to_lowercase()),
        };
        if let Some((path, go, _)) = SECTIONS.iter().find(|(section, ..)| *section == path) {
            match value {
                Value::Null => {}
                Value::Object(map) => flatten_section(map, path, flat)?,
                other => return Err(mismatch(kind(other), path, go)),
            }
        } else if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            key.check(value)?;
            flat.values.insert(path, value.clone());
        } else {
            flat.unknown.push((path, value.clone()));
        }
    }
    Ok(())
}

/// Gives the values of a file to the configuration, but for the texts that it returns. Also what is
/// without effect here.
pub(super) fn apply(
    values: &BTreeMap<String, Value>,
    config: &mut Config,
) -> Result<(Texts, Vec<String>), String> {
    let (mut later, mut vain) = (Texts::new(), Vec::new());
    for (path, value) in values {
        let Some(key) = KEYS.iter().find(|key| key.path == path) else { continue };
        match key.to {
            _ if value.is_null() && key.go != Go::List => continue,
            To::Nowhere => vain.push(path.clone()),
            To::List(of) => *of(config) = texts(value),
            To::Later => {
                later.insert(key.path, value.as_str().unwrap_or_default().to_owned());
            }
            To::Flag(flag) => {
                let name = if flag.is_empty() { key.path } else { flag };
                let text = key.text(value);
                let refused = |reason: String| format!("{path}: invalid value {text:?}: {reason}");
                match find(name).map(|flag| &flag.effect) {
                    Some(Effect::Value(set)) => set(config, &text).map_err(refused)?,
                    Some(Effect::Switch(set)) => set(config, value == &Value::Bool(true)),
                    _ => unreachable!("the table names flags with values: {name}"),
                }
            }
        }
    }
    Ok((later, vain))
}

fn texts(list: &Value) -> Vec<String> {
    let text = |item: &Value| item.as_str().unwrap_or_default().to_owned();
    list.as_array().map(|items| items.iter().map(text).collect()).unwrap_or_default()
}

impl Key {
    /// Refuses a value of another type.
    fn check(&self, value: &Value) -> Result<(), String> {
        let is_right = match (self.go, value) {
            (_, Value::Null)
            | (Go::Text | Go::Named(_), Value::String(_))
            | (Go::Bool, Value::Bool(_)) => true,
            (Go::List, Value::Array(items)) => {
                let wrong = items.iter().find(|item| !item.is_string() && !item.is_null());
                return match wrong {
                    Some(item) => Err(mismatch(kind(item), self.path, "string")),
                    None => Ok(()),
                };
            }
            (go, Value::Number(number)) => match go.range() {
                Some(range) => {
                    let literal = literal(number);
                    let fits = literal.parse().is_ok_and(|number| range.contains(&number));
                    if !fits {
                        let what = format!("number {literal}");
                        return Err(mismatch(&what, self.path, go.name()));
                    }
                    true
                }
                None => false,
            },
            _ => false,
        };
        if is_right { Ok(()) } else { Err(mismatch(kind(value), self.path, self.go.name())) }
    }

    /// The value as the flag would have it.
    fn text(&self, value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if self.go == Go::Duration => format!("{}ns", literal(number)),
            Value::Number(number) => literal(number),
            other => other.to_string(),
        }
    }
}

impl Go {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Named(name) => name,
            Self::Bool => "bool",
            Self::Uint => "uint",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Int => "int",
            Self::Int64 => "int64",
            Self::Duration => "time.Duration",
            Self::List => "[]string",
        }
    }

    fn range(self) -> Option<std::ops::RangeInclusive<i128>> {
        Some(match self {
            Self::Uint | Self::Uint64 => 0..=i128::from(u64::MAX),
            Self::Uint32 => 0..=i128::from(u32::MAX),
            Self::Int | Self::Int64 | Self::Duration => i128::from(i64::MIN)..=i128::from(i64::MAX),
            Self::Text | Self::Named(_) | Self::Bool | Self::List => return None,
        })
    }
}

/// A number as Go's JSON has it.
fn literal(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.abs() < 1e21 => format!("{float}"),
        _ => number.to_string(),
    }
}

/// What Go calls a value.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn mismatch(what: &str, path: &str, go: &str) -> String {
    let above = path.rsplit_once('.').map_or("", |(above, _)| above);
    let owner = SECTIONS.iter().find(|(section, ..)| *section == above);
    let owner = owner.map_or("configYAML", |(.., owner)| owner);
    let top = path.split('.').next().unwrap_or(path);
    // etcd reads these as texts first, into a structure of their own.
    let is_raw = top.ends_with("-transport-security")
        || (top != "listen-metrics-urls" && (top.ends_with("-urls")))
        || matches!(top, "cors" | "host-whitelist" | "feature-gates");
    let root = if is_raw { "configJSON" } else { "Config" };
    format!("json: cannot unmarshal {what} into Go struct field {owner}.{root}.{path} of type {go}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_has_its_flag() {
        let mut config = Config::default();
        for key in KEYS {
            let value = match key.go {
                Go::Bool => json!(true),
                Go::Text | Go::Named(_) => json!("x"),
                Go::List => json!(["x"]),
                _ => json!(1),
            };
            let values = [(key.path.to_owned(), value)].into();
            assert!(apply(&values, &mut config).is_ok(), "{}", key.path);
        }
        assert!(config.peer_tls.skip_client_san_verification);
        assert_eq!(config.discovery.dial_timeout.as_nanos(), 1);
    }

    #[test]
    fn every_flag_with_a_value_has_its_key() {
        // etcd has no key for these.
        let without = [
            "client-crl-file",
            "peer-crl-file",
            "raft-read-timeout",
            "raft-write-timeout",
            "discovery-fallback",
            "config-file",
        ];
        let has_key = |name: &str| {
            KEYS.iter().any(|key| match key.to {
                To::Flag("") | To::Later => key.path == name,
                To::Flag(flag) => flag == name,
                To::List(_) => {
                    let last = key.path.rsplit('.').next().unwrap_or_default();
                    name.ends_with(last)
                }
                To::Nowhere => false,
            })
        };
        for flag in super::super::flags::FLAGS {
            let sets = matches!(flag.effect, Effect::Value(_) | Effect::Switch(_));
            assert_eq!(sets && !without.contains(&flag.name), has_key(flag.name), "{}", flag.name);
        }
    }
}
