//! Random histories, applied to the store and to the naive model, with commits, crashes and
//! slices of compactions in between.

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;
use base::Revision;
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    TxnRequest,
};
use proto::mvccpb::KeyValue;
use store::{ApplyError, ReadError, Response, StoreOptions, View};

use crate::member::Member;
use crate::model::Model;

const KEYS: [&str; 9] = ["a", "a/", "a/1", "a/2", "b", "b\0", "c", "cc", "d"];

fn key(u: &mut Unstructured<'_>) -> Result<Bytes> {
    Ok(Bytes::from_static(u.choose(&KEYS)?.as_bytes()))
}

fn end(u: &mut Unstructured<'_>) -> Result<Bytes> {
    Ok(match u.int_in_range(0..=5)? {
        0..=2 => Bytes::new(),
        3 => Bytes::from_static(b"\0"),
        _ => key(u)?,
    })
}

fn value(u: &mut Unstructured<'_>) -> Result<Bytes> {
    Ok(Bytes::from_static(u.choose(&["", "1", "2", "10"])?.as_bytes()))
}

fn revision(u: &mut Unstructured<'_>, model: &Model) -> Result<i64> {
    u.int_in_range(-2..=model.revision + 1)
}

fn put(u: &mut Unstructured<'_>) -> Result<PutRequest> {
    Ok(PutRequest {
        key: key(u)?,
        value: value(u)?,
        lease: if u.ratio(1, 3)? { u.int_in_range(-1..=3)? } else { 0 },
        prev_kv: u.arbitrary()?,
        ignore_value: u.ratio(1, 6)?,
        ignore_lease: u.ratio(1, 6)?,
    })
}

fn delete(u: &mut Unstructured<'_>) -> Result<DeleteRangeRequest> {
    Ok(DeleteRangeRequest { key: key(u)?, range_end: end(u)?, prev_kv: u.arbitrary()? })
}

fn range(u: &mut Unstructured<'_>, model: &Model) -> Result<RangeRequest> {
    let bound = |u: &mut Unstructured<'_>| -> Result<i64> {
        if u.ratio(1, 5)? { revision(u, model) } else { Ok(0) }
    };
    Ok(RangeRequest {
        key: key(u)?,
        range_end: end(u)?,
        limit: if u.arbitrary()? { u.int_in_range(-1..=4)? } else { 0 },
        revision: if u.arbitrary()? { revision(u, model)? } else { 0 },
        sort_order: u.int_in_range(0..=2)?,
        sort_target: u.int_in_range(0..=4)?,
        serializable: false,
        keys_only: u.ratio(1, 3)?,
        count_only: u.ratio(1, 8)?,
        min_mod_revision: bound(u)?,
        max_mod_revision: bound(u)?,
        min_create_revision: bound(u)?,
        max_create_revision: bound(u)?,
    })
}

fn compare(u: &mut Unstructured<'_>, model: &Model) -> Result<Compare> {
    let target = u.int_in_range(0..=5)?;
    let kind = if u.ratio(1, 8)? { u.int_in_range(0..=5)? } else { target };
    let target_union = match kind {
        0 => Some(TargetUnion::Version(u.int_in_range(0..=3)?)),
        1 => Some(TargetUnion::CreateRevision(revision(u, model)?)),
        2 => Some(TargetUnion::ModRevision(revision(u, model)?)),
        3 => Some(TargetUnion::Value(value(u)?)),
        4 => Some(TargetUnion::Lease(u.int_in_range(0..=3)?)),
        _ => None,
    };
    let result = u.int_in_range(0..=4)?;
    Ok(Compare { result, target, key: key(u)?, range_end: end(u)?, target_union })
}

/// Validation keeps two changes of one key out of a transaction; so does this, coarsely.
fn txn(
    u: &mut Unstructured<'_>,
    model: &Model,
    free: &mut Vec<Bytes>,
    deep: u32,
) -> Result<TxnRequest> {
    let mut txn = TxnRequest::default();
    for _ in 0..u.int_in_range(0..=2)? {
        txn.compare.push(compare(u, model)?);
    }
    for branch in 0..2 {
        for _ in 0..u.int_in_range(0..=3)? {
            let request = match u.int_in_range(0..=5)? {
                0 => Request::RequestRange(range(u, model)?),
                1 if deep > 0 => Request::RequestTxn(self::txn(u, model, free, deep - 1)?),
                2 => match free.pop() {
                    Some(key) => {
                        let prev_kv = u.arbitrary()?;
                        let delete = DeleteRangeRequest { key, prev_kv, ..Default::default() };
                        Request::RequestDeleteRange(delete)
                    }
                    None => continue,
                },
                _ => match free.pop() {
                    Some(key) => Request::RequestPut(PutRequest { key, ..put(u)? }),
                    None => continue,
                },
            };
            let ops = if branch == 0 { &mut txn.success } else { &mut txn.failure };
            ops.push(RequestOp { request: Some(request) });
        }
    }
    Ok(txn)
}

