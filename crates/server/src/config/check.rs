//! Refuses configurations that cannot work, in etcd's order and words.
//!
//! *Contract.* `Config.Validate` in `server/embed/config.go` of etcd v3.7.1.

use std::time::Duration;

use net::Url;

use super::{Config, show_duration};

/// The longest election timeout, in milliseconds.
const ELECTION_MS_MAX: u64 = 50_000;

impl Config {
    /// The reason why no member can be run with this, if there is one.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.discovery_fallback == "proxy" && self.config_file.is_empty() {
            return Err("v2 proxy is deprecated, and --discovery-fallback can't be configured as \
                        \"proxy\""
                .to_owned());
        }
        crate::log::check(self)?;
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
        crate::trace::check(&self.tracing)?;
        self.check_gates()?;
        if self.compact_hash_check_time == Duration::ZERO {
            let given = show_duration(self.compact_hash_check_time);
            return Err(format!("--compact-hash-check-time must be >0 (set to {given})"));
        }
        self.check_tls()?;
        self.check_built()
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
        Ok(())
    }
}

pub(super) fn not_built(what: &str) -> String {
    format!("{what} is not supported by this version of quorate")
}
