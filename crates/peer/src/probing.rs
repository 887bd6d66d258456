//! Asks members every few seconds whether they live and what their clock says, for the log alone.
//!
//! *Contract.* `probing_status.go` in `server/etcdserver/api/rafthttp` of etcd v3.7.1, and
//! github.com/xiang90/probing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::MemberId;
use base::calendar::{DateTime, days};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::call::{Answer, Call, CallError, Kept};
use crate::core::Core;
use crate::event::Event;
use crate::limits;
use crate::status::{Picker, Status};

/// etcd probes the connections of messages and of snapshots apart.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    Message,
    Snapshot,
}

impl Route {
    fn name(self) -> &'static str {
        match self {
            Self::Message => "ROUND_TRIPPER_RAFT_MESSAGE",
            Self::Snapshot => "ROUND_TRIPPER_SNAPSHOT",
        }
    }
}

/// Probes one member.
pub(crate) struct Prober {
    pub(crate) route: Route,
    pub(crate) id: MemberId,
    pub(crate) core: Arc<Core>,
    pub(crate) status: Arc<Status>,
    pub(crate) picker: Arc<Picker>,
}

/// What probing has found.
#[derive(Debug, Default, Clone, PartialEq)]
struct Health {
    is_healthy: bool,
    /// Smoothed, in eighths.
    round_trip: Duration,
    /// How far our clock is ahead.
    ahead: Duration,
    error: String,
}

impl Health {
    fn record(&mut self, took: Duration, ours: SystemTime, theirs: SystemTime) {
        let before = if self.round_trip.is_zero() { took } else { self.round_trip };
        self.round_trip = (before * 7 + took) / 8;
        let ahead = ours.duration_since(theirs).unwrap_or_default();
        self.ahead = ahead.saturating_sub(self.round_trip / 2);
        self.is_healthy = true;
        self.error.clear();
    }

    fn fail(&mut self, error: String) {
        self.is_healthy = false;
        self.error = error;
    }
}

impl Prober {
    /// Probes until the task is ended.
    pub(crate) async fn run(self) {
        let mut health = Health::default();
        let mut kept = Kept::default();
        let mut probe_at = Instant::now() + limits::PROBE_INTERVAL;
        let mut report_at = Instant::now() + limits::PROBE_REPORT_INTERVAL_FAILING;
        loop {
            sleep_until(probe_at.min(report_at)).await;
            let now = Instant::now();
            if now >= probe_at {
                self.probe(&mut health, &mut kept).await;
                probe_at = now + limits::PROBE_INTERVAL;
            }
            if Instant::now() >= report_at {
                report_at = Instant::now() + self.report(&health);
            }
        }
    }

    async fn probe(&self, health: &mut Health, kept: &mut Kept) {
        let Some(url) = self.picker.pick() else {
            return health.fail("member has no address that can be dialed".to_owned());
        };
        let started = Instant::now();
        let asked = async {
            let mut link = match kept.take(&url) {
                Some(link) => link,
                None => self.core.caller.connect(&url).await?,
            };
            let answer = link.ask(Call::get("/raft/probing"), limits::REFUSAL_BYTES_MAX).await?;
            kept.put(link, &url);
            Ok::<_, CallError>(answer)
        };
        let within = limits::PROBE_TIMEOUT;
        match timeout(within, asked).await.unwrap_or(Err(CallError::Timeout(within))) {
            Ok(answer) => match read(&answer) {
                Ok(theirs) => health.record(started.elapsed(), SystemTime::now(), theirs),
                Err(error) => health.fail(error),
            },
            Err(error) => health.fail(error.to_string()),
        }
    }

