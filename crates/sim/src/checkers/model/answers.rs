//! What can be told of calls and answers without a state.

use base::Revision;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::{LeaseGrantResponse, RangeRequest, TxnRequest, TxnResponse};
use store::{ApplyError, Response};

use crate::history::Call;

/// Whether an answer is the predicted one. How long a lease lives is the store's to say: it may
/// give more than was asked for, but not less.
pub fn agrees(
    predicted: &Result<Response, ApplyError>,
    seen: Result<&Response, ApplyError>,
) -> bool {
    match (predicted, seen) {
        (Ok(Response::LeaseGrant(one)), Ok(Response::LeaseGrant(two))) => {
            two.ttl >= one.ttl && LeaseGrantResponse { ttl: two.ttl, ..one.clone() } == *two
        }
        (Ok(one), Ok(two)) => one == two,
        (Err(one), Err(two)) => *one == two,
        _ => false,
    }
}

/// The revision in the header of an answer.
pub fn header_revision(response: &Response) -> Option<Revision> {
    let header = match response {
        Response::Put(response) => response.header,
        Response::Range(response) => response.header,
        Response::DeleteRange(response) => response.header,
        Response::Txn(response) => response.header,
        Response::Compaction(response) => response.header,
        Response::LeaseGrant(response) => response.header,
        Response::LeaseRevoke(response) => response.header,
        Response::Alarm(_) | Response::LeaseCheckpoint | Response::Empty => None,
    };
    header.map(|header| Revision(header.revision))
}

/// Whether the answer tells that keys were changed. That of a revocation does not tell.
pub fn tells_of_changes(response: &Response) -> bool {
    match response {
        Response::Put(_) => true,
        Response::DeleteRange(response) => response.deleted > 0,
        Response::Txn(response) => changes_in(response),
        _ => false,
    }
}

fn changes_in(response: &TxnResponse) -> bool {
    response.responses.iter().any(|op| match &op.response {
        Some(OpResponse::ResponsePut(_)) => true,
        Some(OpResponse::ResponseDeleteRange(response)) => response.deleted > 0,
        Some(OpResponse::ResponseTxn(response)) => changes_in(response),
        Some(OpResponse::ResponseRange(_)) | None => false,
    })
}

/// Whether a call only reads, and so does not go through the log.
pub fn is_read(call: &Call) -> bool {
    match call {
        Call::Range(_) => true,
        Call::Txn(request) => all_ranges(request, |_| true),
        _ => false,
    }
}

/// Whether a member may answer a call from what it has, however old that is.
pub fn is_serializable(call: &Call) -> bool {
    match call {
        Call::Range(request) => request.serializable,
        Call::Txn(request) => all_ranges(request, |range| range.serializable),
        _ => false,
    }
}

fn all_ranges(request: &TxnRequest, fits: impl Fn(&RangeRequest) -> bool) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestRange(range)) => fits(range),
        _ => false,
    })
}