/// Asks a view as a server does.
pub(crate) fn ask(
    view: &View,
    request: &RangeRequest,
) -> std::result::Result<RangeResponse, ApplyError> {
    let mut kvs = vec![];
    let summary = view.range(request, &mut |row| {
        kvs.push(KeyValue::decode(row).expect("a row"));
    });
    let summary = summary.map_err(error)?;
    let header = ResponseHeader { revision: view.revision().0, ..ResponseHeader::default() };
    Ok(RangeResponse { header: Some(header), kvs, more: summary.more, count: summary.count })
}

fn error(error: ReadError) -> ApplyError {
    match error {
        ReadError::Compacted => ApplyError::Compacted,
        ReadError::FutureRevision => ApplyError::FutureRevision,
        ReadError::Damaged(damage) => panic!("{damage}"),
    }
}

fn step(u: &mut Unstructured<'_>, member: &mut Member, model: &mut Model) -> Result<()> {
    if u.ratio(1, 64)? {
        // Which compactions a restart interrupts, and with them which hashes are remembered, is
        // not the model's business.
        member.sweep();
        member.flush();
        member.crash();
        model.hashes.clear();
        return Ok(());
    }
    step_without_restart(u, member, model)
}

fn step_without_restart(
    u: &mut Unstructured<'_>,
    member: &mut Member,
    model: &mut Model,
) -> Result<()> {
    let ours;
    let request = InternalRaftRequest::default;
    match u.int_in_range(0..=14)? {
        0..=5 => {
            let put = put(u)?;
            ours = model.put(&put).map(Response::Put);
            let applied = member.apply(InternalRaftRequest { put: Some(put), ..request() });
            assert_eq!(applied.result, ours);
        }
        6 => {
            let delete = delete(u)?;
            ours = Ok(Response::DeleteRange(model.delete(&delete)));
            let delete_range = Some(delete);
            let applied = member.apply(InternalRaftRequest { delete_range, ..request() });
            assert_eq!(applied.result, ours);
        }
        7..=8 => {
            let mut free: Vec<Bytes> =
                KEYS.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
            let txn = txn(u, model, &mut free, 2)?;
            ours = model.txn(&txn).map(Response::Txn);
            let applied = member.apply(InternalRaftRequest { txn: Some(txn), ..request() });
            assert_eq!(applied.result, ours);
        }
        9 => {
            let at = revision(u, model)?;
            let outcome = model.compact(at, !member.store().is_compacting());
            let compaction = Some(CompactionRequest { revision: at, physical: false });
            let applied = member.apply(InternalRaftRequest { compaction, ..request() });
            assert_eq!(applied.result.map(drop), outcome);
        }
        10 => {
            let id = u.int_in_range(0..=3)?;
            let outcome = model.grant(id);
            let lease_grant = Some(LeaseGrantRequest { id, ttl: 10 });
            let applied = member.apply(InternalRaftRequest { lease_grant, ..request() });
            assert_eq!(applied.result.map(drop), outcome);
        }
        11 => {
            let id = u.int_in_range(0..=3)?;
            let outcome = model.revoke(id);
            let lease_revoke = Some(LeaseRevokeRequest { id });
            let applied = member.apply(InternalRaftRequest { lease_revoke, ..request() });
            let ours = applied.result.map(|answer| match answer {
                Response::LeaseRevoke(answer) => answer.header.unwrap_or_default().revision,
                other => panic!("{other:?}"),
            });
            assert_eq!(ours, outcome);
        }
        12 => member.freeze(),
        13 => member.commit(),
        _ => {
            member.store().compact_slice().expect("readable");
        }
    }
    assert_eq!(member.revision(), Revision(model.revision));
    Ok(())
}

fn check_ranges(u: &mut Unstructured<'_>, member: &Member, model: &Model) -> Result<()> {
    let view = member.view();
    for _ in 0..8 {
        let request = range(u, model)?;
        assert_eq!(ask(&view, &request), model.range(&request, model.revision), "{request:?}");
    }
    Ok(())
}

/// Everything that can be asked of every revision.
fn check_all(member: &mut Member, model: &Model) {
    let view = member.view();
    for at in -1..=model.revision + 1 {
        let all = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            revision: at,
            ..RangeRequest::default()
        };
        assert_eq!(ask(&view, &all), model.range(&all, model.revision), "at {at}");
    }
    check_changes(&view, model);
    member.sweep();
    check_hashes(member, model);
}

/// Hashes are compared when no compaction is under way: etcd's own depend on how far it is.
fn check_hashes(member: &Member, model: &Model) {
    let view = member.view();
    for at in -2..=model.revision + 1 {
        let ours = view.hash_kv(Revision(at)).map_err(error);
        let ours = ours.map(|hash| (hash.hash, hash.compact_revision.0, hash.hash_revision.0));
        assert_eq!(ours, model.hash_kv(at), "at {at}, compacted {}", model.compacted);
    }
}

fn check_changes(view: &View, model: &Model) {
    let from = Revision(model.compacted.max(0) + 1);
    let mut next = from;
    let mut seen = vec![];
    while next <= view.revision() {
        next = view
            .changes(next, 2, 50, &mut |change| {
                let kv = KeyValue::decode(change.row.clone()).expect("a row");
                assert_eq!(kv.key, change.key);
                seen.push(((change.at.main.0, change.at.sub), change.tombstone, kv));
            })
            .expect("not compacted");
    }
    let rows = model.rows.range((from.0, 0)..);
    let rows: Vec<_> = rows.map(|(name, row)| (*name, row.tombstone, row.kv.clone())).collect();
    assert_eq!(seen, rows);
}

