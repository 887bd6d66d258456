//! The commands of the scripts. Each hands an input in, then prints the effects taken.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::node::{
    Answer, ApplyEffect, ApplyReceipt, CommitEffect, CommitPace, CommitReceipt, Effects, Input,
    LogEffect, LogReceipt, Node, NodeConfig, Pending, SendSnapshot, Started, State, Ticket,
};
use base::{LeaseId, LogIndex, MemberId, Moment, RequestId, RequestIds, Term};
use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use parking_lot::Mutex;
use prost::Message as _;
use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::Attributes;
use proto::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType,
    Snapshot, SnapshotMetadata,
};

type Out = Result<String, Box<dyn Error>>;

fn removal(id: u64) -> ConfChange {
    ConfChange {
        id: Some(9),
        r#type: Some(ConfChangeType::ConfChangeRemoveNode.into()),
        node_id: Some(id),
        context: None,
    }
}

/// A state that says what the script tells it.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    version: Option<String>,
    expired: Vec<LeaseId>,
    events: Vec<String>,
}

impl State for Told {
    fn cluster_version(&self) -> Option<String> {
        self.0.lock().version.clone()
    }

    fn downgrade(&self) -> store::Downgrade {
        store::Downgrade::default()
    }

    fn expired_leases(&self, _: Moment, max: usize) -> Vec<LeaseId> {
        let mut facts = self.0.lock();
        let count = facts.expired.len().min(max);
        facts.expired.drain(..count).collect()
    }

    fn promote(&self, _: Moment, extend: Duration) {
        self.0.lock().events.push(format!("lessor promoted, leases extended by {extend:?}"));
    }

    fn demote(&self) {
        self.0.lock().events.push("lessor demoted".into());
    }
}

/// A node, and what its lanes hold.
#[derive(Default)]
pub(crate) struct Runner {
    node: Option<Node>,
    state: Told,
    now: Duration,
    log: VecDeque<LogEffect>,
    apply: VecDeque<ApplyEffect>,
    commit: VecDeque<CommitEffect>,
    pending: Pending,
    applied: LogIndex,
    /// The name under which a leader was asked for a read last.
    asked: Option<u64>,
    /// What the last heartbeat carried.
    heartbeat: Option<Bytes>,
}

struct Args(Vec<Argument>);

impl Args {
    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|argument| match argument {
            Argument::KeyValue(key, value) if key == name => Some(value.as_str()),
            _ => None,
        })
    }

    fn number(&self, name: &str, default: u64) -> Result<u64, Box<dyn Error>> {
        Ok(self.text(name).map(str::parse).transpose()?.unwrap_or(default))
    }

    fn plain(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|argument| match argument {
            Argument::Positional(value) => Some(value.as_str()),
            _ => None,
        })
    }

    fn first(&self, default: u64) -> Result<u64, Box<dyn Error>> {
        Ok(self.plain().next().map(str::parse).transpose()?.unwrap_or(default))
    }
}

/// The requests that the node proposed itself: they carry an id, others here are plain text.
fn own_request(entry: &Entry) -> Option<RequestId> {
    let request = InternalRaftRequest::decode(entry.data().to_vec().as_slice()).ok()?;
    request.header.map(|header| RequestId(header.id))
}

/// Many entries in few words.
fn show_entries(entries: &[Entry]) -> String {
    let all: Vec<String> = entries.iter().map(|entry| format!("[{}]", show_entry(entry))).collect();
    match all.as_slice() {
        [first, .., last] if all.len() > 6 => format!("{first}..{last}"),
        _ => all.join(" "),
    }
}

