//! Reads of intervals of keys: order, limits, filters, counts, and chunks.
//!
//! ```text
//!  index ──(revisions of one hold of the lock)──► rows ──► sink         key order: streamed
//!  index ──(all revisions)──► filter, sort, cut ──► rows ──► sink       any other order
//! ```
//!
//! *Invariants.*
//! 1. A stored row reaches the sink as the bytes it is stored as: it is copied by the sink, once.
//! 2. What a request filters and sorts by, save values, is in the index; rows that are not
//!    answered are not read.
//! 3. On an error, what the sink was given is void.
//!
//! *Contract.* `server/etcdserver/txn/range.go` and `rangeKeys` of
//! `server/storage/mvcc/kvstore_txn.go` of etcd v3.7.1, the limit that is applied before a
//! sort by anything but keys without an order included. Its sort is not stable beyond twelve
//! elements; ours keeps ties in key order.

use base::Revision;
use bytes::Bytes;
use proto::etcdserverpb::RangeRequest;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::index::{self, End, VISIT_MAX};
use super::key_index::Found;
use super::revision::RevKey;
use super::row::Parts;
use super::view::View;
use crate::backend::Reader;
use crate::error::{Damage, ReadError};

/// What a read says beside its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeSummary {
    /// How many keys the interval holds, whatever limit and filters say.
    pub count: i64,
    /// The limit cut rows off.
    pub more: bool,
}

/// Where a chunked read goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// The first key that may be next.
    key: Box<[u8]>,
    /// Rows answered so far.
    rows: i64,
}

/// One chunk of a long read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeChunk {
    /// Rows given to the sink.
    pub rows: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Where to go on; `None` at the end.
    pub resume: Option<Resume>,
    /// At the end: the limit cut rows off.
    pub more: bool,
}

/// A row on its way out: as it is stored, or made from the index.
pub(super) enum Answer<'a> {
    Stored(Bytes),
    Made(&'a [u8]),
}

impl AsRef<[u8]> for Answer<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Made(bytes) => bytes,
        }
    }
}

type Sink<'a> = dyn FnMut(Answer<'_>) -> Result<(), ReadError> + 'a;

/// A row that waits for the sort.
struct Candidate {
    found: Found,
    /// Only when the row will be made from the index.
    key: Box<[u8]>,
    /// Only when the sort is by value.
    row: Bytes,
}

/// A request, understood.
#[derive(Clone, Copy)]
struct Plan<'a> {
    request: &'a RangeRequest,
    end: End<'a>,
    at: Revision,
    /// Rows are made from the index.
    from_index: bool,
    /// The limit, when there is one.
    limit: Option<usize>,
    order: Order,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As the index has them.
    ByKey,
    Sorted {
        target: i32,
        descend: bool,
        /// Only the first `limit + 1` keys take part.
        limit_first: bool,
    },
}

impl<'a> Plan<'a> {
    fn new(request: &'a RangeRequest, at: Revision) -> Self {
        let by_key = request.sort_target == SortTarget::Key as i32;
        let by_value = request.sort_target == SortTarget::Value as i32;
        let unordered = request.sort_order == SortOrder::None as i32;
        let filtered = has_filters(request);
        let order = if by_key && (unordered || request.sort_order == SortOrder::Ascend as i32) {
            Order::ByKey
        } else {
            Order::Sorted {
                target: request.sort_target,
                descend: request.sort_order == SortOrder::Descend as i32,
                limit_first: unordered && !filtered,
            }
        };
        Self {
            request,
            end: End::of(&request.range_end),
            at,
            from_index: request.keys_only && !by_value,
            limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
            order,
        }
    }

    fn passes(&self, found: &Found) -> bool {
        let (request, modified, create) = (self.request, found.modified.main.0, found.create.0);
        let within = |min: i64, max: i64, revision: i64| {
            (min == 0 || revision >= min) && (max == 0 || revision <= max)
        };
        within(request.min_mod_revision, request.max_mod_revision, modified)
            && within(request.min_create_revision, request.max_create_revision, create)
    }
}

fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Encodes what the index knows of a key.
fn make(key: &[u8], found: &Found, out: &mut Vec<u8>) {
    let (create, modified, version) = (found.create, found.modified.main, found.version);
    Parts { key, create, modified, version, ..Parts::default() }.write(out);
}

fn stored(reader: &mut Reader<'_>, at: RevKey) -> Result<Bytes, ReadError> {
    reader.row(at)?.ok_or_else(|| Damage::RowMissing(at).into())
}

/// What one hold of the index's lock brought: rows to read, or rows that are made already.
#[derive(Default)]
struct Piece {
    stored: Vec<RevKey>,
    made: Vec<u8>,
    ends: Vec<usize>,
}