#[test]
fn every_answer_is_the_models() {
    arbtest(|u| {
        let options = StoreOptions { compaction_batch: 3, ..StoreOptions::default() };
        let (mut member, mut model) = (Member::new(options), Model::new());
        for _ in 0..u.arbitrary_len::<[u8; 12]>()?.min(150) {
            step(u, &mut member, &mut model)?;
            if u.ratio(1, 4)? {
                check_ranges(u, &member, &model)?;
            }
        }
        check_all(&mut member, &model);
        member.flush();
        check_all(&mut member, &model);
        model.hashes.clear();
        member.crash();
        check_all(&mut member, &model);
        Ok(())
    })
    .size_min(2_000)
    .size_max(20_000)
    .budget_ms(6_000);
}

#[test]
fn a_crash_anywhere_loses_nothing_of_the_log() {
    arbtest(|u| {
        let options = StoreOptions { compaction_batch: 2, ..StoreOptions::default() };
        let (mut member, mut model) = (Member::new(options), Model::new());
        for _ in 0..u.arbitrary_len::<[u8; 12]>()?.min(100) {
            step(u, &mut member, &mut model)?;
            if u.ratio(1, 10)? {
                member.crash();
                // A compaction that was under way goes on, but its hash is not kept.
                member.sweep();
                let hashes = member.shared().compaction_hashes();
                model.hashes.retain(|at, _| hashes.iter().any(|hash| hash.hash_revision.0 == *at));
                check_all(&mut member, &model);
            }
        }
        Ok(())
    })
    .size_min(2_000)
    .size_max(20_000)
    .budget_ms(4_000);
}

#[test]
fn chunks_of_a_read_put_together_are_the_read() {
    arbtest(|u| {
        let mut member = Member::new(StoreOptions::default());
        let mut model = Model::new();
        for _ in 0..40 {
            step(u, &mut member, &mut model)?;
        }
        let view = member.view();
        let request = RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"\0"),
            limit: u.int_in_range(0..=6)?,
            keys_only: u.arbitrary()?,
            ..RangeRequest::default()
        };
        let (max_rows, max_bytes) = (u.int_in_range(1..=4)?, u.int_in_range(0..=60)?);
        let (mut kvs, mut resume) = (vec![], None);
        let more = loop {
            let chunk = view
                .range_chunk(&request, resume.as_ref(), max_rows, max_bytes, &mut |row| {
                    kvs.push(KeyValue::decode(row).expect("a row"));
                })
                .expect("readable");
            assert!(chunk.rows <= max_rows);
            match chunk.resume {
                Some(next) => resume = Some(next),
                None => break chunk.more,
            }
        };
        let whole = ask(&view, &request).expect("readable");
        assert_eq!((kvs, more), (whole.kvs, whole.more));
        Ok(())
    })
    .size_min(2_000)
    .size_max(8_000)
    .budget_ms(1_000);
}

#[test]
fn an_old_view_says_the_same_until_a_compaction_overtakes_it() {
    arbtest(|u| {
        let options = StoreOptions { compaction_batch: 3, ..StoreOptions::default() };
        let (mut member, mut model) = (Member::new(options), Model::new());
        // The old views, the model of then, and whether rows were being removed then.
        let mut old = vec![];
        for _ in 0..u.arbitrary_len::<[u8; 12]>()?.min(150) {
            step_without_restart(u, &mut member, &mut model)?;
            if u.ratio(1, 6)? {
                let removing = member.store().is_compacting();
                old.push((member.view(), model.clone(), removing));
            }
            if old.is_empty() {
                continue;
            }
            let (view, then, removing) = u.choose(&old)?;
            let request = range(u, then)?;
            let at = if request.revision > 0 { request.revision } else { then.revision };
            let overtaken = at < model.compacted && at <= then.revision;
            let expected = if overtaken {
                Err(ApplyError::Compacted)
            } else {
                then.range(&request, then.revision)
            };
            assert_eq!(ask(view, &request), expected, "{request:?}");

            let at = revision(u, then)?.max(1);
            let remembered = member.shared().compaction_hashes();
            if *removing || remembered.iter().any(|hash| hash.hash_revision.0 == at) {
                continue;
            }
            match view.hash_kv(Revision(at)) {
                Ok(ours) => {
                    let plain = Model { hashes: Default::default(), ..then.clone() };
                    let ours = (ours.hash, ours.compact_revision.0, ours.hash_revision.0);
                    assert_eq!(Ok(ours), plain.hash_kv(at), "at {at}");
                }
                Err(ReadError::FutureRevision) => assert!(at > then.revision),
                Err(_) => assert!(model.compacted > then.compacted || at < then.compacted),
            }
        }
        Ok(())
    })
    .size_min(2_000)
    .size_max(20_000)
    .budget_ms(4_000);
}
