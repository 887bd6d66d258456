//! What the interaction scripts act on: members with their disks and states, and the messages
//! between them. Every command prints what happened.

use std::fmt::Write as _;

use base::{LogIndex, MemberId, Term};
use proto::raftpb::{
    ConfChange, ConfChangeTransition, ConfChangeV2, ConfState, HardState, Message, MessageType,
    Snapshot, SnapshotMetadata,
};
use raft::{
    AppendReceipt, Config, Position, ProposeError, Raft, ReadMode, Restored, Role, StepError,
};

use super::describe;
use super::file::Directive;
use super::majorities;
use super::ready::{Disk, Member};

/// What a proposal gets that goes nowhere, whyever.
const DROPPED: &str = "raft proposal dropped";

/// All members, and the messages on their way.
#[derive(Default)]
pub(crate) struct Env {
    pub(crate) members: Vec<Member>,
    pub(crate) messages: Vec<Message>,
    out: String,
    /// `log-level none`: commands say nothing but why they failed.
    is_quiet: bool,
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn dropped<T>(proposed: Result<T, ProposeError>) -> Result<(), String> {
    proposed.map(drop).map_err(|_| DROPPED.to_owned())
}

fn index(id: u64) -> usize {
    usize::try_from(id - 1).unwrap()
}

impl Env {
    /// Executes a command and returns its output.
    pub(crate) fn handle(&mut self, directive: &Directive) -> String {
        self.out.clear();
        let done = self.execute(directive);
        let mut out = if self.is_quiet { String::new() } else { std::mem::take(&mut self.out) };
        if let Err(error) = done {
            out.push_str(&error);
        }
        if out.is_empty() { "ok".to_owned() } else { out }
    }

    fn raft(&mut self, id: u64) -> &mut Raft {
        &mut self.members[index(id)].raft
    }

    fn execute(&mut self, directive: &Directive) -> Result<(), String> {
        let named: Vec<usize> = match directive.command.as_str() {
            "log-level" | "propose" | "compact" => Vec::new(),
            _ => directive.numbers().into_iter().filter(|&id| id > 0).map(index).collect(),
        };
        match directive.command.as_str() {
            "log-level" => self.is_quiet = directive.arguments[0].key == "none",
            "add-nodes" => self.add_members(directive),
            "campaign" => self.raft(directive.first()).campaign(),
            "compact" => self.compact(directive),
            "deliver-msgs" => self.deliver_some(directive),
            "process-ready" => self.each(&named, "handling Ready", Self::process_ready),
            "process-append-thread" => {
                self.each(&named, "processing append thread", Self::process_append);
            }
            "process-apply-thread" => {
                self.each(&named, "processing apply thread", Self::process_apply);
            }
            "raft-log" => self.print_log(named[0]),
            "raft-state" => self.print_states(),
            "set-randomized-election-timeout" => {
                let ticks = directive.number("timeout").unwrap();
                self.raft(directive.first()).set_election_timeout(u32::try_from(ticks).unwrap());
            }
            "stabilize" => self.stabilize_by(directive, named),
            "status" => self.print_progress(named[0]),
            "tick-election" => self.tick(named[0], 3),
            "tick-heartbeat" => self.tick(named[0], 1),
            "transfer-leadership" => {
                let to = MemberId(directive.number("to").unwrap());
                self.raft(directive.number("from").unwrap()).transfer_leader(to);
            }
            "forget-leader" => self.raft(directive.first()).forget_leader(),
            "send-snapshot" => self.send_snapshot(named[0], named[1]),
            "propose" => {
                let data = directive.arguments[1].key.clone();
                return dropped(self.raft(directive.first()).propose(data.into()));
            }
            "propose-conf-change" => return self.propose_conf_change(directive),
            "report-unreachable" => {
                self.members[named[0]].raft.report_unreachable(MemberId(named[1] as u64 + 1));
            }
            other => panic!("{}: no command {other}", directive.position),
        }
        Ok(())
    }

