//! One member of a group: the core, its disk, and its state.

use std::collections::{BTreeSet, VecDeque};

use base::{LogIndex, MemberId, Rng, Term};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, Snapshot,
    SnapshotMetadata,
};
use raft::{Append, Config, Position, Raft, Restored};

/// What the entries make of the state. It is nothing but a digest of them, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) at: Position,
    pub(crate) digest: u64,
    pub(crate) conf_state: ConfState,
    /// Ids that are never used again.
    pub(crate) removed: BTreeSet<u64>,
}

impl State {
    fn snapshot(&self) -> Snapshot {
        let mut data = self.digest.to_le_bytes().to_vec();
        data.extend(self.removed.iter().flat_map(|id| id.to_le_bytes()));
        Snapshot {
            data: Some(data.into()),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(self.conf_state.clone()),
                index: Some(self.at.index.0),
                term: Some(self.at.term.0),
            }),
        }
    }

    fn of(snapshot: &Snapshot) -> Self {
        let metadata = snapshot.metadata.clone().unwrap();
        let words = snapshot.data().chunks(8).map(|it| u64::from_le_bytes(it.try_into().unwrap()));
        let words: Vec<u64> = words.collect();
        Self {
            at: Position { index: LogIndex(metadata.index()), term: Term(metadata.term()) },
            digest: words[0],
            conf_state: metadata.conf_state.clone().unwrap(),
            removed: words[1..].iter().copied().collect(),
        }
    }

    fn absorb(&mut self, entry: &Entry) {
        assert_eq!(entry.index(), self.at.index.0 + 1, "entries are applied in their order");
        self.at = Position { index: LogIndex(entry.index()), term: Term(entry.term()) };
        for byte in entry.encode_to_vec() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Whether a change brings back an id that was removed: everyone refuses it.
    fn refuses(&self, change: &ConfChangeV2) -> bool {
        change.changes.iter().any(|it| self.removed.contains(&it.node_id()))
    }
}

/// What survives a crash.
#[derive(Debug, Clone)]
struct Disk {
    /// The state as of the last snapshot; the log continues behind it.
    snapshot: Snapshot,
    entries: Vec<Entry>,
    hard: HardState,
    /// The commit index as of the last sync.
    synced_commit: u64,
}

impl Disk {
    fn base(&self) -> u64 {
        self.snapshot.metadata.as_ref().unwrap().index()
    }

    fn write(&mut self, append: &Append) {
        if let Some(snapshot) = &append.snapshot {
            self.snapshot = snapshot.clone();
            self.entries.clear();
        }
        for entry in &append.entries {
            let Some(keep) = entry.index().checked_sub(self.base() + 1) else { continue };
            let keep = usize::try_from(keep).unwrap();
            assert!(keep <= self.entries.len(), "a gap on disk");
            self.entries.truncate(keep);
            self.entries.push(entry.clone());
        }
        if let Some(hard) = append.hard_state {
            let (before, now) =
                ((self.hard.term(), self.hard.commit()), (hard.term(), hard.commit()));
            assert!(before.0 <= now.0 && before.1 <= now.1, "{before:?} then {now:?}");
            self.hard = hard;
        }
        if append.must_sync {
            self.synced_commit = self.hard.commit();
        }
    }
}

/// What waits for the state.
enum Apply {
    Entries(Vec<Entry>),
    Install(Snapshot),
}

/// What a step of a machine brought up.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) messages: Vec<Message>,
    /// The indexes of finished reads by their number.
    pub(crate) reads: Vec<(u64, LogIndex)>,
    /// Index and digest after each applied entry.
    pub(crate) states: Vec<(u64, u64)>,
    pub(crate) changes: u64,
    pub(crate) joints: u64,
    pub(crate) installs: u64,
}

pub(crate) struct Machine {
    config: Config,
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    disk: Disk,
    writing: VecDeque<Append>,
    applying: VecDeque<Apply>,
    pub(crate) state: State,
}

impl Machine {
    pub(crate) fn new(config: Config, conf_state: ConfState, base: Position) -> Self {
        let at = if conf_state.voters.is_empty() { Position::default() } else { base };
        let state = State { at, conf_state, ..State::default() };
        let disk = Disk {
            snapshot: state.snapshot(),
            entries: Vec::new(),
            hard: HardState::default(),
            synced_commit: 0,
        };
        let mut machine = Self {
            config,
            raft: None,
            disk,
            writing: VecDeque::new(),
            applying: VecDeque::new(),
            state,
        };
        machine.start();
        machine
    }

    pub(crate) fn start(&mut self) {
        self.state = State::of(&self.disk.snapshot);
        let restored = Restored {
            base: self.state.at,
            conf_state: self.state.conf_state.clone(),
            hard_state: self.disk.hard,
            entries: self.disk.entries.clone(),
        };
        let mut raft = Raft::new(self.config.clone(), restored).unwrap();
        self.keep_snapshot(&mut raft);
        self.raft = Some(raft);
    }

    fn keep_snapshot(&self, raft: &mut Raft) {
        let snapshot = self.state.snapshot();
        let data = snapshot.data.unwrap_or_default();
        raft.create_snapshot(self.state.at.index, self.state.conf_state.clone(), data);
    }

