//! What was seen on the way: a run that meets no trouble proves little.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! marks {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)+) => {
        /// Something that a run may come upon.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark {
            $($(#[doc = $doc])* $name,)+
        }

        impl Mark {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// In words.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

marks! {
    /// A member has started.
    Started => "members started",
    /// A process was killed between two operations of its disk.
    Killed => "processes killed",
    /// The power went.
    PowerLost => "powers lost",
    /// The power of all members went at once.
    Blackout => "powers of whole clusters lost",
    /// While a member was opening its files.
    CrashWhileStarting => "crashes while starting",
    /// While a snapshot was coming in.
    CrashWhileReceiving => "crashes while a snapshot comes in",
    /// A member ended as it was told.
    StoppedGracefully => "graceful stops",
    /// A member ended because its disk failed.
    StoppedByDisk => "stops for a failed disk",
    /// A process was suspended.
    Paused => "processes suspended",
    /// A disk did not answer.
    DiskStalled => "disks stalled",
    /// A leader gave leadership away because its disk did not answer.
    HandedOver => "leaderships given away by a stalled disk",
    /// A disk was full.
    DiskFull => "disks full",
    /// A sync failed.
    SyncFailed => "syncs failed",
    /// A write failed.
    WriteFailed => "writes failed",
    /// A log on disk was damaged.
    Damaged => "logs damaged",
    /// A member refused to start on a damaged log.
    DamageRefused => "damaged logs refused",
    /// A clock jumped.
    ClockJumped => "clocks jumped",
    /// Applying was slow.
    SlowApply => "slow appliers",
    /// A message was lost.
    MessageLost => "messages lost",
    /// A message came twice.
    MessageRepeated => "messages repeated",
    /// A message was overtaken.
    MessageReordered => "messages overtaken",
    /// A connection broke.
    ConnectionBroken => "connections broken",
    /// A member was cut off.
    CutBothWays => "members cut off",
    /// A member was cut off in one direction.
    CutOneWay => "members cut off one way",
    /// Some links were cut.
    CutPartly => "members cut off in part",
    /// A leader was cut off while it handed leadership over.
    LeaderDeserted => "leaders cut off while they hand over",
    /// Links were mended.
    Mended => "networks mended",
    /// Somebody began to lead.
    LeaderChanged => "leader changes",
    /// Leadership was to be moved.
    TransferAsked => "transfers of leadership",
    /// A snapshot left.
    SnapshotSent => "snapshots sent",
    /// A snapshot was installed.
    SnapshotInstalled => "snapshots installed",
    /// A change of the members was asked for.
    ChangeAsked => "changes of members asked for",
    /// A change was refused by the strict checks.
    ChangeForbidden => "changes of members forbidden",
    /// A change was refused by the state.
    ChangeRefused => "changes of members refused",
    /// A change is in force.
    Changed => "changes of members",
    /// A member was removed, and ended.
    Removed => "members removed",
    /// A compaction.
    Compacted => "compactions",
    /// A watcher was told that what it wants is compacted.
    WatchCompacted => "watchers overtaken by a compaction",
    /// A compaction while a watcher was catching up.
    CompactedUnderWatch => "compactions while somebody watches",
    /// A watcher went on where another stream ended.
    WatchResumed => "watches resumed",
    /// A watcher was told how far it is.
    WatchProgress => "watchers told of their progress",
    /// A lease ended because nobody kept it.
    LeaseExpired => "leases expired",
    /// A lease was renewed.
    LeaseRenewed => "leases renewed",
    /// A linearizable read was answered.
    ReadAnswered => "linearizable reads",
    /// One that needed no round because there is one member only.
    ReadAlone => "reads of one alone",
    /// A serializable read was answered.
    ReadSerializable => "serializable reads",
    /// A call was acknowledged.
    Acknowledged => "calls acknowledged",
    /// Nobody knows what became of a call.
    Unknown => "calls of unknown fate",
    /// A call was refused.
    Refused => "calls refused",
    /// A majority made progress without the others.
    MajorityAlone => "majorities that went on alone",
}

/// How often what was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<Mark, u64>);

impl Coverage {
    /// Counts one.
    pub fn add(&mut self, mark: Mark) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// Counts one if it is so.
    pub fn add_if(&mut self, is_so: bool, mark: Mark) {
        if is_so {
            self.add(mark);
        }
    }

    /// How often.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }

    /// Adds what another run has seen.
    pub fn merge(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(*mark).or_default() += count;
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mark in Mark::ALL {
            writeln!(f, "{:>12} {}", self.count(*mark), mark.text())?;
        }
        Ok(())
    }
}
