//! Makes the destination equal to the source at one revision.
//!
//! ```text
//!  source       a  b     d     in pages, at one revision
//!  destination  a     c  d'    in pages, as it is
//!               =  +  -  ~     only what differs is written
//! ```
//!
//! *Invariants.* A first copy removes no more keys than the two were seen to have in common: where
//! it would, the destination is no mirror of the source, but somebody's data. One page of each
//! side is held. How many keys a page has follows from the sizes in the page before; where values
//! become large all at once, a page is larger than [`PAGE_BYTES`] until the next one.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::mvccpb::KeyValue;
use tonic::Code;

use super::apply::{commit, delete, put};
use super::{DESTINATION, Interrupt, Mirror, REQUEST_TIME_MAX, SOURCE, tell};
use crate::ctl::client::{Client, RequestError, bounded};
use crate::failure::{self, Failure};

/// A page is asked for so that it would be about so large if it were like the one before.
const PAGE_BYTES: usize = 4 << 20;
/// No page has more keys, nor more than twice as many as the one before; the first has this many,
/// since sizes are not known then.
const PAGE_KEYS_MAX: usize = 1000;
const PAGE_KEYS_FIRST: usize = 16;
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
    let mut theirs = Pages::new(source, mirror.map.source());
    theirs.fill().await.map_err(|error| Interrupt::of(SOURCE, error))?;
    // The pages to come show the same moment; changes after it are replayed.
    let revision = theirs.revision_first;
    theirs.revision = revision;
    let mut ours = Pages::new(destination, mirror.map.destination());
    ours.is_done = !mirror.map.owns_destination();
    match ours.fill().await {
        Ok(()) => {}
        Err(RequestError::Status(status)) if status.code() == Code::PermissionDenied => {
            ours.is_done = true;
            tell("the destination cannot be read: everything is written, nothing removed", &[]);
        }
        Err(error) => return Err(Interrupt::of(DESTINATION, error)),
    }
    if !mirror.is_known.get() && !ours.page.is_empty() {
        refuse_foreign(mirror, source, destination, revision).await?;
    }
    mirror.is_known.set(true);
    let removed = equalize(mirror, theirs, ours).await?;
    if removed > 0 {
        let removed = removed.to_string();
        tell("removed keys that the source no longer has", &[("keys", &removed)]);
    }
    Ok(revision)
}

/// Writes what differs, and returns how many keys were removed.
async fn equalize(
    mirror: &Mirror,
    mut theirs: Pages<'_>,
    mut ours: Pages<'_>,
) -> Result<u64, Interrupt> {
    let from = |error| Interrupt::of(SOURCE, error);
    let to = |error| Interrupt::of(DESTINATION, error);
    let mut batch = Batch::new(mirror, ours.client);
    let mut removed = 0;
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
    Ok(removed)
}

/// Fails when a copy would remove more keys than it would keep. Looked at before the first copy
/// alone: what this mirror has written is its own.
async fn refuse_foreign(
    mirror: &Mirror,
    source: &Client,
    destination: &Client,
    revision: i64,
) -> Result<(), Interrupt> {
    let mut theirs = Pages::new(source, mirror.map.source());
    let mut ours = Pages::new(destination, mirror.map.destination());
    (theirs.keys_only, ours.keys_only) = (true, true);
    theirs.revision = revision;
    let (mut common, mut stale) = (0_u64, 0_u64);
    while let Some(found) = ours.peek().await.map_err(|error| Interrupt::of(DESTINATION, error))? {
        let pair = theirs.peek().await.map_err(|error| Interrupt::of(SOURCE, error))?;
        let order = pair.map(|pair| mirror.map.apply(&pair.key).cmp(&found.key));
        match order {
            Some(Ordering::Less) => drop(theirs.pop()),
            Some(Ordering::Equal) => {
                common += 1;
                drop((theirs.pop(), ours.pop()));
            }
            Some(Ordering::Greater) | None => {
                stale += 1;
                drop(ours.pop());
            }
        }
    }
    if stale <= common {
        return Ok(());
    }
    let reason = format!(
        "the destination has keys where the mirror would be: mirroring would remove {stale} of \
         them, and only {common} are the source's, too; remove them yourself, or give --dest-prefix"
    );
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
    keys_only: bool,
    keys_max: usize,
    page: VecDeque<KeyValue>,
    is_done: bool,
    /// At which the first page was read.
    revision_first: i64,
}

impl<'a> Pages<'a> {
    fn new(client: &'a Client, (key, range_end): (Bytes, Bytes)) -> Pages<'a> {
        Pages {
            client,
            key,
            range_end,
            revision: 0,
            keys_only: false,
            keys_max: PAGE_KEYS_FIRST,
            page: VecDeque::new(),
            is_done: false,
            revision_first: 0,
        }
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
            keys_only: self.keys_only,
            ..Default::default()
        };
        let client = self.client;
        let send = async |r| client.kv().range(r).await;
        let answer = bounded(REQUEST_TIME_MAX, client.ask_repeatable(&request, send)).await?;
        if self.revision_first == 0 {
            self.revision_first = answer.header.unwrap_or_default().revision;
        }
        self.is_done = !answer.more;
        if let Some(last) = answer.kvs.last() {
            self.key = [&last.key[..], &[0]].concat().into();
            let bytes: usize =
                answer.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
            self.keys_max = keys_max_after(answer.kvs.len(), bytes);
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

/// How many keys to ask for after a page of `keys` that had so many `bytes`.
fn keys_max_after(keys: usize, bytes: usize) -> usize {
    let each = (bytes / keys).max(1);
    (PAGE_BYTES / each).clamp(1, PAGE_KEYS_MAX.min(keys * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_grow_slowly_and_shrink_at_once() {
        for (keys, bytes, expected) in [
            (16, 16, 32),
            (16, 16 * 100_000, 32),
            (16, 16 * (1 << 20), 4),
            (1000, 1000 * (1 << 20), 4),
            (1000, 1000, 1000),
            (900, 900, 1000),
            (4, 4 * (8 << 20), 1),
            (1, 8 << 20, 1),
            (1, 1, 2),
        ] {
            assert_eq!(keys_max_after(keys, bytes), expected, "{keys} keys, {bytes} bytes");
        }
    }
}
