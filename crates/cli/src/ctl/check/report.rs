//! What a check measured, and what it thinks of it.

use std::collections::BTreeMap;
use std::time::Duration;

/// The part of the wanted rate that must be reached.
const RATE_SHARE_MIN: f64 = 0.9;
/// The slowest put may take so many seconds.
const SLOWEST_MAX: f64 = 0.5;
/// The latencies may spread so many seconds.
const DEVIATION_MAX: f64 = 0.1;

/// Latencies and errors of puts.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// In seconds.
    latencies: Vec<f64>,
    pub(super) errors: BTreeMap<String, u64>,
    /// From the first put to the last answer.
    pub(super) total: Duration,
}

impl Report {
    pub(super) fn add(&mut self, result: Result<Duration, String>) {
        match result {
            Ok(latency) => self.latencies.push(latency.as_secs_f64()),
            Err(error) => *self.errors.entry(error).or_default() += 1,
        }
    }

    pub(super) fn merge(&mut self, other: Report) {
        self.latencies.extend(other.latencies);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.total.as_secs_f64()
    }

    fn slowest(&self) -> f64 {
        self.latencies.iter().copied().fold(0.0, f64::max)
    }

    /// The standard deviation; not a number if there are no latencies.
    fn deviation(&self) -> f64 {
        let count = self.latencies.len() as f64;
        let average = self.latencies.iter().sum::<f64>() / count;
        let squares: f64 = self.latencies.iter().map(|l| (l - average) * (l - average)).sum();
        (squares / count).sqrt()
    }

    /// The lines of the verdict on a wanted rate, and whether all is well.
    pub(super) fn judge(&self, wanted: u64) -> (Vec<String>, bool) {
        let (rate, slowest, deviation) = (self.rate(), self.slowest(), self.deviation());
        let shown = rate as u64 + 1;
        let too_few = rate / wanted as f64 <= RATE_SHARE_MIN;
        let (too_slow, too_uneven) = (slowest > SLOWEST_MAX, deviation > DEVIATION_MAX);
        let lines = vec![
            if too_few {
                format!("FAIL: Throughput too low: {shown} writes/s")
            } else {
                format!("PASS: Throughput is {shown} writes/s")
            },
            if too_slow {
                format!("Slowest request took too long: {slowest:.6}s")
            } else {
                format!("PASS: Slowest request took {slowest:.6}s")
            },
            if too_uneven {
                format!("Stddev too high: {deviation:.6}s")
            } else {
                format!("PASS: Stddev is {deviation:.6}s")
            },
        ];
        (lines, !(too_few || too_slow || too_uneven))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(latencies: &[f64], seconds: u64) -> Report {
        let latencies = latencies.to_vec();
        Report { latencies, errors: BTreeMap::new(), total: Duration::from_secs(seconds) }
    }

    fn verdict(report: &Report, wanted: u64) -> String {
        let (lines, well) = report.judge(wanted);
        format!("{} | {well}", lines.join(" | "))
    }

    #[test]
    fn a_verdict_has_three_limits() {
        assert_eq!(
            verdict(&report(&[0.01; 95], 1), 100),
            "PASS: Throughput is 96 writes/s | PASS: Slowest request took 0.010000s | \
             PASS: Stddev is 0.000000s | true"
        );
        // The limit itself is too low.
        assert_eq!(
            verdict(&report(&[0.01; 90], 1), 100),
            "FAIL: Throughput too low: 91 writes/s | PASS: Slowest request took 0.010000s | \
             PASS: Stddev is 0.000000s | false"
        );
        assert_eq!(
            verdict(&report(&[0.0, 0.6], 1), 1),
            "PASS: Throughput is 3 writes/s | Slowest request took too long: 0.600000s | \
             Stddev too high: 0.300000s | false"
        );
        // The limits themselves are good enough.
        assert_eq!(
            verdict(&report(&[0.5, 0.3], 1), 2),
            "PASS: Throughput is 3 writes/s | PASS: Slowest request took 0.500000s | \
             PASS: Stddev is 0.100000s | true"
        );
    }

    #[test]
    fn no_answer_at_all_is_too_few() {
        let (lines, well) = report(&[], 60).judge(150);
        assert_eq!(lines[0], "FAIL: Throughput too low: 1 writes/s");
        assert_eq!(lines[2], "PASS: Stddev is NaNs");
        assert!(!well);
    }

    #[test]
    fn errors_are_counted_by_their_text() {
        let mut report = Report::default();
        let mut other = Report::default();
        report.add(Err("a".to_owned()));
        report.add(Ok(Duration::from_millis(250)));
        other.add(Err("a".to_owned()));
        other.add(Err("b".to_owned()));
        report.merge(other);
        assert_eq!(report.errors, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
        assert!((report.slowest() - 0.25).abs() < 1e-9);
    }
}
