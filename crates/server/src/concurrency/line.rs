//! The line of keys under a name, and a place in it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use base::WatchId;
use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse,
};
use proto::mvccpb::KeyValue;
use store::View;
use store::watch::{Filter, Queue, SubscriptionId, Watched};

use crate::api::{Api, Phase};
use crate::grpc::{self, Status};

/// The keys of everyone who wants the same.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// What all its keys begin with.
    pub(super) prefix: Bytes,
    /// The first key after all of them.
    pub(super) end: Bytes,
}

impl Line {
    pub(super) fn of(name: &[u8]) -> Self {
        let with = |last: u8| Bytes::from([name, &[last]].concat());
        Self { prefix: with(b'/'), end: with(b'/' + 1) }
    }

    /// The key of whoever brings this lease.
    fn key(&self, lease: i64) -> Bytes {
        let sign = if lease < 0 { "-" } else { "" };
        let lease = format!("{sign}{:x}", lease.unsigned_abs());
        [&self.prefix[..], lease.as_bytes()].concat().into()
    }

    /// The oldest key: whoever holds the lock, or leads.
    pub(super) fn first(&self, view: &View) -> Result<Option<KeyValue>, Status> {
        one(view, &self.request(SortOrder::Ascend, 0))
    }

    /// The newest key that was created before a revision.
    fn last_before(&self, view: &View, created: i64) -> Result<Option<KeyValue>, Status> {
        one(view, &self.request(SortOrder::Descend, created - 1))
    }

    fn request(&self, order: SortOrder, max_create_revision: i64) -> RangeRequest {
        RangeRequest {
            key: self.prefix.clone(),
            range_end: self.end.clone(),
            limit: 1,
            sort_order: order as i32,
            sort_target: SortTarget::Create as i32,
            max_create_revision,
            serializable: true,
            ..RangeRequest::default()
        }
    }
}

/// The first row of an answer.
fn one(view: &View, request: &RangeRequest) -> Result<Option<KeyValue>, Status> {
    let mut found = None;
    view.range(request, &mut |row| found = Some(Bytes::copy_from_slice(row)))?;
    found.map(|row| grpc::wire::decode(&row)).transpose()
}

/// One key, as it is in a view.
pub(super) fn get(view: &View, key: &Bytes) -> Result<Option<KeyValue>, Status> {
    one(view, &RangeRequest { key: key.clone(), serializable: true, ..RangeRequest::default() })
}

/// A key in a line, and when it was created.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) line: Line,
    pub(super) key: Bytes,
    pub(super) created: i64,
}

/// What came of taking a place.
pub(super) struct Taken {
    pub(super) place: Place,
    pub(super) header: Option<ResponseHeader>,
    /// The value of a key that was there already.
    pub(super) before: Option<Bytes>,
}

impl Place {
    /// Puts a key at the end of the line, unless the lease has one there already.
    pub(super) async fn take(
        api: &Arc<Api>,
        line: Line,
        lease: i64,
        value: Bytes,
    ) -> Result<Taken, Status> {
        let key = line.key(lease);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let range = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let place = Self { line, key, created: 0 };
        let request = TxnRequest {
            compare: vec![place.is_created_at(0)],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![RequestOp { request: Some(Request::RequestRange(range)) }],
        };
        let TxnResponse { header, responses, succeeded } = grpc::txn::txn(api, request).await?;
        let revision = header.as_ref().map_or(0, |header| header.revision);
        let there = responses.into_iter().find_map(|response| match response.response {
            Some(Response::ResponseRange(mut range)) => range.kvs.pop(),
            _ => None,
        });
        let created = match &there {
            Some(there) if !succeeded => there.create_revision,
            _ => revision,
        };
        let before = there.map(|there| there.value);
        Ok(Taken { place: Self { created, ..place }, header, before })
    }

