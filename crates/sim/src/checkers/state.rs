//! Members that have applied the same entries have the same state.
//!
//! *Invariants checked.* At every index at which two members stand after applying: the same
//! revision, compaction, leases with their keys, alarms, members and versions; now and then, and at
//! the end, the same hash over all rows and the same rows in every bucket, but for what depends on
//! how work was batched (the applied index and how far removal has come).
//!
//! *Absent.* Whether that state is right: `super::model` knows.

use std::collections::BTreeMap;

use base::{LeaseId, LogIndex, MemberId, Revision};
use prost::Message as _;
use proto::etcdserverpb::RangeRequest;
use store::{HashKv, Shared};

use super::Violation;
use super::model::Truth;

const NAME: &str = "state";

/// Rows are hashed at indexes that are a multiple of this.
const HASH_EVERY: u64 = 16;

/// What of a state can be compared at any moment.
#[derive(Debug, Clone, PartialEq)]
struct Fingerprint {
    revision: Revision,
    compacted: Revision,
    leases: Vec<(i64, Vec<bytes::Bytes>)>,
    members: String,
    alarms: usize,
    hash: Option<HashKv>,
}

impl Fingerprint {
    fn of(shared: &Shared, with_hash: bool) -> Self {
        let view = shared.view();
        let lessor = shared.lessor();
        let mut leases = lessor.leases();
        leases.sort_unstable();
        let keys = |id: &LeaseId| (id.get(), lessor.keys(*id).unwrap_or_default());
        // Rows that a compaction is about to remove are not hashed, and a hash of nothing depends
        // on how far it has come; at the newest revision there is always something but at first.
        let hash = with_hash.then(|| view.hash_kv(Revision(0)).ok()).flatten();
        let members = shared.members();
        let members = members.iter().map(|one| (one.id, one.is_learner, one.name.clone()));
        let members: Vec<_> = members.collect();
        let versions = (shared.cluster_version(), shared.storage_version());
        Self {
            revision: view.revision(),
            compacted: view.compact_revision(),
            leases: leases.iter().map(keys).collect(),
            members: format!("{members:?} {:?} {versions:?}", shared.removed_members()),
            alarms: shared.alarms().len(),
            hash,
        }
    }
}

/// The states that members had.
#[derive(Debug, Default)]
pub struct Fingerprints(BTreeMap<LogIndex, (MemberId, Fingerprint)>);

impl Fingerprints {
    /// A member has applied everything up to `at`, and nothing after it.
    pub fn compare(
        &mut self,
        id: MemberId,
        at: LogIndex,
        shared: &Shared,
    ) -> Result<(), Violation> {
        let found = Fingerprint::of(shared, at.get().is_multiple_of(HASH_EVERY));
        let (first, known) = self.0.entry(at).or_insert_with(|| (id, found.clone()));
        if *known == found {
            return Ok(());
        }
        let what = format!("at entry {at} member {first} has {known:?}, member {id} {found:?}");
        Err(Violation::new(NAME, what))
    }
}

/// Compares the whole state of two members that have come to rest at the same entry.
pub fn compare_whole(one: &Shared, other: &Shared) -> Result<(), Violation> {
    let (first, second) = (Fingerprint::of(one, true), Fingerprint::of(other, true));
    if first != second {
        return Err(Violation::new(NAME, format!("{first:?} and {second:?}")));
    }
    let (first, second) = (buckets(one)?, buckets(other)?);
    for (bucket, rows) in &first {
        if second.get(bucket) != Some(rows) {
            let name = String::from_utf8_lossy(bucket);
            return Err(Violation::new(NAME, format!("bucket {name} has other rows")));
        }
    }
    Ok(())
}

/// Compares a member's keys and leases with what the log comes to.
pub fn compare_with_truth(shared: &Shared, truth: &Truth) -> Result<(), Violation> {
    let wrong = |what: String| Err(Violation::new(NAME, what));
    let (view, newest) = (shared.view(), truth.newest());
    let stands = (view.revision(), view.compact_revision().max(Revision(0)));
    let comes_to = (newest.revision(), newest.compacted().max(Revision(0)));
    if stands != comes_to {
        return wrong(format!("revision and compaction {stands:?}, the log comes to {comes_to:?}"));
    }
    let mut leases = shared.lessor().leases();
    leases.sort_unstable();
    let expected: Vec<LeaseId> = newest.leases().collect();
    if leases != expected {
        return wrong(format!("leases {leases:?}, the log comes to {expected:?}"));
    }
    let everything = RangeRequest {
        key: bytes::Bytes::from_static(b"\0"),
        range_end: bytes::Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let mut rows: Vec<Vec<u8>> = Vec::new();
    let read = view.range(&everything, &mut |row| rows.push(row.to_vec()));
    read.map_err(|error| Violation::new(NAME, error.to_string()))?;
    let expected: Vec<Vec<u8>> = newest.keys().values().map(|kv| kv.encode_to_vec()).collect();
    if rows != expected {
        return wrong(format!("{} keys, the log comes to {}", rows.len(), expected.len()));
    }
    Ok(())
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows of `meta` that say how far work has come, not what the state is.
const BATCHED: [&[u8]; 4] =
    [b"consistent_index", b"term", b"scheduledCompactRev", b"finishedCompactRev"];

fn buckets(shared: &Shared) -> Result<BTreeMap<Vec<u8>, Rows>, Violation> {
    let view = shared.view();
    let database = view.database();
    let mut all = BTreeMap::new();
    for bucket in store::schema::BUCKETS {
        let mut rows = Rows::new();
        let unreadable = |error: storage::bolt::Error| Violation::new(NAME, error.to_string());
        let mut scan = database.scan(bucket, b"");
        while let Some((key, value)) = scan.next_row().map_err(unreadable)? {
            if !BATCHED.contains(&key) {
                rows.insert(key.to_vec(), value.to_vec());
            }
        }
        all.insert(bucket.to_vec(), rows);
    }
    Ok(all)
}
