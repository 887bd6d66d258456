//! `lease`: grants, revokes, inspects and keeps leases alive.

use std::time::Duration;

use proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group};
use super::failure::{self, Failure, Outcome};
use super::print::{Answer, Format, Printer, print};
use crate::go;

/// Between two attempts to open the stream again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) static LEASE: Command = Command {
    name: "lease",
    short: "Lease related commands. Use `etcdctl lease --help` to see subcommands",
    long: "Lease related commands",
    group: Group::KeyValue,
    commands: &[&GRANT, &REVOKE, &TIME_TO_LIVE, &LIST, &KEEP_ALIVE],
    ..Command::EMPTY
};

static GRANT: Command = Command {
    name: "grant",
    usage: "<ttl>",
    short: "Creates leases",
    run: Some(|call| Box::pin(grant(call))),
    ..Command::EMPTY
};

static REVOKE: Command = Command {
    name: "revoke",
    usage: "<leaseID>",
    short: "Revokes leases",
    run: Some(|call| Box::pin(revoke(call))),
    ..Command::EMPTY
};

static TIME_TO_LIVE: Command = Command {
    name: "timetolive",
    usage: "<leaseID> [options]",
    short: "Get lease information",
    flags: &[Flag::bool("keys", "Get keys attached to this lease")],
    run: Some(|call| Box::pin(time_to_live(call))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "List all active leases",
    run: Some(|call| Box::pin(list(call))),
    ..Command::EMPTY
};

static KEEP_ALIVE: Command = Command {
    name: "keep-alive",
    usage: "[options] <leaseID>",
    short: "Keeps leases alive (renew)",
    flags: &[Flag::bool(
        "once",
        "Resets the keep-alive time to its original value and cobrautl.Exits immediately",
    )],
    run: Some(|call| Box::pin(keep_alive(call))),
    ..Command::EMPTY
};

/// The only argument, which must be there.
fn argument<'a>(call: &'a Call, usage: &str) -> Outcome<&'a Arg> {
    match call.args.as_slice() {
        [only] => Ok(only),
        _ => Err(Failure::new(failure::BAD_ARGS, usage)),
    }
}

/// A lease id as people write it.
fn lease_id(arg: &Arg) -> Outcome<i64> {
    go::parse_int(&String::from_utf8_lossy(arg), 16).map_err(|error| {
        let reason = format!("bad lease ID arg ({error}), expecting ID in Hex");
        Failure::new(failure::BAD_ARGS, reason)
    })
}

/// The end of a lease command other than `grant` and `revoke`.
fn fail(error: RequestError) -> Failure {
    Failure::new(failure::BAD_CONNECTION, error)
}

async fn grant(call: &mut Call) -> Outcome {
    let ttl = argument(call, "lease grant command needs TTL argument")?;
    let ttl = go::parse_int(&String::from_utf8_lossy(ttl), 10)
        .map_err(|error| Failure::new(failure::BAD_ARGS, format!("bad TTL ({error})")))?;
    let request = pb::LeaseGrantRequest { ttl, id: 0 };
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer =
        client.ask_repeatable(&request, async |r| client.lease().lease_grant(r).await).await;
    let answer = answer.map_err(|error| {
        Failure::new(failure::ERROR, format!("failed to grant lease ({error})"))
    })?;
    call.printer().print(&Answer::Grant(answer))
}

async fn revoke(call: &mut Call) -> Outcome {
    let id = lease_id(argument(call, "lease revoke command needs 1 argument")?)?;
    let request = pb::LeaseRevokeRequest { id };
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer =
        client.ask_repeatable(&request, async |r| client.lease().lease_revoke(r).await).await;
    let answer = answer.map_err(|error| {
        Failure::new(failure::ERROR, format!("failed to revoke lease ({error})"))
    })?;
    call.printer().print(&Answer::Revoke { id, answer })
}