impl Piece {
    fn add(&mut self, plan: &Plan<'_>, key: &[u8], found: &Found) {
        if plan.from_index {
            make(key, found, &mut self.made);
            self.ends.push(self.made.len());
        } else {
            self.stored.push(found.modified);
        }
    }

    /// Hands the rows over and starts anew.
    fn flush(&mut self, reader: &mut Reader<'_>, sink: &mut Sink<'_>) -> Result<(), ReadError> {
        for at in self.stored.drain(..) {
            sink(Answer::Stored(stored(reader, at)?))?;
        }
        let mut start = 0;
        for end in self.ends.drain(..) {
            sink(Answer::Made(&self.made[start..end]))?;
            start = end;
        }
        self.made.clear();
        Ok(())
    }
}

impl View {
    /// Answers a read: rows go to `sink`, encoded, in order. Each is borrowed from where it is
    /// stored: the sink's copy is the only one.
    ///
    /// # Errors
    /// What the sink was given is void then. [`ReadError::Compacted`] also when a compaction
    /// above this view's revision began meanwhile: a read of the newest revision may then be
    /// asked of a newer view.
    pub fn range(
        &self,
        request: &RangeRequest,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<RangeSummary, ReadError> {
        self.answers(request, &mut |answer| {
            sink(answer.as_ref());
            Ok(())
        })
    }

    pub(super) fn answers(
        &self,
        request: &RangeRequest,
        sink: &mut Sink<'_>,
    ) -> Result<RangeSummary, ReadError> {
        let plan = Plan::new(request, self.read_at(request.revision)?);
        if request.count_only {
            let count = self.count(&request.key, &request.range_end, plan.at)?;
            return Ok(RangeSummary { count, more: false });
        }
        match plan.order {
            Order::ByKey => self.in_key_order(&plan, sink),
            Order::Sorted { target, descend, limit_first } => {
                self.sorted(&plan, target, descend, limit_first, sink)
            }
        }
    }

    /// How many keys of the interval exist at `at`.
    pub fn count(&self, key: &[u8], range_end: &[u8], at: Revision) -> Result<i64, ReadError> {
        let mut count = 0;
        index::visit(&self.core.index, key, End::of(range_end), at, |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }

    fn in_key_order(
        &self,
        plan: &Plan<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<RangeSummary, ReadError> {
        let mut reader = self.tables.reader();
        let mut piece = Piece::default();
        let (mut count, mut passed) = (0, 0);
        let mut from: Option<Box<[u8]>> = None;
        loop {
            let start = from.as_deref().unwrap_or(&plan.request.key);
            let next = self.visit_piece(plan, start, |key, found| {
                count += 1;
                if plan.passes(&found) {
                    if plan.limit.is_none_or(|limit| passed < limit) {
                        piece.add(plan, key, &found);
                    }
                    passed += 1;
                }
            })?;
            piece.flush(&mut reader, sink)?;
            match next {
                Some(key) => from = Some(key),
                None => break,
            }
        }
        Ok(RangeSummary { count, more: plan.limit.is_some_and(|limit| passed > limit) })
    }

    fn visit_piece(
        &self,
        plan: &Plan<'_>,
        from: &[u8],
        mut show: impl FnMut(&[u8], Found),
    ) -> Result<Option<Box<[u8]>>, ReadError> {
        if plan.end == End::Single {
            index::visit(&self.core.index, from, plan.end, plan.at, |key, found| {
                show(key, found);
                true
            })?;
            return Ok(None);
        }
        Ok(index::visit_once(&self.core.index, from, plan.end, plan.at, show)?)
    }

    fn sorted(
        &self,
        plan: &Plan<'_>,
        target: i32,
        descend: bool,
        limit_first: bool,
        sink: &mut Sink<'_>,
    ) -> Result<RangeSummary, ReadError> {
        let by_value = target == SortTarget::Value as i32;
        let first = plan.limit.filter(|_| limit_first).map(|limit| limit.saturating_add(1));
        let mut candidates = Vec::new();
        let mut count = 0;
        index::visit(&self.core.index, &plan.request.key, plan.end, plan.at, |key, found| {
            count += 1;
            if plan.passes(&found) && first.is_none_or(|first| candidates.len() < first) {
                let key = if plan.from_index { key.into() } else { Box::default() };
                candidates.push(Candidate { found, key, row: Bytes::new() });
            }
            true
        })?;
        let mut reader = self.tables.reader();
        if by_value {
            for candidate in &mut candidates {
                candidate.row = stored(&mut reader, candidate.found.modified)?;
            }
        }
        sort(&mut candidates, target, descend)?;
        let cut = plan.limit.unwrap_or(usize::MAX);
        let more = candidates.len() > cut;
        let mut made = Vec::new();
        for candidate in candidates.into_iter().take(cut) {
            made.clear();
            if plan.from_index {
                make(&candidate.key, &candidate.found, &mut made);
                sink(Answer::Made(&made))?;
            } else if by_value && plan.request.keys_only {
                let parts = value_of(&candidate)?;
                Parts { value: &[], ..parts }.write(&mut made);
                sink(Answer::Made(&made))?;
            } else if by_value {
                sink(Answer::Stored(candidate.row))?;
            } else {
                sink(Answer::Stored(stored(&mut reader, candidate.found.modified)?))?;
            }
        }
        Ok(RangeSummary { count, more })
    }

    /// Answers the next piece of a read in key order, for answers that are too long for one
    /// buffer: at most `max_rows` rows, and none begun after `max_bytes`. The revision must be
    /// pinned: ask for one, or use the same view until the end.
    ///
    /// Order, filters and `count_only` of the request are not looked at; the limit is.
    pub fn range_chunk(
        &self,
        request: &RangeRequest,
        resume: Option<&Resume>,
        max_rows: usize,
        max_bytes: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<RangeChunk, ReadError> {
        let plan = Plan::new(request, self.read_at(request.revision)?);
        let answered = resume.map_or(0, |resume| resume.rows);
        let left = plan.limit.map(|limit| limit.saturating_sub(answered as usize));
        let wanted = max_rows.max(1).min(left.unwrap_or(usize::MAX));
        let mut chunk = RangeChunk::default();
        let mut reader = self.tables.reader();
        let mut from: Option<Box<[u8]>> = resume.map(|resume| resume.key.clone());
        loop {
            let start = from.as_deref().unwrap_or(&request.key);
            // One key more than is wanted tells whether there are more.
            let room = wanted.saturating_sub(chunk.rows).saturating_add(1).min(VISIT_MAX);
            let mut keys: Vec<(Box<[u8]>, Found)> = Vec::new();
            let mut full = None;
            index::visit(&self.core.index, start, plan.end, plan.at, |key, found| {
                if keys.len() == room {
                    full = Some(Box::from(key));
                    return false;
                }
                keys.push((key.into(), found));
                true
            })?;
            let mut made = Vec::new();
            for (key, found) in keys {
                let enough = chunk.rows >= wanted || (chunk.rows > 0 && chunk.bytes >= max_bytes);
                if enough {
                    return Ok(chunk.stop(key, answered, left));
                }
                let answer = if plan.from_index {
                    made.clear();
                    make(&key, &found, &mut made);
                    Answer::Made(&made)
                } else {
                    Answer::Stored(stored(&mut reader, found.modified)?)
                };
                chunk.rows += 1;
                chunk.bytes += answer.as_ref().len();
                sink(answer.as_ref());
            }
            match full {
                Some(key) => from = Some(key),
                None => return Ok(chunk),
            }
        }
    }
}

impl RangeChunk {
    /// The chunk is full and `key` is the next: either the limit is reached, or it goes on there.
    fn stop(mut self, key: Box<[u8]>, answered: i64, left: Option<usize>) -> Self {
        if left.is_some_and(|left| self.rows >= left) {
            self.more = true;
        } else {
            self.resume = Some(Resume { key, rows: answered + self.rows as i64 });
        }
        self
    }
}

fn value_of(candidate: &Candidate) -> Result<Parts<'_>, ReadError> {
    let damage = Damage::RowMalformed(candidate.found.modified);
    Parts::read(&candidate.row).ok_or_else(|| damage.into())
}

/// Sorts by the target; equal ones stay in key order, also when descending.
fn sort(candidates: &mut [Candidate], target: i32, descend: bool) -> Result<(), ReadError> {
    let by = |candidates: &mut [Candidate], number: fn(&Candidate) -> i64| {
        if descend {
            candidates.sort_by_key(|candidate| std::cmp::Reverse(number(candidate)));
        } else {
            candidates.sort_by_key(number);
        }
    };
    match SortTarget::try_from(target) {
        Ok(SortTarget::Version) => by(candidates, |candidate| candidate.found.version),
        Ok(SortTarget::Create) => by(candidates, |candidate| candidate.found.create.0),
        Ok(SortTarget::Mod) => by(candidates, |candidate| candidate.found.modified.main.0),
        Ok(SortTarget::Value) => {
            for candidate in &*candidates {
                value_of(candidate)?;
            }
            let value = |candidate: &Candidate| {
                let parts = Parts::read(&candidate.row).unwrap_or_default();
                candidate.row.slice_ref(parts.value)
            };
            if descend {
                candidates.sort_by_cached_key(|candidate| std::cmp::Reverse(value(candidate)));
            } else {
                candidates.sort_by_cached_key(value);
            }
        }
        // They came in key order; no two are equal. Targets that etcd does not know are
        // refused before they are proposed.
        Ok(SortTarget::Key) | Err(_) => {
            if descend {
                candidates.reverse();
            }
        }
    }
    Ok(())
}
