//! The model against what etcd answers, case by case.

use proto::etcdserverpb::{LeaseGrantResponse, PutResponse, RangeResponse};

use super::fixtures::*;
use super::*;
use crate::history::Log;

fn applied(calls: &[Call]) -> Model {
    let mut model = Model::new();
    for call in calls {
        model.apply(call).unwrap();
    }
    model
}

fn found(model: &Model, request: &RangeRequest) -> Vec<String> {
    let kvs = model.range(request).unwrap().kvs;
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

fn all() -> RangeRequest {
    range_request("\0", "\0")
}

#[test]
fn a_put_makes_a_revision_and_a_delete_of_nothing_none() {
    let mut model = Model::new();
    assert_eq!(
        model.apply(&put("a", "1")),
        Ok(Response::Put(PutResponse { header: header(2), prev_kv: None }))
    );
    let gone = model.apply(&delete("b", "")).unwrap();
    assert_eq!(header_revision(&gone), Some(Revision(2)));
    let ignoring = PutRequest { ignore_value: true, prev_kv: true, ..put_request("a", "") };
    let Ok(Response::Put(again)) = model.apply(&Call::Put(ignoring)) else { panic!("a put") };
    let old = again.prev_kv.unwrap();
    assert_eq!((old.version, old.mod_revision, &old.value[..]), (1, 2, &b"1"[..]));
    let now = &model.keys()[&b"a"[..]];
    assert_eq!((now.version, now.create_revision, now.mod_revision), (2, 2, 3));
    assert_eq!(now.value, "1");
    let missing = PutRequest { ignore_lease: true, ..put_request("b", "") };
    assert_eq!(model.apply(&Call::Put(missing)), Err(ApplyError::KeyNotFound));
    assert_eq!(model.apply(&put_leased("a", 7)), Err(ApplyError::LeaseNotFound));
    assert_eq!(model.revision(), Revision(3));
}

#[test]
fn old_revisions_are_read_until_they_are_compacted() {
    let mut model = applied(&[put("a", "1"), put("b", "1"), delete("a", ""), put("a", "2")]);
    let at = |revision| RangeRequest { revision, ..all() };
    assert!(found(&model, &at(1)).is_empty());
    assert_eq!(found(&model, &at(3)), ["a", "b"]);
    assert_eq!(found(&model, &at(4)), ["b"]);
    assert_eq!(model.range(&at(6)), Err(ApplyError::FutureRevision));
    assert_eq!(model.apply(&compact(6)), Err(ApplyError::FutureRevision));
    model.apply(&compact(4)).unwrap();
    assert_eq!(model.apply(&compact(4)), Err(ApplyError::Compacted));
    assert_eq!(model.range(&at(3)), Err(ApplyError::Compacted));
    assert_eq!(found(&model, &at(4)), ["b"]);
    assert_eq!(model.range(&at(4)).unwrap().header, header(5));
}

#[test]
fn ranges_limit_before_or_after_they_sort() {
    let model = applied(&[put("d", "1"), put("c", "2"), put("b", "3"), put("a", "4")]);
    let by_revision = RangeRequest { sort_target: SortTarget::Mod as i32, limit: 1, ..all() };
    assert_eq!(found(&model, &by_revision), ["b"], "of the first two keys");
    let ascending = RangeRequest { sort_order: SortOrder::Ascend as i32, ..by_revision.clone() };
    assert_eq!(found(&model, &ascending), ["d"]);
    let filtered = RangeRequest { max_mod_revision: 9, ..by_revision };
    assert_eq!(found(&model, &filtered), ["d"], "filters undo the early limit");
    let narrow = RangeRequest { min_mod_revision: 4, max_create_revision: 4, ..all() };
    let RangeResponse { kvs, more, count, .. } = model.range(&narrow).unwrap();
    assert_eq!((kvs.len(), more, count), (1, false, 4));
    let descending =
        RangeRequest { sort_order: SortOrder::Descend as i32, limit: 2, ..range_request("b", "e") };
    assert_eq!(found(&model, &descending), ["d", "c"]);
    assert!(model.range(&descending).unwrap().more);
    assert!(found(&model, &range_request("c", "b")).is_empty());
    let counted = model.range(&RangeRequest { count_only: true, limit: 1, ..all() }).unwrap();
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 4, false));
}

#[test]
fn keys_only_hides_the_lease_unless_values_sort() {
    let model = applied(&[grant(3, 5), put_leased("a", 3)]);
    let keys = RangeRequest { keys_only: true, ..all() };
    let kv = model.range(&keys).unwrap().kvs.remove(0);
    assert_eq!((kv.lease, kv.value.len(), kv.version), (0, 0, 1));
    let by_value = RangeRequest { sort_target: SortTarget::Value as i32, ..keys };
    assert_eq!(model.range(&by_value).unwrap().kvs[0].lease, 3);
}

