//! The lines about what a comparison of hashes found.

use base::MemberId;
use node::requests::corrupt::{Finding, Told};
use store::HashKv;

use crate::log::{self, Line};

/// A line with what is known of both sides.
fn both(line: Line, own: MemberId, hash: HashKv, peer: MemberId, told: &Told) -> Line {
    one(line, own, hash, peer)
        .field("remote-peer-revision", &told.revision.get())
        .field("remote-peer-compact-revision", &told.compact_revision.get())
        .field("remote-peer-hash", &told.hash)
}

fn one(line: Line, own: MemberId, hash: HashKv, peer: MemberId) -> Line {
    line.text("local-member-id", &own)
        .field("local-member-revision", &hash.hash_revision.get())
        .field("local-member-compact-revision", &hash.compact_revision.get())
        .field("local-member-hash", &hash.hash)
        .text("remote-peer-id", &peer)
}

/// Tells all findings of one comparison with `hash`, which is this member's.
pub(super) fn all(own: MemberId, hash: HashKv, findings: &[Finding]) {
    for finding in findings {
        line(own, hash, finding).emit();
    }
}

fn line(own: MemberId, hash: HashKv, finding: &Finding) -> Line {
    let (warn, info) = (log::warn, log::info);
    match finding {
        Finding::Different(peer, told) => {
            both(warn("found different hash values from remote peer"), own, hash, *peer, told)
        }
        Finding::DifferentCompaction(peer, told) => {
            let msg = "found different compact revision values from remote peer";
            both(warn(msg), own, hash, *peer, told)
        }
        Finding::Silent(peer, silence) => {
            one(warn("cannot fetch hash from remote peer"), own, hash, *peer).text("error", silence)
        }
        Finding::OwnChanged(after) => warn("found hash mismatch")
            .field("revision-1", &hash.hash_revision.get())
            .field("compact-revision-1", &hash.compact_revision.get())
            .field("hash-1", &hash.hash)
            .field("revision-2", &after.hash_revision.get())
            .field("compact-revision-2", &after.compact_revision.get())
            .field("hash-2", &after.hash),
        Finding::RevisionAhead(peer, told) => both(
            warn("revision from follower must be less than or equal to leader's"),
            own,
            hash,
            *peer,
            told,
        ),
        Finding::CompactionAhead(peer, told) => both(
            warn("compact revision from follower must be less than or equal to leader's"),
            own,
            hash,
            *peer,
            told,
        ),
        Finding::Mismatch(peer, told) => {
            both(warn("same compact revision then hashes must match"), own, hash, *peer, told)
        }
        Finding::Skipped(peer, reason) => warn("Skipped peer's hash")
            .text("leader-id", &own)
            .text("peer-id", peer)
            .field("reason", reason),
        Finding::Minority(minority, members, has_majority) => {
            let members: Vec<_> = members.iter().map(MemberId::to_string).collect();
            leader(log::error("Detected compaction hash mismatch"), own, hash)
                .field("peer-hash", minority)
                .field("peer-ids", &members.join(", "))
                .field("quorum-exist", has_majority)
        }
        Finding::NoMajority => {
            let msg = "Detected compaction hash mismatch but cannot identify the corrupted \
                       members, so intentionally set the memberID as 0";
            leader(log::error(msg), own, hash)
        }
        Finding::Incomplete(checked, all) => {
            let msg = "skipped revision in compaction hash check; was not able to check all peers";
            counted(warn(msg), hash, *checked).field("number-of-peers", all)
        }
        Finding::Agreed(checked) => {
            counted(info("successfully checked hash on whole cluster"), hash, *checked)
        }
    }
}

fn leader(line: Line, own: MemberId, hash: HashKv) -> Line {
    line.text("leader-id", &own)
        .field("leader-revision", &hash.hash_revision.get())
        .field("leader-compact-revision", &hash.compact_revision.get())
        .field("leader-hash", &hash.hash)
}

fn counted(line: Line, hash: HashKv, checked: usize) -> Line {
    line.field("number-of-peers-checked", &checked)
        .field("revision", &hash.hash_revision.get())
        .field("compactRevision", &hash.compact_revision.get())
}
