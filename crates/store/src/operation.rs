//! Kinds of requests, and what they do to the keys, as etcd counts them.
//!
//! *Contract.* `getRequestType` of `server/etcdserver/v3_server.go` and
//! `server/storage/mvcc/metrics_txn.go` of etcd v3.7.1.

use proto::etcdserverpb::InternalRaftRequest;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $field:ident,)+) => {
        /// The kind of a request that stands in the log, by etcd's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operation {
            $($(#[$doc])* $name,)+
        }

        impl Operation {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// etcd's name of it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// The kind of a request; `None` for those that are not applied here.
            pub fn of(request: &InternalRaftRequest) -> Option<Self> {
                $(if request.$field.is_some() {
                    return Some(Self::$name);
                })+
                None
            }
        }
    };
}

operations! {
    /// A put.
    Put = put,
    /// A transaction that writes.
    Txn = txn,
    /// A range.
    Range = range,
    /// A delete.
    DeleteRange = delete_range,
    /// A compaction.
    Compaction = compaction,
    /// A lease's grant.
    LeaseGrant = lease_grant,
    /// A lease's revocation, by a client or because it has expired.
    LeaseRevoke = lease_revoke,
    /// Remaining times of leases.
    LeaseCheckpoint = lease_checkpoint,
    /// An alarm is raised, taken back or asked for.
    Alarm = alarm,
    /// A member's name and addresses.
    ClusterMemberAttrSet = cluster_member_attr_set,
    /// The cluster's version.
    ClusterVersionSet = cluster_version_set,
    /// A downgrade begins or ends.
    DowngradeInfoSet = downgrade_info_set,
    /// Nothing at all.
    DowngradeVersionTest = downgrade_version_test,
}

/// What a request has done to the keys. A read of a key's previous state is a range, and so is a
/// comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Intervals read.
    pub ranges: u64,
    /// Keys written.
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Intervals deleted.
    pub deletes: u64,
    /// Passes over the keys with more than one of these. A transaction that writes is two: the
    /// checks and the operations.
    pub txns: u64,
}

impl Counts {
    /// Adds one pass.
    pub(crate) fn add(&mut self, pass: Self) {
        self.ranges += pass.ranges;
        self.puts += pass.puts;
        self.put_bytes += pass.put_bytes;
        self.deletes += pass.deletes;
        self.txns += u64::from(pass.ranges + pass.puts + pass.deletes > 1);
    }
}
