//! Deliberate bugs, one at a time, to prove that the simulator notices them.
//!
//! *Invariants.* Without the feature `mutants`, which nothing that is delivered has, no mutant is
//! on and the compiler knows it: the switches are gone from the product.
//!
//! *Absent.* What each of them should be found by: `sim::mutants` knows.

macro_rules! mutants {
    ($($(#[doc = $doc:literal])* $mutant:ident => $name:literal,)+) => {
        /// A deliberate bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $($(#[doc = $doc])* $mutant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$mutant),+];

            /// How it is named in commands and reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => $name,)+
                }
            }
        }
    };
}

mutants! {
    // Consensus.
    /// A member votes for everyone who asks in a term.
    VoteTwice => "vote-twice",
    /// A member votes for a candidate whose log is behind its own.
    VoteForOlderLog => "vote-for-older-log",
    /// A candidate wins with one vote less than a majority.
    ElectWithoutQuorum => "elect-without-quorum",
    /// An entry counts as committed when one member less than a majority has it.
    CommitWithoutQuorum => "commit-without-quorum",
    /// A vote leaves before it is synced.
    VoteBeforeSync => "vote-before-sync",
    /// Entries are written and not synced when neither term nor vote has changed.
    EntriesWithoutSync => "entries-without-sync",
    /// An append is acknowledged to the leader before it is on disk.
    AnswerBeforeDisk => "answer-before-disk",
    /// A follower takes entries although the one before them is not the leader's.
    AppendWithoutMatch => "append-without-match",
    /// A leader's heartbeat tells a commit index beyond what is known to match.
    HeartbeatTellsAll => "heartbeat-tells-all",
    /// Votes of an election before count for the next one.
    CountOldVotes => "count-old-votes",
    /// A follower hands a proposal to the leader twice.
    ForwardTwice => "forward-twice",
    /// A member that was removed still counts for majorities.
    RemovedKeepsVote => "removed-keeps-vote",
    // Reads.
    /// A leader answers a read without asking whether it still leads.
    SkipReadRound => "skip-read-round",
    /// A leader answers a read before an entry of its term is committed.
    ReadBeforeFirstCommit => "read-before-first-commit",
    /// A read is answered before the state has reached its index.
    ReadBeforeApplied => "read-before-applied",
    /// A read joins a batch for which the index was asked already.
    ReadJoinsAsked => "read-joins-asked",
    // Requests and applying.
    /// A proposal that waited too long is refused, and proposed all the same.
    RefuseAndPropose => "refuse-and-propose",
    /// The last entry of the database is applied once more after a start.
    ApplyTwice => "apply-twice",
    /// The index that a commit of the database stores is that of the commit before.
    IndexLagsBehind => "index-lags-behind",
    /// The condition of a nested transaction is evaluated when its turn comes.
    NestedCompareLate => "nested-compare-late",
    /// A read of an old revision shows what was written since.
    OldReadSeesNewer => "old-read-sees-newer",
    /// The keys of a lease are deleted in an order that depends on the member.
    RevokeInAnyOrder => "revoke-in-any-order",
    // Leases.
    /// A new leader takes every lease for expired.
    PromoteWithoutTime => "promote-without-time",
    /// A renewal does not move the expiry.
    RenewWithoutTime => "renew-without-time",
    /// A grant takes the place of a lease of the same id.
    GrantOverLease => "grant-over-lease",
    /// Leases are revoked a second before they expire.
    ExpireEarly => "expire-early",
    /// A key that is deleted stays attached to its lease.
    DeleteKeepsLease => "delete-keeps-lease",
    /// The database keeps a lease that was revoked.
    RevokeLeavesRow => "revoke-leaves-row",
    /// After a start no key belongs to a lease.
    StartForgetsKeysOfLeases => "start-forgets-keys-of-leases",
    // Compactions.
    /// The removal takes the newest row below the compaction with it.
    CompactionRemovesNewest => "compaction-removes-newest",
    /// The database is not told of a compaction until its rows are removed.
    ForgetCompaction => "forget-compaction",
    // Watches.
    /// What does not fit into a stream's queue is dropped.
    WatchDropsWhenFull => "watch-drops-when-full",
    /// A watcher that has caught up misses the next revision.
    WatchSubscribesLate => "watch-subscribes-late",
    /// A watcher that wants what was compacted begins at the compaction.
    WatchSkipsCompacted => "watch-skips-compacted",
    /// A compaction drops the events that wait for a watcher.
    WatchDropsAtCompaction => "watch-drops-at-compaction",
    /// A watcher is told of progress that it has not made.
    WatchProgressEarly => "watch-progress-early",
    /// The previous row of an event is the row after it.
    WatchPreviousIsNew => "watch-previous-is-new",
    /// A watcher hears of changes before its first revision.
    WatchBeforeStart => "watch-before-start",
    // Snapshots.
    /// Leases from before a snapshot was installed stay.
    InstallKeepsLeases => "install-keeps-leases",
    /// Watchers are not told of what an installed snapshot skips.
    InstallForgetsWatchers => "install-forgets-watchers",
    /// A snapshot says nothing of the learners.
    SnapshotWithoutLearners => "snapshot-without-learners",
    // Disk and wire.
    /// The log reports a sync that it has not made.
    ReportBeforeSync => "report-before-sync",
    /// A hard state is written without its vote.
    ForgetVote => "forget-vote",
    /// A record of the log is taken for whole without a look at its checksum.
    SkipChecksum => "skip-checksum",
    /// What is damaged in the log is cut off as if its write had been torn.
    CutOffDamage => "cut-off-damage",
    /// The segment in which a snapshot stands is given up with those before it.
    ReleaseTooMuch => "release-too-much",
    /// The database's meta page is written before the pages that it names are synced.
    MetaBeforePages => "meta-before-pages",
    /// The stream of appends carries the last index in place of the commit index.
    StreamTellsLastForCommit => "stream-tells-last-for-commit",
}

