//! The table format, and the rows that it shares with the simple one.

use proto::etcdserverpb as pb;

use super::{Answer, Health, unsupported};
use crate::failure::Outcome;
use crate::go;
use crate::table::table;

const MEMBER: [&str; 6] = ["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"];
const HEALTH: [&str; 4] = ["ENDPOINT", "HEALTH", "TOOK", "ERROR"];
const HASH: [&str; 3] = ["ENDPOINT", "HASH", "HASH REVISION"];
const STATUS: [&str; 16] = [
    "ENDPOINT",
    "ID",
    "VERSION",
    "STORAGE VERSION",
    "DB SIZE",
    "IN USE",
    "PERCENTAGE NOT IN USE",
    "QUOTA",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
    "DOWNGRADE TARGET VERSION",
    "DOWNGRADE ENABLED",
];

pub(super) fn render(answer: &Answer) -> Outcome<Vec<u8>> {
    let text = match answer {
        Answer::Members(answer) => table(&MEMBER, &member_rows(answer)),
        Answer::Health(list) => table(&HEALTH, &health_rows(list)),
        Answer::Status(list) => table(&STATUS, &status_rows(list)),
        Answer::HashKv(list) => table(&HASH, &hash_rows(list)),
        _ => return Err(unsupported("table")),
    };
    Ok(text.into_bytes())
}

pub(super) fn member_rows(answer: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    };
    answer.members.iter().map(row).collect()
}

fn health_rows(list: &[Health]) -> Vec<Vec<String>> {
    let row = |health: &Health| {
        let healthy = health.error.is_empty().to_string();
        vec![health.endpoint.clone(), healthy, health.took(), health.error.clone()]
    };
    list.iter().map(row).collect()
}

pub(super) fn status_rows(list: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    let size = |bytes: i64| go::human_bytes(u64::try_from(bytes).unwrap_or(0));
    let row = |(endpoint, answer): &(String, pb::StatusResponse)| {
        let header = answer.header.unwrap_or_default();
        let used = i128::from(answer.db_size_in_use) * 100;
        let unused = used.checked_div(i128::from(answer.db_size)).map_or(0, |used| 100 - used);
        let downgrade = answer.downgrade_info.clone().unwrap_or_default();
        vec![
            endpoint.clone(),
            format!("{:x}", header.member_id),
            answer.version.clone(),
            answer.storage_version.clone(),
            size(answer.db_size),
            size(answer.db_size_in_use),
            format!("{unused}%"),
            size(answer.db_size_quota),
            (answer.leader == header.member_id).to_string(),
            answer.is_learner.to_string(),
            answer.raft_term.to_string(),
            answer.raft_index.to_string(),
            answer.raft_applied_index.to_string(),
            answer.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    };
    list.iter().map(row).collect()
}

pub(super) fn hash_rows(list: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    let row = |(endpoint, answer): &(String, pb::HashKvResponse)| {
        vec![endpoint.clone(), answer.hash.to_string(), answer.hash_revision.to_string()]
    };
    list.iter().map(row).collect()
}
