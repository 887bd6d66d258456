//! A progress bar on stderr, drawn as etcdctl's.
//!
//! ```text
//!  15 / 60 [-------------->__________________________________________] 25.00% 1 p/s
//! ```
//!
//! *Invariants.* The bar is as wide as the terminal. What is no terminal gets the same texts one
//! behind the other, without any character that moves the cursor.
//!
//! *Contract.* `github.com/cheggaaa/pb/v3` v3.1.7 and `github.com/VividCortex/ewma` v1.2.0.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::rc::Rc;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Between two drawings.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);
/// A speed is measured over at least this long.
const SPEED_INTERVAL: Duration = Duration::from_millis(500);
/// The share of the newest measurement in the speed that is shown: the last thirty count.
const SPEED_WEIGHT: f64 = 2.0 / 31.0;
/// The width where there is no terminal.
const WIDTH_DEFAULT: usize = 100;

/// What the numbers of a bar count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Pieces,
    Bytes,
}

impl Unit {
    fn show(self, count: u64) -> String {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match (self, UNITS.iter().find(|(unit, _)| count >= *unit)) {
            (Unit::Pieces, _) => count.to_string(),
            (Unit::Bytes, None) => format!("{count} B"),
            (Unit::Bytes, Some((unit, name))) => {
                format!("{:.2} {name}", count as f64 / *unit as f64)
            }
        }
    }
}

/// A bar under way.
pub(super) struct Bar {
    state: Rc<RefCell<State>>,
    drawing: JoinHandle<()>,
}

impl Bar {
    /// Draws from now on, at intervals, until the bar is finished or dropped.
    pub(super) fn start(total: u64, unit: Unit) -> Bar {
        let state = State { current: 0, total, unit, speed: None };
        let state = Rc::new(RefCell::new(state));
        let shown = Rc::clone(&state);
        let drawing = tokio::task::spawn_local(async move {
            loop {
                sleep(REFRESH_INTERVAL).await;
                shown.borrow_mut().draw(false);
            }
        });
        Bar { state, drawing }
    }

    /// Moves the bar on.
    pub(super) fn add(&self, count: u64) {
        self.state.borrow_mut().current += count;
    }

    /// Takes everything back.
    pub(super) fn restart(&self) {
        self.state.borrow_mut().current = 0;
    }

    /// Corrects what the bar moves towards.
    pub(super) fn set_total(&self, total: u64) {
        self.state.borrow_mut().total = total;
    }

    /// Draws a last time, and leaves the line.
    pub(super) fn finish(self) {
        self.drawing.abort();
        self.state.borrow_mut().draw(true);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.drawing.abort();
    }
}

struct State {
    current: u64,
    total: u64,
    unit: Unit,
    /// None until the bar has been drawn.
    speed: Option<Speed>,
}

/// A moving average over measurements.
struct Speed {
    first: Instant,
    last: Instant,
    last_current: u64,
    average: f64,
}

impl State {
    fn draw(&mut self, finished: bool) {
        let now = Instant::now();
        let speed = self.speed(now, finished);
        let width = terminal_width();
        let line = render(width, self.current, self.total, self.unit, speed, finished);
        let mut stderr = io::stderr().lock();
        let text = if stderr.is_terminal() {
            format!("\r{line:width$}{}", if finished { "\n" } else { "" })
        } else {
            line
        };
        // Nobody who looks at the bar any more is no reason to end the work.
        let _ = stderr.write_all(text.as_bytes());
    }

    fn speed(&mut self, now: Instant, finished: bool) -> f64 {
        let Some(speed) = &mut self.speed else {
            let (first, last) = (now, now);
            self.speed = Some(Speed { first, last, last_current: self.current, average: 0.0 });
            return 0.0;
        };
        if finished {
            return self.current as f64 / (now - speed.first).as_secs_f64();
        }
        let since = now - speed.last;
        if since >= SPEED_INTERVAL {
            let measured = self.current.abs_diff(speed.last_current) as f64 / since.as_secs_f64();
            speed.average = if speed.average == 0.0 {
                measured
            } else {
                measured * SPEED_WEIGHT + speed.average * (1.0 - SPEED_WEIGHT)
            };
            speed.last = now;
            speed.last_current = self.current;
        }
        speed.average
    }
}

