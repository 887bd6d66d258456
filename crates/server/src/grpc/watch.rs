//! The watch stream: feeds requests to a session, and its responses to the connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Revision;
use bytes::BytesMut;
use node::requests::Rejected;
use node::requests::watch::{Limits, Response, Session};
use store::ReadError;
use tokio::time::{MissedTickBehavior, interval_at};

use super::status::Status;
use super::stream::Stream;
use super::wire::{self, Messages, PREFIX};
use crate::api::Api;
use crate::metrics::{Broken, Metrics, WatchLoop};

/// Counts a stream and its watchers while they live.
struct Gauge {
    metrics: Arc<Metrics>,
    watchers: u64,
}

impl Gauge {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.watch_streams.increment();
        Self { metrics: Arc::clone(metrics), watchers: 0 }
    }

    fn set(&mut self, watchers: usize) {
        let watchers = watchers as u64;
        self.metrics.watchers.add(watchers.saturating_sub(self.watchers));
        self.metrics.watchers_ended.add(self.watchers.saturating_sub(watchers));
        self.watchers = watchers;
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.set(0);
        self.metrics.watch_streams_ended.increment();
    }
}

/// What the stream waits for.
enum Next {
    Request(Option<bytes::Bytes>),
    Responses(Vec<Response>),
    Tick,
}

pub(super) async fn run(stream: &mut Stream, mut requests: Messages) -> Result<(), Status> {
    let api = Arc::clone(&stream.call.api);
    let status = api.member.status();
    let header = (api.member.cluster_id(), api.member.id(), status.term);
    let limits = Limits { header, ..api.options.watch };
    let mut session = Session::new(Arc::clone(&api.store), limits, &mut api.rng());
    let period = session.progress_interval();
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gauge = Gauge::new(&api.metrics);
    let mut is_open = true;
    loop {
        let responses = poll_fn(|context| session.poll_responses(context.waker()));
        let next = tokio::select! {
            biased;
            status = stream.interrupted() => return Err(canceled(status)),
            responses = responses => Next::Responses(responses.map_err(damaged)?),
            request = requests.next(), if is_open => Next::Request(request.map_err(|status| {
                tell_broken(&api, &status);
                canceled(status)
            })?),
            _ = ticks.tick() => Next::Tick,
        };
        match next {
            Next::Request(None) => {
                stream.call.received_end();
                is_open = false;
            }
            Next::Request(Some(message)) => {
                stream.call.received(message.len());
                let request = wire::decode_streamed(&message).inspect_err(|status| {
                    tell_broken(&api, status);
                    stream.call.received_nonsense();
                });
                session.handle(request?);
                gauge.set(session.watchers());
            }
            Next::Tick => {
                let begun = Instant::now();
                session.tick();
                api.metrics.watch_loop.progress.observe(begun.elapsed());
            }
            Next::Responses(responses) => {
                let begun = Instant::now();
                for response in &responses {
                    send(stream, response).await.map_err(canceled)?;
                }
                stream.flush().await.map_err(canceled)?;
                measure(&api.metrics.watch_loop, &responses, begun.elapsed());
                gauge.set(session.watchers());
                // A watcher that catches up must not keep the lane for itself.
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Notes how long responses took that left together.
fn measure(to: &WatchLoop, responses: &[Response], took: Duration) {
    for response in responses {
        let events = response.events.len() as u32;
        let is_asked_for = response.compact_revision == Revision(0);
        match (response.created, response.canceled && is_asked_for) {
            // etcd does not look at the time of these.
            (_, true) => {}
            (true, false) => to.control.observe(took),
            (false, false) => to.events.observe(took),
        }
        if events > 0 {
            to.per_event.observe(took / events);
        }
    }
}

async fn send(stream: &mut Stream, response: &Response) -> Result<(), Status> {
    let api = &stream.call.api;
    let header = (api.member.cluster_id(), stream.member(), api.member.status().term);
    let length = response.encoded_len(header);
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    wire::put_prefix(&mut bytes, 0, length);
    response.encode(header, &mut bytes);
    stream.push(bytes.freeze()).await
}

/// A client that goes breaks nothing.
fn tell_broken(api: &Api, status: &Status) {
    if *status != Rejected::Canceled.into() {
        api.metrics.broken(Broken::Watch);
    }
}

/// A client that is gone is told, if it still listens, in etcd's words for this stream.
fn canceled(status: Status) -> Status {
    if status == Rejected::Canceled.into() { Rejected::WatchCanceled.into() } else { status }
}

fn damaged(error: ReadError) -> Status {
    error.into()
}
