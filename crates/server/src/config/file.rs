//! Reads the configuration file: YAML, of which JSON is a part.
//!
//! ```text
//!  bytes ─► YAML ─► JSON ─► keys (flatten, apply) ─► texts that are read last ─► Config
//!                                 └─► keys of old, keys of nobody
//! ```
//!
//! *Invariants.* With a file, flags and environment count for nothing but what has no key.
//!
//! *Contract.* `configYAML.configFromFile` in `server/embed/config.go` of etcd v3.7.1, and
//! `sigs.k8s.io/yaml`.

use std::fs;
use std::io::Read;

use net::Url;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::flags::{FLAGS, set_cors, set_host_whitelist};
use super::gates::set_feature_gates;
use super::keys::{self, Flat, Texts};
use super::old::{Done, find_old};
use super::parse::{Notice, Refusal};
use super::{ClusterState, Config, DEFAULT_NAME, DEFAULT_PEER_URL};
use base::go::error_text;

/// Bytes that a configuration file may have.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Keys of the files of 2.x to 3.4 whose defaults its sample file spells out; they ask for nothing.
const OLD_DEFAULTS: [(&str, &str); 8] = [
    ("discovery", ""),
    ("discovery-fallback", "proxy"),
    ("discovery-fallback", "exit"),
    ("discovery-proxy", ""),
    ("proxy", "off"),
    ("enable-v2", "false"),
    ("debug", "false"),
    ("log-package-levels", ""),
];

impl Config {
    /// What the file at `path` says, not yet checked.
    pub(super) fn from_file(path: &str, notices: &mut Vec<Notice>) -> Result<Self, Refusal> {
        let refuse = |reason: String| Refusal::Config(reason);
        let text = read(path).map_err(refuse)?;
        let file = to_json(&text).map_err(refuse)?;
        let decoding = |reason: String| {
            refuse(format!("error unmarshaling JSON: while decoding JSON: {reason}"))
        };
        let Flat { values, unknown } = keys::flatten(&file).map_err(decoding)?;
        let mut config = Self { config_file: path.to_owned(), ..Self::default() };
        let (texts, vain) = keys::apply(&values, &mut config).map_err(refuse)?;
        config.note_given(&file, &values);
        config.file_values = values;
        config.read_texts(&texts, &file)?;
        config.follow_file();
        let mut ignored = vain;
        for (key, value) in unknown {
            let fate = config.read_old(&key, &value);
            if find_old(&key).is_some() {
                config.file_values.insert(key.clone(), value);
            }
            match fate {
                Fate::Told(line) => notices.push(Notice::Warning(line)),
                Fate::Ignored => ignored.push(key),
                Fate::Silent => {}
            }
        }
        if !ignored.is_empty() {
            notices.push(Notice::IgnoredKeys { path: path.to_owned(), keys: ignored });
        }
        Ok(config)
    }

    /// Notes which flags the file stands for.
    fn note_given(&mut self, file: &Value, values: &std::collections::BTreeMap<String, Value>) {
        let is_section = |key: &str| file.get(key).is_some_and(Value::is_object);
        for flag in FLAGS {
            let in_peer = flag.name.strip_prefix("peer-").is_some_and(|rest| {
                is_section("peer-transport-security")
                    && values.contains_key(&format!("peer-transport-security.{rest}"))
            });
            if values.contains_key(flag.name) || in_peer {
                self.given.insert(flag.name);
            }
        }
    }

    /// Reads what etcd reads after all keys have their types.
    fn read_texts(&mut self, texts: &Texts, file: &Value) -> Result<(), Refusal> {
        let text = |key: &str| texts.get(key).map_or("", String::as_str);
        if !text("feature-gates").is_empty() {
            set_feature_gates(self, text("feature-gates")).map_err(Refusal::Config)?;
        }
        // Nothing at all is nothing to Go's decoder, but no structure either.
        if file.get("peer-transport-security").is_some_and(Value::is_null) {
            return Err(Refusal::Config("invalid peer-transport-security".to_owned()));
        }
        for (key, told, urls) in [
            ("listen-peer-urls", "listen-peer-urls", &mut self.listen_peer_urls),
            ("listen-client-urls", "listen-client-urls", &mut self.listen_client_urls),
            (
                "listen-client-http-urls",
                "listen-client-http-urls",
                &mut self.listen_client_http_urls,
            ),
            (
                "initial-advertise-peer-urls",
                "initial-advertise-peer-urls",
                &mut self.initial_advertise_peer_urls,
            ),
            // So says etcd.
            ("advertise-client-urls", "advertise-peer-urls", &mut self.advertise_client_urls),
            ("listen-metrics-urls", "listen-metrics-urls", &mut self.listen_metrics_urls),
        ] {
            if !text(key).is_empty() {
                *urls = Url::parse_list(text(key)).map_err(|error| {
                    Refusal::Plain(format!("unexpected error setting up {told}: {error}"))
                })?;
            }
        }
        // etcd panics here.
        set_cors(self, text("cors")).map_err(|reason| {
            Refusal::Syntax(format!("new UniqueURLs should never fail: {reason} (cors)"))
        })?;
        set_host_whitelist(self, text("host-whitelist")).map_err(Refusal::Config)?;
        match text("initial-cluster-state") {
            "" | "new" => self.initial_cluster_state = ClusterState::New,
            "existing" => self.initial_cluster_state = ClusterState::Existing,
            other => self.unknown_state = Some(other.to_owned()),
        }
        Ok(())
    }

