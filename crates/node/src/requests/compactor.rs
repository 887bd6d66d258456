//! Automatic compaction: decides when, and at which revision.
//!
//! The owner waits for [`Compactor::interval`], calls [`Compactor::tick`], proposes the compaction
//! it names, and reports success with [`Compactor::done`]. Only the leader's is listened to.
//!
//! *Invariants.* A revision is kept for at least the period (periodic) or as many revisions stay
//! as were asked for (revision). `samples <= period / interval + 1`.
//!
//! *Absent.* Clocks and proposals.
//!
//! *Contract.* `server/etcdserver/api/v3compactor` of etcd v3.7.1, and its parsing of
//! `--auto-compaction-retention` in `server/embed/etcd.go`.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Moment, Revision};
use thiserror::Error;

const HOUR: Duration = Duration::from_secs(3600);
/// Samples of the revision within one compaction interval.
const SAMPLES_PER_INTERVAL: u32 = 10;
/// How often a revision compactor looks.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// What is younger.
    Period(Duration),
    /// So many revisions.
    Revisions(i64),
}

/// Mode or retention make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RetentionError {
    /// Neither `periodic` nor `revision`.
    #[error("unsupported compaction mode {0}")]
    Mode(String),
    /// Neither a number nor, in periodic mode, a duration.
    #[error("error parsing CompactionRetention: {0}")]
    Value(String),
}

impl Retention {
    /// Reads `--auto-compaction-mode` and `--auto-compaction-retention`. `None` is off. A bare
    /// number means hours in periodic mode; `parse_duration` reads Go's durations, which etcd takes
    /// for so many revisions as they have nanoseconds in revision mode.
    pub fn parse(
        mode: &str,
        value: &str,
        parse_duration: impl Fn(&str) -> Option<Duration>,
    ) -> Result<Option<Self>, RetentionError> {
        let number = value.parse::<i64>().ok();
        let wrong = || RetentionError::Value(format!("{value:?}"));
        let retention = match (mode, number) {
            ("periodic", Some(hours)) => {
                let hours = u32::try_from(hours).map_err(|_| wrong())?;
                Self::Period(HOUR * hours)
            }
            ("periodic", None) => Self::Period(parse_duration(value).ok_or_else(wrong)?),
            ("revision", Some(revisions)) if revisions >= 0 => Self::Revisions(revisions),
            ("revision", _) => {
                let nanos = parse_duration(value).ok_or_else(wrong)?.as_nanos();
                Self::Revisions(i64::try_from(nanos).map_err(|_| wrong())?)
            }
            _ => return Err(RetentionError::Mode(mode.to_owned())),
        };
        let is_off = matches!(retention, Self::Period(Duration::ZERO) | Self::Revisions(0));
        Ok((!is_off).then_some(retention))
    }
}

/// Decides about compactions.
#[derive(Debug, Clone)]
pub struct Compactor {
    retention: Retention,
    /// Revisions at the last ticks, oldest first (periodic).
    samples: VecDeque<Revision>,
    last: Revision,
    last_success: Moment,
    /// What must pass since the last success: the whole period the first time.
    wait: Duration,
}

impl Compactor {
    /// A compactor that begins now, at this revision.
    pub fn new(retention: Retention, now: Moment, revision: Revision) -> Self {
        let wait = match retention {
            Retention::Period(period) => period,
            Retention::Revisions(_) => Duration::ZERO,
        };
        let samples = VecDeque::from([revision]);
        Self { retention, samples, last: Revision(0), last_success: now, wait }
    }

    /// How often to tick.
    pub fn interval(&self) -> Duration {
        match self.retention {
            Retention::Period(period) => period.min(HOUR) / SAMPLES_PER_INTERVAL,
            Retention::Revisions(_) => REVISION_INTERVAL,
        }
    }

    /// Whether to compact now, and at which revision.
    pub fn tick(&mut self, now: Moment, revision: Revision) -> Option<Revision> {
        match self.retention {
            Retention::Revisions(kept) => {
                let at = Revision(revision.0 - kept);
                (at.0 > 0 && at != self.last).then_some(at)
            }
            Retention::Period(period) => {
                let oldest = self.samples.front().copied();
                let is_due = now.since(self.last_success) >= self.wait;
                let at = oldest.filter(|at| is_due && *at != self.last);
                if at.is_some() {
                    self.wait = period.min(HOUR);
                }
                self.sample(revision, period);
                at
            }
        }
    }

    fn sample(&mut self, revision: Revision, period: Duration) {
        let interval = self.interval().max(Duration::from_nanos(1));
        let kept = usize::try_from(period.as_nanos() / interval.as_nanos()).unwrap_or(usize::MAX);
        self.samples.push_back(revision);
        while self.samples.len() > kept.saturating_add(1) {
            self.samples.pop_front();
        }
    }

    /// The compaction was done (or others had compacted that far).
    pub fn done(&mut self, at: Revision, now: Moment) {
        self.last = at;
        self.last_success = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(text: &str) -> Option<Duration> {
        let minutes: u64 = text.strip_suffix('m')?.parse().ok()?;
        Some(Duration::from_secs(60 * minutes))
    }

    #[test]
    fn retentions_are_read_as_etcd_reads_them() {
        let parse = |mode, value| Retention::parse(mode, value, minutes);
        assert_eq!(parse("periodic", "0"), Ok(None));
        assert_eq!(parse("periodic", "2"), Ok(Some(Retention::Period(2 * HOUR))));
        assert_eq!(parse("periodic", "30m"), Ok(Some(Retention::Period(HOUR / 2))));
        assert_eq!(parse("revision", "1000"), Ok(Some(Retention::Revisions(1000))));
        assert_eq!(parse("revision", "1m"), Ok(Some(Retention::Revisions(60_000_000_000))));
        assert!(parse("revision", "-1").is_err());
        assert!(parse("periodic", "x").is_err());
        assert!(parse("sometimes", "1").is_err());
    }

    /// Ticks for `ticks` intervals while one revision is written in each; who compacts when.
    fn run(retention: Retention, ticks: u32) -> Vec<(u32, i64)> {
        let start = Moment::default();
        let mut compactor = Compactor::new(retention, start, Revision(1));
        let mut compactions = Vec::new();
        for tick in 1..=ticks {
            let now = start + compactor.interval() * tick;
            if let Some(at) = compactor.tick(now, Revision(1 + i64::from(tick))) {
                compactions.push((tick, at.0));
                compactor.done(at, now);
            }
        }
        compactions
    }

    #[test]
    fn a_period_is_kept_whole() {
        // One hour: ten samples; the first compaction after an hour, then one an hour.
        let hourly = run(Retention::Period(HOUR), 30);
        assert_eq!(hourly, [(10, 1), (20, 10), (30, 20)]);
        // A day: still every hour once the first day is over, at least a day back.
        let daily = run(Retention::Period(24 * HOUR), 260);
        assert_eq!(daily, [(240, 1), (250, 10), (260, 20)]);
    }

    #[test]
    fn revisions_are_kept_by_number() {
        assert_eq!(run(Retention::Revisions(3), 5), [(3, 1), (4, 2), (5, 3)]);
    }
}