/// Whether a mutant is on in this thread.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use switched::{is_on, with};

#[cfg(feature = "mutants")]
mod switched {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Puts back what was on before, also when what ran has panicked.
    struct Restore(Option<Mutant>);

    impl Drop for Restore {
        fn drop(&mut self) {
            ON.set(self.0);
        }
    }

    /// Whether a mutant is on in this thread.
    pub fn is_on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Runs something with a mutant on, and no other, in this thread.
    pub fn with<T>(mutant: Mutant, run: impl FnOnce() -> T) -> T {
        let _restore = Restore(ON.replace(Some(mutant)));
        run()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own() {
        let names: BTreeSet<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for (at, mutant) in Mutant::ALL.iter().enumerate() {
            assert_eq!(*mutant as usize, at);
            // The name is the variant's, in small letters with a dash before each word.
            let joined: String = mutant.name().split('-').collect();
            assert_eq!(joined, format!("{mutant:?}").to_lowercase());
        }
    }

    #[test]
    fn nothing_is_on_by_itself() {
        assert!(Mutant::ALL.iter().all(|mutant| !is_on(*mutant)));
    }

    #[cfg(feature = "mutants")]
    #[test]
    fn one_is_on_for_as_long_as_it_is_asked_for() {
        let seen = with(Mutant::VoteTwice, || {
            let inner = with(Mutant::ApplyTwice, || is_on(Mutant::VoteTwice));
            (inner, is_on(Mutant::VoteTwice), is_on(Mutant::ApplyTwice))
        });
        assert_eq!(seen, (false, true, false));
        let panicked = std::panic::catch_unwind(|| with(Mutant::VoteTwice, || panic!("over")));
        assert!(panicked.is_err());
        assert!(!is_on(Mutant::VoteTwice));
    }
}