/// The columns of the terminal that the process belongs to, whatever stderr is.
fn terminal_width() -> usize {
    let size = match File::open("/dev/tty") {
        Ok(terminal) => tcgetwinsize(&terminal),
        Err(_) => tcgetwinsize(io::stdin()),
    };
    match size {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => WIDTH_DEFAULT,
    }
}

/// The line of a bar, at most `width` characters.
fn render(
    width: usize,
    current: u64,
    total: u64,
    unit: Unit,
    speed: f64,
    finished: bool,
) -> String {
    let (counters, percent) = if total > 0 {
        let percent = current as f64 / (total as f64 / 100.0);
        (format!("{} / {}", unit.show(current), unit.show(total)), format!("{percent:.2}%"))
    } else {
        (unit.show(current), "?%".to_owned())
    };
    let speed = match speed {
        0.0 => "? p/s".to_owned(),
        speed => format!("{} p/s", unit.show(speed.round() as u64)),
    };
    let taken = counters.len() + percent.len() + speed.len() + 3;
    if taken >= width {
        let mut line = format!("{counters}  {percent} {speed}");
        line.truncate(width);
        return line;
    }
    let bar = bar(width - taken, current, total, finished);
    format!("{counters} {bar} {percent} {speed}")
}

fn bar(width: usize, current: u64, total: u64, finished: bool) -> String {
    let Some(inner) = width.checked_sub(2) else { return "[".to_owned() };
    let total = total.max(if total == 0 { 0 } else { current });
    let done = match total {
        0 => 0,
        total => (current as f64 / total as f64 * inner as f64).ceil() as usize,
    };
    let mut line = String::from("[");
    if total == current && finished {
        line.push_str(&"-".repeat(done));
    } else if done > 0 {
        line.push_str(&"-".repeat(done - 1));
        line.push('>');
    }
    let rest = inner.saturating_sub(line.len() - 1);
    line.push_str(&"_".repeat(rest));
    line.push(']');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_look_as_those_of_etcdctl() {
        let pieces = |width, current, total, speed, finished| {
            render(width, current, total, Unit::Pieces, speed, finished)
        };
        // These lines were seen.
        assert_eq!(
            pieces(80, 1, 60, 2.0, false),
            "1 / 60 [>__________________________________________________________] 1.67% 2 p/s"
        );
        assert_eq!(
            pieces(80, 15, 60, 1.2, false),
            "15 / 60 [-------------->__________________________________________] 25.00% 1 p/s"
        );
        assert_eq!(
            pieces(100, 0, 60, 0.0, false),
            format!("0 / 60 [{}] 0.00% ? p/s", "_".repeat(79))
        );
        assert_eq!(
            pieces(100, 1, 60, 0.0, false),
            format!("1 / 60 [->{}] 1.67% ? p/s", "_".repeat(77))
        );
        let whole = pieces(200, 10_000, 10_000, 4478.0, true);
        assert!(whole.starts_with("10000 / 10000 [---") && whole.ends_with("--] 100.00% 4478 p/s"));
        assert_eq!(whole.len(), 200);
    }

    #[test]
    fn narrow_terminals_and_unknown_totals_still_have_a_line() {
        assert_eq!(render(10, 1, 60, Unit::Pieces, 0.0, false), "1 / 60  1.");
        for width in 0..40 {
            let line = render(width, 7, 9, Unit::Pieces, 3.0, false);
            assert!(line.len() <= width, "{width}: {line}");
        }
        assert_eq!(
            render(40, 3 << 20, 0, Unit::Bytes, 2048.0, false),
            "3.00 MiB [_____________] ?% 2.00 KiB p/s"
        );
    }
}