    /// Tells what is wrong; how long until the next report.
    fn report(&self, health: &Health) -> Duration {
        let describe = |what| {
            Event::warn(what)
                .text("round-tripper-name", self.route.name())
                .text("remote-peer-id", self.id)
        };
        if !health.is_healthy {
            let event = describe("prober detected unhealthy status")
                .duration("rtt", health.round_trip)
                .text("error", &health.error);
            self.core.event(event);
        }
        if health.ahead > limits::CLOCK_DIFFERENCE_MAX {
            let event = describe("prober found high clock drift")
                .duration("clock-drift", health.ahead)
                .duration("rtt", health.round_trip);
            self.core.event(event);
        }
        self.status.counters.round_trips.lock().observe(health.round_trip);
        if health.is_healthy {
            limits::PROBE_REPORT_INTERVAL
        } else {
            limits::PROBE_REPORT_INTERVAL_FAILING
        }
    }
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// The time that an answer tells.
fn read(answer: &Answer) -> Result<SystemTime, String> {
    if answer.status != 200 {
        return Err(format!("got unexpected HTTP status code {}", answer.status));
    }
    let told: Told = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    if !told.ok {
        return Err("member is not OK".to_owned());
    }
    parse_time(&told.now).ok_or_else(|| format!("cannot parse {:?} as time", told.now))
}

/// What a probe is answered.
pub(crate) fn answer(now: SystemTime) -> String {
    format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", show_time(now))
}

const DAY_SECONDS: u64 = 86_400;

/// RFC 3339 with what is needed of nanoseconds, in UTC, as Go writes it.
pub(crate) fn show_time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = format!(".{:09}", since.subsec_nanos());
    let nanos = nanos.trim_end_matches('0').trim_end_matches('.');
    format!("{}{nanos}Z", DateTime(since.as_secs()))
}

/// Reads RFC 3339 from 1970 on.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let is_separated = text.get(4..5)? == "-"
        && text.get(7..8)? == "-"
        && text.get(10..11)? == "T"
        && text.get(13..14)? == ":"
        && text.get(16..17)? == ":";
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_date = is_separated && year >= 1970 && (1..=12).contains(&month) && day >= 1;
    if !is_date || day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
    };
    let nanos = format!("{fraction:0<9}").get(..9)?.parse::<u64>().ok()?;
    let local = days(year, month, day) * DAY_SECONDS + hour * 3_600 + minute * 60 + second;
    let offset = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), clock) => {
            let (hours, minutes) = clock.split_once(':')?;
            let two = |text: &str, max: i64| -> Option<i64> {
                let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
                is_number.then(|| text.parse().ok()).flatten().filter(|number| *number <= max)
            };
            let seconds = two(hours, 24)? * 3_600 + two(minutes, 60)? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = local.checked_add_signed(-offset)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T00:00:00Z", 951_782_400, 0),
            ("2026-09-21T14:13:20.5Z", 1_790_000_000, 500_000_000),
            ("2026-09-21T14:13:20.000000001Z", 1_790_000_000, 1),
        ] {
            let at = UNIX_EPOCH + Duration::new(seconds, nanos);
            assert_eq!(show_time(at), text);
            assert_eq!(parse_time(text), Some(at));
        }
        let at = UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789);
        assert_eq!(parse_time("2026-09-21T16:13:20.123456789+02:00"), Some(at));
        assert_eq!(parse_time("2026-09-21T07:13:20.123456789-07:00"), Some(at));
        for text in [
            "",
            "2026-09-21",
            "2026-09-21T14:13:20",
            "2026-13-21T14:13:20Z",
            "2026-09-21T14:13:20.Q",
            "1969-09-21T14:13:20Z",
            "1970-01-01T00:00:00+01:00",
            "2026-09-21T14:13:20+9999999999:00",
            "2026-09-21T14:13:20+-1:00",
            "2026-09-2\u{e9}T14:13:20Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn what_we_answer_can_be_read() {
        let now = UNIX_EPOCH + Duration::new(1_790_000_000, 120);
        let body = answer(now).into();
        let answer = Answer { status: 200, headers: http::HeaderMap::new(), body };
        assert_eq!(read(&answer), Ok(now));
        let answer = Answer { status: 503, ..answer };
        assert!(read(&answer).is_err());
    }

    #[test]
    fn clocks_are_compared_at_half_the_way() {
        let mut health = Health::default();
        let theirs = UNIX_EPOCH + Duration::from_secs(100);
        health.record(Duration::from_millis(80), theirs + Duration::from_secs(3), theirs);
        assert_eq!(health.round_trip, Duration::from_millis(80));
        assert_eq!(health.ahead, Duration::from_millis(2_960));
        health.record(Duration::from_millis(160), theirs, theirs + Duration::from_secs(3));
        assert_eq!(health.round_trip, Duration::from_millis(90));
        assert_eq!(health.ahead, Duration::ZERO);
        health.fail("gone".to_owned());
        assert!(!health.is_healthy);
    }
}
