//! One member of the scripts: the core with its disk and its state, and the two ways to work off
//! its duties. Either all at once, and the next ones afterwards; or as messages to the threads of
//! the disk and of the state, which answer some time later.

use std::collections::VecDeque;
use std::fmt::Write as _;

use base::LogIndex;
use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfChangeV2, Entry, EntryType, HardState, Message, MessageType, Snapshot,
    SnapshotMetadata,
};
use raft::{Append, AppendReceipt, Position, Raft};

use super::describe::{self, APPEND_THREAD, APPLY_THREAD};

/// What is durable.
#[derive(Default)]
pub(crate) struct Disk {
    /// Of the entry before the first one.
    pub(crate) base: Position,
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    fn keep_before(&mut self, index: u64) {
        let keep = usize::try_from(index - self.base.index.0 - 1).unwrap();
        assert!(keep <= self.entries.len(), "a gap on disk");
        self.entries.truncate(keep);
    }

    fn write(&mut self, snapshot: Option<&Snapshot>, entries: &[Entry]) {
        if let Some(metadata) = snapshot.and_then(|snapshot| snapshot.metadata.as_ref()) {
            assert!(entries.is_empty(), "a snapshot with entries");
            self.entries.clear();
            self.base.index = LogIndex(metadata.index());
        }
        if let Some(first) = entries.first() {
            self.keep_before(first.index());
            self.entries.extend_from_slice(entries);
        }
    }

    pub(crate) fn compact(&mut self, at: LogIndex) {
        let count = usize::try_from(at.0 - self.base.index.0).unwrap();
        self.entries.drain(..count);
        self.base.index = at;
    }
}

pub(crate) struct Member {
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    /// The state after each applied entry, as snapshots: the data of all entries in a row.
    pub(crate) history: Vec<Snapshot>,
    is_async: bool,
    committed_bytes_max: usize,
    /// To tell whether vote or term changed, which alone need a sync.
    written: HardState,
    /// All at once: up to where entries were shown to be applied.
    shown: LogIndex,
    /// All at once: what the core handed out, and was not shown yet.
    handed: VecDeque<Entry>,
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
}

impl Member {
    pub(crate) fn new(
        raft: Raft,
        disk: Disk,
        snapshot: Snapshot,
        is_async: bool,
        committed_bytes_max: u64,
    ) -> Self {
        let mut member = Self {
            written: raft.hard_state(),
            shown: raft.log().applied(),
            disk,
            history: Vec::new(),
            is_async,
            committed_bytes_max: usize::try_from(committed_bytes_max).unwrap(),
            handed: VecDeque::new(),
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            raft,
        };
        member.remember(snapshot);
        member
    }

    /// The newest state is what a follower gets that needs a snapshot.
    fn remember(&mut self, snapshot: Snapshot) {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let (state, data) = (metadata.conf_state.clone(), snapshot.data.clone());
        let at = LogIndex(metadata.index());
        if at > LogIndex(0) {
            let (state, data) = (state.unwrap_or_default(), data.unwrap_or_default());
            self.raft.create_snapshot(at, state, data).expect("a newer state than before");
        }
        self.history.push(snapshot);
    }

    pub(crate) fn has_ready(&self) -> bool {
        let committed = match self.is_async {
            true => self.raft.has_committed(),
            false => self.raft.log().committed() > self.shown,
        };
        self.raft.has_duties() || committed
    }

    pub(crate) fn has_append_work(&self) -> bool {
        !self.append_work.is_empty()
    }

    pub(crate) fn has_apply_work(&self) -> bool {
        !self.apply_work.is_empty()
    }

