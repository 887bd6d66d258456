//! Why a request is refused: the one table that gives each reason etcd's exact code and text.
//!
//! Clients match on the text, so a letter matters. The golden test at the end prints the table.
//!
//! *Contract.* `api/v3rpc/rpctypes/error.go` and `server/etcdserver/api/v3rpc/util.go` of etcd
//! v3.7.1. Two reasons go out as `Unknown` although etcd defines another code for them, because
//! its server maps the client's form of the error: so do ours.

use std::borrow::Cow;

use store::{ApplyError, ConfChangeError, ReadError};

/// A gRPC status code, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The caller gave up.
    Canceled = 1,
    /// An error without a code of its own.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// The deadline passed.
    DeadlineExceeded = 4,
    /// What is named does not exist.
    NotFound = 5,
    /// Authentication is fine, the permission is not.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// A revision outside what is there.
    OutOfRange = 11,
    /// Not offered.
    Unimplemented = 12,
    /// A broken message.
    Internal = 13,
    /// Try again, perhaps elsewhere.
    Unavailable = 14,
    /// Data is damaged.
    DataLoss = 15,
    /// No valid credentials.
    Unauthenticated = 16,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident => $code:ident, $text:literal;)+) => {
        /// Why a request is refused.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Rejected {
            $($(#[$doc])+ $name,)+
            /// A reason from below that etcd passes on verbatim.
            Other(Code, String),
        }

        impl Rejected {
            /// The code and the text that the client gets.
            pub fn status(&self) -> (Code, Cow<'static, str>) {
                match self {
                    $(Self::$name => (Code::$code, Cow::Borrowed($text)),)+
                    Self::Other(code, text) => (*code, Cow::Owned(text.clone())),
                }
            }

            /// Every reason with a text of its own, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

reasons! {
    /// A key is empty.
    EmptyKey => InvalidArgument, "etcdserver: key is not provided";
    /// A put that keeps value or lease of a missing key; an operation that is none.
    KeyNotFound => InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided => InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
    /// A transaction over the operation budget.
    TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction that changes a key twice.
    DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// The client's version is not text.
    InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
    /// A sort order or target that does not exist.
    InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
    /// A revision below the newest compaction.
    Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// A revision that is not written yet.
    FutureRevision => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The quota is reached, or an alarm says that it was.
    NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// A lease that does not exist.
    LeaseNotFound => NotFound, "etcdserver: requested lease not found";
    /// A grant of a lease that exists.
    LeaseExists => FailedPrecondition, "etcdserver: lease already exists";
    /// A grant of a lease that would live too long.
    LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";
    /// A watch stream that its client ended.
    WatchCanceled => Canceled, "etcdserver: watch canceled";
    /// A member with this id is there.
    MemberExists => FailedPrecondition, "etcdserver: member ID already exist";
    /// Another member has one of the peer URLs.
    PeerUrlExists => FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// Too few members have started for the change (etcd sends `Unknown`).
    MemberNotEnoughStarted => Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    /// Peer URLs that cannot be used.
    MemberBadUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
    /// A member that does not exist.
    MemberNotFound => NotFound, "etcdserver: member not found";
    /// Promotion of a member that has a vote.
    MemberNotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promotion of a learner that lags.
    LearnerNotReady => FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    /// More learners than are allowed.
    TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A request of another cluster.
    ClusterIdMismatch => FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// A request above `--max-request-bytes`.
    RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
    /// Too much is committed and not applied (etcd sends `Unknown`).
    TooManyRequests => Unknown, "etcdserver: too many requests";
    /// Authentication while it is off.
    AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
    /// No permission.
    PermissionDenied => PermissionDenied, "etcdserver: permission denied";
    /// A bad or expired token.
    InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
    /// No leader is known.
    NoLeader => Unavailable, "etcdserver: no leader";
    /// Only the leader can do this.
    NotLeader => FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while a read waited.
    LeaderChanged => Unavailable, "etcdserver: leader changed";
    /// The cluster's version does not offer this.
    NotCapable => FailedPrecondition, "etcdserver: not capable";
    /// The member stops.
    Stopped => Unavailable, "etcdserver: server stopped";
    /// The request took too long.
    Timeout => Unavailable, "etcdserver: request timed out";
    /// The request took too long, in the time in which a leader was lost.
    TimeoutLeaderFail => Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    /// The request took too long while too few members were connected.
    TimeoutConnectionLost => Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    /// The applied index did not catch up in time.
    TimeoutWaitAppliedIndex => Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    /// Too few members are connected for the change.
    Unhealthy => Unavailable, "etcdserver: unhealthy cluster";
    /// Members disagree about the data.
    Corrupt => DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not serve this.
    NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to that member.
    BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
    /// A version that cannot be read.
    WrongDowngradeVersionFormat => InvalidArgument,
        "etcdserver: wrong downgrade target version format";
    /// A version that is not one minor below.
    InvalidDowngradeTargetVersion => InvalidArgument,
        "etcdserver: invalid downgrade target version";
    /// The cluster has no version yet.
    ClusterVersionUnavailable => FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    /// A downgrade is under way.
    DowngradeInProcess => FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress";
    /// No downgrade is under way.
    NoInflightDowngrade => FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// A write found no leader before its time was over (etcd passes the bare context error on).
    DeadlineExceeded => DeadlineExceeded, "context deadline exceeded";
    /// The caller gave up.
    Canceled => Canceled, "context canceled";
    /// An action number that does not exist.
    UnknownMethod => Unknown, "etcdserver: unknown method";
    /// A transfer of leadership took too long.
    LeaderTransferTimeout => Unknown,
        "etcdserver: request timed out, leader transfer took too long";
    /// Leadership could not be confirmed for a keepalive.
    NotPrimaryLessor => Unknown, "not a primary lessor";
    /// `RangeStream` with an order of its own.
    StreamSortUnsupported => Unimplemented, "RangeStream does not support custom sort orders";
    /// `RangeStream` with bounds on revisions.
    StreamFilterUnsupported => Unimplemented, "RangeStream does not support revision filters";
}

impl From<ApplyError> for Rejected {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::KeyNotFound => Self::KeyNotFound,
            ApplyError::LeaseNotFound => Self::LeaseNotFound,
            ApplyError::LeaseExists => Self::LeaseExists,
            ApplyError::TtlTooLarge => Self::LeaseTtlTooLarge,
            ApplyError::Compacted => Self::Compacted,
            ApplyError::FutureRevision => Self::FutureRevision,
            ApplyError::NoSpace => Self::NoSpace,
            ApplyError::Corrupt => Self::Corrupt,
            ApplyError::InvalidAlarmAction => Self::UnknownMethod,
        }
    }
}

impl From<ConfChangeError> for Rejected {
    fn from(error: ConfChangeError) -> Self {
        match error {
            ConfChangeError::IdRemoved | ConfChangeError::IdNotFound => Self::MemberNotFound,
            ConfChangeError::IdExists => Self::MemberExists,
            ConfChangeError::PeerUrlExists => Self::PeerUrlExists,
            ConfChangeError::NotLearner => Self::MemberNotLearner,
            ConfChangeError::TooManyLearners => Self::TooManyLearners,
            ConfChangeError::LastVoter => Self::MemberNotEnoughStarted,
        }
    }
}

impl From<ReadError> for Rejected {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Compacted => Self::Compacted,
            ReadError::FutureRevision => Self::FutureRevision,
            ReadError::Damaged(damage) => Self::Other(Code::DataLoss, damage.to_string()),
        }
    }
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.status().1)
    }
}

impl std::error::Error for Rejected {}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect_file;

    use super::*;

    #[test]
    fn the_table_is_etcds() {
        let mut table = String::new();
        for reason in Rejected::ALL {
            let (code, text) = reason.status();
            writeln!(table, "{:2} {code:?} {text:?} {reason:?}", code as i32).unwrap();
        }
        expect_file!["../../testscripts/errors.txt"].assert_eq(&table);
    }
}
