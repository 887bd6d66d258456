//! What everyone can compute of a new cluster without asking: its ids, and how its log begins.
//!
//! *Contract.* `server/etcdserver/api/membership/{member,cluster}.go` and `bootstrap.go` of etcd
//! v3.7.1.

use base::{ClusterId, MemberId, Term};
use prost::Message as _;
use proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use sha1::{Digest, Sha1};

use crate::Member;

/// The term of the entries that a new cluster begins with.
pub const FIRST_TERM: Term = Term(1);

/// The id of a member of a new cluster: the first eight bytes of SHA-1 over its sorted peer URLs
/// and the cluster's token.
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    MemberId(first_eight(hash))
}

/// The id of a cluster: the same over the ids of its first members, ascending.
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

/// The entries that the log of every founder begins with: one change for each member, in order.
pub fn first_entries(members: &[Member]) -> Vec<Entry> {
    let entry = |(at, member): (usize, &Member)| {
        let change = ConfChange {
            r#type: Some(ConfChangeType::ConfChangeAddNode.into()),
            node_id: Some(member.id.get()),
            context: Some(member.to_json().into()),
            ..ConfChange::default()
        };
        Entry {
            r#type: Some(EntryType::EntryConfChange.into()),
            term: Some(FIRST_TERM.0),
            index: Some(at as u64 + 1),
            data: Some(change.encode_to_vec().into()),
        }
    };
    members.iter().enumerate().map(entry).collect()
}

fn first_eight(hash: Sha1) -> u64 {
    hash.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        let member = member_id(&["http://127.0.0.1:22011".to_owned()], "tok1");
        assert_eq!(member.to_string(), "c64763c593285da3");
        assert_eq!(cluster_id(&[member]).to_string(), "e71d93db51086437");
    }
}
