//! Transactions.

use std::time::Instant;

use base::limits::TXN_DEPTH_MAX;
use node::requests::Rejected;
use node::requests::check::{check_txn, is_read_only, is_serializable};
use proto::etcdserverpb::{InternalRaftRequest, TxnRequest, TxnResponse};
use store::quota::txn_cost;
use store::{Counts, Response, read_txn};

use super::kv::mismatched;
use super::status::Status;
use super::wire::unparseable;
use crate::api::Api;
use crate::trace::slow;

/// Transactions inside each other from which on Go's decoder gives up: it takes 10,000 levels of
/// messages, and a nested transaction is two.
const GO_DEPTH_MAX: usize = 4_999;

/// Refuses what nests so deep that it could not be decoded; it has too many operations, too.
pub(super) fn check_depth(encoded: &[u8]) -> Result<(), Status> {
    if proto::check_nesting(encoded, TXN_DEPTH_MAX).is_ok() {
        return Ok(());
    }
    Err(match proto::check_nesting(encoded, GO_DEPTH_MAX) {
        Ok(()) => Rejected::TooManyOps.into(),
        Err(_) => unparseable("proto: exceeded maximum recursion depth"),
    })
}

/// Runs a transaction.
pub(crate) async fn txn(api: &Api, request: TxnRequest) -> Result<TxnResponse, Status> {
    api.check_quota(txn_cost(&request)).await?;
    check_txn(&request, api.options.txn_ops_max)?;
    let mut response = if is_read_only(&request) {
        read(api, &request).await?
    } else {
        let proposal =
            api.propose(InternalRaftRequest { txn: Some(request), ..Default::default() });
        match proposal.await? {
            Response::Txn(response) => response,
            other => return Err(mismatched(&other)),
        }
    };
    api.fill(&mut response.header);
    Ok(response)
}

async fn read(api: &Api, request: &TxnRequest) -> Result<TxnResponse, Status> {
    let asked = Instant::now();
    let answer = read_checked(api, request).await;
    let took = asked.elapsed();
    if took > api.options.live.slow_apply() {
        slow::log_read_txn(api, request, took, answer.as_ref().map_err(|status| &*status.message));
    }
    answer
}

async fn read_checked(api: &Api, request: &TxnRequest) -> Result<TxnResponse, Status> {
    if !is_serializable(request) {
        api.read_index().await?;
    }
    let (began, mut counts) = (Instant::now(), Counts::default());
    let answer = super::range::with_newest_view(api, |view| {
        counts = Counts::default();
        read_txn(view, request, &mut counts)
    });
    api.metrics.count(counts);
    api.metrics.read_txn_seconds.observe(answer.is_ok(), began.elapsed());
    answer
}
