//! `/health`, `/livez` and `/readyz`: what a client of this member would feel now.
//!
//! *Invariants.* Every check ends: a read within the time of a request, the others at once. A disk
//! that owes an answer makes the member unready, for writes wait for it; it stays alive, for a new
//! start would not mend the disk.
//!
//! *Contract.* `server/etcdserver/api/etcdhttp/health.go` of etcd v3.7.1.

use std::sync::Arc;
use std::time::Duration;

use base::MemberId;
use http::{Response, StatusCode};
use node::requests::Rejected;
use proto::etcdserverpb::{AlarmType, RangeRequest};

use super::answer;
use super::query::Query;
use crate::api::Api;
use crate::grpc::{self, Body};
use crate::log;

/// How long one write of the log or one commit of the database may take before the member is not
/// healthy. Longer than a busy disk needs, shorter than a client waits.
const DISK_BUSY_MAX: Duration = Duration::from_secs(5);

/// One thing that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
    Disk,
}

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
            Self::Disk => "disk",
        }
    }

    /// A check that etcd does not have is not told of while it is well.
    const fn is_told(self, is_ok: bool) -> bool {
        !(is_ok && matches!(self, Self::Disk))
    }

    async fn run(self, api: &Arc<Api>) -> Result<(), String> {
        match self {
            Self::DataCorruption if api.store.is_raised(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if api.member.status().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Self::LinearizableRead => api.read_index().await.map_err(|error| error.to_string()),
            Self::SerializableRead => read(api).await,
            Self::Disk => disk(api)
                .map_err(|took| format!("a write has been under way for {} s", took.as_secs())),
            Self::DataCorruption | Self::NonLearner => Ok(()),
        }
    }
}

/// Reads a key from the state that is here. Fails in time when that is locked.
async fn read(api: &Arc<Api>) -> Result<(), String> {
    let reading = Arc::clone(api);
    let read = grpc::blocking(move || {
        let request = RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            limit: 1,
            keys_only: true,
            ..RangeRequest::default()
        };
        let view = reading.store.view();
        view.range_chunk(&request, None, 1, 1, &mut |_| {}).map(drop)
    });
    match tokio::time::timeout(api.options.request_timeout, read).await {
        Err(_) => Err(Rejected::Timeout.to_string()),
        Ok(Err(stopped)) => Err(stopped.message.into_owned()),
        Ok(Ok(result)) => result.map_err(|error| grpc::Status::from(error).message.into_owned()),
    }
}

/// How long the disk has owed an answer, if that is too long.
fn disk(api: &Api) -> Result<(), Duration> {
    in_time(api.member.disk_busy(api.now()))
}

fn in_time(busy: Duration) -> Result<(), Duration> {
    if busy > DISK_BUSY_MAX { Err(busy) } else { Ok(()) }
}

/// Where checks are found.
const PROBES: [(&str, &str, &[Check]); 2] = [
    ("/livez", "livez", &[Check::SerializableRead]),
    (
        "/readyz",
        "readyz",
        &[
            Check::DataCorruption,
            Check::SerializableRead,
            Check::LinearizableRead,
            Check::NonLearner,
            Check::Disk,
        ],
    ),
];

/// The probe of a path, and its checks: all of them, or the one that is named.
fn find(path: &str) -> Option<(&'static str, &'static [Check])> {
    PROBES.iter().find_map(|(root, kind, checks)| {
        let rest = path.strip_prefix(root)?;
        if rest.is_empty() {
            return Some((*kind, *checks));
        }
        let name = rest.strip_prefix('/')?;
        let at = checks.iter().position(|check| check.name() == name)?;
        Some((*kind, &checks[at..=at]))
    })
}

/// Whether a path is one of these probes.
pub(super) fn is_check(path: &str) -> bool {
    find(path).is_some()
}

/// `/livez`, `/readyz` and their single checks.
pub(super) async fn check(api: &Arc<Api>, path: &str, query: &Query) -> Response<Body> {
    let Some((kind, checks)) = find(path) else { return answer::not_found() };
    let is_root = !path[1..].contains('/');
    let (mut lines, mut is_ok) = (String::new(), true);
    for check in checks {
        let name = check.name();
        if is_root && query.all("exclude").any(|excluded| excluded == name) {
            continue;
        }
        let result = check.run(api).await;
        let is_quiet = !check.is_told(true);
        api.metrics.health_check((kind, name), result.is_ok(), is_quiet);
        match result {
            Ok(()) if !check.is_told(true) => {}
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
                is_ok = false;
            }
        }
    }
    if !is_ok {
        log::error("Health check error")
            .field("path", path)
            .field("reason", &lines)
            .field("status-code", &503)
            .emit();
        return answer::error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let told = if query.has("verbose") { format!("{lines}ok\n") } else { "ok\n".to_owned() };
    answer::text(StatusCode::OK, told)
}

/// `/health`: the older, single answer.
pub(super) async fn health(api: &Arc<Api>, query: &Query) -> Response<Body> {
    let is_serializable = query.first("serializable") == Some("true");
    let Err(reason) = look(api, query, is_serializable).await else {
        api.metrics.health_success.increment();
        return answer::with_type(answer::PLAIN, body(true, ""));
    };
    api.metrics.health_failures.increment();
    let told = body(false, &reason);
    log::warn("/health error").field("output", &told).field("status-code", &503).emit();
    answer::error(StatusCode::SERVICE_UNAVAILABLE, &told)
}

fn body(is_healthy: bool, reason: &str) -> String {
    format!("{{\"health\":\"{is_healthy}\",\"reason\":{}}}", serde_json::json!(reason))
}

async fn look(api: &Arc<Api>, query: &Query, is_serializable: bool) -> Result<(), String> {
    for alarm in api.store.alarms() {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !query.all("exclude").any(|excluded| excluded == name) {
            return Err(format!("ALARM {name}"));
        }
    }
    if is_serializable {
        return read(api).await.map_err(range_error);
    }
    if api.member.status().leader == MemberId::NONE {
        return Err("RAFT NO LEADER".to_owned());
    }
    disk(api).map_err(|_| "DISK STALLED".to_owned())?;
    api.read_index().await.map_err(|error| range_error(error.to_string()))?;
    read(api).await.map_err(range_error)
}

fn range_error(error: String) -> String {
    format!("RANGE ERROR:{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_their_checks_by_name() {
        assert_eq!(find("/livez").map(|(_, checks)| checks.len()), Some(1));
        assert_eq!(find("/readyz").map(|(_, checks)| checks.len()), Some(5));
        assert_eq!(find("/readyz/non_learner"), Some(("readyz", &[Check::NonLearner][..])));
        for path in ["/livez/linearizable_read", "/readyz/", "/livez/", "/readyzz", "/readyz/x"] {
            assert!(!is_check(path), "{path}");
        }
    }

    #[test]
    fn a_disk_that_answers_late_is_told_only_when_it_is_too_late() {
        assert_eq!(in_time(DISK_BUSY_MAX), Ok(()));
        let late = DISK_BUSY_MAX + Duration::from_millis(1);
        assert_eq!(in_time(late), Err(late));
        assert!(!Check::Disk.is_told(true) && Check::Disk.is_told(false));
        assert!(Check::NonLearner.is_told(true));
    }

    #[test]
    fn the_old_answer_is_etcds_json() {
        assert_eq!(body(true, ""), "{\"health\":\"true\",\"reason\":\"\"}");
        assert_eq!(
            body(false, "ALARM NOSPACE"),
            "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}"
        );
    }
}
