//! Every rule about revisions, kept and broken.

use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};

use super::super::model::fixtures::*;
use super::*;
use crate::history::{ClientId, Stream};

fn found(history: &History) -> String {
    let violation = check(history).unwrap_err();
    assert_eq!(violation.checker, CHECKER);
    violation.what
}

fn simple() -> History {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("a", "2"));
    builder.call(2, 30, 40, get_stale("a")).call(2, 50, 60, get("a"));
    builder.finish()
}

fn answer(history: &mut History, at: usize) -> &mut Response {
    match &mut history.operations[at].outcome {
        Outcome::Answered(response) => response,
        other => panic!("{other:?}"),
    }
}

fn put_answer(revision: i64) -> Response {
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    Response::Put(proto::etcdserverpb::PutResponse { header, prev_kv: None })
}

#[test]
fn what_was_acknowledged_is_in_the_log_as_it_was_told() {
    let mut history = simple();
    check(&history).unwrap();
    *answer(&mut history, 1) = put_answer(2);
    assert!(found(&history).contains("the log has"));
    let mut lost = simple();
    lost.operations[1].request = Some(RequestId(50));
    assert!(found(&lost).contains("the log has None"));
    lost.operations[1].request = None;
    assert!(found(&lost).contains("has no request"));
    let mut failed = simple();
    failed.operations[1].outcome = Outcome::Failed(ApplyError::LeaseNotFound);
    assert!(found(&failed).contains("was told Err(LeaseNotFound)"));
}

#[test]
fn the_logs_revisions_are_dense() {
    let mut history = simple();
    let truth = Truth::of(&history.log).unwrap();
    history.log.outcomes.insert(RequestId(2), Ok(put_answer(4)));
    *answer(&mut history, 1) = put_answer(4);
    let found = check_with(&history, &truth).unwrap_err().what;
    assert_eq!(found, "entry 2 is answered at revision 4 after 2");
}

#[test]
fn a_revision_is_acknowledged_once() {
    let mut history = simple();
    let truth = Truth::of(&history.log).unwrap();
    let twice = history.operations[1].clone();
    history.operations.push(twice);
    assert!(check_with(&history, &truth).unwrap_err().what.contains("so did call 1"));
    let mut history = simple();
    *answer(&mut history, 1) = put_answer(7);
    assert!(unique(&history, &truth).unwrap_err().what.contains("which None made"));
}

#[test]
fn linearizable_calls_cover_what_anybody_knew() {
    let mut history = simple();
    let old = Truth::of(&history.log).unwrap().model_at(Revision(2)).unwrap().apply(&get("a"));
    *answer(&mut history, 3) = old.unwrap();
    assert!(found(&history).contains("at revision 2, when 3 was known"));
    // Not when they overlap.
    history.operations[1].returned = ms(50);
    history.operations[2].outcome = Outcome::Unknown;
    check(&history).unwrap();
    // A watcher's word counts too.
    let header = Some(ResponseHeader { revision: 3, ..ResponseHeader::default() });
    history.streams.push(Stream {
        client: ClientId(9),
        member: MEMBERS[0],
        create: WatchCreateRequest::default(),
        resumes: false,
        responses: vec![(ms(49), WatchResponse { header, ..WatchResponse::default() })],
        complete_to: None,
    });
    assert!(found(&history).contains("when 3 was known"));
}

#[test]
fn one_client_never_goes_back() {
    let mut history = simple();
    history.operations[1].returned = ms(50);
    let truth = Truth::of(&history.log).unwrap();
    let old = truth.model_at(Revision(2)).unwrap().apply(&get("a")).unwrap();
    *answer(&mut history, 3) = old;
    // Its own stale read at the same moment has shown revision 3.
    history.operations[2].returned = ms(50);
    assert!(found(&history).contains("at revision 2, when 3 was known"));
}

#[test]
fn serializable_reads_may_be_old_but_not_wrong() {
    let history = simple();
    let truth = Truth::of(&history.log).unwrap();
    for revision in 1..=3 {
        let mut old = history.clone();
        let read = truth.model_at(Revision(revision)).unwrap().apply(&get_stale("a"));
        *answer(&mut old, 2) = read.unwrap();
        check(&old).unwrap();
        let Response::Range(range) = answer(&mut old, 2) else { panic!("a range") };
        range.count += 1;
        assert!(found(&old).contains("instead of"));
    }
    let mut future = history.clone();
    let Response::Range(range) = answer(&mut future, 2) else { panic!("a range") };
    range.header.as_mut().unwrap().revision = 4;
    assert!(found(&future).contains("the newest is 3"));
    let mut failed = history;
    failed.operations[2].outcome = Outcome::Failed(ApplyError::Compacted);
    assert!(found(&failed).contains("failed as compacted"));
    failed.operations[2].outcome = Outcome::Failed(ApplyError::FutureRevision);
    assert!(found(&failed).contains("asks for none"));
    failed.operations[2].outcome = Outcome::Failed(ApplyError::KeyNotFound);
    assert!(found(&failed).contains("a read failed"));
}

#[test]
fn serializable_reads_of_old_revisions_fail_below_a_compaction() {
    let mut builder = Builder::new();
    builder.call(1, 0, 10, put("a", "1")).call(1, 10, 20, put("a", "2"));
    builder.call(1, 20, 30, compact(3));
    let at = |revision| {
        let request = proto::etcdserverpb::RangeRequest {
            revision,
            serializable: true,
            ..range_request("a", "")
        };
        Call::Range(request)
    };
    builder.call(2, 40, 50, at(2)).call(2, 50, 60, at(3));
    let mut history = builder.finish();
    assert_eq!(history.operations[3].outcome, Outcome::Failed(ApplyError::Compacted));
    check(&history).unwrap();
    history.operations[4].outcome = Outcome::Failed(ApplyError::Compacted);
    assert!(found(&history).contains("the newest compaction is 3"));
}
