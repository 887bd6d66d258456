//! Makes the destination equal to the source at one revision.
//!
//! ```text
//!  source       a  b     d     in pages, at one revision
//!  destination  a     c  d'    in pages, as it is
//!               =  +  -  ~     only what differs is written
//! ```
//!
//! *Invariants.* Nothing is removed before the two have been seen to have a key in common: what has
//! none is no mirror of the source, but somebody's data. At most [`PAGE_BYTES`] or one pair of each
//! side are held, about.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tonic::Code;

use super::apply::{commit, delete, put};
use super::{DESTINATION, Interrupt, Mirror, SOURCE, bounded, tell};
use crate::ctl::client::{Client, RequestError};
use crate::failure::{self, Failure};

/// A page is asked for so that it is about so large.
const PAGE_BYTES: usize = 4 << 20;
/// No page has more keys, and the first has this many, since sizes are not known then.
const PAGE_KEYS_MAX: usize = 1000;
const PAGE_KEYS_FIRST: usize = 64;
/// A transaction has at most so many operations, unless `--max-txn-ops` is lower, and about so
/// many bytes.
const BATCH_OPERATIONS_MAX: usize = 128;
const BATCH_BYTES: usize = 512 << 10;

/// Copies, and returns the revision of the source that the destination now equals.
pub(super) async fn copy(
    mirror: &Mirror,
    source: &Client,
    destination: &Client,
) -> Result<i64, Interrupt> {
    let from = |error| Interrupt::of(SOURCE, error);
    let to = |error| Interrupt::of(DESTINATION, error);
    let mut theirs = Pages::new(source, mirror.map.source());
    theirs.fill().await.map_err(from)?;
    let header = theirs.header.unwrap_or_default();
    // The pages to come show the same moment; changes after it are replayed.
    theirs.revision = header.revision;
    let mut ours = Pages::new(destination, mirror.map.destination());
    ours.is_done = !mirror.map.owns_destination();
    match ours.fill().await {
        Ok(()) => {}
        Err(RequestError::Status(status)) if status.code() == Code::PermissionDenied => {
            ours.is_done = true;
            tell("the destination cannot be read: everything is written, nothing removed", &[]);
        }
        Err(error) => return Err(to(error)),
    }
    let same = ours.header.is_some_and(|ours| ours.cluster_id == header.cluster_id);
    if same && mirror.map.overlaps() {
        let reason = "the destination is the source itself, and what is mirrored would be \
                      mirrored again: give --dest-prefix";
        return Err(Interrupt::End(Failure::new(failure::BAD_ARGS, reason)));
    }
    if !mirror.is_known.get() && !ours.page.is_empty() {
        refuse_foreign(mirror, source, destination).await?;
    }
    mirror.is_known.set(true);
    let mut batch = Batch::new(mirror, destination);
    let mut removed = 0_u64;
    loop {
        let pair = theirs.peek().await.map_err(from)?;
        let found = ours.peek().await.map_err(to)?;
        let key = pair.map(|pair| mirror.map.apply(&pair.key));
        match (key, found) {
            (None, None) => break,
            (key, Some(found)) if key.as_ref().is_none_or(|key| *key > found.key) => {
                let stale = found.key.clone();
                ours.pop();
                removed += 1;
                batch.add(delete(stale), 0).await.map_err(to)?;
            }
            (Some(key), found) => {
                let held = found.filter(|found| found.key == key).map(|found| &found.value);
                let differs = held != pair.map(|pair| &pair.value);
                if held.is_some() {
                    ours.pop();
                }
                if let Some(pair) = theirs.pop() {
                    if differs {
                        let size = key.len() + pair.value.len();
                        batch.add(put(key, pair.value), size).await.map_err(to)?;
                    } else {
                        mirror.count(1);
                    }
                }
            }
            (None, Some(_)) => unreachable!("the arm for stale keys takes these"),
        }
    }
    batch.flush().await.map_err(to)?;
    if removed > 0 {
        let removed = removed.to_string();
        tell("removed keys that the source no longer has", &[("keys", &removed)]);
    }
    Ok(header.revision)
}