    fn add_members(&mut self, directive: &Directive) {
        let numbers = |key: &str| -> Vec<u64> {
            directive.values(key).iter().map(|id| id.parse().unwrap()).collect()
        };
        let conf_state = ConfState {
            voters: numbers("voters"),
            learners: numbers("learners"),
            ..ConfState::default()
        };
        let index = directive.number("index").unwrap_or(0);
        let base = Position { index: LogIndex(index), term: Term(u64::from(index > 0)) };
        let content = directive.value("content").unwrap_or_default().to_owned();
        for _ in 0..directive.first() {
            let id = self.members.len() as u64 + 1;
            let config = config_of(directive, MemberId(id));
            let restored = Restored {
                base,
                conf_state: conf_state.clone(),
                hard_state: HardState::default(),
                entries: Vec::new(),
            };
            let snapshot = Snapshot {
                data: Some(content.clone().into()),
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(conf_state.clone()),
                    index: Some(base.index.0),
                    term: Some(base.term.0),
                }),
            };
            self.members.push(Member::new(
                Raft::new(config, restored).unwrap(),
                Disk { base, ..Disk::default() },
                snapshot,
                directive.flag("async-storage-writes"),
                directive.number("max-committed-size-per-ready").unwrap_or(u64::MAX),
            ));
        }
    }

    fn compact(&mut self, directive: &Directive) {
        let [id, at] = directive.numbers()[..] else { panic!("compact <id> <index>") };
        let member = &mut self.members[index(id)];
        member.disk.compact(LogIndex(at));
        member.raft.compact(LogIndex(at));
        assert_eq!(member.raft.log().base().index, LogIndex(at), "{}", directive.position);
        self.print_log(index(id));
    }

    fn print_log(&mut self, at: usize) {
        let disk = &self.members[at].disk;
        if disk.entries.is_empty() {
            let (first, last) = (disk.base.index.next(), disk.base.index);
            let _ = write!(self.out, "log is empty: first index={first}, last index={last}");
        } else {
            self.out.push_str(&describe::entries(&disk.entries));
        }
    }

    fn print_states(&mut self) {
        for member in &self.members {
            let (id, status) = (member.raft.id(), member.raft.status());
            let votes = member.raft.tracker().configuration().voters.contains(id);
            let _ = writeln!(
                self.out,
                "{id}: {} ({}) Term:{} Lead:{}",
                describe::role(status.role),
                if votes { "Voter" } else { "Non-Voter" },
                status.term,
                status.leader.0
            );
        }
    }

    fn print_progress(&mut self, at: usize) {
        let raft = &self.members[at].raft;
        if raft.status().role == Role::Leader {
            for (id, progress) in raft.tracker().members() {
                let _ = writeln!(self.out, "{id}: {}", describe::progress(progress));
            }
        }
    }

    fn tick(&mut self, at: usize, count: u32) {
        (0..count).for_each(|_| self.members[at].raft.tick());
    }

    fn send_snapshot(&mut self, from: usize, to: usize) {
        let member = &self.members[from];
        let message = Message {
            r#type: Some(MessageType::MsgSnap.into()),
            term: Some(member.raft.status().term.0),
            from: Some(from as u64 + 1),
            to: Some(to as u64 + 1),
            snapshot: member.history.last().cloned(),
            ..Message::default()
        };
        self.out.push_str(&describe::message(&message));
        self.messages.push(message);
    }

    fn propose_conf_change(&mut self, directive: &Directive) -> Result<(), String> {
        let changes = majorities::changes(&directive.input);
        let raft = self.raft(directive.first());
        if directive.flag("v1") {
            let change = ConfChange {
                r#type: changes[0].r#type,
                node_id: changes[0].node_id,
                ..ConfChange::default()
            };
            return dropped(raft.propose_conf_change(&change));
        }
        let transition = match directive.value("transition").unwrap_or("auto") {
            "auto" => ConfChangeTransition::Auto,
            "implicit" => ConfChangeTransition::JointImplicit,
            "explicit" => ConfChangeTransition::JointExplicit,
            other => panic!("{}: no transition {other}", directive.position),
        };
        let transition = Some(transition.into());
        dropped(raft.propose_conf_change_v2(&ConfChangeV2 { transition, changes, context: None }))
    }

    // ---- messages ----

    fn deliver_some(&mut self, directive: &Directive) {
        let kind = directive.value("type").map(describe::kind);
        let mut count = 0;
        for argument in &directive.arguments {
            if argument.values.is_empty() {
                count += self.deliver(argument.key.parse().unwrap(), kind, false);
            } else if argument.key == "drop" {
                for id in &argument.values {
                    count += self.deliver(id.parse().unwrap(), kind, true);
                }
            }
        }
        if count == 0 {
            self.out.push_str("no messages\n");
        }
    }

    /// Hands over, or drops, what is on its way to a member. What a member says to itself is
    /// never lost.
    fn deliver(&mut self, to: u64, kind: Option<MessageType>, drops: bool) -> usize {
        let is_meant = |message: &Message| {
            message.to() == to
                && !(drops && describe::is_local(message))
                && kind.is_none_or(|kind| message.r#type() == kind)
        };
        let messages = std::mem::take(&mut self.messages);
        let (meant, rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_meant);
        self.messages = rest;
        let count = meant.len();
        for message in meant {
            let prefix = if drops { "dropped: " } else { "" };
            let _ = writeln!(self.out, "{prefix}{}", describe::message(&message));
            if !drops && let Err(error) = step(&mut self.members[index(to)].raft, message) {
                let _ = writeln!(self.out, "{error}");
            }
        }
        count
    }

    // ---- work ----

    /// Does something with each member: with headings when there are several.
    fn each(&mut self, members: &[usize], what: &str, act: impl Fn(&mut Self, usize)) {
        for &at in members {
            if let [_] = members {
                act(self, at);
            } else {
                self.headed(at, what, |env| act(env, at));
            }
        }
    }

    fn headed(&mut self, at: usize, what: &str, act: impl FnOnce(&mut Self)) {
        let before = std::mem::take(&mut self.out);
        act(self);
        self.out = format!("{before}> {} {what}\n{}", at + 1, indented(&self.out));
    }

    fn process_ready(&mut self, at: usize) {
        let (shown, messages) = self.members[at].process_ready();
        self.out.push_str(&shown);
        self.messages.extend(messages);
    }

    fn process_append(&mut self, at: usize) {
        match self.members[at].process_append() {
            None => self.out.push_str("no append work to perform"),
            Some((done, responses)) => self.print_work(&done, responses),
        }
    }

    fn process_apply(&mut self, at: usize) {
        match self.members[at].process_apply() {
            None => self.out.push_str("no apply work to perform"),
            Some((done, responses)) => self.print_work(&done, responses),
        }
    }

    fn print_work(&mut self, done: &Message, responses: Vec<Message>) {
        let _ = writeln!(self.out, "Processing:\n{}\nResponses:", describe::message(done));
        for response in &responses {
            let _ = writeln!(self.out, "{}", describe::message(response));
        }
        self.messages.extend(responses);
    }

    fn stabilize_by(&mut self, directive: &Directive, named: Vec<usize>) {
        let was_quiet = self.is_quiet;
        if let Some(level) = directive.value("log-level") {
            self.is_quiet = level == "none";
        }
        let members = if named.is_empty() { (0..self.members.len()).collect() } else { named };
        while self.stabilize_once(&members) {}
        if self.is_quiet {
            self.out.clear();
        }
        self.is_quiet = was_quiet;
    }

    /// Lets everyone do what there is to do. False when there was nothing.
    fn stabilize_once(&mut self, members: &[usize]) -> bool {
        let mut did = false;
        for &at in members {
            if self.members[at].has_ready() {
                self.headed(at, "handling Ready", |env| env.process_ready(at));
                did = true;
            }
        }
        for &at in members {
            let id = at as u64 + 1;
            if self.messages.iter().any(|message| message.to() == id) {
                self.headed(at, "receiving messages", |env| {
                    env.deliver(id, None, false);
                });
                did = true;
            }
        }
        for &at in members {
            if self.members[at].has_append_work() {
                self.headed(at, "processing append thread", |env| {
                    while env.members[at].has_append_work() {
                        env.process_append(at);
                    }
                });
                did = true;
            }
        }
        for &at in members {
            if self.members[at].has_apply_work() {
                self.headed(at, "processing apply thread", |env| {
                    while env.members[at].has_apply_work() {
                        env.process_apply(at);
                    }
                });
                did = true;
            }
        }
        did
    }
}

