//! `make-mirror`: keeps the keys of another cluster equal to those under a prefix of this one.
//!
//! ```text
//!                            +-- history is gone --+
//!                            v                     |
//!  connect -> look: who? -> copy: compare both -> follow: replay changes, a revision at a time
//!     ^                                                |
//!     +------------ pause, growing <- a side is unavailable
//! ```
//!
//! *Invariants.* Every change of the source after the copy reaches the destination, in order, and
//! again if it is not known whether it did. A copy removes what the source no longer has, so that
//! deletions survive restarts and compactions; it removes nothing outside the range that the
//! mirror alone maps to, see [`Map::owns_destination`].
//!
//! *Absent.* Leases: a mirrored key has none, as with etcdctl.
//!
//! *Contract.* `command/make_mirror_command.go` and `client/v3/mirror/syncer.go` of etcd v3.7.1;
//! docs/decisions/019 says where this goes on and etcdctl ends.

mod apply;
mod copy;
mod destination;
mod identity;
mod map;

use std::cell::Cell;
use std::convert::Infallible;
use std::io::Write as _;
use std::rc::Rc;
use std::time::Duration;

use proto::etcdserverpb as pb;
use tonic::Code;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group, Kind};
use super::events::{COMPACTED, Ended, Events};
use super::failure::{self, Failure, Outcome};
use super::global::{Settings, log_line};
use super::print::print;
use crate::go;
use identity::Seen;
use map::Map;

/// How often the number of changes is printed.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);
/// The pause after a failure; it doubles up to the greatest while nothing gets better.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A request that takes longer counts as failed, so that it is told. One that was performed all the
/// same does no harm: it is made again.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

