//! Whether a request may be proposed or read at all, before consensus hears of it.
//!
//! *Invariants.* A check looks at the request alone, never at the state; its order of complaints
//! is etcd's, since a client sees the first one only.
//!
//! *Contract.* `server/etcdserver/api/v3rpc/key.go` of etcd v3.7.1.

use std::collections::BTreeSet;
use std::ops::Bound;

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

/// Checks a transaction: its size, each operation of both branches, and that no key is changed
/// twice on one path. `max_ops` is `--max-txn-ops`.
pub fn check_txn(request: &TxnRequest, max_ops: usize) -> Result<(), Rejected> {
    check_txn_ops(request, max_ops)?;
    // The second pass looks at changes only, so it comes after every operation is known sound.
    changes(&request.success)?;
    changes(&request.failure)?;
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
    deletes: Vec<Interval<'a>>,
}

/// The keys from `first` up to `end`.
#[derive(Clone, Copy)]
struct Interval<'a> {
    first: &'a [u8],
    end: End<'a>,
}

#[derive(Clone, Copy)]
enum End<'a> {
    /// The first key alone.
    Single,
    /// Everything from the first key on.
    Open,
    /// All keys below this one.
    Before(&'a [u8]),
}

impl<'a> Interval<'a> {
    fn of(delete: &'a DeleteRangeRequest) -> Self {
        let end = match &delete.range_end[..] {
            [] => End::Single,
            [0] => End::Open,
            end => End::Before(end),
        };
        Self { first: &delete.key, end }
    }

    fn holds_any(&self, keys: &BTreeSet<&[u8]>) -> bool {
        let end = match self.end {
            End::Single => return keys.contains(self.first),
            End::Open => Bound::Unbounded,
            // An empty interval holds nothing (and is no range for a set).
            End::Before(end) if end <= self.first => return false,
            End::Before(end) => Bound::Excluded(end),
        };
        keys.range::<[u8], _>((Bound::Included(self.first), end)).next().is_some()
    }
}

impl Changes<'_> {
    /// Whether one of these puts is among those deletes.
    fn overlaps(&self, deletes: &[Interval<'_>]) -> bool {
        deletes.iter().any(|delete| delete.holds_any(&self.puts))
    }
}

/// The changes of one branch, or the complaint that a key is changed twice in it. Two deletes may
/// overlap; the branches of one nested transaction exclude each other, so that they may put the
/// same key.
fn changes(ops: &[RequestOp]) -> Result<Changes<'_>, Rejected> {
    let mut all = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push(Interval::of(delete));
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else { continue };
        let (mut success, failure) = (changes(&txn.success)?, changes(&txn.failure)?);
        success.puts.extend(failure.puts);
        success.deletes.extend(failure.deletes);
        if success.puts.iter().any(|key| all.puts.contains(key))
            || success.overlaps(&all.deletes)
            || all.overlaps(&success.deletes)
        {
            return Err(Rejected::DuplicateKey);
        }
        all.puts.append(&mut success.puts);
        all.deletes.append(&mut success.deletes);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else { continue };
        let key = &put.key[..];
        let twice = !all.puts.insert(key);
        let single = BTreeSet::from([key]);
        if twice || all.deletes.iter().any(|delete| delete.holds_any(&single)) {
            return Err(Rejected::DuplicateKey);
        }
    }
    Ok(all)
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
        assert_eq!(check(vec![put("z"), delete("a", "\0")]), duplicate);
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
        assert_eq!(check(vec![txn(vec![put("b")], vec![]), deletes]), duplicate);
        // A branch and its sibling are judged apart.
        let request = TxnRequest {
            success: vec![put("a")],
            failure: vec![put("a")],
            ..TxnRequest::default()
        };
        assert_eq!(check_txn(&request, 128), Ok(()));
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

    /// One path's changes: every key that is put, and every key that is deleted, by operation.
    fn naive(ops: &[RequestOp]) -> Option<(Vec<u8>, Vec<u8>)> {
        let keys = b"abcdef";
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for op in ops {
            let (new_puts, new_deletes) = match &op.request {
                Some(Request::RequestPut(put)) => (vec![put.key[0]], vec![]),
                Some(Request::RequestDeleteRange(delete)) => {
                    let held = |key: &&u8| match &delete.range_end[..] {
                        [] => **key == delete.key[0],
                        end => **key >= delete.key[0] && (end == [0] || **key < end[0]),
                    };
                    (vec![], keys.iter().filter(held).copied().collect())
                }
                Some(Request::RequestTxn(txn)) => {
                    let (mut success, failure) = (naive(&txn.success)?, naive(&txn.failure)?);
                    success.0.extend(failure.0);
                    success.1.extend(failure.1);
                    success
                }
                _ => (vec![], vec![]),
            };
            let clash = |ones: &[u8], others: &[u8]| ones.iter().any(|key| others.contains(key));
            if clash(&new_puts, &puts) || clash(&new_puts, &deletes) || clash(&puts, &new_deletes) {
                return None;
            }
            puts.extend(new_puts);
            deletes.extend(new_deletes);
        }
        Some((puts, deletes))
    }

    fn random_ops(rng: &mut Rng, depth: u32) -> Vec<RequestOp> {
        let keys = ["a", "b", "c", "d", "e", "f"];
        let ends = ["", "", "\0", "b", "d", "f"];
        (0..rng.below(4))
            .map(|_| match rng.below(if depth == 0 { 2 } else { 3 }) {
                0 => put(*rng.pick(&keys)),
                1 => delete(*rng.pick(&keys), *rng.pick(&ends)),
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