    /// What follows from other keys.
    fn follow_file(&mut self) {
        let is_discovered = !self.discovery_srv.is_empty() || !self.discovery.endpoints.is_empty();
        if is_discovered && self.initial_cluster == format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}") {
            self.initial_cluster.clear();
        }
        if self.self_signed_cert_validity == 0 {
            self.self_signed_cert_validity = 1;
        }
        if self.log_outputs.is_empty() {
            self.log_outputs = vec!["default".to_owned()];
        }
    }

    /// Does what a key of an older etcd asks for, if it can be done: 3.7.1 passes over all of them.
    pub(super) fn read_old(&mut self, key: &str, value: &Value) -> Fate {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let texts: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                texts.join(",")
            }
            // A duration in a file is a number of nanoseconds.
            Value::Number(number) if key.ends_with("-time") || key.ends_with("-interval") => {
                format!("{number}ns")
            }
            Value::Number(number) if key.ends_with("-duration") => format!("{number}ns"),
            Value::Null => return Fate::Silent,
            other => other.to_string(),
        };
        if OLD_DEFAULTS.contains(&(key, text.as_str())) {
            return Fate::Silent;
        }
        let Some(old) = find_old(key) else { return Fate::Ignored };
        // In their files, these are numbers of milliseconds.
        let text = match key.starts_with("proxy-") {
            true => text.trim_end_matches("ns").to_owned(),
            false => text,
        };
        match old.set(self, &text) {
            Ok(Done::Nothing) => Fate::Silent,
            Ok(Done::Told(line)) => Fate::Told(format!("{key} in the configuration file: {line}")),
            Ok(Done::Missing(line)) => Fate::Told(format!(
                "{key} in the configuration file is passed over, as by etcd 3.7: {line}"
            )),
            Err(reason) => Fate::Told(format!(
                "{key} in the configuration file is passed over, as by etcd 3.7: invalid value \
                 {text:?}: {reason}"
            )),
        }
    }
}

/// What became of a key that 3.7.1 does not know.
pub(super) enum Fate {
    Told(String),
    Ignored,
    Silent,
}

fn read(path: &str) -> Result<String, String> {
    let fail = |what: &str, error: &std::io::Error| format!("{what} {path}: {}", error_text(error));
    let file = fs::File::open(path).map_err(|error| fail("open", &error))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| fail("read", &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{path}: a configuration file may have {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("error converting YAML to JSON: yaml: invalid UTF-8 at byte {at}")
    })
}

/// What YAML 1.1 means, as Go's library reads it: `yes` is true, `010` is eight, of two equal keys
/// the later counts, and after the first document nothing does.
fn to_json(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let first = first_document(text);
    if first.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Null);
    }
    // The library takes a tab for indentation, which no YAML may have outside of brackets.
    let is_indented = |line: &str| line.starts_with('\t') && !line.trim().is_empty();
    let bad = first.lines().position(is_indented).filter(|_| !first.trim_start().starts_with('{'));
    if let Some(line) = bad {
        return Err(format!(
            "error converting YAML to JSON: yaml: line {}: found character that cannot start any \
             token",
            line + 1
        ));
    }
    serde_saphyr::from_str_with_options(first, options).map_err(|error| {
        let text = error.to_string();
        let line = error.location().map_or(0, |location| location.line());
        let reason = text.lines().next().unwrap_or_default();
        let reason = reason.rsplit_once(" at line ").map_or(reason, |(reason, _)| reason);
        format!("error converting YAML to JSON: yaml: line {line}: {reason}")
    })
}