#[test]
fn a_lease_takes_its_keys_along_in_one_revision() {
    let mut model =
        applied(&[grant(3, 5), put_leased("b", 3), put_leased("a", 3), put_leased("c", 3)]);
    model.apply(&put("c", "free")).unwrap();
    assert_eq!(model.apply(&grant(3, 5)), Err(ApplyError::LeaseExists));
    assert_eq!(model.apply(&grant(0, 5)), Err(ApplyError::LeaseNotFound));
    assert_eq!(model.apply(&grant(4, LEASE_TTL_MAX_SECONDS + 1)), Err(ApplyError::TtlTooLarge));
    let revoked = model.apply(&revoke(3)).unwrap();
    assert_eq!(header_revision(&revoked), Some(Revision(6)));
    let keys: Vec<_> = model.newest_changes().iter().map(|change| &change.kv.key[..]).collect();
    assert_eq!(keys, [b"a", b"b"]);
    assert!(model.newest_changes().iter().all(|change| change.is_delete));
    assert_eq!(model.apply(&revoke(3)), Err(ApplyError::LeaseNotFound));
    assert_eq!(model.keys().len(), 1);
}

#[test]
fn transactions_decide_first_then_see_their_own_writes() {
    let mut model = applied(&[put("a", "1")]);
    let exists = |key: &'static str| Compare {
        result: CompareResult::Greater as i32,
        key: key.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Compare::default()
    };
    let nested = TxnRequest {
        compare: vec![exists("b")],
        success: ops(vec![Request::RequestDeleteRange(DeleteRangeRequest {
            key: "b".into(),
            ..<_>::default()
        })]),
        ..TxnRequest::default()
    };
    let old = RangeRequest { revision: 2, ..all() };
    let request = TxnRequest {
        compare: vec![exists("a")],
        success: ops(vec![
            Request::RequestRange(all()),
            Request::RequestPut(put_request("b", "2")),
            Request::RequestTxn(nested),
            Request::RequestRange(all()),
            Request::RequestRange(old),
        ]),
        ..TxnRequest::default()
    };
    let response = model.apply(&Call::Txn(request.clone())).unwrap();
    assert!(tells_of_changes(&response));
    let Response::Txn(response) = response else { panic!("a transaction") };
    assert_eq!((response.header, response.succeeded), (header(3), true));
    let seen: Vec<_> = response
        .responses
        .iter()
        .filter_map(|op| match op.response.as_ref()? {
            OpResponse::ResponseRange(range) => Some((range.header, range.count)),
            OpResponse::ResponseTxn(nested) => {
                assert_eq!((nested.header, nested.succeeded), (header(0), false));
                None
            }
            _ => None,
        })
        .collect();
    assert_eq!(seen, [(header(2), 1), (header(3), 2), (header(3), 1)]);

    let future = RangeRequest { revision: 4, ..all() };
    let late = txn(vec![Request::RequestPut(put_request("c", "3")), Request::RequestRange(future)]);
    assert_eq!(model.apply(&late), Err(ApplyError::FutureRevision));
    assert!(!model.keys().contains_key(&b"c"[..]), "nothing is done when a check fails");
    let negative = txn(vec![Request::RequestRange(RangeRequest { revision: -2, ..all() })]);
    assert_eq!(model.apply(&negative), Err(ApplyError::Compacted));
    assert!(is_read(&negative) && !is_serializable(&negative));
}

#[test]
fn compares_of_what_is_missing_hold_for_zeros_but_never_for_values() {
    let model = applied(&[put("a", "1"), put("b", "1")]);
    let compare = |target: CompareTarget, key: &'static str, end: &'static str, operand| Compare {
        result: CompareResult::NotEqual as i32,
        target: target as i32,
        key: key.into(),
        range_end: end.into(),
        target_union: Some(operand),
    };
    assert!(!model.holds(&compare(CompareTarget::Value, "x", "", TargetUnion::Value("".into()))));
    assert!(model.holds(&compare(CompareTarget::Mod, "x", "", TargetUnion::ModRevision(4))));
    assert!(model.holds(&compare(CompareTarget::Mod, "a", "\0", TargetUnion::ModRevision(4))));
    assert!(!model.holds(&compare(CompareTarget::Mod, "a", "\0", TargetUnion::ModRevision(3))));
    let wrong_kind = compare(CompareTarget::Lease, "a", "", TargetUnion::ModRevision(3));
    assert!(!model.holds(&wrong_kind), "it counts as zero");
}

