//! Whether members hold the same data: what hashes of their histories say when they are laid side
//! by side.
//!
//! ```text
//!  own hash ──┐
//!             ├─► initial / periodic / CompactionCheck ─► findings (for the log), alarms
//!  peers' ────┘
//! ```
//!
//! *Invariants.* Hashes are compared only when they were taken over the same revisions with the
//! same compaction behind them: else members that are equal would have different ones.
//!
//! *Absent.* Asking the members, raising alarms.
//!
//! *Contract.* `server/etcdserver/corrupt.go` of etcd v3.7.1.

use std::collections::BTreeMap;

use base::{MemberId, Revision};
use store::HashKv;
use thiserror::Error;

/// The hash that another member has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The hash.
    pub hash: u32,
    /// The compaction that lay behind it.
    pub compact_revision: Revision,
    /// The member's newest revision.
    pub revision: Revision,
}

/// Why another member has told none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Silence {
    /// It is behind.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// It is ahead.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// It belongs to another cluster.
    #[error("etcdserver: cluster ID mismatch")]
    ClusterIdMismatch,
    /// It could not be asked.
    #[error("{0}")]
    Failed(String),
}

/// What another member has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub member: MemberId,
    /// Its hash.
    pub answer: Result<Told, Silence>,
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// At the start: the same history, another hash.
    Different(MemberId, Told),
    /// At the start: another hash that means nothing, since the compactions differ.
    DifferentCompaction(MemberId, Told),
    /// At the start: a member has no hash to compare.
    Silent(MemberId, Silence),
    /// This member's own hash of unchanged data has changed.
    OwnChanged(HashKv),
    /// A follower has a revision that the leader has not.
    RevisionAhead(MemberId, Told),
    /// A follower has a compaction that the leader has not.
    CompactionAhead(MemberId, Told),
    /// A follower has the leader's history, and another hash.
    Mismatch(MemberId, Told),
    /// A member could not be compared, for this reason.
    Skipped(MemberId, String),
    /// These members have the hash; whether most members have another one.
    Minority(u32, Vec<MemberId>, bool),
    /// There is no hash that most members have.
    NoMajority,
    /// Some members could not be compared: so many of so many could.
    Incomplete(usize, usize),
    /// All of so many members agree.
    Agreed(usize),
}

/// Before a member serves anybody: whether its data contradicts another member's.
pub fn initial(own: HashKv, peers: &[Peer]) -> (bool, Vec<Finding>) {
    let mut is_corrupt = false;
    let mut findings = Vec::new();
    for peer in peers {
        match &peer.answer {
            Ok(told) if told.hash == own.hash => {}
            Ok(told) if told.compact_revision == own.compact_revision => {
                is_corrupt = true;
                findings.push(Finding::Different(peer.member, *told));
            }
            Ok(told) => findings.push(Finding::DifferentCompaction(peer.member, *told)),
            Err(Silence::Failed(_)) => {}
            Err(silence) => findings.push(Finding::Silent(peer.member, silence.clone())),
        }
    }
    (is_corrupt, findings)
}

/// What the leader finds from time to time. `before` is its hash when the members were asked;
/// `after` and `revision` are from after a read that every acknowledged write precedes. The first
/// member that is wrong gets the alarm.
pub fn periodic(
    own: MemberId,
    before: HashKv,
    peers: &[Peer],
    after: HashKv,
    revision: Revision,
) -> (Option<MemberId>, Vec<Finding>) {
    let mut alarm = None;
    let mut findings = Vec::new();
    let mut accuse = |member: MemberId, finding| {
        alarm.get_or_insert(member);
        findings.push(finding);
    };
    let is_unchanged = after.hash_revision == before.hash_revision
        && after.compact_revision == before.compact_revision;
    if is_unchanged && after.hash != before.hash {
        accuse(own, Finding::OwnChanged(after));
    }
    for peer in peers {
        let Ok(told) = peer.answer else { continue };
        if told.revision > revision {
            accuse(peer.member, Finding::RevisionAhead(peer.member, told));
        }
        if told.compact_revision > after.compact_revision {
            accuse(peer.member, Finding::CompactionAhead(peer.member, told));
        }
        if told.compact_revision == before.compact_revision && told.hash != before.hash {
            accuse(peer.member, Finding::Mismatch(peer.member, told));
        }
    }
    (alarm, findings)
}

