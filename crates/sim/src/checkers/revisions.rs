//! Revisions: each is made once, no one sees them go back, and what was acknowledged stays.
//!
//! *Invariants that are checked.*
//! 1. What the log's outcomes say of changes is dense: 2, 3, 4 and so on, in the log's order.
//! 2. No two acknowledged changes have one revision, and each is the log's maker of its revision.
//! 3. A linearizable call covers every revision that anybody was told of before it was sent: by
//!    an answer or by a watcher. (Whatever a member shows is committed, so a later read that goes
//!    through the leader must see it.) This holds for one client as for all.
//! 4. A serializable read shows the truth at the revision of its header, and no future one. What
//!    its member had compacted by then is not known: it may be anything that was compacted at
//!    that revision, so a read that fails as compacted must only name a revision below some
//!    compaction.
//! 5. Whatever a client was answered is the outcome that the log's request had.
//!
//! *Absent.* The order of calls (see [`super::linearizable`]); that a member does not go back by
//! itself: one that restarts may.

use std::collections::BTreeMap;

use base::{Moment, RequestId, Revision};
use store::{ApplyError, Response};

use super::Violation;
use super::model::{
    self, Truth, header_revision, is_read, is_serializable, short, tells_of_changes,
};
use crate::history::{Call, History, Operation, Outcome};

const CHECKER: &str = "revisions";

/// Checks a history on its own.
///
/// # Errors
/// One of the promises above is broken, or the log's own outcomes are wrong.
pub fn check(history: &History) -> Result<(), Violation> {
    check_with(history, &Truth::of(&history.log)?)
}

/// Checks a history whose truth is known.
///
/// # Errors
/// One of the promises above is broken.
pub fn check_with(history: &History, truth: &Truth) -> Result<(), Violation> {
    dense(history)?;
    durable(history)?;
    unique(history, truth)?;
    for (at, operation) in history.operations.iter().enumerate() {
        if is_serializable(&operation.call) {
            serializable(operation, truth).map_err(|what| violation(at, operation, &what))?;
        }
    }
    covered(history)
}

fn violation(at: usize, operation: &Operation, what: &str) -> Violation {
    let (client, call) = (operation.client.0, short(&operation.call));
    Violation::new(CHECKER, format!("call {at} of client {client}, {call}: {what}"))
}

/// What the log's outcomes tell of revisions, without the model.
fn dense(history: &History) -> Result<(), Violation> {
    let mut newest = Revision(1);
    for entry in model::logged(&history.log)? {
        let Some(Ok(response)) = history.log.outcomes.get(&entry.request) else { continue };
        let Some(header) = header_revision(response) else { continue };
        let fits = match response {
            Response::LeaseRevoke(_) => header == newest || header == newest.next(),
            _ if tells_of_changes(response) => header == newest.next(),
            _ => header == newest,
        };
        if !fits {
            let index = entry.index;
            let what = format!("entry {index} is answered at revision {header} after {newest}");
            return Err(Violation::new(CHECKER, what));
        }
        newest = header;
    }
    Ok(())
}

fn durable(history: &History) -> Result<(), Violation> {
    for (at, operation) in history.operations.iter().enumerate() {
        let told = match &operation.outcome {
            Outcome::Answered(response) => Ok(response),
            Outcome::Failed(error) => Err(error),
            Outcome::Refused | Outcome::Unknown => continue,
        };
        let Some(request) = operation.request else {
            if is_read(&operation.call) {
                continue;
            }
            return Err(violation(at, operation, "a write that was answered has no request"));
        };
        let logged = history.log.outcomes.get(&request).map(Result::as_ref);
        if logged != Some(told) {
            let what = format!("was told {}, the log has {}", short(&told), short(&logged));
            return Err(violation(at, operation, &what));
        }
    }
    Ok(())
}