/// The text up to where a second document begins.
fn first_document(text: &str) -> &str {
    let (mut at, mut has_content) = (0, false);
    for line in text.split_inclusive('\n') {
        let is_marker = line.starts_with("---") || line.starts_with("...");
        if is_marker && has_content {
            return &text[..at];
        }
        let bare = line.trim();
        has_content |= !bare.is_empty() && !bare.starts_with('#') && !bare.starts_with('%');
        at += line.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> (Result<Config, Refusal>, Vec<Notice>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.conf.yml");
        fs::write(&path, text).unwrap();
        let mut notices = Vec::new();
        let read = Config::from_file(path.to_str().unwrap(), &mut notices)
            .and_then(|config| super::super::parse::check(&config).map(|()| config));
        (read, notices)
    }

    fn config(text: &str) -> Config {
        load(text).0.unwrap_or_else(|refusal| panic!("{text}: {refusal}"))
    }

    fn told(text: &str) -> String {
        load(text).0.expect_err(text).to_string()
    }

    #[test]
    fn yaml_is_read_as_go_reads_it() {
        assert_eq!(config("").name, "default");
        assert_eq!(config("# nothing\n").name, "default");
        assert_eq!(config("name: a\nname: b").name, "b");
        assert_eq!(config("NAME: a").name, "a");
        assert_eq!(config("name: ~\n").name, "default");
        assert_eq!(config("---\nname: a\n---\nname: [b]\n").name, "a");
        assert_eq!(config("name: a\n...\n").name, "a");
        assert_eq!(config("name: 2001-01-01").name, "2001-01-01");
        assert_eq!(config("name: !!str 5").name, "5");
        assert!(!config("pre-vote: no").pre_vote);
        assert!(!config("pre-vote: off").pre_vote);
        assert_eq!(config("snapshot-count: 010").snapshot_count, 8);
        assert_eq!(config("snapshot-count: 1_000").snapshot_count, 1000);
        assert_eq!(config("snapshot-count: 1e3").snapshot_count, 1000);
        assert_eq!(config("snapshot-count: 0x10").snapshot_count, 16);
        assert_eq!(config("1: b\nname: c").name, "c");
        assert_eq!(config("{\n\t\"name\": \"json\",\n\t\"max-wals\": 7}").max_wals, 7);
        let merged = "x: &a {cert-file: c}\nclient-transport-security:\n  <<: *a\n  key-file: k\n";
        assert_eq!(config(merged).client_tls.cert_file, "c");
    }

    #[test]
    fn values_of_other_types_are_refused_in_gos_words() {
        for (text, what) in [
            (
                "heartbeat-interval: abc",
                "string into Go struct field configYAML.Config.heartbeat-interval of type uint",
            ),
            (
                "heartbeat-interval: -1",
                "number -1 into Go struct field configYAML.Config.heartbeat-interval of type uint",
            ),
            (
                "heartbeat-interval: 1.5",
                "number 1.5 into Go struct field configYAML.Config.heartbeat-interval of type uint",
            ),
            ("name: 5", "number into Go struct field configYAML.Config.name of type string"),
            ("name: {a: b}", "object into Go struct field configYAML.Config.name of type string"),
            (
                "pre-vote: \"true\"",
                "string into Go struct field configYAML.Config.pre-vote of type bool",
            ),
            (
                "log-outputs: a",
                "string into Go struct field configYAML.Config.log-outputs of type []string",
            ),
            (
                "log-outputs: [a, 1]",
                "number into Go struct field configYAML.Config.log-outputs of type string",
            ),
            (
                "max-concurrent-streams: 99999999999",
                "number 99999999999 into Go struct field configYAML.Config.max-concurrent-streams of type uint32",
            ),
            (
                "quota-backend-bytes: 99999999999999999999",
                "number 100000000000000000000 into Go struct field configYAML.Config.quota-backend-bytes of type int64",
            ),
            (
                "heartbeat-interval: 18446744073709551616",
                "number 18446744073709552000 into Go struct field configYAML.Config.heartbeat-interval of type uint",
            ),
            (
                "grpc-keepalive-interval: 5s",
                "string into Go struct field configYAML.Config.grpc-keepalive-interval of type time.Duration",
            ),
            (
                "socket-options: true",
                "bool into Go struct field configYAML.Config.socket-options of type transport.SocketOpts",
            ),
            (
                "socket-options: {reuse-port: 3}",
                "number into Go struct field SocketOpts.Config.socket-options.reuse-port of type bool",
            ),
            (
                "client-transport-security: x",
                "string into Go struct field configYAML.configJSON.client-transport-security of type embed.securityConfig",
            ),
            (
                "client-transport-security: {allowed-cn: x}",
                "string into Go struct field securityConfig.configJSON.client-transport-security.allowed-cn of type []string",
            ),
            (
                "discovery-config: {client: {endpoints: x}}",
                "string into Go struct field ConfigSpec.Config.discovery-config.client.endpoints of type []string",
            ),
            (
                "discovery-config: {client: {secure: {insecure-transport: 1}}}",
                "number into Go struct field SecureConfig.Config.discovery-config.client.secure.insecure-transport of type bool",
            ),
            ("- a", "array into Go value of type embed.configYAML"),
            (
                "name: x\nheartbeat-interval: a\nelection-timeout: b",
                "string into Go struct field configYAML.Config.election-timeout of type uint",
            ),
            (
                "v2-deprecation: 5",
                "number into Go struct field configYAML.Config.v2-deprecation of type config.V2DeprecationEnum",
            ),
            (
                "feature-gates: {CompactHashCheck: true}",
                "object into Go struct field configYAML.configJSON.feature-gates of type string",
            ),
            (
                "listen-metrics-urls: 5",
                "number into Go struct field configYAML.Config.listen-metrics-urls of type string",
            ),
        ] {
            let start = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
            assert_eq!(told(text), format!("{start} {what}"));
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told() {
        for (text, start) in [
            ("name: a: b", "error converting YAML to JSON: yaml: line 1: "),
            ("\tname: b", "error converting YAML to JSON: yaml: line 1: found character that "),
            ("name: \"a", "error converting YAML to JSON: yaml: line "),
            ("a: *x", "error converting YAML to JSON: yaml: line 1: "),
            ("peer-transport-security: ~", "invalid peer-transport-security"),
            ("initial-cluster-state: foo", "unexpected clusterState \"foo\""),
            ("feature-gates: Foo=true", "unrecognized feature gate: Foo"),
            ("discovery-config: {token: a}", "both --discovery-token and --discovery-endpoints"),
            ("enable-log-rotation: true", "--log-outputs requires a single file path"),
            (
                "listen-client-urls: ftp://a:1",
                "unexpected error setting up listen-client-urls: URL",
            ),
            ("advertise-client-urls: foo", "unexpected error setting up advertise-peer-urls: URL"),
            ("cors: foo", "new UniqueURLs should never fail: URL scheme must be http, https,"),
        ] {
            assert!(told(text).starts_with(start), "{text}: {}", told(text));
        }
        let missing = Config::from_file("/nope", &mut Vec::new()).expect_err("missing");
        assert_eq!(missing.to_string(), "open /nope: no such file or directory");
    }

    #[test]
    fn a_file_differs_from_flags() {
        let listening = config("listen-client-urls: http://127.0.0.1:1");
        assert_eq!(
            listening.advertise_client_urls[0].to_string(),
            super::super::DEFAULT_CLIENT_URL
        );
        assert!(config("discovery-srv: example.com").initial_cluster.is_empty());
        assert_eq!(config("self-signed-cert-validity: 0").self_signed_cert_validity, 1);
        assert!(config("max-snapshots: 3").given.contains("max-snapshots"));
        let urls = config("listen-metrics-urls: \"http://127.0.0.1:2,http://127.0.0.1:1\"");
        assert_eq!(urls.listen_metrics_urls.len(), 2);
        assert_eq!(
            config("watch-progress-notify-interval: 5000000000")
                .watch_progress_notify_interval
                .as_secs(),
            5
        );
    }

    #[test]
    fn a_file_of_old_starts_and_says_what_it_does_not_do() {
        let old = "debug: false\nlog-package-levels: INFO\nlog-output: default\nproxy: 'off'\n\
                   discovery-fallback: 'proxy'\nproxy-failure-wait: 5000\nenable-v2: true\n\
                   experimental-compaction-batch-limit: 77\nname: m1\nnonsense: 3\n";
        let (read, notices) = load(old);
        let read = read.expect("starts");
        assert_eq!((read.compaction_batch_limit, read.name.as_str()), (77, "m1"));
        let lines: Vec<_> = notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Warning(line) => Some(line.as_str()),
                _ => None,
            })
            .collect();
        assert!(lines.iter().any(|line| line.contains("the v2 API is not supported")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("proxy in")), "{lines:?}");
        let ignored = notices.iter().find_map(|notice| match notice {
            Notice::IgnoredKeys { keys, .. } => Some(keys.clone()),
            _ => None,
        });
        assert_eq!(ignored, Some(vec!["nonsense".to_owned()]));
        let list = config("log-output: [stderr]");
        assert_eq!(list.log_outputs, ["stderr"]);
    }
}
