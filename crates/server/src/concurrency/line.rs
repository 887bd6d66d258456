//! The line of keys under a name, and a place in it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use base::WatchId;
use bytes::Bytes;
use node::requests::Rejected;
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
use store::watch::{Filter, SubscriptionId, Watched};

use crate::api::{Api, Phase};
use crate::grpc::{self, Status};

/// How often the removal of a key is tried whose owner is gone, and the time between: together
/// about as long as an election lasts.
const LEAVE_TRIES_MAX: usize = 10;
const LEAVE_PAUSE: Duration = Duration::from_millis(500);

/// How often a subscription is tried while writes come between, before the line is looked at again.
const SUBSCRIBE_TRIES_MAX: usize = 16;

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

    /// The oldest key: whoever holds the lock, or leads. With the view in which it is that. A line
    /// may be long: it is looked at where no other connection waits.
    pub(super) async fn first(
        &self,
        api: &Arc<Api>,
    ) -> Result<(Arc<View>, Option<KeyValue>), Status> {
        let (reading, request) = (Arc::clone(api), self.request(SortOrder::Ascend, 0));
        let look = move || {
            let view = reading.store.view();
            let first = one(&view, &request)?;
            Ok((view, first))
        };
        grpc::blocking(look).await?
    }

    /// The newest key that was created before a revision.
    fn last_before(&self, view: &View, created: i64) -> Result<Option<Ahead>, Status> {
        let keys_only = true;
        let request = RangeRequest { keys_only, ..self.request(SortOrder::Descend, created - 1) };
        Ok(one(view, &request)?.map(Ahead::of))
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

/// Somebody's key, without its value: whoever waits for it keeps this for as long.
#[derive(Debug)]
pub(super) struct Ahead {
    key: Bytes,
    created: i64,
}

impl Ahead {
    fn of(row: KeyValue) -> Self {
        // Copied: the key is a slice of the row.
        Self { key: Bytes::copy_from_slice(&row.key), created: row.create_revision }
    }
}

/// One key, as it is in a view.
pub(super) fn get(view: &View, key: &Bytes) -> Result<Option<Ahead>, Status> {
    let (key, serializable, keys_only) = (key.clone(), true, true);
    let request = RangeRequest { key, serializable, keys_only, ..RangeRequest::default() };
    Ok(one(view, &request)?.map(Ahead::of))
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

    /// Waits until all older keys are gone. Whether there were any. `leaving` guards the place; who
    /// must wait gives it up when it does not wait to the end, even one that it had already.
    ///
    /// What is read may be old, as long as the own key is in it: older keys only become fewer.
    pub(super) async fn reach_front(
        &self,
        api: &Arc<Api>,
        leaving: &mut Leaving,
    ) -> Result<bool, Status> {
        let Some(first) = self.ahead(api).await? else { return Ok(false) };
        leaving.is_armed = true;
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
                return Err(Rejected::Stopped.into());
            }
        }
        Ok(true)
    }

    /// Who is next ahead. A line may be long: it is looked at where no other connection waits.
    async fn ahead(&self, api: &Arc<Api>) -> Result<Option<Ahead>, Status> {
        let (reading, place) = (Arc::clone(api), self.clone());
        grpc::blocking(move || place.line.last_before(&reading.store.view(), place.created)).await?
    }
}

/// Removes a key when its owner is not told that it has it.
pub(super) struct Leaving {
    api: Arc<Api>,
    place: Place,
    is_armed: bool,
}

impl Leaving {
    /// Guards a place that was just taken. One that was there before is not the call's to remove:
    /// the owner may hold what it asks for again.
    pub(super) fn guard(api: &Arc<Api>, taken: &Taken) -> Self {
        let is_armed = taken.before.is_none();
        Self { api: Arc::clone(api), place: taken.place.clone(), is_armed }
    }

    /// The owner is told now.
    pub(super) fn stay(mut self) {
        self.is_armed = false;
    }

    /// The owner is told that it has nothing.
    pub(super) fn leave(mut self) {
        self.is_armed = true;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        // Without a runtime the process ends; the lease will remove the key.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(leave(Arc::clone(&self.api), self.place.clone()));
        }
    }
}

/// Removes a key whose owner is gone. What fails to the end is for the lease to mend.
async fn leave(api: Arc<Api>, place: Place) {
    for _ in 0..LEAVE_TRIES_MAX {
        match place.leave(&api).await {
            Ok(_) => return,
            Err(status) if status == Rejected::Stopped.into() => return,
            // It is removed only as long as it is the same: another try does no harm.
            Err(_) => tokio::time::sleep(LEAVE_PAUSE).await,
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
        self.api.metrics.watchers_ended.increment();
    }
}

/// Waits until a key is deleted, or until it is worth looking again.
async fn deletion(api: &Api, ahead: &Ahead) -> Result<(), Status> {
    let watched = Watched {
        key: ahead.key.clone(),
        range_end: Bytes::new(),
        filter: Filter { no_put: true, no_delete: false },
        prev_kv: false,
    };
    let queue = api.store.hub().queue();
    let mut subscribed = None;
    for _ in 0..SUBSCRIBE_TRIES_MAX {
        let from = api.store.revision().next();
        // It fails when a write came between; then the next revision is asked for.
        subscribed = api.store.hub().subscribe(&queue, WatchId(0), &watched, from).ok();
        if subscribed.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let Some(id) = subscribed else { return Ok(()) };
    // The metrics count it like every other watcher, as the hub does.
    api.metrics.watchers.increment();
    let _subscription = Subscription { api, id };
    // It may have gone before the subscription.
    let now = get(&api.store.view(), &ahead.key)?;
    if now.is_none_or(|now| now.created != ahead.created) {
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
