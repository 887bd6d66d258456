//! The ids of a new cluster and its members, which everyone can compute without asking.
//!
//! *Contract.* `server/etcdserver/api/membership/{member,cluster}.go` of etcd v3.7.1.

use base::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

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
