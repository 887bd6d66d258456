//! Changes the destination, in transactions of bounded size.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb;
use tonic::Code;

use super::{Mirror, REQUEST_TIME_MAX};
use crate::ctl::client::{Client, RequestError, bounded};
use crate::ctl::session::is_deletion;

pub(super) fn put(key: Bytes, value: Bytes) -> pb::RequestOp {
    let request = Request::RequestPut(pb::PutRequest { key, value, ..Default::default() });
    pb::RequestOp { request: Some(request) }
}

pub(super) fn delete(key: Bytes) -> pb::RequestOp {
    let delete = pb::DeleteRangeRequest { key, ..Default::default() };
    pb::RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

/// Replays events. What was one transaction in the source is one here, as far as the limits allow.
pub(super) async fn replay(
    mirror: &Mirror,
    destination: &Client,
    events: Vec<mvccpb::Event>,
) -> Result<(), RequestError> {
    let mut operations = Vec::new();
    let mut revision = 0;
    for event in events {
        let deleted = is_deletion(&event);
        let pair = event.kv.unwrap_or_default();
        let full = operations.len() >= mirror.operations_max;
        if !operations.is_empty() && (pair.mod_revision > revision || full) {
            let done = operations.len();
            commit(destination, std::mem::take(&mut operations)).await?;
            mirror.count(done);
        }
        revision = pair.mod_revision;
        let key = mirror.map.apply(&pair.key);
        operations.push(if deleted { delete(key) } else { put(key, pair.value) });
    }
    let done = operations.len();
    commit(destination, operations).await?;
    mirror.count(done);
    Ok(())
}

/// Commits operations in one transaction, or in as few as the destination's own limits allow.
pub(super) async fn commit(
    destination: &Client,
    operations: Vec<pb::RequestOp>,
) -> Result<(), RequestError> {
    let mut groups = VecDeque::from([operations]);
    while let Some(mut group) = groups.pop_front() {
        if group.is_empty() {
            continue;
        }
        let request = pb::TxnRequest { success: group.clone(), ..Default::default() };
        let send = async |r| destination.kv().txn(r).await;
        match bounded(REQUEST_TIME_MAX, destination.ask(&request, send)).await {
            Ok(_) => {}
            Err(error) if is_too_large(&error) && group.len() > 1 => {
                let second = group.split_off(group.len() / 2);
                groups.push_front(second);
                groups.push_front(group);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_too_large(error: &RequestError) -> bool {
    const TEXTS: [&str; 2] =
        ["etcdserver: too many operations in txn request", "etcdserver: request is too large"];
    match error {
        RequestError::Deadline => false,
        RequestError::Status(status) if status.code() == Code::ResourceExhausted => {
            // This side's limit on what is sent, or gRPC's on what is taken.
            !status.message().starts_with("etcdserver: ")
        }
        RequestError::Status(status) => TEXTS.contains(&status.message()),
    }
}