fn unique(history: &History, truth: &Truth) -> Result<(), Violation> {
    let mut made: BTreeMap<Revision, usize> = BTreeMap::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let Outcome::Answered(response) = &operation.outcome else { continue };
        let Some(revision) = header_revision(response).filter(|_| tells_of_changes(response))
        else {
            continue;
        };
        if let Some(first) = made.insert(revision, at) {
            let what = format!("made revision {revision}, and so did call {first}");
            return Err(violation(at, operation, &what));
        }
        let maker: Option<RequestId> = truth.maker(revision);
        if maker.is_none() || maker != operation.request {
            let what = format!("was told revision {revision}, which {maker:?} made");
            return Err(violation(at, operation, &what));
        }
    }
    Ok(())
}

/// Revisions that somebody was told of, and when, by time; each the newest until then.
fn told(history: &History) -> Vec<(Moment, Revision)> {
    let mut told = Vec::new();
    for operation in &history.operations {
        if let Outcome::Answered(response) = &operation.outcome {
            told.extend(header_revision(response).map(|header| (operation.returned, header)));
        }
    }
    for stream in &history.streams {
        let headers = stream.responses.iter().filter_map(|(at, response)| {
            response.header.map(|header| (*at, Revision(header.revision)))
        });
        told.extend(headers);
    }
    told.sort_unstable();
    let mut newest = Revision::default();
    for (_, revision) in &mut told {
        newest = newest.max(*revision);
        *revision = newest;
    }
    told
}

fn covered(history: &History) -> Result<(), Violation> {
    let told = told(history);
    let mut own: BTreeMap<_, Revision> = BTreeMap::new();
    for (at, operation) in history.operations.iter().enumerate() {
        let Outcome::Answered(response) = &operation.outcome else { continue };
        let Some(header) = header_revision(response) else { continue };
        let before = told.partition_point(|(moment, _)| *moment < operation.invoked);
        let known = before.checked_sub(1).map_or(Revision::default(), |last| told[last].1);
        let own = own.entry(operation.client).or_default();
        let known = known.max(*own);
        if header < known && !is_serializable(&operation.call) {
            let what = format!("answered at revision {header}, when {known} was known before");
            return Err(violation(at, operation, &what));
        }
        *own = header.max(*own);
    }
    Ok(())
}

fn serializable(operation: &Operation, truth: &Truth) -> Result<(), String> {
    match &operation.outcome {
        Outcome::Answered(response) => {
            let header = header_revision(response).ok_or("an answer without a revision")?;
            let Some(mut model) = truth.model_at(header) else {
                let newest = truth.revision();
                return Err(format!("answered at revision {header}, the newest is {newest}"));
            };
            let predicted = model.apply(&operation.call);
            if !model::agrees(&predicted, Ok(response)) {
                let (seen, predicted) = (short(response), short(&predicted));
                return Err(format!("answered {seen} instead of {predicted}"));
            }
            Ok(())
        }
        Outcome::Failed(ApplyError::Compacted) => {
            let newest = truth.compactions().iter().max().copied().unwrap_or(Revision::NEVER);
            let mut asked = asked_revisions(&operation.call);
            if asked.any(|asked| asked < newest) {
                return Ok(());
            }
            Err(format!("failed as compacted, the newest compaction is {newest}"))
        }
        Outcome::Failed(ApplyError::FutureRevision) => {
            // A member that is far behind knows no revision but the first.
            if asked_revisions(&operation.call).any(|asked| asked > Revision(1)) {
                return Ok(());
            }
            Err("failed as of the future, and asks for none".into())
        }
        Outcome::Failed(error) => Err(format!("a read failed: {error}")),
        Outcome::Refused | Outcome::Unknown => Ok(()),
    }
}

/// The revisions that a read names. One that names none cannot fail.
fn asked_revisions(call: &Call) -> impl Iterator<Item = Revision> {
    use proto::etcdserverpb::request_op::Request;
    let mut asked = Vec::new();
    match call {
        Call::Range(request) => asked.extend((request.revision > 0).then_some(request.revision)),
        Call::Txn(request) => {
            for op in request.success.iter().chain(&request.failure) {
                if let Some(Request::RequestRange(range)) = &op.request {
                    asked.extend((range.revision != 0).then_some(range.revision));
                }
            }
        }
        _ => {}
    }
    asked.into_iter().map(Revision)
}

#[cfg(test)]
mod tests;