async fn time_to_live(call: &mut Call) -> Outcome {
    let id = lease_id(argument(call, "lease timetolive command needs lease ID as argument")?)?;
    let keys = call.values.bool("keys");
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let settings = call.settings()?;
    let client = Client::connect_unbounded(&settings).await?;
    let send = async |r| client.lease().lease_time_to_live(r).await;
    let answer = client.ask_repeatable(&request, send).await.map_err(fail)?;
    call.printer().print(&Answer::TimeToLive { answer, keys })
}

async fn list(call: &mut Call) -> Outcome {
    let settings = call.settings()?;
    let client = Client::connect_unbounded(&settings).await?;
    let send = async |r| client.lease().lease_leases(r).await;
    let answer = client.ask_repeatable(&pb::LeaseLeasesRequest {}, send).await.map_err(fail)?;
    call.printer().print(&Answer::Leases(answer))
}

async fn keep_alive(call: &mut Call) -> Outcome {
    let id = lease_id(argument(call, "lease keep-alive command needs lease ID as argument")?)?;
    let settings = call.settings()?;
    let printer = call.printer();
    // Until the first answer nobody knows how long the lease lives.
    let mut until = Instant::now() + settings.dial_timeout + Duration::from_secs(1);
    let client = Client::connect_unbounded(&settings).await?;
    if call.values.bool("once") {
        let mut stream = Stream::open(&client, id).await.map_err(fail)?;
        let answer = stream.renew(&client, id).await.map_err(fail)?;
        if answer.ttl <= 0 {
            let reason = "etcdserver: requested lease not found";
            return Err(Failure::new(failure::BAD_CONNECTION, reason));
        }
        return printer.print(&Answer::KeepAlive(answer));
    }
    while keep(&client, id, &printer, &mut until).await? && Instant::now() < until {
        sleep(RETRY_INTERVAL).await;
        // The member that knew the token may have gone.
        if let Ok(again) = timeout_at(until, client.log_in_again()).await {
            again.map_err(fail)?;
        }
    }
    if printer.format == Format::Simple {
        print(format!("lease {id:016x} expired or revoked.\n").as_bytes())?;
    }
    Ok(())
}

/// Renews the lease over one stream for as long as that lasts, and moves the moment until which
/// the lease lives. Says whether another stream may go on with it.
async fn keep(client: &Client, id: i64, printer: &Printer, until: &mut Instant) -> Outcome<bool> {
    let opened = timeout_at(*until, Stream::open(client, id)).await;
    let Ok(opened) = opened else { return Ok(false) };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return Ok(error.is_transient()),
    };
    loop {
        let Ok(answer) = timeout_at(*until, stream.renew(client, id)).await else {
            return Ok(false);
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(error.is_transient()),
        };
        let Some(ttl) = u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0) else {
            return Ok(false);
        };
        printer.print(&Answer::KeepAlive(answer))?;
        *until = Instant::now() + Duration::from_secs(ttl);
        sleep(Duration::from_secs(ttl) / 3).await;
    }
}

/// A stream of renewals of one lease.
pub(super) struct Stream {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: tonic::Streaming<pb::LeaseKeepAliveResponse>,
    /// The request that opened the stream has not been answered yet.
    fresh: bool,
}

impl Stream {
    /// Opens the stream with a first renewal, since a server may say nothing before one.
    pub(super) async fn open(client: &Client, id: i64) -> Result<Stream, RequestError> {
        let (requests, queue) = mpsc::channel(1);
        let first = pb::LeaseKeepAliveRequest { id };
        requests.try_send(first).expect("a new channel has room for one");
        let request = client.request_with_leader(ReceiverStream::new(queue));
        let answers = client.lease().lease_keep_alive(request).await?.into_inner();
        Ok(Stream { requests, answers, fresh: true })
    }

    pub(super) async fn renew(
        &mut self,
        client: &Client,
        id: i64,
    ) -> Result<pb::LeaseKeepAliveResponse, RequestError> {
        let broken = || tonic::Status::unavailable("the stream has ended");
        if !std::mem::take(&mut self.fresh) {
            let request = pb::LeaseKeepAliveRequest { id };
            self.requests.send(request).await.map_err(|_| broken())?;
        }
        Ok(client.next(&mut self.answers).await?.ok_or_else(broken)?)
    }
}
