//! What the serving side shares with the one writer.
//!
//! *Invariants.*
//! 1. Nothing here blocks the writer for longer than a copy of something small.
//! 2. What stands here may be replaced by another state as a whole (an installed snapshot): who
//!    needs two things that belong together takes one view.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{MemberId, Revision};
use parking_lot::RwLock;
use proto::etcdserverpb::{AlarmMember, AlarmType};

use crate::alarm::Alarms;
use crate::lease::Lessor;
use crate::membership::{Downgrade, Member, Membership};
use crate::mvcc::{HashKv, IndexSize, View};
use crate::quota;
use crate::schema::ConfStateRow;
use crate::version::Version;
use crate::watch::Hub;

/// Stands for a quota that is off.
pub(crate) const NO_QUOTA: u64 = u64::MAX;

/// The state of a store, for readers.
pub struct Shared {
    pub(crate) view: RwLock<Arc<View>>,
    pub(crate) lessor: Lessor,
    pub(crate) hub: Hub,
    pub(crate) membership: RwLock<Membership>,
    pub(crate) alarms: RwLock<Alarms>,
    pub(crate) storage_version: RwLock<Option<Version>>,
    /// [`NO_QUOTA`] when it is off.
    pub(crate) quota_bytes: AtomicU64,
}

impl Shared {
    /// The newest view: every entry that has been applied is in it.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Leases.
    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    /// Where watchers are told of changes.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The members, by id.
    pub fn members(&self) -> Vec<Member> {
        self.membership.read().members().cloned().collect()
    }

    /// One member.
    pub fn member(&self, id: MemberId) -> Option<Member> {
        self.membership.read().member(id).cloned()
    }

    /// The ids of members that were removed.
    pub fn removed_members(&self) -> Vec<MemberId> {
        self.membership.read().removed().collect()
    }

    /// Whether a member was removed.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.membership.read().is_removed(id)
    }

    /// Voters and learners.
    pub fn conf_state(&self) -> ConfStateRow {
        self.membership.read().conf_state()
    }

    /// Every alarm that is raised.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.read().list(AlarmType::None as i32)
    }

    /// Whether any member has raised `alarm`.
    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.alarms.read().is_raised(alarm)
    }

    /// The version of the cluster, once decided.
    pub fn cluster_version(&self) -> Option<String> {
        self.membership.read().version().map(Version::to_string)
    }

    /// The version whose layout the database has, once decided.
    pub fn storage_version(&self) -> Option<String> {
        self.storage_version.read().as_ref().map(Version::to_string)
    }

    /// The downgrade under way.
    pub fn downgrade(&self) -> Downgrade {
        self.membership.read().downgrade()
    }

    /// The space quota; `None` when it is off.
    pub fn quota(&self) -> Option<u64> {
        Some(self.quota_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes != NO_QUOTA)
    }

    /// From now on the space quota is this; `None` turns it off. An alarm that was raised stays.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.quota_bytes.store(bytes.unwrap_or(NO_QUOTA), Ordering::Relaxed);
    }

    /// Whether something of this cost (see [`crate::quota`]) fits the quota.
    pub fn fits_quota(&self, cost: u64) -> bool {
        quota::fits(self.quota(), self.db_size(), cost)
    }

    /// The length of the database file as of its last commit.
    pub fn db_size(&self) -> u64 {
        self.view.read().database().size_bytes()
    }

    /// The bytes of it that hold data.
    pub fn db_size_in_use(&self) -> u64 {
        self.view.read().database().in_use_bytes()
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.view.read().revision()
    }

    /// The hashes of the newest compactions, oldest first.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.view.read().core().hashes.all()
    }

    /// How much the index holds.
    pub fn index_size(&self) -> IndexSize {
        self.view.read().core().index.read().size()
    }
}
