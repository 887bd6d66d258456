//! A profile as a picture: each function as wide as its share of the samples, above its caller.
//!
//! *Absent.* Scripts: names and shares show when the pointer rests on a box, as SVG titles do.
//!
//! *Contract.* Brendan Gregg's flame graphs, as far as reading them goes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 1_200.0;
const ROW: f64 = 16.0;
/// Boxes narrower than this are left out.
const BOX_MIN: f64 = 0.4;
/// What a letter takes.
const LETTER: f64 = 6.6;
/// Calls inside each other that are drawn.
const DEPTH_MAX: usize = 256;

/// Functions by name, with what they called.
#[derive(Default)]
pub(super) struct Graph {
    samples: u64,
    calls: BTreeMap<String, Graph>,
}

impl Graph {
    /// Adds samples of one stack, the outermost function first.
    pub(super) fn add(&mut self, stack: impl IntoIterator<Item = String>, samples: u64) {
        self.samples += samples;
        let mut at = self;
        for name in stack.into_iter().take(DEPTH_MAX) {
            at = at.calls.entry(name).or_default();
            at.samples += samples;
        }
    }

    fn depth(&self) -> usize {
        1 + self.calls.values().map(Self::depth).max().unwrap_or_default()
    }

    /// The picture; `None` when there is nothing to see.
    pub(super) fn draw(&self) -> Option<String> {
        if self.samples == 0 {
            return None;
        }
        let height = self.depth() as f64 * ROW;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"monospace\" font-size=\"11\">\n"
        );
        let whole = Row { left: 0.0, top: height - ROW, all: self.samples };
        self.draw_in("all", whole, &mut svg);
        svg.push_str("</svg>\n");
        Some(svg)
    }

    fn draw_in(&self, name: &str, row: Row, svg: &mut String) {
        let share = self.samples as f64 / row.all as f64;
        let width = share * WIDTH;
        if width < BOX_MIN {
            return;
        }
        let (name, color) = (escaped(name), color(name));
        let letters = (width / LETTER) as usize;
        let shown = if name.len() <= letters { name.as_str() } else { "" };
        // Writing to a text cannot fail.
        let _written = writeln!(
            svg,
            "<g><title>{name}: {} samples, {:.2}%</title><rect x=\"{:.1}\" y=\"{:.1}\" \
             width=\"{width:.1}\" height=\"{ROW}\" fill=\"{color}\" stroke=\"white\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{shown}</text></g>",
            self.samples,
            100.0 * share,
            row.left,
            row.top,
            row.left + 2.0,
            row.top + ROW - 4.0,
        );
        let mut left = row.left;
        for (name, called) in &self.calls {
            called.draw_in(name, Row { left, top: row.top - ROW, all: row.all }, svg);
            left += called.samples as f64 / row.all as f64 * WIDTH;
        }
    }
}

/// Where a box is drawn, and how many samples are the whole width.
#[derive(Clone, Copy)]
struct Row {
    left: f64,
    top: f64,
    all: u64,
}

/// A warm color that is a function's own.
fn color(name: &str) -> String {
    let hash = name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte));
    format!("rgb({},{},{})", 205 + hash % 50, 90 + hash / 50 % 120, hash / 6_000 % 60)
}

fn escaped(name: &str) -> String {
    name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::Graph;

    #[test]
    fn callers_are_as_wide_as_what_they_call() {
        let mut graph = Graph::default();
        let stack = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        graph.add(stack(&["main", "a<T>"]), 3);
        graph.add(stack(&["main", "b"]), 1);
        let svg = graph.draw().unwrap();
        for told in [
            "all: 4 samples, 100.00%",
            "main: 4 samples, 100.00%",
            "a&lt;T&gt;: 3 samples, 75.00%",
            "b: 1 samples, 25.00%",
        ] {
            assert!(svg.contains(&format!("<title>{told}</title>")), "{told}: {svg}");
        }
        assert!(svg.contains("x=\"900.0\" y=\"0.0\" width=\"300.0\""), "{svg}");
        assert!(Graph::default().draw().is_none());
    }

    #[test]
    fn endless_recursion_and_long_names_are_bounded() {
        let mut graph = Graph::default();
        graph.add(std::iter::repeat_n("f".repeat(10_000), 100_000), u64::MAX);
        assert!(graph.draw().unwrap().len() < 10 << 20);
        assert_eq!(graph.depth(), super::DEPTH_MAX + 1);
    }
}
