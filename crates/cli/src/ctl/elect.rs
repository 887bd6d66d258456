//! `elect`: stands for an election, or watches who wins it.
//!
//! *Invariants.* However the command ends, a leader first resigns, and a candidate leaves the line.
//! A second signal does not wait for that.
//!
//! *Absent.* A lease for observers: etcdctl grants one that it has no use for.
//!
//! *Contract.* `command/elect_command.go` and `client/v3/concurrency/election.go` of etcd v3.7.1.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group};
use super::events::{Ended, Follower};
use super::failure::{self, Failure, Outcome};
use super::global::Settings;
use super::print::{Answer, Printer};
use super::range::prefix_end;
use super::session::{
    Interrupts, Session, TTL_DEFAULT, created_at, fail, first_created, is_deletion, one_key,
    operation,
};

/// The lease of a candidate or of a leader is lost.
const EXPIRED: &str = "elect: session expired";

pub(crate) static ELECT: Command = Command {
    name: "elect",
    usage: "<election-name> [proposal]",
    short: "Observes and participates in leader election",
    group: Group::Concurrency,
    flags: &[Flag::bool("listen", "observation mode").short('l')],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let bad_args = |reason| Err(Failure::new(failure::BAD_ARGS, reason));
    let listen = call.values.bool("listen");
    let (name, proposal) = match call.args.as_slice() {
        [name] => (name.clone(), None),
        [name, proposal] => (name.clone(), Some(proposal.clone())),
        _ => {
            return bad_args(
                "elect takes one election name argument and an optional proposal argument",
            );
        }
    };
    let settings = call.settings()?;
    let prefix = [name.as_slice(), b"/"].concat();
    match proposal {
        None if !listen => bad_args("no proposal argument but -l not set"),
        Some(_) if listen => bad_args("proposal given but -l is set"),
        None => {
            let mut interrupts = Interrupts::new()?;
            let printer = call.printer();
            tokio::select! {
                observed = observe(settings, &prefix, &printer) => observed,
                () = interrupts.next() => Ok(()),
            }
        }
        Some(proposal) => campaign(settings, &prefix, proposal, &call.printer()).await,
    }
}

/// Becomes leader, says so, and stays it until a signal.
async fn campaign(settings: Settings, prefix: &[u8], proposal: Arg, printer: &Printer) -> Outcome {
    let session = Session::open(settings, TTL_DEFAULT).await?;
    let mut interrupts = Interrupts::new()?;
    let candidate = Candidate { key: session.key(prefix), session, revision: Cell::new(None) };
    let ended = candidate.lead(prefix, &proposal, printer, &mut interrupts).await;
    let left = candidate.session.give_up(&mut interrupts, EXPIRED, candidate.resign()).await;
    ended.and(left)
}

/// A place in the line of an election.
struct Candidate {
    session: Session,
    key: Arg,
    /// That of the place in the line, once it is known.
    revision: Cell<Option<i64>>,
}

impl Candidate {
    /// Wins, says so, and stays leader until a signal comes. The caller resigns, whatever comes of
    /// this.
    async fn lead(
        &self,
        prefix: &[u8],
        proposal: &Arg,
        printer: &Printer,
        interrupts: &mut Interrupts,
    ) -> Outcome {
        let won = async {
            let revision = self.enter(proposal).await?;
            self.session.wait_for_turn(prefix, revision).await.map_err(fail)?;
            self.session.range(&one_key(&self.key)).await.map_err(fail)
        };
        let answer = self.session.unless_stopped(interrupts, EXPIRED, won).await?;
        printer.print(&Answer::Get(answer))?;
        self.session.hold(interrupts, EXPIRED).await
    }

