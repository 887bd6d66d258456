//! Prometheus text, families in the order of their names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Counter, Histogram};

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

/// A value as Prometheus shows it: Go's shortest form, with an exponent from 1e21 (and 1e+06 for
/// floats) on. Ours keep whole numbers whole, which every reader takes.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    format!("{value}")
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
        let counts: Vec<_> = histogram.buckets.iter().map(Counter::get).collect();
        let sum = std::time::Duration::from_nanos(histogram.sum_nanos.get()).as_secs_f64();
        self.buckets(name, help, &histogram.bounds, &counts, sum);
    }

    /// A histogram that another part has counted: `counts` has one more than `bounds`.
    pub(super) fn buckets(
        &mut self,
        name: &'static str,
        help: &str,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let family = self.family(name, help, Kind::Histogram);
        let mut total = 0;
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(counts) {
            total += count;
            let labels = show(&[], Some(&number(bound)));
            let _ = writeln!(family, "{name}_bucket{labels} {total}");
        }
        let _ = writeln!(family, "{name}_sum {}\n{name}_count {total}", number(sum));
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
    fn families_are_sorted_and_described_once() {
        let mut page = Page::default();
        page.count("b_total", "B.", &[("kind", "x\"y")], 1);
        page.count("b_total", "B.", &[("kind", "z")], 2);
        page.buckets("a_seconds", "A.", &[0.001, 2.0], &[1, 0, 2], 7.5);
        assert_eq!(
            page.finish(),
            "# HELP a_seconds A.\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{le=\"0.001\"} 1\na_seconds_bucket{le=\"2\"} 1\n\
             a_seconds_bucket{le=\"+Inf\"} 3\na_seconds_sum 7.5\na_seconds_count 3\n\
             # HELP b_total B.\n# TYPE b_total counter\n\
             b_total{kind=\"x\\\"y\"} 1\nb_total{kind=\"z\"} 2\n"
        );
    }
}
