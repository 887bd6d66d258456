//! Prometheus text, families in the order of their names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::number::Counted;
use super::{Counter, Histogram, Outcomes};

/// What kind of value a family has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The families of one answer.
#[derive(Default)]
pub(super) struct Page(BTreeMap<&'static str, String>);

/// A value as etcd shows it: Go's shortest form, with an exponent below 1e-4 and from 1e6 on.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..6 => format!("{value}"),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
    }
}

impl Page {
    fn family(&mut self, name: &'static str, help: &str, kind: Kind) -> &mut String {
        self.0.entry(name).or_insert_with(|| {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
        })
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: f64) {
        self.sample(name, help, Kind::Gauge, &[], value);
    }

    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &'static str, help: &str, counter: &Counter) {
        self.count(name, help, &[], counter.get());
    }

    /// A counter.
    pub(super) fn count(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &[(&str, &str)],
        value: u64,
    ) {
        let family = self.family(name, help, Kind::Counter);
        let _ = writeln!(family, "{name}{} {value}", show(labels, None));
    }

    /// One value of a family.
    pub(super) fn sample(
        &mut self,
        name: &'static str,
        help: &str,
        kind: Kind,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let family = self.family(name, help, kind);
        let _ = writeln!(family, "{name}{} {}", show(labels, None), number(value));
    }

    /// A histogram.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        self.counted(name, help, &[], &histogram.counted());
    }

    /// A family of two histograms; one that has counted nothing is not shown, as in etcd.
    pub(super) fn outcomes(
        &mut self,
        name: &'static str,
        help: &str,
        label: &[(&str, &str)],
        outcomes: &Outcomes,
    ) {
        for (success, histogram) in [("false", &outcomes.bad), ("true", &outcomes.good)] {
            if !histogram.is_unused() {
                let mut labels = [&[("success", success)][..], label].concat();
                labels.sort_unstable();
                self.counted(name, help, &labels, &histogram.counted());
            }
        }
    }

    /// One histogram of a family.
    pub(super) fn counted(
        &mut self,
        name: &'static str,
        help: &str,
        labels: &[(&str, &str)],
        counted: &Counted,
    ) {
        let family = self.family(name, help, Kind::Histogram);
        let mut total = 0;
        let bounds = counted.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(&counted.buckets) {
            total += count;
            let labels = show(labels, Some(&number(bound)));
            let _ = writeln!(family, "{name}_bucket{labels} {total}");
        }
        let (labels, sum) = (show(labels, None), number(counted.sum));
        let _ = writeln!(family, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}");
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0.into_values().collect()
    }
}

fn show(labels: &[(&str, &str)], bound: Option<&str>) -> String {
    let mut parts: Vec<_> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    parts.extend(bound.map(|bound| format!("le=\"{bound}\"")));
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_go_s() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (524_288.0, "524288"),
            (8_388_608.0, "8.388608e+06"),
            (u64::MAX as f64, "1.8446744073709552e+19"),
            (-2.5, "-2.5"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn families_are_sorted_and_described_once() {
        let mut page = Page::default();
        page.count("b_total", "B.", &[("kind", "x\"y")], 1);
        page.count("b_total", "B.", &[("kind", "z")], 2);
        let outcomes = Outcomes::exponential(0.5, 2);
        for millis in [500, 3_000, 4_000] {
            outcomes.observe(true, std::time::Duration::from_millis(millis));
        }
        page.outcomes("a_seconds", "A.", &[("type", "x")], &outcomes);
        assert_eq!(
            page.finish(),
            "# HELP a_seconds A.\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{success=\"true\",type=\"x\",le=\"0.5\"} 1\n\
             a_seconds_bucket{success=\"true\",type=\"x\",le=\"1\"} 1\n\
             a_seconds_bucket{success=\"true\",type=\"x\",le=\"+Inf\"} 3\n\
             a_seconds_sum{success=\"true\",type=\"x\"} 7.5\n\
             a_seconds_count{success=\"true\",type=\"x\"} 3\n\
             # HELP b_total B.\n# TYPE b_total counter\n\
             b_total{kind=\"x\\\"y\"} 1\nb_total{kind=\"z\"} 2\n"
        );
    }
}
