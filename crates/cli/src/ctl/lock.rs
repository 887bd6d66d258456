//! `lock`: holds a named lock, for as long as a command runs or until a signal.
//!
//! *Invariants.* However the command ends, it first gives up the lock, or its place in the line: a
//! signal, a lost lease and every error come by there. A second signal does not wait for that.
//!
//! *Contract.* `command/lock_command.go` and `client/v3/concurrency/mutex.go` of etcd v3.7.1.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command as Process, ExitStatus, Stdio};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;

use super::child::{exit_reason, start_reason};
use super::client::RequestError;
use super::command::{Arg, Call, Command, Flag, Group, Kind};
use super::failure::{self, Failure, Outcome};
use super::global::log_line;
use super::print::Answer;
use super::session::{
    Interrupts, Session, TTL_DEFAULT, created_at, fail, first_created, one_key, operation,
};

/// What a command that a signal killed counts as.
const KILLED: u8 = 255;
/// The lease of a holder is lost.
const EXPIRED: &str = "session expired";
/// The lease of one who waits is lost.
const EXPIRED_IN_LINE: &str = "mutex: session is expired";

pub(crate) static LOCK: Command = Command {
    name: "lock",
    usage: "<lockname> [exec-command arg1 arg2 ...]",
    short: "Acquires a named lock",
    group: Group::Concurrency,
    flags: &[Flag::new("ttl", Kind::Int, "10", "timeout for session")],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    if call.args.is_empty() {
        let reason = "lock takes a lock name argument and an optional command to execute";
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    let settings = call.settings()?;
    let session = Session::open(settings, time_to_live(call.values.int("ttl"))).await?;
    let mut interrupts = Interrupts::new()?;
    let prefix = [call.args[0].as_slice(), b"/"].concat();
    let lock = Lock { key: session.key(&prefix), session };
    let ended = lock.hold(call, &prefix, &mut interrupts).await;
    let released = lock.session.give_up(&mut interrupts, EXPIRED, lock.release()).await;
    ended.and(released)
}

/// What was asked for, or the default with etcd's line if that is no time.
fn time_to_live(given: i64) -> i64 {
    if given > 0 {
        return given;
    }
    let line = log_line(
        "warn",
        "WithTTL(): TTL should be > 0, preserving current TTL",
        &[("current-session-ttl", &TTL_DEFAULT.to_string())],
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    TTL_DEFAULT
}

/// A place in the line for a lock.
struct Lock {
    session: Session,
    key: Arg,
}

impl Lock {
    /// Takes the lock, and holds it for as long as the command runs or until a signal comes. The
    /// caller gives it up, whatever comes of this.
    async fn hold(&self, call: &Call, prefix: &[u8], interrupts: &mut Interrupts) -> Outcome {
        let session = &self.session;
        let taken = session.unless_stopped(interrupts, EXPIRED_IN_LINE, self.take(prefix));
        let revision = taken.await?;
        if call.args.len() > 1 {
            let command = execute(call.args[1..].to_vec(), self.key.clone(), revision);
            return interrupts.ignored_during(command).await;
        }
        let read = async { session.range(&one_key(&self.key)).await.map_err(fail) };
        let mut answer = session.unless_stopped(interrupts, EXPIRED, read).await?;
        answer.kvs.truncate(1);
        if answer.kvs.is_empty() {
            return Err(fail("lock lost on init"));
        }
        call.printer().print(&Answer::Get(answer))?;
        session.hold(interrupts, EXPIRED).await
    }

    /// Stands in line until the lock is this one's. Returns the revision at which that was known.
    async fn take(&self, prefix: &[u8]) -> Outcome<i64> {
        let put = pb::PutRequest {
            key: self.key.clone().into(),
            lease: self.session.lease,
            ..Default::default()
        };
        let first = || operation(Request::RequestRange(first_created(prefix)));
        let request = pb::TxnRequest {
            compare: vec![created_at(&self.key, 0)],
            success: vec![operation(Request::RequestPut(put)), first()],
            failure: vec![operation(Request::RequestRange(one_key(&self.key))), first()],
        };
        let answer = self.session.txn(&request).await.map_err(fail)?;
        let now = answer.header.map_or(0, |header| header.revision);
        let found = |index: usize| match answer.responses.get(index)?.response.as_ref()? {
            Response::ResponseRange(range) => Some(range.kvs.first()?.create_revision),
            _ => None,
        };
        let own = if answer.succeeded { now } else { found(0).unwrap_or(now) };
        if found(1).is_none_or(|owner| owner == own) {
            return Ok(now);
        }
        self.session.wait_for_turn(prefix, own).await.map_err(fail)?;
        let answer = self.session.range(&one_key(&self.key)).await.map_err(fail)?;
        if answer.kvs.is_empty() {
            return Err(fail(EXPIRED_IN_LINE));
        }
        Ok(answer.header.map_or(0, |header| header.revision))
    }

    async fn release(&self) -> Result<(), RequestError> {
        let request = pb::DeleteRangeRequest { key: self.key.clone().into(), ..Default::default() };
        let client = &self.session.client;
        client.ask(&request, async |r| client.kv().delete_range(r).await).await?;
        Ok(())
    }
}

/// Runs the command of a lock. Signals are for it to take: a terminal sends them to both.
async fn execute(command: Vec<Arg>, key: Arg, revision: i64) -> Outcome {
    let name = command[0].clone();
    let run = move || -> std::io::Result<ExitStatus> {
        let words: Vec<&OsStr> = command.iter().map(|word| OsStr::from_bytes(word)).collect();
        let mut process = Process::new(words[0]);
        process.args(&words[1..]).stdin(Stdio::null());
        // A lock around this one keeps its variables, as with etcdctl.
        for (name, value) in [
            ("ETCD_LOCK_KEY", OsStr::from_bytes(&key)),
            ("ETCD_LOCK_REV", OsStr::new(&revision.to_string())),
        ] {
            if std::env::var_os(name).is_none() {
                process.env(name, value);
            }
        }
        process.status()
    };
    // The lease is renewed meanwhile, on this thread.
    match tokio::task::spawn_blocking(run).await.map_err(fail)? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(KILLED);
            Err(Failure::new(code, exit_reason(status)))
        }
        Err(error) => Err(fail(start_reason(&name, &error))),
    }
}