/// Fails when the destination's range has keys and none of them is one of the source's. Looked at
/// before the first copy alone: what this mirror has written is its own.
async fn refuse_foreign(
    mirror: &Mirror,
    source: &Client,
    destination: &Client,
) -> Result<(), Interrupt> {
    let mut theirs = Pages::new(source, mirror.map.source());
    let mut ours = Pages::new(destination, mirror.map.destination());
    loop {
        let pair = theirs.peek().await.map_err(|error| Interrupt::of(SOURCE, error))?;
        let found = ours.peek().await.map_err(|error| Interrupt::of(DESTINATION, error))?;
        let (Some(pair), Some(found)) = (pair, found) else { break };
        match mirror.map.apply(&pair.key).cmp(&found.key) {
            Ordering::Equal => return Ok(()),
            Ordering::Less => drop(theirs.pop()),
            Ordering::Greater => drop(ours.pop()),
        }
    }
    let reason = "the destination has keys where the mirror would be, and none that the source \
                  has: mirroring would remove them; remove them yourself, or give --dest-prefix";
    Err(Interrupt::End(Failure::new(failure::ERROR, reason)))
}

/// Writes that wait to be enough for a transaction.
struct Batch<'a> {
    mirror: &'a Mirror,
    destination: &'a Client,
    operations: Vec<pb::RequestOp>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(mirror: &'a Mirror, destination: &'a Client) -> Batch<'a> {
        Batch { mirror, destination, operations: Vec::new(), bytes: 0 }
    }

    async fn add(&mut self, operation: pb::RequestOp, bytes: usize) -> Result<(), RequestError> {
        let most = BATCH_OPERATIONS_MAX.min(self.mirror.operations_max);
        if self.operations.len() >= most || self.bytes + bytes > BATCH_BYTES {
            self.flush().await?;
        }
        self.operations.push(operation);
        self.bytes += bytes;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), RequestError> {
        let done = self.operations.len();
        commit(self.destination, std::mem::take(&mut self.operations)).await?;
        self.bytes = 0;
        self.mirror.count(done);
        Ok(())
    }
}

/// A range of keys, read page by page.
struct Pages<'a> {
    client: &'a Client,
    key: Bytes,
    range_end: Bytes,
    /// 0: every page as it is when it is read.
    revision: i64,
    keys_max: usize,
    page: VecDeque<KeyValue>,
    is_done: bool,
    /// That of the first page.
    header: Option<pb::ResponseHeader>,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, (key, range_end): (Bytes, Bytes)) -> Pages<'a> {
        let page = VecDeque::new();
        let keys_max = PAGE_KEYS_FIRST;
        Pages { client, key, range_end, revision: 0, keys_max, page, is_done: false, header: None }
    }

    /// Reads the next page, if there is one.
    async fn fill(&mut self) -> Result<(), RequestError> {
        if self.is_done {
            return Ok(());
        }
        let request = pb::RangeRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            limit: self.keys_max as i64,
            revision: self.revision,
            ..Default::default()
        };
        let client = self.client;
        let send = async |r| client.kv().range(r).await;
        let answer = bounded(client.read(&request, send)).await?;
        self.header = self.header.or(answer.header);
        self.is_done = !answer.more;
        if let Some(last) = answer.kvs.last() {
            self.key = [&last.key[..], &[0]].concat().into();
            let bytes: usize =
                answer.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
            let each = (bytes / answer.kvs.len()).max(1);
            self.keys_max = (PAGE_BYTES / each).clamp(1, PAGE_KEYS_MAX);
        }
        self.page = answer.kvs.into();
        Ok(())
    }

    async fn peek(&mut self) -> Result<Option<&KeyValue>, RequestError> {
        while self.page.is_empty() && !self.is_done {
            self.fill().await?;
        }
        Ok(self.page.front())
    }

    fn pop(&mut self) -> Option<KeyValue> {
        self.page.pop_front()
    }
}
