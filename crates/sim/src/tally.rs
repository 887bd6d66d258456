//! What many runs come to, and what they must have met at least.

use std::fmt::Write as _;
use std::time::Duration;

use crate::coverage::{Coverage, Mark};
use crate::run::Report;

/// Runs from which on rates are demanded: less is too few to tell.
const RUNS_MIN: u64 = 200;

/// How often, at least, in a thousand runs. Set at about half of what is usual.
const PER_THOUSAND_MIN: &[(Mark, u64)] = &[
    (Mark::Killed, 250),
    (Mark::PowerLost, 500),
    (Mark::CrashWhileStarting, 1),
    (Mark::CrashWhileReceiving, 4),
    (Mark::StoppedGracefully, 200),
    (Mark::StoppedByDisk, 100),
    (Mark::Paused, 400),
    (Mark::DiskStalled, 300),
    (Mark::HandedOver, 30),
    (Mark::DiskFull, 150),
    (Mark::SyncFailed, 100),
    (Mark::WriteFailed, 100),
    (Mark::Damaged, 20),
    (Mark::DamageRefused, 15),
    (Mark::ClockJumped, 200),
    (Mark::SlowApply, 400),
    (Mark::MessageLost, 50_000),
    (Mark::MessageRepeated, 25_000),
    (Mark::MessageReordered, 50_000),
    (Mark::ConnectionBroken, 10_000),
    (Mark::CutBothWays, 200),
    (Mark::CutOneWay, 300),
    (Mark::CutPartly, 200),
    (Mark::LeaderChanged, 1_500),
    (Mark::TransferAsked, 800),
    (Mark::SnapshotSent, 600),
    (Mark::SnapshotInstalled, 500),
    (Mark::Changed, 700),
    (Mark::Removed, 150),
    (Mark::CompactedUnderWatch, 10_000),
    (Mark::WatchCompacted, 3_000),
    (Mark::WatchResumed, 5_000),
    (Mark::WatchProgress, 50_000),
    (Mark::LeaseExpired, 5_000),
    (Mark::LeaseRenewed, 4_000),
    (Mark::ReadAlone, 2_000),
    (Mark::MajorityAlone, 100),
];

/// Answered calls that the middle run must have.
const ACKNOWLEDGED_MEDIAN_MIN: u64 = 500;

/// What many runs come to.
#[derive(Debug, Default)]
pub struct Tally {
    coverage: Coverage,
    acknowledged: Vec<u64>,
    simulated: Duration,
    failures: u64,
}

impl Tally {
    /// Counts a run.
    pub fn add(&mut self, report: &Report) {
        self.coverage.merge(&report.coverage);
        self.acknowledged.push(report.acknowledged);
        self.simulated += report.simulated;
        self.failures += u64::from(report.failure.is_some());
    }

    fn runs(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    fn median(&self) -> u64 {
        let mut sorted = self.acknowledged.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    /// How often what was met.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for mark in Mark::ALL {
            let count = self.coverage.count(*mark);
            let rate = count * 1000 / self.runs().max(1);
            let least = PER_THOUSAND_MIN.iter().find(|(of, _)| of == mark);
            let least = least.map_or(String::new(), |(_, least)| format!(" (at least {least})"));
            let text = mark.text();
            // Writing to a string cannot fail.
            let _ = writeln!(table, "evidence: {text}: {count}, {rate} in 1000 runs{least}");
        }
        table
    }

    /// In one line.
    pub fn sentence(&self, took: Duration, jobs: usize) -> String {
        let (hours, wall) = (self.simulated.as_secs_f64() / 3600.0, took.as_secs_f64());
        let runs = self.runs();
        let each = wall * jobs as f64 / runs.max(1) as f64;
        format!(
            "evidence: {runs} runs, {} failed; {} calls acknowledged in the middle one; {hours:.1} \
             hours simulated in {wall:.0} s, {:.0} in an hour; {each:.3} s of a processor for each",
            self.failures,
            self.median(),
            hours / (wall / 3600.0).max(f64::EPSILON),
        )
    }

    /// What was met too seldom.
    pub fn missing(&self) -> Vec<String> {
        let runs = self.runs();
        if runs < RUNS_MIN {
            return Vec::new();
        }
        let mut missing: Vec<String> = PER_THOUSAND_MIN
            .iter()
            .filter(|(mark, least)| self.coverage.count(*mark) * 1000 < least * runs)
            .map(|(mark, least)| {
                let count = self.coverage.count(*mark);
                format!("{} in {runs} runs, {count}; {least} in 1000 are demanded", mark.text())
            })
            .collect();
        let median = self.median();
        if median < ACKNOWLEDGED_MEDIAN_MIN {
            missing.push(format!("{median} calls acknowledged in the middle run"));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(acknowledged: u64, coverage: Coverage) -> Report {
        Report {
            seed: 1,
            failure: None,
            coverage,
            acknowledged,
            simulated: Duration::from_secs(1),
            events: 1,
            digest: 1,
            story: Vec::new(),
        }
    }

    #[test]
    fn too_little_of_anything_is_told() {
        let mut all = Coverage::default();
        for (mark, least) in PER_THOUSAND_MIN {
            (0..*least).for_each(|_| all.add(*mark));
        }
        let mut tally = Tally::default();
        tally.add(&report(600, all));
        (0..999).for_each(|_| tally.add(&report(600, Coverage::default())));
        assert_eq!(tally.missing(), Vec::<String>::new());
        tally.add(&report(600, Coverage::default()));
        assert_eq!(tally.missing().len(), PER_THOUSAND_MIN.len());
        (0..1003).for_each(|_| tally.add(&report(1, Coverage::default())));
        assert!(tally.missing().last().is_some_and(|last| last.starts_with("1 calls")));
    }
}
