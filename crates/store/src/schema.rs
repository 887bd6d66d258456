//! The buckets of the database, their fixed rows and how those are encoded.
//!
//! *Contract.* `server/storage/schema` of etcd v3.7.1, and what a member of it leaves on disk.

use base::{LeaseId, LogIndex, MemberId, Revision, Term};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::mvcc::RevKey;

/// Stored changes by revision.
pub const KEY: &[u8] = b"key";
/// Single rows about the database itself.
pub const META: &[u8] = b"meta";
/// Leases by id.
pub const LEASE: &[u8] = b"lease";
/// Alarms that are raised.
pub const ALARM: &[u8] = b"alarm";
/// The cluster's version and downgrade.
pub const CLUSTER: &[u8] = b"cluster";
/// Members by id.
pub const MEMBERS: &[u8] = b"members";
/// Ids that must not come back.
pub const MEMBERS_REMOVED: &[u8] = b"members_removed";
/// The state of authentication.
pub const AUTH: &[u8] = b"auth";
/// Users by name.
pub const AUTH_USERS: &[u8] = b"authUsers";
/// Roles by name.
pub const AUTH_ROLES: &[u8] = b"authRoles";

/// Every bucket, in the order of names: the order in which `Maintenance.Hash` reads.
pub const BUCKETS: [&[u8]; 10] =
    [ALARM, AUTH, AUTH_ROLES, AUTH_USERS, CLUSTER, KEY, LEASE, MEMBERS, MEMBERS_REMOVED, META];

/// `meta`: the last log index that the database contains.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// `meta`: the term of that entry.
pub const TERM: &[u8] = b"term";
/// `meta`: voters and learners.
pub const CONF_STATE: &[u8] = b"confState";
/// `meta`: the version whose layout the rows have.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// `meta`: the newest compaction that was asked for.
pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
/// `meta`: the newest compaction that has removed its rows.
pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
/// `cluster`: the lowest version of all members.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// `cluster`: the downgrade under way.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// `auth`: one byte, 1 when on.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// `auth`: counts changes of users and roles.
pub const AUTH_REVISION: &[u8] = b"authRevision";
/// `members_removed`: the value of every row.
pub const REMOVED: &[u8] = b"removed";

/// A row key that needs no allocation.
pub const fn name(name: &'static [u8]) -> Bytes {
    Bytes::from_static(name)
}

/// The value of a counter row.
pub fn number(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Reads a counter row.
pub fn read_number(row: &[u8]) -> Option<u64> {
    row.try_into().ok().map(u64::from_be_bytes)
}

/// The rows of the last applied entry.
pub fn applied(index: LogIndex, term: Term) -> [(Bytes, Bytes); 2] {
    [(name(CONSISTENT_INDEX), number(index.0)), (name(TERM), number(term.0))]
}

/// The value of a compaction row.
pub fn compaction(at: Revision) -> Bytes {
    Bytes::copy_from_slice(RevKey::first_of(at).encode(false).as_ref())
}

/// Reads a compaction row.
pub fn read_compaction(row: &[u8]) -> Option<Revision> {
    RevKey::decode(row).map(|(at, _)| at.main)
}

/// The key of a lease's row.
pub fn lease(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

/// The key of a member's row.
pub fn member(id: MemberId) -> Bytes {
    Bytes::from(id.to_string())
}

/// Reads the key of a member's row.
pub fn read_member(key: &[u8]) -> Option<MemberId> {
    let text = std::str::from_utf8(key).ok()?;
    u64::from_str_radix(text, 16).ok().map(MemberId)
}

/// The `confState` row: JSON as etcd's raft library writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfStateRow {
    /// Members with a vote, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<u64>,
    /// Members without one, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learners: Vec<u64>,
    /// Always false: joint configurations are never proposed.
    #[serde(default)]
    pub auto_leave: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conf_state_row_is_etcds() {
        let row = ConfStateRow { voters: vec![16011558987759319972], ..Default::default() };
        let json = serde_json::to_string(&row).expect("plain data");
        assert_eq!(json, r#"{"voters":[16011558987759319972],"auto_leave":false}"#);
        assert_eq!(serde_json::from_str::<ConfStateRow>(&json).expect("its own form"), row);
    }

    #[test]
    fn buckets_are_in_the_order_of_names() {
        assert!(BUCKETS.is_sorted());
    }
}
