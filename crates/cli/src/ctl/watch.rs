//! `watch`: prints changes of keys as they happen.
//!
//! ```text
//!  stdin lines (-i) -> Session -> creates, progress requests -> one stream -> member
//!                         ^                                        |
//!                         +------- answers, by watch id <----------+
//! ```
//!
//! *Invariants.* Watches are created one after another, so that the answers to creation come in
//! the order of asking. A watch whose stream breaks goes on behind the last change it printed.
//!
//! *Absent.* Fragments: they are not asked for.
//!
//! *Contract.* `client/v3/watch.go` and `command/watch_command.go` of etcd v3.7.1.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::process::Command as Process;
use std::rc::Rc;
use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::child::{exit_reason, start_reason};
use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::global::Settings;
use super::print::{Answer, Printer, event_type, print};
use super::txn::split_words;
use super::watch_args::{Environment, FLAGS, from_arguments, from_line};
use crate::go;

/// Answers, requests and lines that wait for their turn.
const QUEUE_MAX: usize = 16;
/// Between a stream that broke and the next one.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// An answer for all watches of a stream bears this id.
const EVERY_WATCH: i64 = -1;

pub(crate) static WATCH: Command = Command {
    name: "watch",
    usage: "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    short: "Watches events stream on keys or prefixes",
    group: Group::KeyValue,
    flags: &FLAGS,
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let variable = |name| std::env::var_os(name).unwrap_or_default().into_vec();
    let environment = Environment {
        key: variable("ETCDCTL_WATCH_KEY"),
        range_end: variable("ETCDCTL_WATCH_RANGE_END"),
    };
    if environment.key.is_empty() && !environment.range_end.is_empty() {
        let end = go::quote(&environment.range_end);
        let reason = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    if call.values.bool("interactive") {
        let settings = call.settings()?;
        let session = Session::new(&settings, call.printer()).await?;
        return interact(session, &environment).await;
    }
    let bad_args = |reason: &str| Failure::new(failure::BAD_ARGS, reason);
    let plan = from_arguments(&call.line, &call.args, &environment).map_err(bad_args)?;
    let settings = call.settings()?;
    let mut session = Session::new(&settings, call.printer()).await?;
    let request = plan.request(&call.values).map_err(bad_args)?;
    session.add(request, plan.command).await?;
    while !session.is_over() {
        let answer = session.next().await;
        session.take(answer).await?;
    }
    Err(Failure::new(failure::INTERRUPTED, "watch is canceled by the server"))
}

/// Takes watches and progress requests from stdin until that ends.
async fn interact(mut session: Session, environment: &Environment) -> Outcome {
    let mut lines = stdin_lines();
    loop {
        let line = tokio::select! {
            answer = session.next() => {
                session.take(answer).await?;
                continue;
            }
            line = lines.recv() => line,
        };
        let Some(line) = line else {
            let reason = "error reading watch request line: EOF";
            return Err(Failure::new(failure::INVALID_INPUT, reason));
        };
        let words =
            split_words(&line).map_err(|error| Failure::new(failure::INVALID_INPUT, error))?;
        let line = String::from_utf8_lossy(&line);
        let complaint = match words.first().map(Vec::as_slice) {
            None => Some(format!("Invalid command: {line} (watch and progress supported)")),
            Some(b"watch") if words.len() < 2 && environment.key.is_empty() => {
                Some(format!("Invalid command {line} (command type or key is not provided)"))
            }
            Some(b"watch") => {
                let (plan, values) = from_line(&words[1..], environment)
                    .map_err(|error| Failure::new(failure::BAD_ARGS, error))?;
                match plan.request(&values) {
                    Ok(request) => {
                        session.add(request, plan.command).await?;
                        None
                    }
                    Err(error) => Some(format!("Invalid command {line} ({error})")),
                }
            }
            Some(b"progress") => {
                session.request_progress().await;
                None
            }
            Some(_) => Some(format!("Invalid command {line} (only support watch)")),
        };
        if let Some(complaint) = complaint {
            complain(&complaint);
        }
    }
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The lines of stdin, read by a thread since nothing else can wait for them. A last line
/// without an end is not one.
fn stdin_lines() -> mpsc::Receiver<Arg> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = stdin.read_until(b'\n', &mut line);
            if read.is_err() || line.pop() != Some(b'\n') || sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// One watch.
struct Watcher {
    /// Its start revision moves on with what has been printed.
    request: pb::WatchCreateRequest,
    /// Run for every event; may be empty.
    command: Vec<Arg>,
    /// None until the member has created it on the current stream.
    id: Option<i64>,
}

/// A stream to a member, open or on its way.
struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: mpsc::Receiver<Result<pb::WatchResponse, RequestError>>,
}

/// All watches of the command, and the stream that they share.
struct Session {
    client: Rc<Client>,
    printer: Printer,
    watchers: VecDeque<Watcher>,
    /// None until something is to be sent.
    stream: Option<Stream>,
    /// Whether a stream has broken already.
    is_again: bool,
}

impl Session {
    async fn new(settings: &Settings, printer: Printer) -> Outcome<Session> {
        let client = Client::connect_unbounded(settings).await?;
        Ok(Session {
            client: Rc::new(client),
            printer,
            watchers: VecDeque::new(),
            stream: None,
            is_again: false,
        })
    }

    fn is_over(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Adds a watch, and asks for it at once if no other is being created.
    async fn add(&mut self, request: pb::WatchCreateRequest, command: Vec<Arg>) -> Outcome {
        let free = self.watchers.iter().all(|watcher| watcher.id.is_some());
        self.watchers.push_back(Watcher { request, command, id: None });
        if free {
            self.create_next().await;
        }
        Ok(())
    }

    async fn request_progress(&mut self) {
        self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    }

    /// Asks for the first watch that has not been created yet.
    async fn create_next(&mut self) {
        let waiting = self.watchers.iter().find(|watcher| watcher.id.is_none());
        if let Some(request) = waiting.map(|watcher| watcher.request.clone()) {
            self.send(RequestUnion::CreateRequest(request)).await;
        }
    }

    async fn send(&mut self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        let (client, is_again) = (&self.client, self.is_again);
        let stream = self.stream.get_or_insert_with(|| open(Rc::clone(client), is_again));
        // If the stream has broken, `next` says so and everything is asked for again.
        let _ = stream.requests.send(request).await;
    }

    /// The next answer; never, before something has been asked.
    async fn next(&mut self) -> Result<pb::WatchResponse, RequestError> {
        match &mut self.stream {
            Some(stream) => stream
                .answers
                .recv()
                .await
                .unwrap_or_else(|| Err(Status::unavailable("the stream has ended").into())),
            None => std::future::pending().await,
        }
    }

    /// Acts on an answer.
    async fn take(&mut self, answer: Result<pb::WatchResponse, RequestError>) -> Outcome {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_transient() && !is_no_leader(&error) => {
                tokio::time::sleep(RETRY_INTERVAL).await;
                self.stream = None;
                self.is_again = true;
                for watcher in &mut self.watchers {
                    watcher.id = None;
                }
                self.create_next().await;
                return Ok(());
            }
            Err(error) => return self.close_all(&error.to_string()),
        };
        if answer.created {
            return self.created(answer).await;
        }
        if answer.canceled && answer.compact_revision == 0 {
            self.watchers.retain(|watcher| watcher.id != Some(answer.watch_id));
            return Ok(());
        }
        let every = answer.watch_id == EVERY_WATCH;
        let revision = answer.header.map_or(0, |header| header.revision);
        for index in 0..self.watchers.len() {
            let watcher = &mut self.watchers[index];
            if watcher.id.is_none() || !(every || watcher.id == Some(answer.watch_id)) {
                continue;
            }
            let last = answer.events.last().and_then(|event| event.kv.as_ref());
            let seen = if answer.events.is_empty() && !answer.canceled {
                revision
            } else {
                last.map_or(0, |pair| pair.mod_revision)
            };
            watcher.request.start_revision = watcher.request.start_revision.max(seen + 1);
            self.show(index, &answer)?;
        }
        if answer.canceled {
            self.watchers.retain(|watcher| watcher.id != Some(answer.watch_id));
        }
        Ok(())
    }

    /// The member has created, or refused to create, the first watch that waits.
    async fn created(&mut self, answer: pb::WatchResponse) -> Outcome {
        let waiting = self.watchers.iter().position(|watcher| watcher.id.is_none());
        if let Some(index) = waiting {
            if answer.watch_id == EVERY_WATCH || !answer.cancel_reason.is_empty() {
                self.close(index, &answer.cancel_reason)?;
            } else {
                let watcher = &mut self.watchers[index];
                watcher.id = Some(answer.watch_id);
                if watcher.request.start_revision == 0 {
                    let revision = answer.header.map_or(0, |header| header.revision);
                    watcher.request.start_revision = revision + 1;
                }
            }
        }
        self.create_next().await;
        Ok(())
    }

    /// Ends every watch, because nothing more can come.
    fn close_all(&mut self, reason: &str) -> Outcome {
        while !self.watchers.is_empty() {
            self.close(0, reason)?;
        }
        self.stream = None;
        Ok(())
    }

    fn close(&mut self, index: usize, reason: &str) -> Outcome {
        complain(&format!("watch was canceled ({reason})"));
        let answer = pb::WatchResponse { canceled: true, ..Default::default() };
        self.watchers.remove(index);
        self.printer.print(&Answer::Watch(answer))
    }

    /// Prints an answer to one watch, and runs its command.
    fn show(&self, index: usize, answer: &pb::WatchResponse) -> Outcome {
        if answer.canceled {
            complain(&format!("watch was canceled ({})", cancel_reason(answer)));
        }
        let revision = answer.header.map_or(0, |header| header.revision);
        let quiet = answer.events.is_empty() && !answer.canceled && answer.compact_revision == 0;
        if quiet && revision != 0 {
            print(format!("progress notify: {revision}\n").as_bytes())?;
        }
        self.printer.print(&Answer::Watch(answer.clone()))?;
        let command = &self.watchers[index].command;
        if !command.is_empty() {
            for event in &answer.events {
                execute(command, revision, event)?;
            }
        }
        Ok(())
    }
}

/// Why the server has ended a watch.
fn cancel_reason(answer: &pb::WatchResponse) -> String {
    if answer.compact_revision != 0 {
        "etcdserver: mvcc: required revision has been compacted".to_owned()
    } else if !answer.cancel_reason.is_empty() {
        answer.cancel_reason.clone()
    } else {
        "etcdserver: mvcc: required revision is a future revision".to_owned()
    }
}

fn is_no_leader(error: &RequestError) -> bool {
    matches!(error, RequestError::Status(status) if status.message() == "etcdserver: no leader")
}

/// Opens a stream in the background; whatever happens to it comes as an answer.
fn open(client: Rc<Client>, is_again: bool) -> Stream {
    let (requests, queue) = mpsc::channel(QUEUE_MAX);
    let (sender, answers) = mpsc::channel(QUEUE_MAX);
    tokio::task::spawn_local(async move {
        let result = read(&client, is_again, queue, &sender).await;
        if let Err(error) = result {
            let _ = sender.send(Err(error)).await;
        }
    });
    Stream { requests, answers }
}

async fn read(
    client: &Client,
    is_again: bool,
    queue: mpsc::Receiver<pb::WatchRequest>,
    answers: &mpsc::Sender<Result<pb::WatchResponse, RequestError>>,
) -> Result<(), RequestError> {
    if is_again {
        client.log_in().await?;
    }
    let request = client.request_with_leader(ReceiverStream::new(queue));
    let mut stream = client.watch().watch(request).await?.into_inner();
    while let Some(answer) = client.next(&mut stream).await? {
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Runs the command of a watch for one event.
fn execute(command: &[Arg], revision: i64, event: &proto::mvccpb::Event) -> Outcome {
    let pair = event.kv.clone().unwrap_or_default();
    let words: Vec<&OsStr> = command.iter().map(|word| OsStr::from_bytes(word)).collect();
    let status = Process::new(words[0])
        .args(&words[1..])
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quote(event_type(event).as_bytes()))
        .env("ETCD_WATCH_KEY", go::quote(&pair.key))
        .env("ETCD_WATCH_VALUE", go::quote(&pair.value))
        .status();
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => exit_reason(status),
        Err(error) => start_reason(&command[0], &error),
    };
    let words: Vec<String> = command.iter().map(|word| go::quote(word)).collect();
    let text = format!("command [{}] error ({why})\n", words.join(" "));
    Err(Failure { code: failure::ERROR, text })
}
