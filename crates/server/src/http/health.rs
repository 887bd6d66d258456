//! `/health`, `/livez` and `/readyz`.
//!
//! *Contract.* `server/etcdserver/api/etcdhttp/health.go` of etcd v3.7.1.

use std::sync::Arc;

use base::MemberId;
use http::{Response, StatusCode};
use proto::etcdserverpb::AlarmType;

use super::answer;
use super::query::Query;
use crate::api::Api;
use crate::grpc::Body;
use crate::log;

/// One thing that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, api: &Api) -> Result<(), String> {
        match self {
            Self::DataCorruption if api.store.is_raised(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if api.member.status().is_learner => {
                Err("not supported for learner".to_owned())
            }
            Self::LinearizableRead => api.read_index().await.map_err(|error| error.to_string()),
            // The view is there as long as the process is.
            Self::DataCorruption | Self::NonLearner | Self::SerializableRead => Ok(()),
        }
    }
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
        api.metrics.health_check(kind, name, result.is_ok());
        match result {
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

async fn look(api: &Api, query: &Query, is_serializable: bool) -> Result<(), String> {
    for alarm in api.store.alarms() {
        let name = AlarmType::try_from(alarm.alarm).map_or("UNKNOWN", |kind| kind.as_str_name());
        if !query.all("exclude").any(|excluded| excluded == name) {
            return Err(format!("ALARM {name}"));
        }
    }
    if is_serializable {
        return Ok(());
    }
    if api.member.status().leader == MemberId::NONE {
        return Err("RAFT NO LEADER".to_owned());
    }
    api.read_index().await.map_err(|error| format!("RANGE ERROR:{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_their_checks_by_name() {
        assert_eq!(find("/livez").map(|(_, checks)| checks.len()), Some(1));
        assert_eq!(find("/readyz").map(|(_, checks)| checks.len()), Some(4));
        assert_eq!(find("/readyz/non_learner"), Some(("readyz", &[Check::NonLearner][..])));
        for path in ["/livez/linearizable_read", "/readyz/", "/livez/", "/readyzz", "/readyz/x"] {
            assert!(!is_check(path), "{path}");
        }
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