/// What an entry holds, in words.
fn show_entry(entry: &Entry) -> String {
    let at = format!("{}/{}", entry.term(), entry.index());
    if entry.data().is_empty() {
        return format!("{at} empty");
    }
    if entry.r#type() == EntryType::EntryConfChange {
        let change = ConfChange::decode(entry.data().to_vec().as_slice()).unwrap_or_default();
        return format!("{at} {:?} {}", change.r#type(), change.node_id());
    }
    if entry.data().is_ascii() && entry.data().len() < 9 {
        return format!("{at} {}", String::from_utf8_lossy(entry.data()));
    }
    let request = InternalRaftRequest::decode(entry.data().to_vec().as_slice());
    let request = request.unwrap_or_default();
    let id = request.header.as_ref().map_or(0, |header| header.id) & 0xff;
    if let Some(set) = request.cluster_member_attr_set {
        let attributes = set.member_attributes.unwrap_or_default();
        format!("{at} #{id} attributes of {:x}: {}", set.member_id, attributes.name)
    } else if let Some(set) = request.cluster_version_set {
        format!("{at} #{id} cluster version {}", set.ver)
    } else if let Some(revoke) = request.lease_revoke {
        format!("{at} #{id} revoke lease {:x}", revoke.id)
    } else {
        format!("{at} {} bytes", entry.data().len())
    }
}

fn show_answer(answer: &Answer) -> String {
    match answer {
        Answer::Refused { id, reason } => format!("request {id} refused: {}", reason.status().1),
        Answer::ReadReady(ticket) => format!("read {} ready", ticket.0),
        Answer::TicketRefused(ticket, reason) => {
            format!("ticket {} refused: {}", ticket.0, reason.status().1)
        }
        Answer::DatabaseCommitted(ticket) => format!("commit {} done", ticket.0),
        Answer::Transferred(ticket) => format!("transfer {} done", ticket.0),
        Answer::Progress(ticket, progress) => format!("progress {}: {progress:?}", ticket.0),
        Answer::Published => "published".into(),
        Answer::Removed => "removed".into(),
        Answer::Stopped => "stopped".into(),
    }
}

fn voters(count: u64) -> ConfState {
    ConfState { voters: (1..=count).collect(), ..ConfState::default() }
}

fn snapshot_at(index: u64, term: u64, members: u64) -> Snapshot {
    let conf_state = Some(voters(members));
    let metadata = SnapshotMetadata { conf_state, index: Some(index), term: Some(term) };
    Snapshot { data: None, metadata: Some(metadata) }
}

fn at(snapshot: &Snapshot) -> String {
    let metadata = snapshot.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.term(), metadata.index())
}

impl Runner {
    /// `new [database=n] [snapshot=n] [snapshot-count=n] [term=n] [commit=n] [entries=n]
    /// [bootstrap=true] [voters=n]`: a sole voter named 1, or one of several named from 1 on; at
    /// bootstrap its first entry adds it.
    fn create(&mut self, args: &Args) -> Out {
        *self = Self { now: self.now, ..Self::default() };
        self.state.0.lock().version = args.text("version").map(str::to_owned);
        let (term, base) = (args.number("term", 0)?, args.number("snapshot", 0)?);
        let entry = |index| Entry {
            term: Some(term),
            index: Some(index),
            data: Some(format!("old{index}").into()),
            ..Entry::default()
        };
        let last = base + args.number("entries", 0)?;
        let mut entries: Vec<Entry> = (base + 1..=last).map(entry).collect();
        if args.text("bootstrap") == Some("true") {
            let add = ConfChange { node_id: Some(1), ..ConfChange::default() };
            entries[0].r#type = Some(EntryType::EntryConfChange.into());
            entries[0].data = Some(add.encode_to_vec().into());
        }
        let started = Started {
            restored: raft::Restored {
                base: raft::Position { index: LogIndex(base), term: Term(term) },
                conf_state: voters(args.number("voters", 1)?),
                hard_state: HardState {
                    term: Some(term),
                    vote: None,
                    commit: Some(args.number("commit", 0)?),
                },
                entries,
            },
            database: LogIndex(args.number("database", 0)?),
            now: Moment::default() + self.now,
        };
        let config = NodeConfig {
            member: MemberId(1),
            attributes: Attributes { name: "one".into(), client_urls: Vec::new() },
            heartbeat: Duration::from_millis(100),
            election_ticks: 10,
            pre_vote: args.text("prevote") == Some("true"),
            snapshot_count: args.number("snapshot-count", 10_000)?,
            catchup_entries: args.number("catchup", 5_000)?,
            commit_pace: CommitPace::default(),
            server_version: (3, 7),
            seed: 1,
        };
        let ids = Arc::new(RequestIds::new(MemberId(1), 0));
        self.applied = started.restored.base.index;
        self.node = Some(Node::new(config, started, ids, Box::new(self.state.clone()))?);
        Ok(String::new())
    }