/// What the scripts' own environment sets, and what the command overrides.
fn config_of(directive: &Directive, id: MemberId) -> Config {
    let read_mode = match directive.value("read-only").unwrap_or("safe") {
        "safe" => ReadMode::Safe,
        "lease-based" => ReadMode::Lease,
        other => panic!("{}: no read mode {other}", directive.position),
    };
    let inflight = directive.number("inflight").unwrap_or(i32::MAX as u64);
    Config {
        id,
        election_ticks: 3,
        heartbeat_ticks: 1,
        pre_vote: directive.flag("prevote"),
        check_quorum: directive.flag("checkquorum"),
        message_bytes_max: u64::MAX,
        inflight_messages_max: usize::try_from(inflight).unwrap(),
        inflight_bytes_max: 0,
        uncommitted_bytes_max: 0,
        read_mode,
        disable_proposal_forwarding: false,
        disable_conf_change_validation: directive.flag("disable-conf-change-validation"),
        step_down_on_removal: directive.flag("step-down-on-removal"),
        gather: false,
        seed: id.0,
    }
}

/// Hands a message to a member: the reports of its own disk and state, too.
fn step(raft: &mut Raft, message: Message) -> Result<(), String> {
    match message.r#type() {
        MessageType::MsgStorageAppendResp => {
            let (index, term) = (LogIndex(message.index()), Term(message.log_term()));
            let snapshot = message.snapshot.as_ref().and_then(|it| it.metadata.as_ref());
            let snapshot = snapshot.map(|metadata| LogIndex(metadata.index()));
            let last = (index.0 > 0).then_some(Position { index, term });
            raft.appended(&AppendReceipt { term: Term(message.term()), last, snapshot });
            // Here, writing a snapshot is installing it.
            if let Some(at) = snapshot {
                raft.applied(at);
            }
            Ok(())
        }
        MessageType::MsgStorageApplyResp => {
            raft.applied(LogIndex(message.entries.last().unwrap().index()));
            Ok(())
        }
        _ => raft.step(message).map_err(|error| match error {
            StepError::Dropped(_) => DROPPED.to_owned(),
            StepError::Stranger(_) => "raft: cannot step as peer not found".to_owned(),
            other => other.to_string(),
        }),
    }
}
