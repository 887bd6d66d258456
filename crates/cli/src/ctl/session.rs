//! A lease that lives as long as the command, and the line of keys in which lockers and
//! candidates stand.
//!
//! ```text
//!  NAME/694d5e5b63a74f31   first in the line (lowest create revision): holds
//!  NAME/694d5e5b63a74f35   waits for the deletion of the key before it, and only of that
//!  NAME/694d5e5b63a74f38   waits for ...35
//! ```
//!
//! *Invariants.* The keys are those of the Go client's package `concurrency`, so that its users,
//! etcdctl and these commands stand in one line. A key dies with its lease, so that a holder that
//! is gone does not hold for longer than the time to live.
//!
//! *Contract.* `client/v3/concurrency/{session,key}.go` of etcd v3.7.1.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::{Client, RequestError};
use super::command::Arg;
use super::events::{Ended, Follower, connect};
use super::failure::{self, Failure, Outcome};
use super::global::Settings;
use super::lease::Stream;
use super::range::prefix_end;

/// How long a lease lives if nothing else is asked for.
pub(super) const TTL_DEFAULT: i64 = 60;
/// Between two attempts to open the stream of renewals again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// A signal that comes so soon after something is begun to be given up is still the one that
/// asked for that, and not another by somebody who does not want to wait.
const PATIENCE: Duration = Duration::from_millis(500);

/// How a command ends that a signal stopped, in Go's words.
const CANCELED: &str = "context canceled";

/// A lease that is kept alive.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) settings: Rc<Settings>,
    pub(super) lease: i64,
    lost: watch::Receiver<bool>,
}

/// A failure of a request.
pub(super) fn fail(error: impl std::fmt::Display) -> Failure {
    Failure::new(failure::ERROR, error)
}

impl Session {
    /// Grants a lease and keeps it alive in the background.
    pub(super) async fn open(settings: Settings, ttl: i64) -> Outcome<Session> {
        let settings = Rc::new(settings);
        let client = Client::connect_unbounded(&settings).await?;
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let send = async |r| client.lease().lease_grant(r).await;
        let granted = client.ask_repeatable(&request, send).await.map_err(fail)?;
        let (sender, lost) = watch::channel(false);
        let (lease, kept) = (granted.id, Rc::clone(&settings));
        tokio::task::spawn_local(async move {
            keep(&kept, lease, granted.ttl).await;
            let _ = sender.send(true);
        });
        Ok(Session { client, settings, lease, lost })
    }

