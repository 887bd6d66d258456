//! Whether the simulator would notice: hunts deliberate bugs with the runs and the checkers that
//! judge the product.
//!
//! *Invariants.* 1. A mutated run is the run of the same seed, with the same plan and the same
//! checkers; only the bug differs. 2. What a hunt comes to does not depend on how many go on at
//! the same time.
//!
//! *Absent.* The bugs themselves: [`base::mutant`] names them, and they stand where they would
//! have been made. Panics are findings here; whoever wants no lines about them says so to
//! [`std::panic::set_hook`].

use std::ops::Range;

use base::mutant::{self, Mutant};

use crate::world::Failure;
use crate::{run, runner};

/// The first seed of every hunt.
pub const FIRST_SEED: u64 = 1;

/// In how many runs each must be found.
pub const EXPECTED: &[(Mutant, u64)] = &[
    (Mutant::VoteTwice, 20),
    (Mutant::VoteForOlderLog, 50),
    (Mutant::ElectWithoutQuorum, 20),
    (Mutant::CommitWithoutQuorum, 50),
    (Mutant::VoteBeforeSync, 200),
    (Mutant::EntriesWithoutSync, 20),
    (Mutant::AnswerBeforeDisk, 50),
    (Mutant::AppendWithoutMatch, 600),
    (Mutant::HeartbeatTellsAll, 20),
    (Mutant::CountOldVotes, 20),
    (Mutant::ForwardTwice, 20),
    (Mutant::RemovedKeepsVote, 200),
    (Mutant::SkipReadRound, 300),
    (Mutant::ReadBeforeFirstCommit, 100),
    (Mutant::ReadBeforeApplied, 20),
    (Mutant::ReadJoinsAsked, 100),
    (Mutant::RefuseAndPropose, 200),
    (Mutant::ApplyTwice, 20),
    (Mutant::IndexLagsBehind, 20),
    (Mutant::NestedCompareLate, 200),
    (Mutant::OldReadSeesNewer, 20),
    (Mutant::RevokeInAnyOrder, 20),
    (Mutant::PromoteWithoutTime, 20),
    (Mutant::RenewWithoutTime, 20),
    (Mutant::GrantOverLease, 20),
    (Mutant::ExpireEarly, 20),
    (Mutant::DeleteKeepsLease, 20),
    (Mutant::RevokeLeavesRow, 20),
    (Mutant::StartForgetsKeysOfLeases, 20),
    (Mutant::CompactionRemovesNewest, 20),
    (Mutant::ForgetCompaction, 100),
    (Mutant::WatchDropsWhenFull, 50),
    (Mutant::WatchSubscribesLate, 20),
    (Mutant::WatchSkipsCompacted, 20),
    (Mutant::WatchDropsAtCompaction, 20),
    (Mutant::WatchProgressEarly, 20),
    (Mutant::WatchPreviousIsNew, 20),
    (Mutant::WatchBeforeStart, 20),
    (Mutant::InstallKeepsLeases, 50),
    (Mutant::InstallForgetsWatchers, 50),
    (Mutant::SnapshotWithoutLearners, 20),
    (Mutant::ReportBeforeSync, 20),
    (Mutant::ForgetVote, 20),
    (Mutant::SkipChecksum, 100),
    (Mutant::CutOffDamage, 200),
    (Mutant::ReleaseTooMuch, 400),
    (Mutant::MetaBeforePages, 400),
    (Mutant::StreamTellsLastForCommit, 20),
];

/// What came of a hunt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hunted {
    /// Which bug.
    pub mutant: Mutant,
    /// In how many runs it must be found.
    pub seeds_max: u64,
    /// How many it was given.
    pub seeds: u64,
    /// The seed that found it, and how; `None` when none did.
    pub found: Option<(u64, Failure)>,
}

impl Hunted {
    /// Whether the simulator has failed: it had all the runs that it may need.
    pub fn is_missed(&self) -> bool {
        self.found.is_none() && self.seeds >= self.seeds_max
    }
}

/// Goes through runs with a bug until one fails.
pub fn hunt(mutant: Mutant, seeds: Range<u64>) -> Option<(u64, Failure)> {
    mutant::with(mutant, || {
        seeds.into_iter().find_map(|seed| Some((seed, run::run(seed, false).failure?)))
    })
}

/// Hunts every bug, each in as many runs as it is [`EXPECTED`] to take, but no more than
/// `seeds_max`; `jobs` of them at a time. In the order of that list.
pub fn hunt_all(seeds_max: u64, jobs: usize) -> Vec<Hunted> {
    runner::each(EXPECTED, jobs, |(mutant, needed)| {
        let seeds = needed.min(seeds_max);
        let found = hunt(mutant, FIRST_SEED..FIRST_SEED + seeds);
        Hunted { mutant, seeds_max: needed, seeds, found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_hunted_once() {
        let hunted: Vec<Mutant> = EXPECTED.iter().map(|(mutant, _)| *mutant).collect();
        assert_eq!(hunted, Mutant::ALL);
        assert!(hunted.len() >= 20);
        assert!(EXPECTED.iter().all(|(_, seeds)| (1..=2_000).contains(seeds)));
    }

    #[test]
    fn a_run_fails_with_a_mutant_and_not_without_it() {
        assert_eq!(run::run(FIRST_SEED, false).failure, None);
        let seeds = FIRST_SEED..FIRST_SEED + 3;
        for mutant in [Mutant::ForgetVote, Mutant::ForwardTwice, Mutant::RevokeLeavesRow] {
            let found = hunt(mutant, seeds.clone());
            assert!(matches!(found, Some((_, Failure::Safety(_)))), "{mutant:?}: {found:?}");
            assert_eq!(hunt(mutant, seeds.clone()), found, "the same hunt, the same end");
        }
    }
}
