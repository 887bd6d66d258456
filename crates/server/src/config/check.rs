//! Refuses configurations that cannot work, in etcd's order and words.
//!
//! *Contract.* `Config.Validate` in `server/embed/config.go` of etcd v3.7.1.

use std::time::Duration;

use net::Url;
use serde_json::Value;

use super::{Config, keys, show_duration};

/// The longest election timeout, in milliseconds.
const ELECTION_MS_MAX: u64 = 50_000;

/// Traces are sampled of so many.
const SAMPLING_MAX: i64 = 1_000_000;

impl Config {
    /// The reason why no member can be run with this, if there is one.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.discovery_fallback == "proxy" && self.config_file.is_empty() {
            return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \
                        \"proxy\""
                .to_owned());
        }
        self.check_log()?;
        let bound = [
            &self.listen_peer_urls,
            &self.listen_client_urls,
            &self.listen_client_http_urls,
            &self.listen_metrics_urls,
        ];
        for url in bound.into_iter().flatten() {
            url.check_bindable().map_err(|error| error.to_string())?;
        }
        let dialed = |urls: &[Url], flag: &str, form: &str| {
            let texts: Vec<_> = urls.iter().map(Url::to_string).collect();
            urls.iter()
                .try_for_each(Url::check_dialable)
                .map_err(|error| format!("{flag} {:?} must be {form} ({error})", texts.join(",")))
        };
        dialed(
            &self.initial_advertise_peer_urls,
            "--initial-advertise-peer-urls",
            "\"host:port\"",
        )?;
        dialed(
            &self.advertise_client_urls,
            "--advertise-client-urls",
            "in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"",
        )?;
        self.check_bootstrap()?;
        self.check_times()?;
        if self.advertise_client_urls.is_empty() {
            return Err(super::ADVERTISE_MISSING.to_owned());
        }
        match self.auto_compaction_mode.as_str() {
            "periodic" | "revision" => {}
            "" => return Err("undefined auto-compaction-mode".to_owned()),
            mode => return Err(format!("unknown auto-compaction-mode {mode:?}")),
        }
        self.check_tracing()?;
        self.check_gates()?;
        if self.compact_hash_check_time == Duration::ZERO {
            let given = show_duration(self.compact_hash_check_time);
            return Err(format!("--compact-hash-check-time must be >0 (set to {given})"));
        }
        self.check_tls()?;
        self.check_built()
    }

    fn check_log(&self) -> Result<(), String> {
        match self.logger.as_str() {
            "zap" => {}
            "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
            other => return Err(format!("unknown logger option {other:?}")),
        }
        if self.log_outputs.len() > 1 && self.log_outputs.iter().any(|output| output == "default") {
            return Err("multi logoutput for \"default\" is not supported yet".to_owned());
        }
        if self.enable_log_rotation {
            self.check_rotation()?;
        }
        match self.log_format.as_str() {
            "json" | "console" => Ok(()),
            other => Err(format!("unknown log format: {other}, supported values json, console")),
        }
    }

    fn check_rotation(&self) -> Result<(), String> {
        let is_file =
            |output: &&String| !matches!(output.as_str(), "default" | "stderr" | "stdout");
        let files = self.log_outputs.iter().filter(is_file).count();
        if files > 1 || (files == 0 && self.log_outputs.len() <= 1) {
            return Err("--log-outputs requires a single file path when \
                        --log-rotate-config-json is defined"
                .to_owned());
        }
        let asked: Value = serde_json::from_str(&self.log_rotation_config_json)
            .map_err(|error| format!("improperly formatted log rotation config: {error}"))?;
        let mismatch = |given: &Value, what: &str, is: &str| {
            format!(
                "invalid log rotation config: json: cannot unmarshal {} into Go {what} of type {is}",
                keys::kind(given)
            )
        };
        let Value::Object(asked) = &asked else {
            return match asked {
                Value::Null => Ok(()),
                other => Err(mismatch(&other, "value", "embed.logRotationConfig")),
            };
        };
        for (key, value) in asked {
            let key = key.to_ascii_lowercase();
            let (is_right, is) = match key.as_str() {
                "maxsize" | "maxage" | "maxbackups" => (value.is_i64(), "int"),
                "localtime" | "compress" => (value.is_boolean(), "bool"),
                "filename" => (value.is_string(), "string"),
                _ => continue,
            };
            if !is_right && !value.is_null() {
                let field = format!("struct field logRotationConfig.Logger.{key}");
                return Err(mismatch(value, &field, is));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), String> {
        let (heartbeat, election) = (self.heartbeat_interval_ms, self.election_timeout_ms);
        if heartbeat == 0 {
            return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
        }
        if election == 0 {
            return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
        }
        if heartbeat.saturating_mul(5) > election {
            return Err(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_MS_MAX {
            return Err(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than \
                 {ELECTION_MS_MAX}ms"
            ));
        }
        Ok(())
    }

    fn check_tracing(&self) -> Result<(), String> {
        let reason = match self.tracing.sampling_rate {
            _ if !self.tracing.enabled => return Ok(()),
            ..0 => "tracing sampling rate must be positive".to_owned(),
            0..=SAMPLING_MAX => return Ok(()),
            _ => format!("tracing sampling rate must be less than {SAMPLING_MAX}"),
        };
        Err(format!("distributed tracing configurition is not valid: ({reason})"))
    }

    fn check_gates(&self) -> Result<(), String> {
        if self.gate("LeaseCheckpointPersist") && !self.gate("LeaseCheckpoint") {
            return Err("enabling feature gate LeaseCheckpointPersist requires enabling feature \
                        gate LeaseCheckpoint"
                .to_owned());
        }
        Ok(())
    }

    /// Refuses what etcd has and this version does not.
    fn check_built(&self) -> Result<(), String> {
        if let Some(reason) = &self.unbuilt {
            return Err(reason.clone());
        }
        if self.auth_token != "simple" {
            return Err(not_built(&format!("--auth-token={}", self.auth_token)));
        }
        if self.log_outputs.iter().any(|output| output == "systemd/journal") {
            return Err(not_built("--log-outputs=systemd/journal"));
        }
        Ok(())
    }
}

pub(super) fn not_built(what: &str) -> String {
    format!("{what} is not supported by this version of quorate")
}
