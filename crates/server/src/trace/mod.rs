//! Tells of single requests: lines of those that were slow, and spans for a collector of traces.
//!
//! ```text
//!  request ─► course (what it waited for) ─┬─ slow ─────► slow ─► log
//!                                          └─ sampled ──► span ─► export ─► collector (OTLP)
//! ```
//!
//! *Invariants.* 1. A request that is neither slow nor sampled pays for a place in its own wait and
//! a few readings of the clock. 2. No value of a key is ever told, and no password. 3. A collector
//! that is slow, or not there, holds up nothing: its spans are dropped, and counted in a log line.
//!
//! *Absent.* Spans of single watchers and keepalives in a stream, and of the member's threads.
//!
//! *Contract.* `server/embed/config_tracing.go` of etcd v3.7.1, its spans, and those of otelgrpc
//! v0.68; OTLP 1.10 by gRPC.

mod context;
pub(crate) mod course;
mod export;
pub(crate) mod slow;
pub(crate) mod span;
mod told;

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Config, Tracing};
use crate::log;
use export::Exporter;

/// Of how many requests the sampling rate is a part.
const RATE_MAX: i64 = 1_000_000;

/// What makes and sends spans, where the operator wants them.
struct Tracer {
    /// Traces whose number is below this are followed, if nobody else decided.
    threshold: u64,
    random: RandomState,
    counter: AtomicU64,
    exporter: Exporter,
}

static TRACER: OnceLock<Tracer> = OnceLock::new();

/// Refuses what no tracing can be made of.
pub(crate) fn check(tracing: &Tracing) -> Result<(), String> {
    let refused =
        |reason: String| Err(format!("distributed tracing configurition is not valid: ({reason})"));
    match tracing.sampling_rate {
        _ if !tracing.enabled => Ok(()),
        ..0 => refused("tracing sampling rate must be positive".to_owned()),
        rate if rate > RATE_MAX => {
            refused(format!("tracing sampling rate must be less than {RATE_MAX}"))
        }
        _ => Ok(()),
    }
}

/// Begins to send spans, if the operator wants it. To be called on the runtime that sends them.
pub(crate) fn start(config: &Config) {
    let tracing = &config.tracing;
    if !tracing.enabled {
        return;
    }
    log::debug("distributed tracing enabled")
        .field("address", &tracing.address)
        .field("service-name", &tracing.service_name)
        .field("service-instance-id", &tracing.instance_id)
        .field("sampling-rate", &tracing.sampling_rate)
        .emit();
    // A process has one configuration.
    let _started = TRACER.set(Tracer::new(tracing));
}

/// Sends what there is, but does not wait for long.
pub(crate) async fn stop() {
    if let Some(tracer) = TRACER.get() {
        tracer.exporter.flush().await;
    }
}

impl Tracer {
    fn new(tracing: &Tracing) -> Self {
        let rate = u128::from(tracing.sampling_rate.clamp(0, RATE_MAX).unsigned_abs());
        let threshold = (rate << 63) / u128::from(RATE_MAX.unsigned_abs());
        Self {
            threshold: u64::try_from(threshold).unwrap_or(u64::MAX),
            random: RandomState::new(),
            counter: AtomicU64::new(0),
            exporter: Exporter::start(tracing),
        }
    }

    /// A number that nobody else has. It need not be secret.
    fn number(&self) -> u64 {
        self.random.hash_one(self.counter.fetch_add(1, Ordering::Relaxed)).max(1)
    }

    fn trace_id(&self) -> [u8; 16] {
        let (high, low) = (self.number().to_be_bytes(), self.number().to_be_bytes());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high);
        id[8..].copy_from_slice(&low);
        id
    }

    fn span_id(&self) -> [u8; 8] {
        self.number().to_be_bytes()
    }

    /// Whether a trace is followed that begins here.
    fn is_sampled(&self, id: [u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g, h] = id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracing(enabled: bool, sampling_rate: i64) -> Tracing {
        Tracing { enabled, sampling_rate, ..Tracing::default() }
    }

    #[test]
    fn a_rate_that_cannot_be_is_refused_in_etcds_words() {
        assert_eq!(check(&tracing(false, -1)), Ok(()));
        assert_eq!(check(&tracing(true, 0)), Ok(()));
        assert_eq!(check(&tracing(true, 1_000_000)), Ok(()));
        let told = |reason: &str| {
            Err(format!("distributed tracing configurition is not valid: ({reason})"))
        };
        let negative = told("tracing sampling rate must be positive");
        assert_eq!(check(&tracing(true, -1)), negative);
        let high = told("tracing sampling rate must be less than 1000000");
        assert_eq!(check(&tracing(true, 1_000_001)), high);
    }

    #[tokio::test]
    async fn the_rate_is_of_a_million() {
        for (rate, from, to) in [(0, 0, 0), (1_000_000, 10_000, 10_000), (500_000, 4_500, 5_500)] {
            let tracer = Tracer::new(&tracing(true, rate));
            let sampled = (0..10_000).filter(|_| tracer.is_sampled(tracer.trace_id())).count();
            assert!((from..=to).contains(&sampled), "{sampled} at {rate}");
        }
    }
}