#[test]
fn a_long_past_is_dropped_without_a_deep_stack() {
    let mut model = Model::new();
    for _ in 0..200_000 {
        model.apply(&put("a", "1")).unwrap();
    }
    drop(model);
}

#[test]
fn an_answered_ttl_may_be_longer_than_the_one_asked_for() {
    let mut model = Model::new();
    let predicted = model.apply(&grant(3, 1));
    let told = |id, ttl| {
        Response::LeaseGrant(LeaseGrantResponse { header: header(1), id, ttl, error: "".into() })
    };
    assert!(agrees(&predicted, Ok(&told(3, 2))));
    assert!(!agrees(&predicted, Ok(&told(4, 1))));
    assert!(!agrees(&predicted, Ok(&told(3, 0))));
    assert!(!agrees(&predicted, Err(ApplyError::LeaseExists)));
}

#[test]
fn the_truth_knows_every_state_and_every_maker() {
    let builder = random(1, 3_000, 4, 20);
    let truth = Truth::of(&builder.history.log).unwrap();
    assert_eq!(truth.revision(), builder.model.revision());
    assert!(!truth.compactions().is_empty());
    for (at, state) in builder.states.iter().enumerate() {
        let revision = Revision(at as i64 + 1);
        assert_eq!(truth.keys_at(revision).as_ref(), Some(state.keys()));
        assert_eq!(truth.model_at(revision).unwrap().compacted(), state.compacted());
        assert_eq!(truth.changes(revision), state.newest_changes());
        assert_eq!(truth.maker(revision).is_some(), at > 0);
    }
    assert!(truth.keys_at(truth.revision().next()).is_none());
    assert!(truth.keys_at(Revision(0)).is_none());
}

fn complaint(log: &Log) -> String {
    Truth::of(log).unwrap_err().what
}

#[test]
fn logs_that_contradict_themselves_are_found() {
    let log = random(2, 200, 4, 20).history.log;
    let (&first, entry) = log.entries.iter().next().unwrap();
    let (&last, _) = log.entries.iter().next_back().unwrap();

    let mut twice = log.clone();
    twice.entries.insert(last.next(), entry.clone());
    assert!(complaint(&twice).contains("applied twice, as entry 1"));

    let mut gap = log.clone();
    gap.entries.remove(&first.next());
    assert!(complaint(&gap).contains("no entry before entry 3"));

    let mut silent = log.clone();
    let id = *silent.outcomes.keys().next().unwrap();
    silent.outcomes.remove(&id);
    assert!(complaint(&silent).contains("was answered nothing"));

    let mut invented = log.clone();
    invented.outcomes.insert(base::RequestId(999_999), Err(ApplyError::Compacted));
    assert!(complaint(&invented).contains("is not in the log"));

    for id in log.outcomes.keys() {
        let mut wrong = log.clone();
        wrong.outcomes.insert(*id, Err(ApplyError::NoSpace));
        assert!(complaint(&wrong).contains("NoSpace"));
    }
}

#[test]
fn entries_that_are_no_requests_are_told_apart() {
    use prost::Message;
    use proto::raftpb::{ConfChange, Entry, EntryType};
    let judge = |kind: EntryType, data: Vec<u8>, times: u64| {
        let mut log = Log::default();
        for index in 1..=times {
            let entry = Entry {
                r#type: Some(kind as i32),
                data: Some(data.clone().into()),
                ..Entry::default()
            };
            log.entries.insert(base::LogIndex(index), entry);
        }
        Truth::of(&log).map(drop).map_err(|violation| violation.what)
    };
    let change = |id| ConfChange { id, node_id: Some(1), ..ConfChange::default() }.encode_to_vec();
    judge(EntryType::EntryNormal, Vec::new(), 2).unwrap();
    judge(EntryType::EntryConfChange, change(None), 2).unwrap();
    judge(EntryType::EntryConfChange, change(Some(5)), 1).unwrap();
    let found = |kind, data, times| judge(kind, data, times).unwrap_err();
    assert!(found(EntryType::EntryConfChange, change(Some(5)), 2).contains("applied twice"));
    let nameless = proto::etcdserverpb::InternalRaftRequest {
        put: Some(put_request("a", "1")),
        ..<_>::default()
    };
    let nameless = nameless.encode_to_vec();
    assert!(found(EntryType::EntryNormal, nameless, 1).contains("without an id"));
    assert!(found(EntryType::EntryNormal, vec![255; 3], 1).contains("entry 1: "));
    assert!(found(EntryType::EntryConfChangeV2, vec![1], 1).contains("an entry of type"));
}
