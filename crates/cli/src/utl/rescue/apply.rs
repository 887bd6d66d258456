//! Applies the tail of a log to a database, as a member does.
//!
//! *Invariants.* Revisions are those that the cluster had: the same entries on the same state give
//! the same rows. With a database the changes that wait in memory are bounded; without one (a dry
//! run) all of the tail's are.

use base::{LogIndex, Moment};
use proto::etcdserverpb::AlarmMember;
use proto::raftpb::Entry;
use storage::bolt::{Database, View};
use store::{Member, Store, StoreOptions};

use crate::failure::Outcome;
use crate::utl::fail;
use crate::utl::files::damage;
use crate::utl::snapshot::VERSION_MAX;

/// Changes that may wait for a commit, by number and by bytes.
const CHANGES_MAX: usize = 10_000;
const BYTES_MAX: usize = 16 << 20;

/// The state at the end.
#[derive(Debug)]
pub(super) struct End {
    /// The newest revision.
    pub(super) revision: i64,
    /// The newest revision after the last entry that the cluster had agreed on for certain.
    pub(super) certain: i64,
    /// The members that the cluster had.
    pub(super) members: Vec<Member>,
    /// The alarms that are raised.
    pub(super) alarms: Vec<AlarmMember>,
}

/// Applies entries to a state. With a database they are committed to it.
pub(super) fn apply(
    view: View,
    mut database: Option<&mut Database>,
    tail: &[Entry],
    certain: LogIndex,
) -> Outcome<End> {
    // A quota says what a member took, not what a cluster has.
    let options =
        StoreOptions { quota_bytes: None, server_version: VERSION_MAX, ..StoreOptions::default() };
    let now = Moment::from_nanos(0);
    let mut store = Store::open(view, options, now).map_err(fail)?;
    let shared = store.handle();
    let mut certain_revision = shared.revision();
    for entry in tail {
        store.apply(entry, now).map_err(|error| fail(told(&error)))?;
        if entry.index() <= certain.get() {
            certain_revision = shared.revision();
        }
        if store.changes_pending() >= CHANGES_MAX || store.bytes_pending() >= BYTES_MAX {
            commit(&mut store, database.as_deref_mut())?;
        }
    }
    commit(&mut store, database)?;
    Ok(End {
        revision: shared.revision().0,
        certain: certain_revision.0,
        members: shared.members(),
        alarms: shared.alarms(),
    })
}

fn commit(store: &mut Store, database: Option<&mut Database>) -> Outcome {
    let Some(database) = database else { return Ok(()) };
    if let Some(frozen) = store.freeze() {
        store.committed(database.commit(frozen.batch).map_err(damage)?);
    }
    Ok(())
}

/// Why an entry cannot be applied, in one line.
fn told(error: &store::Fatal) -> String {
    let text = error.to_string();
    text.strip_suffix(&format!("; {}", storage::REMEDY)).unwrap_or(&text).to_owned()
}
