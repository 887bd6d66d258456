//! `/debug/vars`, in the layout of Go's `expvar`.
//!
//! *Invariants.* Every number is true. Of `memstats` there is what the system tells of a process
//! without a collector; the rest is absent, not zero.

use std::fs;
use std::time::Duration;

use http::{Response, StatusCode};
use node::Progress;
use raft::{ProgressState, Role};

use super::{JSON_UTF8, answer};
use crate::api::Api;
use crate::grpc::{self, Body};
use crate::metrics::process::Process;

/// How long a leader may take to tell how far the others are.
const PROGRESS_WAIT_MAX: Duration = Duration::from_secs(1);

pub(super) async fn variables(api: &Api) -> Response<Body> {
    let asked = tokio::time::timeout(PROGRESS_WAIT_MAX, api.member.progress()).await;
    let progress = asked.ok().and_then(Result::ok).flatten();
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    // The system's files are read where no other connection waits.
    let read = || {
        let process = Process::now();
        (process.files_max, memory(process.resident_bytes))
    };
    let Ok((files_max, memory)) = grpc::blocking(read).await else {
        return answer::error(StatusCode::SERVICE_UNAVAILABLE, "the server stops");
    };
    let text = format!(
        "{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {},\n\"memstats\": {},\n\
         \"raft.status\": {}\n}}\n",
        serde_json::json!(arguments),
        files_max,
        memory,
        raft_status(api, progress.as_ref()),
    );
    answer::with_type(JSON_UTF8, text)
}

/// What was obtained from the system, and the part of it that holds data.
fn memory(resident: u64) -> serde_json::Value {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut stats = serde_json::json!({ "Sys": resident });
    if let Some(anonymous) = kibibytes(&status, "RssAnon:") {
        stats["HeapSys"] = (anonymous * 1024).into();
    }
    stats
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The consensus in the form of etcd's raft library.
fn raft_status(api: &Api, progress: Option<&Progress>) -> String {
    let status = api.member.status();
    let role = match status.role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    };
    let members = progress.map_or(&[][..], |progress| &progress.members);
    let members: Vec<String> = members
        .iter()
        .map(|(id, sent)| {
            let state = match sent.state {
                ProgressState::Probe => "StateProbe",
                ProgressState::Replicate => "StateReplicate",
                ProgressState::Snapshot(_) => "StateSnapshot",
            };
            format!(
                "\"{id}\":{{\"match\":{},\"next\":{},\"state\":\"{state}\"}}",
                sent.matched, sent.next
            )
        })
        .collect();
    format!(
        "{{\"id\":\"{}\",\"term\":{},\"vote\":\"{}\",\"commit\":{},\"lead\":\"{}\",\
         \"raftState\":\"{role}\",\"applied\":{},\"progress\":{{{}}},\"leadtransferee\":\"{}\"}}",
        api.member.id(),
        status.term,
        status.vote,
        status.committed,
        status.leader,
        status.applied,
        members.join(","),
        status.transferee
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_in_kibibytes() {
        let status = "VmRSS:\t  5123 kB\nRssAnon:\t    1024 kB\n";
        assert_eq!(kibibytes(status, "RssAnon:"), Some(1024));
        assert_eq!(kibibytes(status, "RssFile:"), None);
        assert!(memory(7)["HeapSys"].as_u64().is_some_and(|bytes| bytes > 0));
    }
}
