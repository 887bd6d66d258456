//! Where processor time goes.
//!
//! A timer of the process's processor time interrupts whichever thread runs and notes its stack.
//! Names are looked up when the time is over, on the pool: that takes a second of processor time.

use std::time::Duration;

use http::{Response, StatusCode};
use pprof::{Frames, ProfilerGuard, Report, UnresolvedReport};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::flame::Graph;
use super::profile::{Builder, Symbol};
use super::{OCTETS, SVG, attachment, failure};
use crate::grpc::{self, Body};
use crate::http::query::Query;
use crate::log;

/// Samples in a second of processor time; not a divisor of what the process does periodically.
const FREQUENCY: i32 = 99;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// How long a profile is taken when nothing is said.
const SECONDS_DEFAULT: u64 = 30;

/// How long it may be taken at most.
pub(super) const SECONDS_MAX: u64 = 300;

/// There is one timer.
static TURN: Semaphore = Semaphore::const_new(1);

/// A profile for `go tool pprof`.
pub(super) async fn profile(query: &Query) -> Response<Body> {
    match take(query, encode).await {
        Ok(file) => attachment(OCTETS, "profile", file),
        Err(refusal) => *refusal,
    }
}

/// The same as a picture.
pub(super) async fn flamegraph(query: &Query) -> Response<Body> {
    match take(query, draw).await {
        Ok(Ok(picture)) => {
            let mut response = attachment(SVG, "flamegraph.svg", picture);
            // To be looked at, not to be kept.
            response.headers_mut().remove(http::header::CONTENT_DISPOSITION);
            response
        }
        Ok(Err(reason)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &reason),
        Err(refusal) => *refusal,
    }
}

/// Reads `seconds` as Go does: what is no positive number is the default.
fn seconds(query: &Query) -> Result<u64, String> {
    let asked = query.first("seconds").and_then(|text| text.parse::<i64>().ok());
    let asked = asked.and_then(|asked| u64::try_from(asked).ok()).filter(|asked| *asked > 0);
    match asked.unwrap_or(SECONDS_DEFAULT) {
        asked if asked > SECONDS_MAX => {
            Err(format!("profile duration exceeds the bound of {SECONDS_MAX} seconds"))
        }
        asked => Ok(asked),
    }
}

fn busy() -> String {
    "Could not enable CPU profiling: cpu profiling already in use".to_owned()
}

/// Takes a profile and makes an answer of it. Ends early with the client.
async fn take<T: Send + 'static>(
    query: &Query,
    told: impl FnOnce(Report) -> T + Send + 'static,
) -> Result<T, Box<Response<Body>>> {
    let seconds =
        seconds(query).map_err(|reason| Box::new(failure(StatusCode::BAD_REQUEST, &reason)))?;
    let failed = |reason: String| {
        log::warn("failed to take a CPU profile").field("error", &reason).emit();
        Box::new(failure(StatusCode::INTERNAL_SERVER_ERROR, &reason))
    };
    let turn: SemaphorePermit<'_> = TURN.try_acquire().map_err(|_| failed(busy()))?;
    log::info("taking a CPU profile").field("seconds", &seconds).emit();
    let stopped = |status: grpc::Status| failed(status.message.into_owned());
    let guard = grpc::blocking(|| ProfilerGuard::new(FREQUENCY)).await.map_err(stopped)?;
    let guard = guard.map_err(|error| failed(error.to_string()))?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let made = grpc::blocking(move || {
        let stacks = guard.report().build_unresolved().map_err(|error| error.to_string());
        // The timer stops: looking names up is not part of the profile.
        drop(guard);
        let UnresolvedReport { data, timing } = stacks?;
        let data = data.into_iter().map(|(stack, count)| (Frames::from(stack), count)).collect();
        // What was read to find the names is many times what the process needs otherwise.
        backtrace::clear_symbol_cache();
        Ok::<_, String>(told(Report { data, timing }))
    });
    let made = made.await.map_err(stopped)?.map_err(failed);
    drop(turn);
    made
}

fn encode(report: Report) -> Vec<u8> {
    let Report { data, timing } = report;
    let time = ("cpu", "nanoseconds");
    let period = NANOS_PER_SECOND / i64::from(timing.frequency.max(1));
    let kinds = [("samples", "count"), time];
    let mut builder = Builder::new(timing.start_time, timing.duration, &kinds).period(time, period);
    for (stack, count) in &data {
        let symbols: Vec<Vec<Symbol>> =
            stack.frames.iter().map(|frame| frame.iter().map(symbol).collect()).collect();
        let count = i64::try_from(*count).unwrap_or_default();
        let values = vec![count, count.saturating_mul(period)];
        builder.add(&symbols, values, Some(&stack.thread_name_or_id()));
    }
    builder.finish()
}

fn symbol(of: &pprof::Symbol) -> Symbol {
    Symbol {
        name: of.name(),
        system_name: of.sys_name().into_owned(),
        file: of.filename().into_owned(),
        line: of.lineno(),
    }
}

fn draw(report: Report) -> Result<Vec<u8>, String> {
    let mut graph = Graph::default();
    for (stack, count) in &report.data {
        // A sample has its innermost function first, and so has a place with inlined ones.
        let outwards = stack.frames.iter().flatten().map(pprof::Symbol::name);
        let mut names: Vec<String> = outwards.collect();
        names.push(stack.thread_name_or_id());
        graph.add(names.into_iter().rev(), u64::try_from(*count).unwrap_or_default());
    }
    let picture = graph.draw().ok_or("the process used no processor time")?;
    Ok(picture.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_as_go_does_and_bounded() {
        let read = |text: &str| seconds(&Query::of(Some(text)));
        for (text, expected) in
            [("", 30), ("seconds=5", 5), ("seconds=0", 30), ("seconds=-1", 30), ("seconds=x", 30)]
        {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        assert_eq!(read("seconds=300"), Ok(300));
        assert!(read("seconds=301").is_err());
    }
}
