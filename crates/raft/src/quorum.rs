//! What a majority has agreed on: of one set of voters, or of two at once.
//!
//! *Contract.* `quorum/` of go.etcd.io/raft v3.7.0.

use std::collections::BTreeSet;

use base::mutant::{Mutant, is_on};
use base::{LogIndex, MemberId};

/// How a vote stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteResult {
    /// Not decided yet.
    Pending,
    /// A majority said no, or enough did that yes is impossible.
    Lost,
    /// A majority said yes.
    Won,
}

/// More voters than a group has in practice.
const VOTERS_USUAL: usize = 9;

/// One set of voters. The empty set agrees to everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Majority(pub BTreeSet<MemberId>);

impl Majority {
    /// The largest index that a majority has reached; [`LogIndex`] of `u64::MAX` without voters.
    pub fn committed(&self, acknowledged: impl Fn(MemberId) -> Option<LogIndex>) -> LogIndex {
        let count = self.0.len();
        if count == 0 {
            return LogIndex(u64::MAX);
        }
        // Asked for every acknowledgement: no allocation for as many voters as there usually are.
        let (mut few, mut many) = ([LogIndex(0); VOTERS_USUAL], Vec::new());
        let reached = if count <= VOTERS_USUAL {
            &mut few[..count]
        } else {
            many.resize(count, LogIndex(0));
            &mut many[..]
        };
        for (slot, &id) in reached.iter_mut().zip(&self.0) {
            *slot = acknowledged(id).unwrap_or_default();
        }
        reached.sort_unstable();
        // Of n ascending indexes, the one at (n - 1) / 2 is reached by a majority.
        let missing = usize::from(is_on(Mutant::CommitWithoutQuorum));
        reached[((count - 1) / 2 + missing).min(count - 1)]
    }

    /// How the vote stands, when `vote` tells what each voter said.
    pub fn vote(&self, vote: impl Fn(MemberId) -> Option<bool>) -> VoteResult {
        let needed = self.0.len() / 2 + usize::from(!is_on(Mutant::ElectWithoutQuorum));
        let (mut yes, mut open) = (0, 0);
        for &id in &self.0 {
            match vote(id) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => open += 1,
            }
        }
        if self.0.is_empty() || yes >= needed {
            VoteResult::Won
        } else if yes + open >= needed {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }
}

/// Two sets of voters of which both must agree; outside a joint change the second is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joint {
    /// The voters, or those that will be.
    pub incoming: Majority,
    /// The voters that were, while a change is under way.
    pub outgoing: Majority,
}

impl Joint {
    /// Every voter of either set.
    pub fn ids(&self) -> BTreeSet<MemberId> {
        self.incoming.0.union(&self.outgoing.0).copied().collect()
    }

    /// Whether `id` votes in either set.
    pub fn contains(&self, id: MemberId) -> bool {
        self.incoming.0.contains(&id) || self.outgoing.0.contains(&id)
    }

    /// The largest index that both majorities have reached.
    pub fn committed(&self, acknowledged: impl Fn(MemberId) -> Option<LogIndex>) -> LogIndex {
        self.incoming.committed(&acknowledged).min(self.outgoing.committed(&acknowledged))
    }

    /// How the vote stands in both sets together.
    pub fn vote(&self, vote: impl Fn(MemberId) -> Option<bool>) -> VoteResult {
        match (self.incoming.vote(&vote), self.outgoing.vote(&vote)) {
            (one, other) if one == other => one,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn majority(ids: &[u64]) -> Majority {
        Majority(ids.iter().copied().map(MemberId).collect())
    }

    /// The median by its definition: the largest acknowledged index with a majority at or above.
    fn committed_by_counting(voters: &Majority, acknowledged: &[u64]) -> LogIndex {
        let at = |id: &MemberId| acknowledged[usize::try_from(id.0).unwrap()];
        let enough =
            |index: u64| voters.0.iter().filter(|id| at(id) >= index).count() > voters.0.len() / 2;
        let candidates = voters.0.iter().map(at).filter(|&index| enough(index));
        LogIndex(candidates.max().unwrap_or(0))
    }

    #[test]
    fn the_commit_index_is_what_a_majority_reached() {
        let mut rng = base::Rng::new(3);
        for _ in 0..2_000 {
            let acknowledged: Vec<u64> = (0..8).map(|_| rng.below(6)).collect();
            let ids: Vec<u64> = (0..8).filter(|_| rng.one_in(2)).collect();
            let voters = majority(&ids);
            let at = |id: MemberId| {
                Some(LogIndex(acknowledged[usize::try_from(id.0).unwrap()])).filter(|i| i.0 > 0)
            };
            if !ids.is_empty() {
                assert_eq!(voters.committed(at), committed_by_counting(&voters, &acknowledged));
            }
        }
        assert_eq!(Majority::default().committed(|_| None), LogIndex(u64::MAX));
    }

    #[test]
    fn votes_are_decided_as_soon_as_they_can_be() {
        type Case = (&'static [u64], &'static [u64], &'static [u64], VoteResult);
        let cases: [Case; 9] = [
            (&[], &[], &[], VoteResult::Won),
            (&[1], &[], &[], VoteResult::Pending),
            (&[1], &[1], &[], VoteResult::Won),
            (&[1], &[], &[1], VoteResult::Lost),
            (&[1, 2], &[1], &[], VoteResult::Pending),
            (&[1, 2], &[1], &[2], VoteResult::Lost),
            (&[1, 2, 3], &[1, 2], &[], VoteResult::Won),
            (&[1, 2, 3], &[1], &[2], VoteResult::Pending),
            (&[1, 2, 3], &[], &[2, 3], VoteResult::Lost),
        ];
        for (voters, yes, no, expected) in cases {
            let said = |id: MemberId| match id.0 {
                id if yes.contains(&id) => Some(true),
                id if no.contains(&id) => Some(false),
                _ => None,
            };
            assert_eq!(majority(voters).vote(said), expected, "{voters:?} {yes:?} {no:?}");
            let joint = Joint { incoming: majority(voters), outgoing: Majority::default() };
            let alone = joint.vote(said);
            assert_eq!(alone, expected, "the empty second set must not count: {voters:?}");
        }
    }

    #[test]
    fn two_majorities_must_agree() {
        let joint = Joint { incoming: majority(&[1, 2, 3]), outgoing: majority(&[3, 4, 5]) };
        let yes = |ids: &'static [u64]| move |id: MemberId| ids.contains(&id.0).then_some(true);
        assert_eq!(joint.vote(yes(&[1, 2])), VoteResult::Pending);
        assert_eq!(joint.vote(yes(&[1, 3, 4])), VoteResult::Won);
        assert_eq!(joint.vote(|id| Some(id.0 < 4)), VoteResult::Lost);
        assert_eq!(joint.committed(|id| Some(LogIndex(id.0))), LogIndex(2));
        assert!(joint.contains(MemberId(5)) && !joint.contains(MemberId(6)));
        assert_eq!(joint.ids().len(), 5);
    }
}
