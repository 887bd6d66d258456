//! What a member is told once, and whom it tells.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, MemberId};
use node::{CommitPace, NodeConfig};
use proto::membershippb::Attributes;
use proto::raftpb::Entry;
use storage::datadir::DataDir;
use storage::disk::Disk;
use store::{Applied, Operation, StoreOptions, Swept};
use worker::Saved;
use worker::bootstrap::{self, FileOptions, Forced, Identity, InitialMember, Role, StartError};

use super::{Network, SERVER_VERSION};

/// How a member begins whose directory has no log. Not looked at when there is one.
#[derive(Debug, Clone)]
pub enum Beginning {
    /// It founds a cluster, alone or with others.
    Found {
        /// All founding members.
        members: Vec<InitialMember>,
        /// What keeps clusters with equal URLs apart.
        token: String,
    },
    /// It was added to a cluster that runs.
    Join(Identity),
    /// There is a log.
    Resume,
}

/// What a member is told once.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Where its files are.
    pub dir: DataDir,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// How it begins when its directory is new.
    pub beginning: Beginning,
    /// Whether it is to be a cluster of its own from now on, whoever the other members are.
    pub force_new_cluster: bool,
    /// How other members are reached; `None` for a member that has none.
    pub network: Option<Network>,
    /// How files are written.
    pub files: FileOptions,
    /// The length of a tick.
    pub heartbeat: Duration,
    /// Ticks without a leader before an election.
    pub election_ticks: u32,
    /// Whether candidates ask first.
    pub pre_vote: bool,
    /// Applied entries between two snapshots on disk.
    pub snapshot_count: u64,
    /// Applied entries kept in memory.
    pub catchup_entries: u64,
    /// When changes of the database are committed.
    pub commit_pace: CommitPace,
    /// The space quota; `None` for none.
    pub quota_bytes: Option<u64>,
    /// The largest encoded request.
    pub request_bytes_max: usize,
    /// Rows that one slice of a compaction looks at.
    pub compaction_batch: usize,
    /// The pause between two slices.
    pub compaction_pause: Duration,
    /// Files kept that are not needed: log segments and snapshots; 0 is no bound.
    pub kept: (usize, usize),
    /// Learners that the cluster may have.
    pub learners_max: usize,
}

impl MemberConfig {
    /// The shortest lease, in seconds: one and a half election timeouts, rounded up.
    pub(super) fn min_lease_ttl(&self) -> i64 {
        let ticks = 3 * self.election_ticks / 2;
        let millis = (self.heartbeat * ticks).as_millis();
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    pub(super) fn election(&self) -> Duration {
        self.heartbeat * self.election_ticks
    }

    /// Opens the directory, and makes it before where it is new.
    pub(super) fn open(
        &self,
        disk: &Arc<dyn Disk>,
        clock: &dyn Clock,
        observer: &dyn Observer,
    ) -> Result<bootstrap::Opened, StartError> {
        let (dir, files) = (&self.dir, &self.files);
        match &self.beginning {
            Beginning::Found { members, token } => {
                bootstrap::create(disk, dir, &self.name, members, token, files)?;
            }
            Beginning::Join(identity) => bootstrap::join(disk, dir, *identity, files)?,
            Beginning::Resume => {}
        }
        let options = |identity: Identity| StoreOptions {
            member: identity.member,
            quota_bytes: self.quota_bytes,
            min_lease_ttl: self.min_lease_ttl(),
            compaction_batch: self.compaction_batch,
            learners_max: self.learners_max,
            server_version: SERVER_VERSION,
        };
        let role = if self.force_new_cluster { Role::Leaver } else { Role::Member };
        let mut opened = bootstrap::open(disk, dir, files, options, clock.now(), role)?;
        if let Some(repair) = &opened.repaired {
            observer.wal_repaired(&repair.to_string());
        }
        if let Some(damage) = opened.database.damaged_meta() {
            observer.meta_page_damaged(&damage.finding());
        }
        if let Some(before) = opened.recovered {
            observer.recovered(before.get(), opened.restored.base.index.get());
        }
        if self.force_new_cluster {
            let forced = opened.leave_others()?;
            observer.forced(opened.identity, forced);
        }
        Ok(opened)
    }

    pub(super) fn node(&self, member: MemberId, clock: &dyn Clock) -> NodeConfig {
        let attributes =
            Attributes { name: self.name.clone(), client_urls: self.client_urls.clone() };
        NodeConfig {
            member,
            attributes,
            heartbeat: self.heartbeat,
            election_ticks: self.election_ticks,
            pre_vote: self.pre_vote,
            snapshot_count: self.snapshot_count,
            catchup_entries: self.catchup_entries,
            commit_pace: self.commit_pace,
            server_version: SERVER_VERSION,
            seed: member.get() ^ clock.unix_ms(),
        }
    }
}

/// Hears what happens on the member's threads, for logs and metrics. Must be quick.
pub trait Observer: Send + Sync {
    /// The log was synced, and what waited for it was written before.
    fn wal_synced(&self, took: Duration);
    /// The database was committed.
    fn database_committed(&self, took: Duration);
    /// An entry is applied.
    fn applied(&self, applied: &Applied, entry: &Entry, took: Duration);
    /// A snapshot is on disk.
    fn snapshot_saved(&self, saved: Saved);
    /// A database that another member sends is on disk.
    fn database_received(&self, _took: Duration) {}
    /// One slice of a compaction is done.
    fn slice_swept(&self, _swept: Swept, _took: Duration) {}
    /// A request that this member made by itself is applied.
    fn own_request(&self, _operation: Operation, _took: Duration) {}
    /// So many heartbeats of this leader left too late, and by how much.
    fn heartbeats_late(&self, _count: u64, _exceeded: Duration) {}
    /// A compaction has removed its rows.
    fn compaction_finished(&self, revision: i64, took: Duration);
    /// Another member leads, or none.
    fn leader_changed(&self, leader: MemberId, term: u64);
    /// This member led, its disk did not answer, and it asked another member to lead.
    fn disk_stalled(&self) {}
    /// A torn end was cut off the log.
    fn wal_repaired(&self, what: &str);
    /// One of the two meta pages of the database is damaged; the other was used.
    fn meta_page_damaged(&self, what: &str);
    /// A snapshot takes the place of all state.
    fn installing(&self, _index: u64, _term: u64) {}
    /// It has.
    fn installed(&self, _index: u64, _term: u64, _took: Duration) {}
    /// A database that was received before the last end is in its place only now.
    fn recovered(&self, _before: u64, _snapshot: u64) {}
    /// The member was made a cluster of its own.
    fn forced(&self, _identity: Identity, _what: Forced) {}
    /// Something happened between this member and another.
    fn peer_event(&self, _event: &peer::Event) {}
    /// So many messages of other members did not fit in since the start.
    fn messages_dropped(&self, _count: u64) {}
    /// Whether events of that level are looked at.
    fn wants_peer_events(&self, _level: peer::Level) -> bool {
        false
    }
}