    /// Waits until the lease is lost.
    pub(super) async fn lost(&self) {
        let mut lost = self.lost.clone();
        // The sender goes only after it has said so.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Works until that is done, the lease is lost (told in the words of `expired`), or a signal
    /// comes.
    pub(super) async fn unless_stopped<T>(
        &self,
        interrupts: &mut Interrupts,
        expired: &str,
        work: impl Future<Output = Outcome<T>>,
    ) -> Outcome<T> {
        tokio::select! {
            () = self.lost() => Err(fail(expired)),
            () = interrupts.next() => Err(fail(CANCELED)),
            done = work => done,
        }
    }

    /// Holds what was taken until a signal comes.
    pub(super) async fn hold(&self, interrupts: &mut Interrupts, expired: &str) -> Outcome {
        tokio::select! {
            () = self.lost() => Err(fail(expired)),
            () = interrupts.next() => Ok(()),
        }
    }

    /// Gives up what was taken, however the command ends. What the lease holds no more needs
    /// nobody who waits for a member that does not answer, and who does not want to wait sends
    /// another signal.
    pub(super) async fn give_up(
        &self,
        interrupts: &mut Interrupts,
        expired: &str,
        release: impl Future<Output = Result<(), RequestError>>,
    ) -> Outcome {
        let begun = Instant::now();
        let pressed = async {
            interrupts.next().await;
            while begun.elapsed() < PATIENCE {
                interrupts.next().await;
            }
        };
        let useless = async {
            self.lost().await;
            sleep(self.settings.command_timeout).await;
        };
        tokio::select! {
            released = release => released.map_err(fail),
            () = useless => Err(fail(expired)),
            () = pressed => Err(fail(CANCELED)),
        }
    }

    /// The key of this session in the line under `prefix`.
    pub(super) fn key(&self, prefix: &[u8]) -> Arg {
        [prefix, format!("{:x}", self.lease).as_bytes()].concat()
    }

    pub(super) async fn txn(&self, txn: &pb::TxnRequest) -> Result<pb::TxnResponse, RequestError> {
        self.client.ask(txn, async |r| self.client.kv().txn(r).await).await
    }

    /// Reads without an end of time, as etcdctl does here.
    pub(super) async fn range(
        &self,
        request: &pb::RangeRequest,
    ) -> Result<pb::RangeResponse, RequestError> {
        self.client.ask_repeatable(request, async |r| self.client.kv().range(r).await).await
    }

    /// Waits until no key in the line under `prefix` is older than `revision`.
    pub(super) async fn wait_for_turn(&self, prefix: &[u8], revision: i64) -> Result<(), Ended> {
        loop {
            let mut newest = first_created(prefix);
            newest.sort_order = SortOrder::Descend as i32;
            newest.max_create_revision = revision - 1;
            let answer = self.range(&newest).await.map_err(Ended::Broken)?;
            let Some(before) = answer.kvs.into_iter().next() else { return Ok(()) };
            let start = answer.header.map_or(0, |header| header.revision);
            match wait_for_deletion(&self.settings, before.key, start).await {
                // History went while this waited: whoever stands before now is looked for again.
                Ok(()) | Err(Ended::Compacted) => {}
                Err(ended) => return Err(ended),
            }
        }
    }
}

async fn wait_for_deletion(
    settings: &Rc<Settings>,
    key: Bytes,
    start_revision: i64,
) -> Result<(), Ended> {
    let mut follower = Follower::new(Rc::clone(settings), (key, Bytes::new()), start_revision);
    while !follower.next().await?.events.iter().any(is_deletion) {}
    Ok(())
}

/// Whether an event removed its key.
pub(super) fn is_deletion(event: &mvccpb::Event) -> bool {
    event.r#type == mvccpb::event::EventType::Delete as i32
}

/// Asks for the oldest key of the line under `prefix`.
pub(super) fn first_created(prefix: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.to_vec().into(),
        range_end: prefix_end(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// Asks for one key.
pub(super) fn one_key(key: &[u8]) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_vec().into(), ..Default::default() }
}

/// The condition that a key was created at this revision; 0: that there is none.
pub(super) fn created_at(key: &[u8], revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Create as i32,
        key: key.to_vec().into(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// One operation of a transaction.
pub(super) fn operation(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// Renews the lease until it is lost, over as many connections as that takes.
async fn keep(settings: &Settings, lease: i64, ttl: i64) {
    let seconds = |ttl: i64| Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
    let mut until = Instant::now() + seconds(ttl);
    loop {
        let opened = async {
            let client = connect(settings).await?;
            let stream = Stream::open(&client, lease).await?;
            Ok::<_, RequestError>((client, stream))
        };
        let Ok(opened) = timeout_at(until, opened).await else { return };
        if let Ok((client, mut stream)) = opened {
            while let Ok(Ok(answer)) = timeout_at(until, stream.renew(&client, lease)).await {
                if answer.ttl <= 0 {
                    return;
                }
                until = Instant::now() + seconds(answer.ttl);
                sleep(seconds(answer.ttl) / 3).await;
            }
        }
        if Instant::now() + RETRY_INTERVAL >= until {
            return;
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// The signals that end a command in good order.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals do not kill the process.
    pub(super) fn new() -> Outcome<Interrupts> {
        let open = |kind| signal(kind).map_err(fail);
        let (interrupt, terminate) =
            (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
        Ok(Interrupts { interrupt, terminate })
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Works on whatever signals come: they are for somebody else.
    pub(super) async fn ignored_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.next() => {}
            }
        }
    }
}