    /// Stops at once. Of the writes under way only some are done, and a commit index alone may be
    /// lost even when it was written. Returns how many writes were lost.
    pub(crate) fn crash(&mut self, rng: &mut Rng) -> usize {
        self.raft = None;
        let done = rng.below(self.writing.len() as u64 + 1);
        for append in self.writing.drain(..usize::try_from(done).unwrap()) {
            self.disk.write(&append);
        }
        if rng.one_in(2) {
            let base = self.disk.base();
            self.disk.hard.commit = Some(self.disk.synced_commit.max(base));
        }
        self.applying.clear();
        let lost = self.writing.len();
        self.writing.clear();
        lost
    }

    /// Takes all duties.
    pub(crate) fn take_duties(&mut self, apply_bytes_max: usize) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(raft) = &mut self.raft else { return outcome };
        let duties = raft.duties();
        assert!(!raft.has_duties(), "taken once");
        outcome.messages = duties.messages;
        for read in duties.reads {
            let number = u64::from_le_bytes(read.context.as_ref().try_into().unwrap());
            outcome.reads.push((number, read.index));
        }
        self.writing.extend(duties.append);
        if self.applying.len() < 3 && raft.has_committed() {
            self.applying.push_back(Apply::Entries(raft.take_committed(apply_bytes_max)));
        }
        outcome
    }

    /// The disk does the next write.
    pub(crate) fn write(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(raft) = &mut self.raft else { return outcome };
        let Some(append) = self.writing.pop_front() else { return outcome };
        self.disk.write(&append);
        for message in append.after {
            if message.to() == raft.id().0 {
                // May be refused when the member was removed meanwhile.
                let _refused = raft.step(message);
            } else {
                outcome.messages.push(message);
            }
        }
        raft.appended(&append.receipt);
        self.applying.extend(append.snapshot.map(Apply::Install));
        outcome
    }

    /// The state takes the next entries in.
    pub(crate) fn apply(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(raft) = &mut self.raft else { return outcome };
        match self.applying.pop_front() {
            None => {}
            Some(Apply::Install(snapshot)) => {
                self.state = State::of(&snapshot);
                outcome.installs += 1;
                outcome.states.push((self.state.at.index.0, self.state.digest));
                raft.applied(self.state.at.index);
            }
            Some(Apply::Entries(entries)) => {
                for entry in entries {
                    self.state.absorb(&entry);
                    outcome.states.push((entry.index(), self.state.digest));
                    change(raft, &mut self.state, &entry, &mut outcome);
                }
                raft.applied(self.state.at.index);
            }
        }
        outcome
    }

    /// Snapshots the state, and drops what it stands for from the log.
    pub(crate) fn compact(&mut self, keep: u64) {
        let Some(mut raft) = self.raft.take() else { return };
        // Not while an older snapshot is on its way into the state.
        let at = self.state.at.index;
        if at > LogIndex(self.disk.base()) && raft.log().stable() >= at && self.writing.is_empty() {
            let count = usize::try_from(at.0 - self.disk.base()).unwrap();
            self.disk.entries.drain(..count);
            self.disk.snapshot = self.state.snapshot();
            let commit = self.disk.hard.commit().max(at.0);
            self.disk.hard.commit = Some(commit);
            self.disk.synced_commit = commit;
            self.keep_snapshot(&mut raft);
            raft.compact(LogIndex(at.0.saturating_sub(keep)));
        }
        self.raft = Some(raft);
    }

    /// As the server does: a snapshot for another member is replaced by the newest state.
    pub(crate) fn refresh(&self, message: &mut Message) {
        if message.snapshot.is_some() {
            message.snapshot = Some(self.state.snapshot());
        }
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.state.removed.contains(&self.config.id.0)
    }

    pub(crate) fn id(&self) -> MemberId {
        self.config.id
    }
}

fn change(raft: &mut Raft, state: &mut State, entry: &Entry, outcome: &mut Outcome) {
    let change = match entry.r#type() {
        EntryType::EntryNormal => return,
        EntryType::EntryConfChange => {
            let one = ConfChange::decode(entry.data()).unwrap();
            ConfChangeV2 {
                changes: vec![proto::raftpb::ConfChangeSingle {
                    r#type: one.r#type,
                    node_id: one.node_id,
                }],
                ..ConfChangeV2::default()
            }
        }
        EntryType::EntryConfChangeV2 => ConfChangeV2::decode(entry.data()).unwrap(),
    };
    if state.refuses(&change) {
        return;
    }
    // What the configuration refuses, it refuses with everyone.
    let Ok(conf_state) = raft.apply_conf_change_v2(&change) else { return };
    outcome.changes += 1;
    outcome.joints += u64::from(!conf_state.voters_outgoing.is_empty());
    let before = members(&state.conf_state);
    state.removed.extend(before.difference(&members(&conf_state)));
    state.conf_state = conf_state;
}

/// Whoever takes part in whatever way.
pub(crate) fn members(state: &ConfState) -> BTreeSet<u64> {
    let parts = [&state.voters, &state.voters_outgoing, &state.learners, &state.learners_next];
    parts.into_iter().flatten().copied().collect()
}

pub(crate) fn read_context(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}