/// The leader's comparison of hashes that each member took by itself at the same compactions.
#[derive(Debug, Default)]
pub struct CompactionCheck {
    /// Up to here all members agreed.
    agreed: Revision,
}

/// What one compaction's hashes say.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who is to get the alarm; nobody's id where it cannot be told who is wrong.
    pub alarms: Vec<MemberId>,
    /// For the log.
    pub findings: Vec<Finding>,
    /// Whether older compactions need no look.
    pub is_final: bool,
}

impl CompactionCheck {
    /// The compactions to look at, the newest first, of all that are remembered.
    pub fn due(&self, mut hashes: Vec<HashKv>) -> Vec<HashKv> {
        hashes.retain(|hash| hash.hash_revision > self.agreed);
        hashes.sort_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
        hashes
    }

    /// Compares the hashes of one compaction. `peers` are all other members.
    pub fn compare(&mut self, own: MemberId, leader: HashKv, peers: &[Peer]) -> Verdict {
        let mut groups = BTreeMap::from([(leader.hash, vec![own])]);
        let mut findings = Vec::new();
        let mut compared = 0;
        for peer in peers {
            match &peer.answer {
                Err(_) => {
                    findings.push(Finding::Skipped(peer.member, "no response".to_owned()));
                }
                Ok(told) if told.compact_revision != leader.compact_revision => {
                    let reason = format!(
                        "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                        told.compact_revision, leader.compact_revision
                    );
                    findings.push(Finding::Skipped(peer.member, reason));
                }
                Ok(told) => {
                    compared += 1;
                    groups.entry(told.hash).or_default().push(peer.member);
                }
            }
        }
        if groups.len() == 1 {
            let is_final = compared == peers.len();
            if is_final {
                self.agreed = self.agreed.max(leader.hash_revision);
                findings.push(Finding::Agreed(compared));
            } else {
                findings.push(Finding::Incomplete(compared, peers.len()));
            }
            return Verdict { alarms: Vec::new(), findings, is_final };
        }
        let quorum = peers.len().div_ceil(2) + 1;
        let majority =
            groups.iter().find(|(_, members)| members.len() >= quorum).map(|(hash, _)| *hash);
        let mut alarms = Vec::new();
        match majority {
            Some(majority) => {
                groups.remove(&majority);
                alarms.extend(groups.values().flatten().copied());
            }
            None => {
                alarms.push(MemberId::NONE);
                findings.push(Finding::NoMajority);
            }
        }
        let minority = |(hash, members)| Finding::Minority(hash, members, majority.is_some());
        findings.extend(groups.into_iter().map(minority));
        Verdict { alarms, findings, is_final: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MemberId = MemberId(1);

    fn hash(hash: u32, compact: i64, at: i64) -> HashKv {
        HashKv { hash, compact_revision: Revision(compact), hash_revision: Revision(at) }
    }

    fn told(member: u64, hash: u32, compact: i64, revision: i64) -> Peer {
        let (compact_revision, revision) = (Revision(compact), Revision(revision));
        Peer { member: MemberId(member), answer: Ok(Told { hash, compact_revision, revision }) }
    }

    fn silent(member: u64, silence: Silence) -> Peer {
        Peer { member: MemberId(member), answer: Err(silence) }
    }

    #[test]
    fn a_member_starts_unless_the_same_history_has_another_hash() {
        let own = hash(7, 3, 10);
        let (is_corrupt, findings) = initial(
            own,
            &[
                told(2, 7, 3, 12),
                told(3, 8, 2, 12),
                silent(4, Silence::FutureRevision),
                silent(5, Silence::Failed("refused".into())),
            ],
        );
        assert!(!is_corrupt);
        assert_eq!(findings.len(), 2);
        let (is_corrupt, findings) = initial(own, &[told(2, 8, 3, 10)]);
        assert!(is_corrupt);
        assert!(matches!(findings[..], [Finding::Different(MemberId(2), _)]));
    }

    #[test]
    fn a_follower_must_not_be_ahead_or_differ() {
        let (before, after) = (hash(7, 3, 10), hash(9, 4, 11));
        let check = |peers: &[Peer]| periodic(OWN, before, peers, after, Revision(11));
        assert_eq!(check(&[told(2, 7, 3, 11), told(3, 0, 4, 11)]).0, None);
        assert_eq!(check(&[told(2, 7, 3, 12)]).0, Some(MemberId(2)));
        assert_eq!(check(&[told(2, 7, 5, 10)]).0, Some(MemberId(2)));
        assert_eq!(check(&[told(3, 8, 3, 10), told(2, 8, 3, 10)]).0, Some(MemberId(3)));
        assert_eq!(check(&[silent(2, Silence::Compacted)]).0, None);
    }

    #[test]
    fn the_leader_accuses_itself_of_a_hash_that_changes() {
        let check = |after| periodic(OWN, hash(7, 3, 10), &[], after, Revision(10)).0;
        assert_eq!(check(hash(8, 3, 10)), Some(OWN));
        assert_eq!(check(hash(8, 4, 10)), None);
        assert_eq!(check(hash(8, 3, 11)), None);
    }

    #[test]
    fn what_most_members_have_is_right() {
        let verdict =
            |peers: &[Peer]| CompactionCheck::default().compare(OWN, hash(7, 3, 10), peers);
        let alarms = |peers: &[Peer]| verdict(peers).alarms;
        assert_eq!(alarms(&[told(2, 7, 3, 10), told(3, 8, 3, 10)]), [MemberId(3)]);
        assert_eq!(alarms(&[told(2, 8, 3, 10), told(3, 8, 3, 10)]), [OWN]);
        assert_eq!(alarms(&[told(2, 8, 3, 10)]), [MemberId::NONE]);
        assert_eq!(alarms(&[told(2, 8, 3, 10), told(3, 9, 3, 10)]), [MemberId::NONE]);
        // A member that could not be compared still counts for the quorum.
        let absent = silent(4, Silence::FutureRevision);
        let four = [told(2, 7, 3, 10), told(3, 8, 3, 10), absent];
        assert_eq!(alarms(&four), [MemberId::NONE]);
        let five = [&four[..], &[told(5, 7, 3, 10)]].concat();
        assert_eq!(alarms(&five), [MemberId(3)]);
    }

    #[test]
    fn what_all_agreed_on_is_not_looked_at_again() {
        let mut check = CompactionCheck::default();
        let hashes = vec![hash(1, -1, 5), hash(2, 5, 9), hash(3, 9, 12)];
        let at = |hashes: Vec<HashKv>| -> Vec<_> {
            hashes.iter().map(|hash| hash.hash_revision.0).collect()
        };
        assert_eq!(at(check.due(hashes.clone())), [12, 9, 5]);
        // The newest compaction has not come everywhere: the one before decides.
        let verdict = check.compare(OWN, hashes[2], &[silent(2, Silence::FutureRevision)]);
        assert!(!verdict.is_final && verdict.alarms.is_empty());
        let verdict = check.compare(OWN, hashes[1], &[told(2, 2, 5, 12)]);
        assert!(verdict.is_final && verdict.alarms.is_empty());
        assert_eq!(at(check.due(hashes.clone())), [12]);
        // With another compaction behind it a hash says nothing.
        let verdict = check.compare(OWN, hashes[2], &[told(2, 8, 5, 12)]);
        assert!(!verdict.is_final && verdict.alarms.is_empty());
    }
}