    fn node(&mut self) -> Result<&mut Node, Box<dyn Error>> {
        Ok(self.node.as_mut().ok_or("no node: use `new` first")?)
    }

    /// Takes the effects, prints them, and puts them into the lanes.
    fn take(&mut self, mut out: String) -> Out {
        let effects = self.node()?.take_effects();
        for event in self.state.0.lock().events.drain(..) {
            let _ = writeln!(out, "{event}");
        }
        Self::show(&effects, &mut out);
        let has_receipt = |effect: &LogEffect| {
            !matches!(effect, LogEffect::Release(_) | LogEffect::Discard(_) | LogEffect::Purge)
        };
        self.log.extend(effects.log.into_iter().filter(has_receipt));
        self.apply.extend(effects.apply);
        self.commit.extend(effects.commit);
        for message in effects.send {
            match message.r#type() {
                MessageType::MsgReadIndex => {
                    let context: [u8; 8] = message.entries[0].data().try_into()?;
                    self.asked = Some(u64::from_be_bytes(context));
                }
                MessageType::MsgHeartbeat => self.heartbeat = message.context,
                _ => {}
            }
        }
        assert!(self.node()?.take_effects().is_empty(), "taken once");
        Ok(out)
    }

    fn show(effects: &Effects, out: &mut String) {
        for effect in &effects.log {
            let _ = match effect {
                LogEffect::Append { snapshot, entries, hard_state, must_sync } => {
                    let sync = if *must_sync { " and sync" } else { "" };
                    let _ = write!(out, "log: append{sync}");
                    if let Some(snapshot) = snapshot {
                        let _ = write!(out, " snapshot {}", at(snapshot));
                    }
                    if !entries.is_empty() {
                        let _ = write!(out, " {}", show_entries(entries));
                    }
                    if let Some(state) = hard_state {
                        let (term, vote, commit) = (state.term(), state.vote(), state.commit());
                        let _ = write!(out, " term={term} vote={vote} commit={commit}");
                    }
                    writeln!(out)
                }
                LogEffect::Snapshot(snapshot) => {
                    let metadata = snapshot.metadata.clone().unwrap_or_default();
                    writeln!(out, "log: snapshot at {}", metadata.index())
                }
                other => writeln!(out, "log: {other:?}"),
            };
        }
        for effect in &effects.apply {
            let _ = match effect {
                ApplyEffect::Entries(entries) => {
                    writeln!(out, "apply: {}", show_entries(entries))
                }
                ApplyEffect::Install(snapshot) => {
                    writeln!(out, "apply: install snapshot {}", at(snapshot))
                }
                other => writeln!(out, "apply: {other:?}"),
            };
        }
        for CommitEffect { upto, snapshot, views } in &effects.commit {
            let snapshot = if *snapshot { ", for a snapshot" } else { "" };
            let views = if *views > 0 { format!(", {views} views") } else { String::new() };
            let _ = writeln!(out, "commit: up to {upto}{snapshot}{views}");
        }
        for message in &effects.send {
            let _ = writeln!(out, "send: {:?} to {}", message.r#type(), message.to());
        }
        for SendSnapshot { message } in &effects.snapshots {
            let snapshot = message.snapshot.as_ref().map(at).unwrap_or_default();
            let _ = writeln!(out, "send: snapshot {snapshot} to {}", message.to());
        }
        for answer in &effects.answers {
            let _ = writeln!(out, "answer: {}", show_answer(answer));
        }
    }

    /// `logged [n] [synced=false]`: the log worker has done the next n effects, together.
    fn logged(&mut self, args: &Args) -> Result<(), Box<dyn Error>> {
        let synced = args.text("synced") != Some("false");
        for _ in 0..args.first(1)? {
            let receipt = match self.log.pop_front().ok_or("the log lane is empty")? {
                LogEffect::Append { must_sync, .. } => {
                    LogReceipt::Appended { synced: synced || must_sync }
                }
                LogEffect::Snapshot(_) => LogReceipt::Snapshotted,
                _ => LogReceipt::Synced,
            };
            self.node()?.handle(Input::Logged(receipt));
        }
        Ok(())
    }

    /// `applied [changes=n] [bytes=n]`: the apply worker has done its next effect.
    fn applied(&mut self, args: &Args) -> Result<(), Box<dyn Error>> {
        let receipt = match self.apply.pop_front().ok_or("the apply lane is empty")? {
            ApplyEffect::Entries(entries) => {
                self.applied = LogIndex(entries.last().map_or(0, Entry::index));
                self.pending.changes += entries.len();
                let conf_changes = entries
                    .iter()
                    .filter(|entry| entry.r#type() != EntryType::EntryNormal)
                    .map(|entry| ConfChange::decode(entry.data().to_vec().as_slice()));
                ApplyReceipt::Entries {
                    index: self.applied,
                    conf_changes: conf_changes.collect::<Result<_, _>>()?,
                    finished: entries.iter().filter_map(own_request).collect(),
                    force_snapshot: args.text("snapshot") == Some("true"),
                    pending: self.pending(args)?,
                }
            }
            ApplyEffect::Freeze => {
                let upto = (self.pending.changes > 0).then_some(self.applied);
                self.pending.changes = 0;
                ApplyReceipt::Frozen { upto, pending: self.pending(args)? }
            }
            ApplyEffect::Publish => ApplyReceipt::Changed { pending: self.pending(args)? },
            ApplyEffect::Install(snapshot) => {
                let index = snapshot.metadata.as_ref().map_or(0, |metadata| metadata.index());
                self.applied = LogIndex(index);
                ApplyReceipt::Installed { index: self.applied, pending: self.pending(args)? }
            }
        };
        self.node()?.handle(Input::Applied(receipt));
        Ok(())
    }

    fn pending(&mut self, args: &Args) -> Result<Pending, Box<dyn Error>> {
        let changes = u64::try_from(self.pending.changes)?;
        self.pending.changes = usize::try_from(args.number("changes", changes)?)?;
        self.pending.bytes = usize::try_from(args.number("bytes", 0)?)?;
        Ok(self.pending)
    }

    /// `committed`: the commit worker is done.
    fn committed(&mut self) -> Result<(), Box<dyn Error>> {
        let CommitEffect { upto, snapshot, .. } =
            self.commit.pop_front().ok_or("the commit lane is empty")?;
        let snapshot = snapshot.then(|| Box::new(snapshot_at(upto.0, 0, 3)));
        self.node()?.handle(Input::Committed(CommitReceipt { upto, snapshot }));
        Ok(())
    }

    /// `settle`: the workers do everything there is, silently but for answers.
    fn settle(&mut self) -> Out {
        let mut out = String::new();
        let none = Args(Vec::new());
        for _ in 0..1_000 {
            if !self.log.is_empty() {
                self.logged(&none)?;
            } else if !self.apply.is_empty() {
                self.applied(&none)?;
            } else if !self.commit.is_empty() {
                self.committed()?;
            } else {
                return Ok(out);
            }
            let shown = self.take(String::new())?;
            let answers = shown.lines().filter(|line| line.starts_with("answer"));
            out.extend(answers.map(|line| format!("{line}\n")));
        }
        Err("it does not settle".into())
    }

    /// `recv KIND from=n [term=n] [index=n] [log-term=n] [commit=n] [entries=n] [reject=true]
    /// [snapshot=n] [id=n]`: a message from another member; of the present term unless it says.
    fn recv(&mut self, args: &Args) -> Result<(), Box<dyn Error>> {
        let present = self.node()?.status().term.0;
        let (term, index) = (args.number("term", present)?, args.number("index", 0)?);
        let kind = match args.plain().next() {
            Some("app") => MessageType::MsgApp,
            Some("app-resp") => MessageType::MsgAppResp,
            Some("heartbeat") => MessageType::MsgHeartbeat,
            Some("heartbeat-resp") => MessageType::MsgHeartbeatResp,
            Some("vote") => MessageType::MsgVote,
            Some("vote-resp") => MessageType::MsgVoteResp,
            Some("prop") => MessageType::MsgProp,
            Some("read-resp") => MessageType::MsgReadIndexResp,
            Some("snap") => MessageType::MsgSnap,
            other => return Err(format!("no such message: {other:?}").into()),
        };
        let entry = |index| Entry {
            term: Some(term),
            index: Some(index),
            data: Some(format!("e{index}").into()),
            ..Entry::default()
        };
        let mut entries: Vec<Entry> =
            (index + 1..=index + args.number("entries", 0)?).map(entry).collect();
        let (mut context, is_prop) = (None, kind == MessageType::MsgProp);
        match kind {
            MessageType::MsgProp => {
                let data = args.text("data").unwrap_or("forwarded").to_owned();
                entries = vec![Entry { data: Some(data.into()), ..Entry::default() }];
                if let Some(id) = args.text("remove") {
                    let change = removal(id.parse()?).encode_to_vec();
                    let kind = EntryType::EntryConfChange.into();
                    let entry = Entry { data: Some(change.into()), ..Entry::default() };
                    entries = vec![Entry { r#type: Some(kind), ..entry }];
                }
            }
            MessageType::MsgReadIndexResp => {
                let data = self.asked.ok_or("nothing was asked")?.to_be_bytes().to_vec();
                entries = vec![Entry { data: Some(data.into()), ..Entry::default() }];
            }
            MessageType::MsgHeartbeatResp => context = self.heartbeat.clone(),
            _ => {}
        }
        let snapshot = match args.number("snapshot", 0)? {
            0 => None,
            at => Some(snapshot_at(at, args.number("log-term", term)?, args.number("voters", 3)?)),
        };
        let message = Box::new(Message {
            r#type: Some(kind.into()),
            to: Some(1),
            from: Some(args.number("from", 2)?),
            term: Some(term).filter(|_| !is_prop),
            index: Some(index),
            log_term: Some(args.number("log-term", 0)?),
            commit: Some(args.number("commit", 0)?),
            reject: Some(args.text("reject") == Some("true")),
            entries,
            snapshot,
            context,
            ..Message::default()
        });
        self.node()?.handle(match kind {
            MessageType::MsgSnap => Input::SnapshotReceived { message },
            _ => Input::Message(message),
        });
        Ok(())
    }

    /// `lead`: becomes the leader by the vote of 2, which also acknowledges everything; silently.
    fn lead(&mut self) -> Out {
        for _ in 0..200 {
            self.settle()?;
            let raft = self.node()?.raft().status();
            let mut answer = |kind: &str, index: u64| {
                let args = vec![Argument::Positional(kind.into())];
                let index = Argument::KeyValue("index".into(), index.to_string());
                self.recv(&Args([args, vec![index]].concat()))
            };
            match raft.role {
                raft::Role::Candidate => answer("vote-resp", 0)?,
                raft::Role::Leader if raft.committed < raft.last.index => {
                    answer("app-resp", raft.last.index.0)?;
                }
                raft::Role::Leader if raft.applied == raft.committed => return Ok(String::new()),
                raft::Role::Leader => {}
                _ => {
                    self.now += Duration::from_millis(100);
                    let now = Moment::default() + self.now;
                    self.node()?.handle(Input::Tick { now });
                }
            }
            self.take(String::new())?;
        }
        Err("it does not come to lead".into())
    }

    /// What comes from others, or is about them.
    fn execute_cluster(&mut self, command: &str, args: &Args) -> Result<bool, Box<dyn Error>> {
        let member = MemberId(args.number("to", 0)?);
        match command {
            "recv" => self.recv(args)?,
            "sent" => {
                let ok = args.text("ok") != Some("false");
                self.node()?.handle(Input::SnapshotSent { member, ok });
            }
            "unreachable" => self.node()?.handle(Input::Unreachable { member }),
            "connected" => self.node()?.handle(Input::Connected),
            "transfer" => {
                let ticket = Ticket(args.first(0)?);
                self.node()?.handle(Input::TransferLeader { to: member, ticket });
            }
            "versions" => {
                let told = |argument: &Argument| match argument {
                    Argument::KeyValue(id, version) => {
                        let version = Some(version.clone()).filter(|version| version != "none");
                        Some((MemberId(id.parse().ok()?), version))
                    }
                    _ => None,
                };
                let versions = args.0.iter().filter_map(told).collect();
                self.node()?.handle(Input::MemberVersions { versions });
            }
            "remove" => {
                let change = removal(args.first(0)?);
                self.node()?.handle(Input::ProposeConfChange { id: RequestId(9), change });
            }
            "stop" => {
                let connected = args.plain().map(|id| id.parse().map(MemberId));
                let connected = connected.collect::<Result<_, _>>()?;
                self.node()?.handle(Input::Stop { connected });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn status(&mut self) -> Out {
        let status = self.node()?.status();
        let log = self.node()?.raft().log();
        Ok(format!(
            "leader={} term={} committed={} applied={} database={} base={}{}\n",
            status.leader,
            status.term,
            status.committed,
            status.applied,
            status.database,
            log.base().index,
            if status.is_alone { " alone" } else { "" }
        ))
    }

    fn execute(&mut self, command: &Command) -> Out {
        let args = Args(command.args.clone());
        match command.name.as_str() {
            "new" => drop(self.create(&args)?),
            "tick" => {
                self.now += Duration::from_millis(args.first(100)?);
                let now = Moment::default() + self.now;
                self.node()?.handle(Input::Tick { now });
            }
            "propose" => {
                let (count, bytes) = (args.number("times", 1)?, args.number("bytes", 0)?);
                for _ in 0..count {
                    for name in args.plain() {
                        let id = RequestId(name.parse()?);
                        let mut data = format!("p{name}").into_bytes();
                        data.resize(data.len() + usize::try_from(bytes)?, b' ');
                        self.node()?.handle(Input::Propose { id, data: Bytes::from(data) });
                    }
                }
            }
            "read" => {
                for name in args.plain() {
                    let ticket = Ticket(name.parse()?);
                    self.node()?.handle(Input::ReadIndex { ticket });
                }
            }
            "commit" => {
                let ticket = Ticket(args.first(0)?);
                self.node()?.handle(Input::CommitDatabase { ticket });
            }
            "conf-change" => {
                let change = ConfChange {
                    id: Some(9),
                    r#type: Some(ConfChangeType::ConfChangeAddLearnerNode.into()),
                    node_id: Some(args.first(0)?),
                    context: None,
                };
                self.node()?.handle(Input::ProposeConfChange { id: RequestId(9), change });
            }
            "logged" => self.logged(&args)?,
            "applied" => self.applied(&args)?,
            "committed" => self.committed()?,
            "lead" => return self.lead(),
            "settle" => return self.settle(),
            "status" => return self.status(),
            "version" => {
                self.state.0.lock().version = args.plain().next().map(str::to_owned);
                return Ok(String::new());
            }
            "expire" => {
                let first = i64::try_from(args.first(1)?)?;
                let leases = first..first + i64::try_from(args.number("count", 1)?)?;
                self.state.0.lock().expired.extend(leases.map(LeaseId));
                return Ok(String::new());
            }
            other => {
                if !self.execute_cluster(other, &args)? {
                    return Err(format!("no such command: {other}").into());
                }
            }
        }
        self.take(String::new())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Out {
        match self.execute(command) {
            Err(error) => Ok(format!("error: {error}\n")),
            done => done,
        }
    }
}
