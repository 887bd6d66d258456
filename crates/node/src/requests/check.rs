//! Whether a request may be proposed or read at all, before consensus hears of it.
//!
//! *Invariants.* A check looks at the request alone, never at the state; its order of complaints
//! is etcd's, since a client sees the first one only.
//!
//! *Contract.* `server/etcdserver/api/v3rpc/key.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use super::error::Rejected;

/// Checks a range.
pub fn check_range(request: &RangeRequest) -> Result<(), Rejected> {
    if request.key.is_empty() {
        return Err(Rejected::EmptyKey);
    }
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if known { Ok(()) } else { Err(Rejected::InvalidSortOption) }
}

/// Checks a range whose answer is a stream: only the order of keys, and no revision bounds.
pub fn check_range_stream(request: &RangeRequest) -> Result<(), Rejected> {
    check_range(request)?;
    let order = request.sort_order();
    let in_key_order = order == SortOrder::None
        || (order == SortOrder::Ascend && request.sort_target() == SortTarget::Key);
    if !in_key_order {
        return Err(Rejected::StreamSortUnsupported);
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if bounds.iter().any(|bound| *bound != 0) {
        return Err(Rejected::StreamFilterUnsupported);
    }
    Ok(())
}

/// Checks a put.
pub fn check_put(request: &PutRequest) -> Result<(), Rejected> {
    if request.key.is_empty() {
        return Err(Rejected::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Rejected::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Rejected::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Rejected> {
    if request.key.is_empty() { Err(Rejected::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction: its size, each operation of both branches, that no key is changed twice
/// on one path, and that real etcd can live with it. `max_ops` is `--max-txn-ops`.
pub fn check_txn(request: &TxnRequest, max_ops: usize) -> Result<(), Rejected> {
    check_txn_ops(request, max_ops)?;
    // The second pass looks at changes only, so it comes after every operation is known sound.
    changes(&request.success)?;
    changes(&request.failure)?;
    if let Outcome::Deadly = run(request, Gone::default()) {
        return Err(Rejected::KeyNotFound);
    }
    Ok(())
}

/// The budget of a nested transaction is what its parent left of its own.
fn check_txn_ops(request: &TxnRequest, budget: usize) -> Result<(), Rejected> {
    let size = request.compare.len().max(request.success.len()).max(request.failure.len());
    if size > budget {
        return Err(Rejected::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Rejected::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(range)) => check_range(range)?,
            Some(Request::RequestPut(put)) => check_put(put)?,
            Some(Request::RequestDeleteRange(delete)) => check_delete_range(delete)?,
            Some(Request::RequestTxn(txn)) => check_txn_ops(txn, budget - size)?,
            None => return Err(Rejected::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations changes, those of nested transactions included.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Deletes<'a>,
}

/// The keys that deletes name.
#[derive(Default)]
struct Deletes<'a> {
    singles: BTreeSet<&'a [u8]>,
    /// From first key to end; no two touch.
    ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> Deletes<'a> {
    /// Adds the keys of a delete. etcd reads the end that means "no end" as the key it spells, and
    /// that lies below every other: such a range, like an inverted one, holds nothing here.
    fn add(&mut self, delete: &'a DeleteRangeRequest) {
        if delete.range_end.is_empty() {
            self.singles.insert(&delete.key);
        } else {
            self.add_range(&delete.key, &delete.range_end);
        }
    }

    fn add_range(&mut self, mut first: &'a [u8], mut end: &'a [u8]) {
        if end <= first {
            return;
        }
        while let Some((&there, &its_end)) = self.ranges.range(..=end).next_back() {
            if its_end < first {
                break;
            }
            self.ranges.remove(there);
            first = first.min(there);
            end = end.max(its_end);
        }
        self.ranges.insert(first, end);
    }

    fn append(&mut self, mut other: Self) {
        self.singles.append(&mut other.singles);
        for (first, end) in other.ranges {
            self.add_range(first, end);
        }
    }

    fn hold(&self, key: &[u8]) -> bool {
        let range = self.ranges.range(..=key).next_back();
        self.singles.contains(key) || range.is_some_and(|(_, end)| key < *end)
    }
}

/// The changes of one branch, or the complaint that a key is changed twice in it. Two deletes may
/// overlap, and the branches of one nested transaction exclude each other, so that they may put
/// the same key. A nested transaction's deletes are held against everything but the puts of the
/// nested transactions before it: an accident of etcd's order of looking that clients can see.
fn changes(ops: &[RequestOp]) -> Result<Changes<'_>, Rejected> {
    let mut all = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.add(delete);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (mut success, mut failure) = (changes(&txn.success)?, changes(&txn.failure)?);
        success.puts.append(&mut failure.puts);
        if success.puts.iter().any(|key| all.puts.contains(key) || all.deletes.hold(key)) {
            return Err(Rejected::DuplicateKey);
        }
        all.puts.append(&mut success.puts);
        all.deletes.append(success.deletes);
        all.deletes.append(failure.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        if !all.puts.insert(&put.key) || all.deletes.hold(&put.key) {
            return Err(Rejected::DuplicateKey);
        }
    }
    Ok(all)
}

/// The keys that a path has deleted so far by intervals without an end: all from the lowest first
/// key on. Other deletes never cover a put that comes after them (see [`changes`]).
#[derive(Debug, Clone, Copy, Default)]
struct Gone<'a>(Option<&'a [u8]>);

impl<'a> Gone<'a> {
    fn holds(self, key: &[u8]) -> bool {
        self.0.is_some_and(|first| first <= key)
    }

    fn with(self, first: &'a [u8]) -> Self {
        Self(Some(self.0.map_or(first, |other| other.min(first))))
    }

    /// What is gone in both.
    fn common(self, other: Self) -> Self {
        Self(self.0.zip(other.0).map(|(one, other)| one.max(other)))
    }
}

/// What becomes of operations, whatever the compares say.
enum Outcome<'a> {
    /// On every path a put builds on a key that the path has deleted. If the key exists, etcd's
    /// checks pass and every member dies of it, again at each start; if not, the answer is that
    /// there is no such key.
    Deadly,
    /// Some path comes through, with no more than this gone on the one that deletes least.
    Passes(Gone<'a>),
}

/// Follows a transaction's branches. Without a compare it always takes the first.
fn run<'a>(request: &'a TxnRequest, before: Gone<'a>) -> Outcome<'a> {
    let success = run_ops(&request.success, before);
    if request.compare.is_empty() {
        return success;
    }
    match (success, run_ops(&request.failure, before)) {
        (Outcome::Passes(one), Outcome::Passes(other)) => Outcome::Passes(one.common(other)),
        (Outcome::Deadly, other) | (other, Outcome::Deadly) => other,
    }
}

fn run_ops<'a>(ops: &'a [RequestOp], mut gone: Gone<'a>) -> Outcome<'a> {
    for op in ops {
        match &op.request {
            Some(Request::RequestDeleteRange(delete)) if &delete.range_end[..] == b"\0" => {
                gone = gone.with(&delete.key);
            }
            Some(Request::RequestPut(put))
                if (put.ignore_value || put.ignore_lease) && gone.holds(&put.key) =>
            {
                return Outcome::Deadly;
            }
            Some(Request::RequestTxn(nested)) => match run(nested, gone) {
                Outcome::Passes(after) => gone = after,
                Outcome::Deadly => return Outcome::Deadly,
            },
            _ => {}
        }
    }
    Outcome::Passes(gone)
}

/// Whether a transaction is answered from a view, without the log: it holds ranges and nothing
/// else. A nested transaction counts as a write even when it only reads.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether a read-only transaction may be answered without asking the leader: all its ranges are
/// serializable. An empty one is.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

#[cfg(test)]
mod tests {
    use base::Rng;
    use bytes::Bytes;
    use proto::etcdserverpb::Compare;

    use super::*;

    fn put(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    fn delete(key: &'static str, end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..DeleteRangeRequest::default()
        };
        RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
    }

    fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let txn = TxnRequest { success, failure, ..TxnRequest::default() };
        RequestOp { request: Some(Request::RequestTxn(txn)) }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), Rejected> {
        check_txn(&TxnRequest { success, ..TxnRequest::default() }, 128)
    }

    #[test]
    fn keys_change_once_on_a_path() {
        let duplicate = Err(Rejected::DuplicateKey);
        assert_eq!(check(vec![put("a"), put("a")]), duplicate);
        assert_eq!(check(vec![put("a"), delete("a", "")]), duplicate);
        assert_eq!(check(vec![delete("a", "c"), put("b")]), duplicate);
        assert_eq!(check(vec![put("z"), delete("a", "\0")]), Ok(()), "etcd's end of all keys");
        assert_eq!(check(vec![delete("a", "c"), put("c"), delete("b", "d")]), duplicate);
        assert_eq!(check(vec![delete("a", "c"), put("c"), delete("b", "")]), Ok(()));
        assert_eq!(check(vec![delete("c", "a"), put("b")]), Ok(()), "an empty interval");
        let both = txn(vec![put("a")], vec![put("a")]);
        assert_eq!(check(vec![both.clone()]), Ok(()), "branches exclude each other");
        assert_eq!(check(vec![both.clone(), put("a")]), duplicate);
        assert_eq!(check(vec![both.clone(), delete("a", "")]), duplicate);
        assert_eq!(check(vec![both.clone(), both]), duplicate);
        let deletes = txn(vec![delete("a", "z")], vec![]);
        assert_eq!(check(vec![deletes.clone(), deletes.clone()]), Ok(()));
        assert_eq!(check(vec![deletes.clone(), put("b")]), duplicate);
        let puts = txn(vec![put("b")], vec![]);
        assert_eq!(check(vec![deletes.clone(), puts.clone()]), duplicate);
        assert_eq!(check(vec![puts, deletes]), Ok(()), "etcd accepts this order");
        // A branch and its sibling are judged apart.
        let request = TxnRequest {
            success: vec![put("a")],
            failure: vec![put("a")],
            ..TxnRequest::default()
        };
        assert_eq!(check_txn(&request, 128), Ok(()));
    }

    fn keep(key: &'static str) -> RequestOp {
        let put = PutRequest { key: key.into(), ignore_value: true, ..PutRequest::default() };
        RequestOp { request: Some(Request::RequestPut(put)) }
    }

    /// A nested transaction that may take either branch.
    fn either(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let compare = vec![Compare { key: "k".into(), ..Compare::default() }];
        RequestOp { request: Some(Request::RequestTxn(TxnRequest { compare, success, failure })) }
    }

    #[test]
    fn what_etcd_surely_dies_of_is_refused() {
        let deadly = Err(Rejected::KeyNotFound);
        let all = || delete("b", "\0");
        assert_eq!(check(vec![all(), keep("b")]), deadly);
        assert_eq!(check(vec![delete("z", "\0"), all(), keep("c")]), deadly);
        assert_eq!(check(vec![all(), keep("a")]), Ok(()), "below the interval");
        assert_eq!(check(vec![keep("b"), all()]), Ok(()), "deleted later");
        assert_eq!(check(vec![all(), put("b")]), Ok(()), "builds on nothing");
        let lease = PutRequest { key: "b".into(), ignore_lease: true, ..PutRequest::default() };
        let lease = RequestOp { request: Some(Request::RequestPut(lease)) };
        assert_eq!(check(vec![all(), lease]), deadly);
        // Nested, the delete or the put, and a branch that is never taken.
        assert_eq!(check(vec![txn(vec![all()], vec![]), keep("c")]), deadly);
        assert_eq!(check(vec![all(), txn(vec![txn(vec![keep("c")], vec![])], vec![])]), deadly);
        assert_eq!(check(vec![all(), txn(vec![], vec![keep("c")])]), Ok(()));
        assert_eq!(check(vec![txn(vec![], vec![all()]), keep("c")]), Ok(()));
        // Where compares decide, only what every path dies of.
        assert_eq!(check(vec![all(), either(vec![keep("c")], vec![])]), Ok(()));
        assert_eq!(check(vec![all(), either(vec![keep("c")], vec![keep("d")])]), deadly);
        assert_eq!(check(vec![either(vec![all()], vec![]), keep("c")]), Ok(()));
        let one_of = || either(vec![all()], vec![delete("d", "\0")]);
        assert_eq!(check(vec![one_of(), keep("c")]), Ok(()));
        assert_eq!(check(vec![one_of(), keep("d")]), deadly);
        // A branch that dies is not the one that was taken, if the transaction comes through.
        let survivor = || either(vec![all(), keep("c")], vec![]);
        assert_eq!(check(vec![survivor(), keep("d")]), Ok(()));
        let survivor = || either(vec![all(), keep("c")], vec![delete("d", "\0")]);
        assert_eq!(check(vec![survivor(), keep("e")]), deadly);
        // The outermost transaction has branches, too.
        let compare = vec![Compare { key: "k".into(), ..Compare::default() }];
        let mut request = TxnRequest { compare, success: vec![all(), keep("b")], failure: vec![] };
        assert_eq!(check_txn(&request, 128), Ok(()));
        request.failure = vec![all(), keep("c")];
        assert_eq!(check_txn(&request, 128), deadly);
    }

    #[test]
    fn large_transactions_are_checked_in_time() {
        // Forty times forty times forty deletes, and as many puts beside them.
        let key = |number: usize, suffix: &str| Bytes::from(format!("{number:06}{suffix}"));
        let leaf = |number: usize| {
            if number.is_multiple_of(2) {
                let put = PutRequest { key: key(number, "~"), ..PutRequest::default() };
                return RequestOp { request: Some(Request::RequestPut(put)) };
            }
            let (key, range_end) = (key(number, ""), key(number, "}"));
            let delete = DeleteRangeRequest { key, range_end, ..DeleteRangeRequest::default() };
            RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
        };
        let list = |at: usize| txn((at * 40..(at + 1) * 40).map(leaf).collect(), vec![]);
        let lists = |at: usize| txn((at * 40..(at + 1) * 40).map(list).collect(), vec![]);
        assert_eq!(check((0..40).map(lists).collect()), Ok(()));
    }

    #[test]
    fn nesting_shares_one_budget() {
        let nested =
            |levels: usize| (1..levels).fold(put("k"), |inner, _| txn(vec![inner], vec![]));
        let request = |levels| TxnRequest { success: vec![nested(levels)], ..Default::default() };
        assert_eq!(check_txn(&request(128), 128), Ok(()));
        assert_eq!(check_txn(&request(129), 128), Err(Rejected::TooManyOps));
        assert_eq!(check(vec![put("k"); 129]), Err(Rejected::TooManyOps));
        assert_eq!(check(vec![RequestOp::default()]), Err(Rejected::KeyNotFound));
        assert_eq!(check(vec![put("")]), Err(Rejected::EmptyKey));
    }

    #[test]
    fn streams_have_one_order() {
        let mut range = RangeRequest { key: "a".into(), ..RangeRequest::default() };
        assert_eq!(check_range_stream(&range), Ok(()));
        range.set_sort_target(SortTarget::Mod);
        assert_eq!(check_range_stream(&range), Ok(()));
        range.set_sort_order(SortOrder::Ascend);
        assert_eq!(check_range_stream(&range), Err(Rejected::StreamSortUnsupported));
        range.set_sort_target(SortTarget::Key);
        range.max_mod_revision = -1;
        assert_eq!(check_range_stream(&range), Err(Rejected::StreamFilterUnsupported));
        range.sort_order = 3;
        assert_eq!(check_range_stream(&range), Err(Rejected::InvalidSortOption));
        range.key.clear();
        assert_eq!(check_range_stream(&range), Err(Rejected::EmptyKey));
    }

    /// What an operation puts and deletes, as bits for the keys `a` to `f`; `None` when it clashes
    /// within itself.
    fn naive_op(op: &RequestOp) -> Option<(u8, u8)> {
        let bit = |key: u8| 1 << (key - b'a');
        match op.request.as_ref()? {
            Request::RequestPut(put) => Some((bit(put.key[0]), 0)),
            Request::RequestDeleteRange(delete) => {
                let held = |key: &u8| match &delete.range_end[..] {
                    [] => *key == delete.key[0],
                    end => (delete.key[0]..end[0]).contains(key),
                };
                Some((0, (b'a'..=b'f').filter(held).map(bit).sum()))
            }
            Request::RequestTxn(txn) => {
                let ((puts, deletes), (more_puts, more_deletes)) =
                    (naive(&txn.success)?, naive(&txn.failure)?);
                Some((puts | more_puts, deletes | more_deletes))
            }
            Request::RequestRange(_) => Some((0, 0)),
        }
    }

    /// The same of a list, in which every operation is held against every other one.
    fn naive(ops: &[RequestOp]) -> Option<(u8, u8)> {
        let is_nested = |at: usize| matches!(ops[at].request, Some(Request::RequestTxn(_)));
        let changes: Vec<_> = ops.iter().map(naive_op).collect::<Option<_>>()?;
        for (one, (puts, _)) in changes.iter().enumerate() {
            for (other, (more_puts, deletes)) in changes.iter().enumerate() {
                let overlooked = is_nested(one) && is_nested(other) && one < other;
                if one != other && (puts & more_puts != 0 || (puts & deletes != 0 && !overlooked)) {
                    return None;
                }
            }
        }
        Some(changes.iter().fold((0, 0), |(puts, deletes), (more_puts, more_deletes)| {
            (puts | more_puts, deletes | more_deletes)
        }))
    }

    fn random_ops(rng: &mut Rng, depth: u32) -> Vec<RequestOp> {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let ends = ["", "", "\0", "b", "d", "f"];
        let pick = |rng: &mut Rng, choices: &[&'static str; 6]| choices[rng.below(6) as usize];
        (0..rng.below(4))
            .map(|_| match rng.below(if depth == 0 { 2 } else { 4 }) {
                0 => put(pick(rng, &keys)),
                1 => delete(pick(rng, &keys), pick(rng, &ends)),
                _ => txn(random_ops(rng, depth - 1), random_ops(rng, depth - 1)),
            })
            .collect()
    }

    #[test]
    fn duplicates_agree_with_a_naive_reading() {
        let (mut refused, mut rng) = (0, Rng::new(11));
        for _ in 0..20_000 {
            let ops = random_ops(&mut rng, 2);
            let expected = naive(&ops).is_some();
            assert_eq!(check(ops.clone()).is_ok(), expected, "{ops:?}");
            refused += u32::from(!expected);
        }
        assert!((2_000..18_000).contains(&refused), "{refused} of 20000 refused");
    }
}
