//! What the state must be: the log replayed from its first entry into an empty store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::{MemberId, Moment, RequestId, Revision};
use proto::etcdserverpb::{AlarmMember, RangeRequest};
use proto::raftpb::Entry;
use storage::bolt::{self, Database};
use storage::disk::Faulty;
use store::{ApplyError, HashKv, Response, Shared, Store, StoreOptions};

pub(crate) type Answers = BTreeMap<RequestId, Result<Response, ApplyError>>;

/// What of a state can be compared, however far its compactions have come.
#[derive(Debug, PartialEq)]
pub(crate) struct Portrait {
    pub(crate) hash: HashKv,
    rows: Vec<Vec<u8>>,
    leases: Vec<(i64, Vec<bytes::Bytes>)>,
    alarms: Vec<AlarmMember>,
    members: Vec<MemberId>,
    removed: Vec<MemberId>,
}

impl Portrait {
    /// What is not the same in `other`, in short.
    pub(crate) fn difference(&self, other: &Self) -> String {
        let mut text = format!("{:?}, {} keys", self.hash, self.rows.len());
        if self.rows != other.rows {
            text += ", other rows";
        }
        if self.leases != other.leases {
            text += &format!(", leases {:?}", self.leases);
        }
        if (&self.alarms, &self.members, &self.removed)
            != (&other.alarms, &other.members, &other.removed)
        {
            text += &format!(", {:?} {:?} {:?}", self.alarms, self.members, self.removed);
        }
        text
    }
}

/// The state as it is. Compactions must have removed their rows.
pub(crate) fn portrait(shared: &Shared) -> Result<Portrait, String> {
    let view = shared.view();
    // A hash that is asked for by its revision may be one that a compaction remembered.
    let hash = view.hash_kv(Revision(0)).map_err(|error| format!("hash: {error}"))?;
    let everything = RangeRequest {
        key: bytes::Bytes::from_static(b"\0"),
        range_end: bytes::Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let mut rows = Vec::new();
    view.range(&everything, &mut |row| rows.push(row.to_vec()))
        .map_err(|error| format!("range: {error}"))?;
    let lessor = shared.lessor();
    let mut leases = lessor.leases();
    leases.sort_unstable();
    let keys = |id: &base::LeaseId| (id.get(), lessor.keys(*id).unwrap_or_default());
    Ok(Portrait {
        hash,
        rows,
        leases: leases.iter().map(keys).collect(),
        alarms: shared.alarms(),
        members: shared.members().iter().map(|member| member.id).collect(),
        removed: shared.removed_members(),
    })
}

pub(crate) struct Oracle {
    options: StoreOptions,
    store: Store,
    replayed: Vec<Entry>,
    /// What the replay answered.
    answers: Answers,
}

impl Oracle {
    pub(crate) fn new(options: StoreOptions) -> Self {
        let store = empty(&options);
        Self { options, store, replayed: Vec::new(), answers: Answers::new() }
    }

    /// The state after `entries`; all `answers` must be among those that the replay gives.
    pub(crate) fn replay(
        &mut self,
        entries: &[Entry],
        answers: &Answers,
    ) -> Result<Arc<Shared>, String> {
        // What was replayed last may have been lost since.
        if !entries.starts_with(&self.replayed) {
            *self = Self::new(self.options.clone());
        }
        for entry in &entries[self.replayed.len()..] {
            let applied = self.store.apply(entry, Moment::default()).map_err(|e| e.to_string())?;
            while self.store.is_compacting() {
                self.store.compact_slice().map_err(|error| error.to_string())?;
            }
            if let Some(id) = applied.request {
                self.answers.insert(id, applied.result);
            }
        }
        self.replayed = entries.to_vec();
        for (id, given) in answers {
            match self.answers.get(id) {
                Some(replayed) if replayed == given => {}
                Some(replayed) => {
                    return Err(format!("{id} was answered {given:?}, replayed {replayed:?}"));
                }
                None => return Err(format!("acknowledged request {id} is gone: {given:?}")),
            }
        }
        Ok(self.shared())
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.store.handle()
    }
}

fn empty(options: &StoreOptions) -> Store {
    let disk = Faulty::new(0);
    let database = Database::open(&disk, Path::new("/db"), bolt::Options::default()).unwrap();
    Store::open(database.view(), options.clone(), Moment::default()).unwrap()
}
