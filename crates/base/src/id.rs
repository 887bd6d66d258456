//! Newtypes for every id and counted thing, with the few operations each has.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number, for the wire and for arithmetic at the edges.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

number! {
    /// A member of the cluster. Never 0 for a real member; text is hex without padding.
    MemberId(u64), "{:x}"
}
number! {
    /// A cluster, fixed at its bootstrap. Text is hex without padding.
    ClusterId(u64), "{:x}"
}
number! {
    /// A raft term; 0 before the first election.
    Term(u64), "{}"
}
number! {
    /// The position of an entry in the replicated log; the first entry has 1.
    LogIndex(u64), "{}"
}
number! {
    /// A main revision of the key space. An empty store is at 1; -1 stands for "never compacted".
    Revision(i64), "{}"
}
number! {
    /// A lease. Any non-zero number; text is hex of the two's complement without padding.
    LeaseId(i64), "{:x}"
}
number! {
    /// A proposal, unique over members and restarts (see [`crate::RequestIds`]).
    RequestId(u64), "{}"
}
number! {
    /// A watcher within its stream, chosen by client or server.
    WatchId(i64), "{}"
}

impl MemberId {
    /// No member: an unknown leader, an empty vote.
    pub const NONE: Self = Self(0);
}

impl LogIndex {
    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Term {
    /// The term after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Revision {
    /// What a compaction marker says before the first compaction.
    pub const NEVER: Self = Self(-1);

    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
