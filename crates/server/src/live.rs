//! What may change while the member runs: by SIGHUP, which reads the configuration file again.
//!
//! ```text
//!  SIGHUP ─► Config::reload ─┬─ cannot be ──► one line, nothing changes
//!                            ├─ live ───────► Live, the log, the store's quota: a line each
//!                            └─ the rest ───► a line each: with the next start
//! ```
//!
//! *Invariants.* A file whose values a start would refuse changes nothing at all. What a start
//! looks at beside them (certificates, ports, the log's outputs, the data directory) is not looked
//! at.
//!
//! *Absent.* Certificates and keys: those are read again by themselves when their files change.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use node::requests::compactor::Retention;
use store::Shared;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Config, Reloaded};
use crate::log::{self, Level};
use crate::log_notices;

/// What a request may take where the configuration says 0 (etcd:
/// `DefaultWarningUnaryRequestDuration`).
const SLOW_REQUEST: Duration = Duration::from_millis(300);

/// What may change while the member runs.
#[derive(Debug)]
pub(crate) struct Live {
    slow_request_ns: AtomicU64,
    slow_apply_ns: AtomicU64,
    quota_backend_bytes: AtomicI64,
    retention: watch::Sender<Option<Retention>>,
}

impl Live {
    /// As the configuration has it. Fails when the retention is none.
    pub(crate) fn of(config: &Config) -> Result<Self, String> {
        let live = Self {
            slow_request_ns: AtomicU64::new(0),
            slow_apply_ns: AtomicU64::new(0),
            quota_backend_bytes: AtomicI64::new(0),
            retention: watch::Sender::new(None),
        };
        live.set(config)?;
        Ok(live)
    }

    fn set(&self, config: &Config) -> Result<(), String> {
        let retention = config.retention()?;
        let slow_request = match config.warning_unary_request_duration {
            Duration::ZERO => SLOW_REQUEST,
            given => given,
        };
        self.slow_request_ns.store(nanos(slow_request), Ordering::Relaxed);
        self.slow_apply_ns.store(nanos(config.warning_apply_duration), Ordering::Relaxed);
        self.quota_backend_bytes.store(config.quota_backend_bytes, Ordering::Relaxed);
        self.retention.send_if_modified(|now| {
            let is_other = *now != retention;
            *now = retention;
            is_other
        });
        Ok(())
    }

    /// Requests that take longer are told.
    pub(crate) fn slow_request(&self) -> Duration {
        Duration::from_nanos(self.slow_request_ns.load(Ordering::Relaxed))
    }

    /// Requests that take longer to apply are told.
    pub(crate) fn slow_apply(&self) -> Duration {
        Duration::from_nanos(self.slow_apply_ns.load(Ordering::Relaxed))
    }

    /// The space quota as it was given: 0 is the default.
    pub(crate) fn quota_backend_bytes(&self) -> i64 {
        self.quota_backend_bytes.load(Ordering::Relaxed)
    }

    /// How much history to keep, now and after each change.
    pub(crate) fn retention(&self) -> watch::Receiver<Option<Retention>> {
        self.retention.subscribe()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// SIGHUP, which would end the process if nobody listened.
pub(crate) struct Hangups(Signal);

impl Hangups {
    /// Begins to listen.
    pub(crate) fn listen() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Reads the file of `running` again each time, until the process ends.
    pub(crate) async fn follow(mut self, mut running: Config, live: Arc<Live>, store: Arc<Shared>) {
        while self.0.recv().await.is_some() {
            if running.config_file.is_empty() {
                log::info("received SIGHUP; there is no configuration file to read again").emit();
                continue;
            }
            let asked = running.clone();
            // A file may be on a disk that does not answer.
            let Ok(reloaded) = tokio::task::spawn_blocking(move || asked.reload()).await else {
                continue;
            };
            match reloaded.and_then(|reloaded| live.set(&reloaded.config).map(|()| reloaded)) {
                Ok(reloaded) => {
                    running.adopt(&reloaded.config);
                    store.set_quota(running.quota());
                    tell(&running, &reloaded);
                }
                Err(reason) => log::warn("the configuration file is refused; nothing is changed")
                    .field("path", &running.config_file)
                    .field("error", &reason)
                    .emit(),
            }
        }
    }
}

/// Says what changed, and sets the level of the log such that it is said under the wordier one.
fn tell(running: &Config, reloaded: &Reloaded) {
    log_notices(&reloaded.notices);
    let level = Level::parse(&running.log_level);
    let lines = || {
        for change in &reloaded.live {
            log::info("configuration changed")
                .field("key", &change.key)
                .field("from", &change.from)
                .field("to", &change.to)
                .emit();
        }
        for key in &reloaded.at_restart {
            log::warn("configuration will change with the next start").field("key", key).emit();
        }
        log::info("read the configuration file again")
            .field("path", &running.config_file)
            .field("changed", &reloaded.live.len())
            .field("with-next-start", &reloaded.at_restart.len())
            .emit();
    };
    let is_quieter = level.is_some_and(log::is_enabled);
    if is_quieter {
        lines();
    }
    if let Some(level) = level {
        log::set_level(level);
    }
    if !is_quieter {
        lines();
    }
}