pub(crate) static MAKE_MIRROR: Command = Command {
    name: "make-mirror",
    usage: "[options] <destination>",
    short: "Makes a mirror at the destination etcd cluster",
    group: Group::Utility,
    flags: &[
        Flag::text("prefix", "", "Key-value prefix to mirror"),
        Flag::int("rev", "Specify the kv revision to start to mirror"),
        Flag::new(
            "max-txn-ops",
            Kind::Uint,
            "128",
            "Maximum number of operations permitted in a transaction during syncing updates.",
        ),
        Flag::text(
            "dest-prefix",
            "",
            "destination prefix to mirror a prefix to a different prefix in the destination \
             cluster",
        ),
        Flag::bool("no-dest-prefix", "mirror key-values to the root of the destination cluster"),
        Flag::text(
            "dest-cert",
            "",
            "Identify secure client using this TLS certificate file for the destination cluster",
        ),
        Flag::text("dest-key", "", "Identify secure client using this TLS key file"),
        Flag::text(
            "dest-cacert",
            "",
            "Verify certificates of TLS enabled secure servers using this CA bundle",
        ),
        Flag::new(
            "dest-insecure-transport",
            Kind::Bool,
            "true",
            "Disable transport security for client connections",
        ),
        Flag::text(
            "dest-user",
            "",
            "Destination username[:password] for authentication (prompt if password is not \
             supplied)",
        ),
        Flag::text(
            "dest-password",
            "",
            "Destination password for authentication (if this option is used, --user option \
             shouldn't include password)",
        ),
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let bad_args = |reason| Failure::new(failure::BAD_ARGS, reason);
    let [endpoint] = call.args.as_slice() else {
        return Err(bad_args("make-mirror takes one destination argument"));
    };
    let endpoint = String::from_utf8_lossy(endpoint).into_owned();
    let destination = destination::read(call, endpoint)?;
    let source = call.settings()?;
    let values = &call.values;
    let given = values.text("dest-prefix");
    if values.bool("no-dest-prefix") && !given.is_empty() {
        return Err(bad_args(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let revision = values.int("rev");
    let map = Map::new(values.text("prefix"), given, values.bool("no-dest-prefix"), revision);
    let mirror = Mirror {
        destination: destination.settings(&source),
        source,
        map,
        // A limit of none is etcdctl's meaning of zero.
        operations_max: match usize::try_from(values.uint("max-txn-ops")) {
            Ok(max) if max > 0 => max,
            _ => usize::MAX,
        },
        copies: revision <= 1,
        begun: Cell::new(false),
        is_known: Cell::new(false),
        source_seen: Cell::new(None),
        next: Cell::new(if revision <= 1 { 0 } else { revision }),
        total: Cell::new(0),
    };
    Err(tokio::select! {
        failure = mirror.run() => failure,
        never = print_count(&mirror.total) => match never {},
    })
}

async fn print_count(total: &Cell<i64>) -> Infallible {
    loop {
        tokio::time::sleep(COUNT_INTERVAL).await;
        // A count that nobody takes is no reason to end the mirror.
        let _ = print(format!("{}\n", total.get()).as_bytes());
    }
}

/// What interrupts a mirror.
enum Interrupt {
    /// It cannot go on.
    End(Failure),
    /// It goes on after a pause; the texts say what failed and why.
    Again { side: &'static str, error: String },
    /// The history to go on from is not kept any more.
    Compacted,
}

impl Interrupt {
    /// What an error of a request on one side means: all that time or an operator can mend is
    /// tried again, and what the command line would have to change is not.
    fn of(side: &'static str, error: RequestError) -> Interrupt {
        let again = match &error {
            RequestError::Deadline => true,
            RequestError::Status(status) => match status.code() {
                Code::Unavailable
                | Code::Internal
                | Code::Unknown
                | Code::Aborted
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Unauthenticated => true,
                Code::ResourceExhausted => status.message().starts_with("etcdserver: "),
                Code::OutOfRange if status.message() == COMPACTED => return Interrupt::Compacted,
                _ => false,
            },
        };
        let error = error.to_string();
        if again {
            Interrupt::Again { side, error }
        } else {
            Interrupt::End(Failure::new(failure::ERROR, error))
        }
    }
}

/// What no waiting mends.
const WRONG_PASSWORD: &str = "authentication failed";

const SOURCE: &str = "source";
const DESTINATION: &str = "destination";

struct Mirror {
    source: Settings,
    destination: Settings,
    map: Map,
    operations_max: usize,
    /// Whether a copy may be made: not if the user named a revision to begin at.
    copies: bool,
    /// Whether both sides have been connected to.
    begun: Cell<bool>,
    /// Whether the destination's range is known to be this mirror's.
    is_known: Cell<bool>,
    /// The source, and the newest revision of it that was seen.
    source_seen: Cell<Option<Seen>>,
    /// The revision to go on from; 0: a copy is due.
    next: Cell<i64>,
    /// Keys copied and changes replayed.
    total: Cell<i64>,
}

impl Mirror {
    /// Mirrors until that is impossible, and says why it is.
    async fn run(&self) -> Failure {
        let mut pause = PAUSE_MIN;
        loop {
            let before = (self.next.get(), self.total.get());
            let Err(interrupt) = self.attempt().await;
            match interrupt {
                Interrupt::End(failure) => return failure,
                Interrupt::Compacted if !self.copies => {
                    return Failure::new(failure::ERROR, COMPACTED);
                }
                Interrupt::Compacted => {
                    self.next.set(0);
                    tell("the source has compacted what was not mirrored yet, copying again", &[]);
                }
                Interrupt::Again { side, error } => {
                    let again = go::duration(pause);
                    let fields = [("side", side), ("error", &error), ("pause", &again)];
                    tell("mirroring was interrupted, trying again", &fields);
                }
            }
            if before != (self.next.get(), self.total.get()) {
                pause = PAUSE_MIN;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Connects. Who is not let in at first is told so, as by every command.
    async fn open(&self, settings: &Settings, side: &'static str) -> Result<Rc<Client>, Interrupt> {
        match Client::connect_unbounded(settings).await {
            Ok(client) => Ok(Rc::new(client)),
            Err(failure) if self.begun.get() && !failure.reason().contains(WRONG_PASSWORD) => {
                Err(Interrupt::Again { side, error: failure.reason().to_owned() })
            }
            Err(failure) => Err(Interrupt::End(failure)),
        }
    }

    async fn attempt(&self) -> Result<Infallible, Interrupt> {
        let source = self.open(&self.source, SOURCE).await?;
        let destination = self.open(&self.destination, DESTINATION).await?;
        self.begun.set(true);
        identity::look(self, &source, &destination).await?;
        if self.next.get() == 0 {
            let revision = copy::copy(self, &source, &destination).await?;
            self.saw(revision);
            self.next.set(revision + 1);
        }
        self.follow(source, &destination).await
    }

    async fn follow(
        &self,
        source: Rc<Client>,
        destination: &Client,
    ) -> Result<Infallible, Interrupt> {
        let (key, range_end) = self.map.source();
        let request = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next.get(),
            // Where nothing changes, this moves the start on, past what may be compacted.
            progress_notify: true,
            ..Default::default()
        };
        let opened = Events::open(source, request).await;
        let mut events = opened.map_err(|error| Interrupt::of(SOURCE, error))?;
        loop {
            let answer = events.next().await.map_err(|ended| match ended {
                Ended::Compacted => Interrupt::Compacted,
                Ended::Refused(reason) if reason.contains("permission denied") => {
                    Interrupt::End(Failure::new(failure::ERROR, reason))
                }
                Ended::Refused(error) => Interrupt::Again { side: SOURCE, error },
                Ended::Broken(error) => Interrupt::of(SOURCE, error),
            })?;
            let seen = match answer.events.last().and_then(|event| event.kv.as_ref()) {
                Some(last) => last.mod_revision,
                None => answer.header.map_or(0, |header| header.revision),
            };
            self.saw(seen);
            let applied = apply::replay(self, destination, answer.events).await;
            applied.map_err(|error| Interrupt::of(DESTINATION, error))?;
            self.next.set(self.next.get().max(seen + 1));
        }
    }

    /// Notes a revision that the source has reached.
    fn saw(&self, revision: i64) {
        let before = self.source_seen.get();
        let seen = before.map(|seen| Seen { revision: seen.revision.max(revision), ..seen });
        self.source_seen.set(seen);
    }

    fn count(&self, more: usize) {
        self.total.set(self.total.get().saturating_add_unsigned(more as u64));
    }
}

#[track_caller]
fn tell(message: &str, fields: &[(&str, &str)]) {
    let _ = std::io::stderr().write_all(log_line("warn", message, fields).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn what_time_can_mend_is_tried_again() {
        let kind = |status: Status| match Interrupt::of(SOURCE, status.into()) {
            Interrupt::End(_) => "end",
            Interrupt::Again { .. } => "again",
            Interrupt::Compacted => "compacted",
        };
        for (status, expected) in [
            (Status::unavailable("etcdserver: no leader"), "again"),
            (Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), "again"),
            (Status::resource_exhausted("etcdserver: too many requests"), "again"),
            (Status::unauthenticated("etcdserver: invalid auth token"), "again"),
            (Status::out_of_range(COMPACTED), "compacted"),
            (Status::resource_exhausted("trying to send message larger than max (3 vs. 2)"), "end"),
            (Status::permission_denied("etcdserver: permission denied"), "end"),
            (Status::invalid_argument("etcdserver: key is not provided"), "end"),
        ] {
            assert_eq!(kind(status.clone()), expected, "{status}");
        }
    }
}