    /// That the key is the one which was created at that revision; at 0: that there is none.
    fn is_created_at(&self, revision: i64) -> Compare {
        Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: self.key.clone(),
            target_union: Some(TargetUnion::CreateRevision(revision)),
            ..Compare::default()
        }
    }

    /// Changes the key, or removes it, if it is still the same. Says whether it was.
    async fn change(&self, api: &Arc<Api>, op: Request) -> Result<TxnResponse, Status> {
        let request = TxnRequest {
            compare: vec![self.is_created_at(self.created)],
            success: vec![RequestOp { request: Some(op) }],
            failure: Vec::new(),
        };
        grpc::txn::txn(api, request).await
    }

    /// Gives the key another value.
    pub(super) async fn put(
        &self,
        api: &Arc<Api>,
        lease: i64,
        value: Bytes,
    ) -> Result<TxnResponse, Status> {
        let put = PutRequest { key: self.key.clone(), value, lease, ..PutRequest::default() };
        self.change(api, Request::RequestPut(put)).await
    }

    /// Removes the key.
    pub(super) async fn leave(&self, api: &Arc<Api>) -> Result<TxnResponse, Status> {
        let key = self.key.clone();
        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        self.change(api, Request::RequestDeleteRange(delete)).await
    }

    /// Waits until all older keys are gone. Whether there were any.
    ///
    /// What is read may be old, as long as the own key is in it: older keys only become fewer.
    pub(super) async fn reach_front(&self, api: &Arc<Api>) -> Result<bool, Status> {
        let Some(first) = self.ahead(api).await? else { return Ok(false) };
        let leaving = Leaving::new(api, self);
        let _waiter = api.waiting.enter()?;
        let mut phase = api.phase.clone();
        let all_gone = async {
            let mut next = Some(first);
            while let Some(ahead) = next {
                deletion(api, &ahead).await?;
                next = self.ahead(api).await?;
            }
            Ok::<_, Status>(())
        };
        tokio::select! {
            gone = all_gone => gone?,
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {
                return Err(node::requests::Rejected::Stopped.into());
            }
        }
        leaving.stay();
        Ok(true)
    }

    /// Who is next ahead. A line may be long: it is looked at where no other connection waits.
    async fn ahead(&self, api: &Arc<Api>) -> Result<Option<KeyValue>, Status> {
        let (reading, place) = (Arc::clone(api), self.clone());
        grpc::blocking(move || place.line.last_before(&reading.store.view(), place.created)).await?
    }
}

/// Removes a key when its owner does not wait to the end.
struct Leaving {
    who: Option<(Arc<Api>, Place)>,
}

impl Leaving {
    fn new(api: &Arc<Api>, place: &Place) -> Self {
        Self { who: Some((Arc::clone(api), place.clone())) }
    }

    fn stay(mut self) {
        self.who = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let Some((api, place)) = self.who.take() else { return };
        // Without a runtime the process ends; the lease will remove the key.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // What fails now is for the lease to mend, too.
                drop(place.leave(&api).await);
            });
        }
    }
}

/// Ends with its waiter.
struct Subscription<'a> {
    api: &'a Api,
    id: SubscriptionId,
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.api.store.hub().unsubscribe(self.id);
    }
}

/// Waits until a key is deleted, or until it is worth looking again.
async fn deletion(api: &Api, row: &KeyValue) -> Result<(), Status> {
    let watched = Watched {
        key: row.key.clone(),
        range_end: Bytes::new(),
        filter: Filter { no_put: true, no_delete: false },
        prev_kv: false,
    };
    let queue = Arc::new(Queue::default());
    let id = loop {
        let from = api.store.revision().next();
        // It fails when a write came between; then the next revision is asked for.
        if let Ok(id) = api.store.hub().subscribe(&queue, WatchId(0), &watched, from) {
            break id;
        }
        tokio::task::yield_now().await;
    };
    let _subscription = Subscription { api, id };
    // It may have gone before the subscription.
    let now = get(&api.store.view(), &row.key)?;
    if now.is_none_or(|now| now.create_revision != row.create_revision) {
        return Ok(());
    }
    poll_fn(|context| {
        let drained = queue.drain(context.waker());
        let is_quiet = drained.batches.is_empty() && drained.lagging.is_empty();
        if is_quiet { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_client_library() {
        let line = Line::of(b"my/lock");
        assert_eq!(&line.prefix[..], b"my/lock/");
        assert_eq!(&line.end[..], b"my/lock0");
        assert_eq!(&line.key(0x0694_d81a)[..], b"my/lock/694d81a");
        assert_eq!(&line.key(-1)[..], b"my/lock/-1");
        assert_eq!(&line.key(i64::MIN)[..], b"my/lock/-8000000000000000");
        assert_eq!(&Line::of(b"").key(10)[..], b"/a");
    }
}