    /// Takes the duties. Returns how they read, and what is to be sent.
    pub(crate) fn process_ready(&mut self) -> (String, Vec<Message>) {
        let duties = self.raft.duties();
        let mut append = duties.append.unwrap_or_default();
        let committed = match self.is_async {
            true => self.raft.take_committed(self.committed_bytes_max),
            false if append.snapshot.is_some() => Vec::new(),
            false => self.show_committed(),
        };
        let must_sync = self.must_sync(&append);
        let mut out = String::new();
        if let Some(soft) = duties.soft {
            let role = describe::role(soft.role);
            let _ = writeln!(out, "Lead:{} State:{role}", soft.leader.0);
        }
        if let Some(state) = &append.hard_state {
            let _ = writeln!(out, "HardState {}", describe::hard_state(state));
        }
        if !duties.reads.is_empty() {
            let _ = writeln!(out, "ReadStates {:?}", duties.reads);
        }
        if !append.entries.is_empty() {
            let _ = write!(out, "Entries:\n{}", describe::entries(&append.entries));
        }
        if let Some(snapshot) = &append.snapshot {
            let _ = writeln!(out, "Snapshot {}", describe::snapshot(snapshot));
        }
        if !committed.is_empty() {
            let _ = write!(out, "CommittedEntries:\n{}", describe::entries(&committed));
        }
        let mut messages = duties.messages;
        if self.is_async {
            messages.extend(self.append_message(&append));
            messages.extend(self.apply_message(&committed));
        } else {
            let (own, others): (Vec<_>, Vec<_>) =
                append.after.into_iter().partition(|it| it.to() == self.raft.id().0);
            append.after = own;
            messages.extend(others);
        }
        if !messages.is_empty() {
            out.push_str("Messages:\n");
            for message in &messages {
                let _ = writeln!(out, "{}", describe::message(message));
            }
        }
        let out = match out.as_str() {
            "" => "<empty Ready>".to_owned(),
            _ => format!("Ready MustSync={must_sync}:\n{out}"),
        };
        if self.is_async {
            messages.retain(|message| match message.r#type() {
                MessageType::MsgStorageAppend => {
                    self.append_work.push_back(message.clone());
                    false
                }
                MessageType::MsgStorageApply => {
                    self.apply_work.push_back(message.clone());
                    false
                }
                _ => true,
            });
        } else {
            self.work_off(append, &committed);
        }
        (out, messages)
    }

    /// A snapshot alone needs no sync there, as it does here.
    fn must_sync(&mut self, append: &Append) -> bool {
        let before = std::mem::replace(&mut self.written, self.raft.hard_state());
        let is_new = before.term != self.written.term || before.vote != self.written.vote;
        let must = is_new || !append.entries.is_empty();
        assert_eq!(append.must_sync, must || append.snapshot.is_some());
        must
    }

    /// All at once: what is committed is applied although it is only now being written.
    fn show_committed(&mut self) -> Vec<Entry> {
        let log = self.raft.log();
        let indexes = (self.shown.0 + 1..=log.committed().0).map(LogIndex);
        let mut bytes = 0;
        let shown: Vec<Entry> = indexes
            .map(|index| log.entry(index).unwrap().clone())
            .enumerate()
            .take_while(|(count, entry)| {
                bytes += entry.encoded_len();
                *count == 0 || bytes <= self.committed_bytes_max
            })
            .map(|(_, entry)| entry)
            .collect();
        self.shown.0 += shown.len() as u64;
        shown
    }

    /// Writes, applies, and reports both. What is sent may leave only after that.
    fn work_off(&mut self, append: Append, committed: &[Entry]) {
        self.disk.write(append.snapshot.as_ref(), &append.entries);
        self.apply(committed);
        for message in append.after {
            // The core ignores what it says to itself and is not true any more.
            let _ignored = self.raft.step(message);
        }
        self.raft.appended(&append.receipt);
        if let Some(at) = append.receipt.snapshot {
            self.shown = at;
            self.raft.applied(at);
        }
        self.handed.extend(self.raft.take_committed(usize::MAX));
        for shown in committed {
            assert_eq!(self.handed.pop_front().as_ref(), Some(shown), "handed out to be applied");
        }
        if let Some(last) = committed.last() {
            self.raft.applied(LogIndex(last.index()));
        }
    }

    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            let (change, update) = match entry.r#type() {
                EntryType::EntryNormal => (None, entry.data().to_vec()),
                EntryType::EntryConfChange => {
                    let change = ConfChange::decode(entry.data()).unwrap();
                    let state = self.raft.apply_conf_change(&change).unwrap();
                    (Some(state), change.context().to_vec())
                }
                EntryType::EntryConfChangeV2 => {
                    let change = ConfChangeV2::decode(entry.data()).unwrap();
                    let state = self.raft.apply_conf_change_v2(&change).unwrap();
                    (Some(state), change.context().to_vec())
                }
            };
            let last = self.history.last().unwrap();
            let state = last.metadata.as_ref().and_then(|metadata| metadata.conf_state.clone());
            let data = [last.data().to_vec(), update].concat();
            self.remember(Snapshot {
                data: Some(data.into()),
                metadata: Some(SnapshotMetadata {
                    conf_state: change.or(state),
                    index: entry.index,
                    term: entry.term,
                }),
            });
        }
    }

    // ---- as messages ----

    fn append_message(&self, append: &Append) -> Option<Message> {
        if *append == Append::default() {
            return None;
        }
        let state = append.hard_state.unwrap_or_default();
        let mut responses = append.after.clone();
        let AppendReceipt { term, last, snapshot } = append.receipt;
        if last.is_some() || snapshot.is_some() {
            responses.push(Message {
                r#type: Some(MessageType::MsgStorageAppendResp.into()),
                to: Some(self.raft.id().0),
                from: Some(APPEND_THREAD),
                term: Some(term.0),
                index: last.map(|last| last.index.0),
                log_term: last.map(|last| last.term.0),
                snapshot: append.snapshot.clone(),
                ..Message::default()
            });
        }
        Some(Message {
            r#type: Some(MessageType::MsgStorageAppend.into()),
            to: Some(APPEND_THREAD),
            from: Some(self.raft.id().0),
            term: state.term,
            vote: state.vote,
            commit: state.commit,
            entries: append.entries.clone(),
            snapshot: append.snapshot.clone(),
            responses,
            ..Message::default()
        })
    }

    fn apply_message(&self, entries: &[Entry]) -> Option<Message> {
        let own = Some(self.raft.id().0);
        let done = Message {
            r#type: Some(MessageType::MsgStorageApplyResp.into()),
            to: own,
            from: Some(APPLY_THREAD),
            entries: entries.to_vec(),
            ..Message::default()
        };
        (!entries.is_empty()).then(|| Message {
            r#type: Some(MessageType::MsgStorageApply.into()),
            to: Some(APPLY_THREAD),
            from: own,
            entries: entries.to_vec(),
            responses: vec![done],
            ..Message::default()
        })
    }

    /// The disk does the next write. Returns the order and what is to be answered.
    pub(crate) fn process_append(&mut self) -> Option<(Message, Vec<Message>)> {
        let mut order = self.append_work.pop_front()?;
        let responses = std::mem::take(&mut order.responses);
        self.disk.write(order.snapshot.as_ref(), &order.entries);
        Some((order, responses))
    }

    /// The state takes the next entries in.
    pub(crate) fn process_apply(&mut self) -> Option<(Message, Vec<Message>)> {
        let mut order = self.apply_work.pop_front()?;
        let responses = std::mem::take(&mut order.responses);
        self.apply(&order.entries);
        Some((order, responses))
    }
}
