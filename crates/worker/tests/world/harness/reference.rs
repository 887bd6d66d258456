//! What the state must be: the log applied from its first entry, to a store without a crash.

use std::path::Path;

use base::{LogIndex, Moment, Revision};
use proto::raftpb::Entry;
use storage::bolt::{self, Database};
use storage::disk::Faulty;
use store::{Shared, Store, StoreOptions};

/// Everything that two members with the same log must agree on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    pub(crate) hash: u32,
    pub(crate) leases: Vec<i64>,
    pub(crate) members: Vec<String>,
    pub(crate) alarms: usize,
    pub(crate) cluster_version: Option<String>,
}

impl Summary {
    pub(crate) fn of(shared: &Shared) -> Self {
        let view = shared.view();
        let mut leases: Vec<i64> = shared.lessor().leases().iter().map(|lease| lease.0).collect();
        leases.sort_unstable();
        Self {
            revision: view.revision(),
            compacted: view.compact_revision(),
            hash: view.hash_kv(view.revision()).expect("the newest revision is there").hash,
            leases,
            members: shared.members().iter().map(store::Member::to_json).collect(),
            alarms: shared.alarms().len(),
            cluster_version: shared.cluster_version(),
        }
    }
}

/// Applies entries to an empty store.
pub(crate) fn replay<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    options: &StoreOptions,
) -> (Summary, LogIndex) {
    let disk = Faulty::new(0);
    let database = Database::open(&disk, Path::new("/db"), bolt::Options::default())
        .expect("an empty disk takes a database");
    let mut store = Store::open(database.view(), options.clone(), Moment::default())
        .expect("an empty database opens");
    let mut last = LogIndex(0);
    for entry in entries {
        last = store.apply(entry, Moment::default()).expect("the log can be applied").index;
    }
    let unswept = Summary::of(&store.handle());
    while store.compact_slice().expect("rows can be removed") {}
    let swept = Summary::of(&store.handle());
    assert_eq!(unswept, swept, "removing rows changed the state");
    (swept, last)
}