    /// Enters the line with a proposal, and returns the revision of the place in it.
    async fn enter(&self, proposal: &Arg) -> Outcome<i64> {
        let put = || {
            operation(Request::RequestPut(pb::PutRequest {
                key: self.key.clone().into(),
                value: proposal.clone().into(),
                lease: self.session.lease,
                ..Default::default()
            }))
        };
        let request = pb::TxnRequest {
            compare: vec![created_at(&self.key, 0)],
            success: vec![put()],
            failure: vec![operation(Request::RequestRange(one_key(&self.key)))],
        };
        let answer = self.session.txn(&request).await.map_err(fail)?;
        let now = answer.header.map_or(0, |header| header.revision);
        if answer.succeeded {
            self.revision.set(Some(now));
            return Ok(now);
        }
        // The key of a lease that was granted a moment ago: somebody else knows its id.
        let held = answer.responses.into_iter().next().and_then(|response| response.response);
        let Some(Response::ResponseRange(held)) = held else {
            return Err(fail("election: not leader"));
        };
        let revision = held.kvs.first().map_or(now, |pair| pair.create_revision);
        self.revision.set(Some(revision));
        let request = pb::TxnRequest {
            compare: vec![created_at(&self.key, revision)],
            success: vec![put()],
            failure: Vec::new(),
        };
        let answer = self.session.txn(&request).await.map_err(fail)?;
        if answer.succeeded { Ok(revision) } else { Err(fail("election: not leader")) }
    }

    /// Leaves the line, unless another has taken the key meanwhile. Whoever was stopped before its
    /// place was known leaves whatever place it has.
    async fn resign(&self) -> Result<(), RequestError> {
        let delete = pb::DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        let request = pb::TxnRequest {
            compare: self.revision.get().map(|at| created_at(&self.key, at)).into_iter().collect(),
            success: vec![operation(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        self.session.txn(&request).await?;
        Ok(())
    }
}

/// Prints each leader, and each of its proposals.
async fn observe(settings: Settings, prefix: &[u8], printer: &Printer) -> Outcome {
    let settings = Rc::new(settings);
    let client = Client::connect_unbounded(&settings).await?;
    let lost = |_| fail("elect: observer lost");
    loop {
        let send = async |r| client.kv().range(r).await;
        let answer = client.ask_repeatable(&first_created(prefix), send).await.map_err(lost)?;
        let mut header = answer.header.unwrap_or_default();
        let leader = match answer.kvs.into_iter().next() {
            Some(leader) => leader,
            None => match first_put(&settings, prefix, header.revision).await {
                Ok((of, leader)) => {
                    header = of;
                    leader
                }
                Err(Ended::Compacted) => continue,
                Err(_) => return Err(fail("elect: observer lost")),
            },
        };
        let (key, start) = (leader.key.clone(), header.revision + 1);
        show(printer, header, leader)?;
        let mut follower = Follower::new(Rc::clone(&settings), (key, Bytes::new()), start);
        'reign: loop {
            let answer = match follower.next().await {
                Ok(answer) => answer,
                Err(Ended::Compacted) => break,
                Err(_) => return Err(fail("elect: observer lost")),
            };
            let header = answer.header.unwrap_or_default();
            for event in answer.events {
                if is_deletion(&event) {
                    break 'reign;
                }
                show(printer, header, event.kv.unwrap_or_default())?;
            }
        }
    }
}

fn show(printer: &Printer, header: pb::ResponseHeader, leader: KeyValue) -> Outcome {
    let kvs = vec![leader];
    printer.print(&Answer::Get(pb::RangeResponse {
        header: Some(header),
        kvs,
        ..Default::default()
    }))
}

/// Waits for somebody to enter an empty line.
async fn first_put(
    settings: &Rc<Settings>,
    prefix: &[u8],
    revision: i64,
) -> Result<(pb::ResponseHeader, KeyValue), Ended> {
    let range = (prefix.to_vec().into(), prefix_end(prefix).into());
    let mut follower = Follower::new(Rc::clone(settings), range, revision);
    loop {
        let answer = follower.next().await?;
        let mut header = answer.header.unwrap_or_default();
        let put = answer.events.into_iter().find(|event| !is_deletion(event));
        if let Some(pair) = put.and_then(|event| event.kv) {
            header.revision = pair.mod_revision;
            return Ok((header, pair));
        }
    }
}
