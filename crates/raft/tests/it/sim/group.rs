//! A group of members, the network between them, and what befalls both.

use std::collections::{BTreeMap, BTreeSet};

use base::{LogIndex, MemberId, Rng, Term};
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Message, MessageType,
};
use raft::{Config, Position, Raft, ReadMode, Role, StepError};

use super::checks::{self, History};
use super::machine::{self, Machine, Outcome};

/// Ids in use: some are voters from the start, others may be added.
const IDS: u64 = 6;
/// Rounds with faults. In each one every member ticks about once.
const FAULTY_ROUNDS: u64 = 200;
/// Rounds after which a healed group must have got on.
const HEALED_ROUNDS: u64 = 1_000;

/// What is proposed after healing.
const MARKER: &str = "marker";

/// What took place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) elections: u64,
    pub(crate) committed: u64,
    pub(crate) reads: u64,
    pub(crate) crashes: u64,
    pub(crate) lost_writes: u64,
    pub(crate) installs: u64,
    pub(crate) changes: u64,
    pub(crate) joints: u64,
    pub(crate) transfers: u64,
    pub(crate) refusals: u64,
    pub(crate) rounds_to_heal: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.elections += other.elections;
        self.committed += other.committed;
        self.reads += other.reads;
        self.crashes += other.crashes;
        self.lost_writes += other.lost_writes;
        self.installs += other.installs;
        self.changes += other.changes;
        self.joints += other.joints;
        self.transfers += other.transfers;
        self.refusals += other.refusals;
        self.rounds_to_heal = self.rounds_to_heal.max(other.rounds_to_heal);
    }
}

/// How bad the network is: one message in so many.
struct Network {
    lost: u64,
    doubled: u64,
    delay_max: u64,
    /// Pairs that hear nothing of each other, in that direction.
    cut: BTreeSet<(u64, u64)>,
    /// With the round in which each arrives.
    messages: Vec<(u64, Message)>,
}

#[derive(Clone, Copy)]
enum Event {
    Tick(u64),
    Write(u64),
    Apply(u64),
    Ask(u64),
    Disturb,
}

pub(crate) struct Group {
    rng: Rng,
    round: u64,
    machines: BTreeMap<u64, Machine>,
    network: Network,
    history: History,
    counts: Counts,
    proposed: u64,
    /// The commit index that anyone knew when each read was asked for.
    reads: BTreeMap<u64, LogIndex>,
    apply_bytes_max: usize,
    healed: bool,
}

fn config(rng: &mut Rng, id: u64) -> Config {
    Config {
        id: MemberId(id),
        election_ticks: 6,
        heartbeat_ticks: 1 + u32::from(rng.one_in(3)),
        pre_vote: false,
        check_quorum: false,
        message_bytes_max: [0, 60, 300, 1 << 20][usize::try_from(rng.below(4)).unwrap()],
        inflight_messages_max: usize::try_from(1 + rng.below(8)).unwrap(),
        inflight_bytes_max: 0,
        uncommitted_bytes_max: if rng.one_in(2) { 0 } else { 100 },
        read_mode: ReadMode::Safe,
        disable_proposal_forwarding: rng.one_in(8),
        disable_conf_change_validation: false,
        step_down_on_removal: rng.one_in(2),
        gather: rng.one_in(2),
        seed: rng.next_u64(),
    }
}

impl Group {
    /// All is drawn from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let voters = 3 + rng.below(3);
        let conf_state = ConfState { voters: (1..=voters).collect(), ..ConfState::default() };
        let (pre_vote, check_quorum) = (rng.one_in(2), rng.one_in(2));
        let base = Position { index: LogIndex(5), term: Term(1) };
        let machines = (1..=IDS).map(|id| {
            let config = Config { pre_vote, check_quorum, ..config(&mut rng, id) };
            // Who is added later starts with nothing.
            let known = if id <= voters { conf_state.clone() } else { ConfState::default() };
            (id, Machine::new(config, known, base))
        });
        let machines = machines.collect();
        Self {
            round: 0,
            machines,
            network: Network {
                lost: 3 + rng.below(40),
                doubled: 5 + rng.below(40),
                delay_max: 1 + rng.below(4),
                cut: BTreeSet::new(),
                messages: Vec::new(),
            },
            history: History::default(),
            counts: Counts::default(),
            proposed: 0,
            reads: BTreeMap::new(),
            apply_bytes_max: [1, 100, 10_000][usize::try_from(rng.below(3)).unwrap()],
            healed: false,
            rng,
        }
    }

    /// Lets everything happen, and then everything heal.
    pub(crate) fn run(mut self) -> Counts {
        for _ in 0..FAULTY_ROUNDS {
            self.play_round();
        }
        self.heal();
        let healed_at = self.round;
        while !self.has_got_on() {
            let rounds = self.round - healed_at;
            assert!(rounds < HEALED_ROUNDS, "no progress: {:?}", self.standing());
            if rounds % 15 == 14 {
                self.propose_marker();
            }
            self.play_round();
        }
        self.counts.rounds_to_heal = self.round - healed_at;
        self.counts.elections = self.history.elections();
        self.counts.committed = self.history.newest().0;
        self.counts
    }

    fn standing(&self) -> Vec<String> {
        let each = self.machines.values().map(|machine| {
            let status = machine.raft.as_ref().map(Raft::status);
            format!("{} {status:?} {:?}", machine.id(), machine.state)
        });
        each.collect()
    }

    fn play_round(&mut self) {
        self.round += 1;
        let mut events = Vec::new();
        for &id in self.machines.keys() {
            if self.healed || !self.rng.one_in(8) {
                events.push(Event::Tick(id));
            }
            for _ in 0..self.rng.below(4) + u64::from(self.healed) {
                events.push(Event::Write(id));
                events.push(Event::Apply(id));
            }
            if !self.healed && self.rng.one_in(3) {
                events.push(Event::Ask(id));
            }
        }
        if !self.healed {
            events.push(Event::Disturb);
        }
        let mut arriving = self.arriving();
        while !events.is_empty() || !arriving.is_empty() {
            let at = self.rng.below((events.len() + arriving.len()) as u64);
            let at = usize::try_from(at).unwrap();
            if at < events.len() {
                let event = events.swap_remove(at);
                self.play(event);
            } else {
                let message = arriving.swap_remove(at - events.len());
                self.deliver(message);
            }
        }
        // Whatever nobody took so far.
        let ids: Vec<u64> = self.machines.keys().copied().collect();
        ids.into_iter().for_each(|id| self.take_duties(id));
        if self.round.is_multiple_of(16) {
            self.check_pairs();
        }
    }

    fn arriving(&mut self) -> Vec<Message> {
        let (round, messages) = (self.round, std::mem::take(&mut self.network.messages));
        let (now, later): (Vec<_>, Vec<_>) = messages.into_iter().partition(|it| it.0 <= round);
        self.network.messages = later;
        now.into_iter().map(|(_, message)| message).collect()
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Tick(id) => self.with(id, Raft::tick),
            Event::Write(id) => {
                let outcome = self.machine(id).write();
                self.take_in(id, outcome);
            }
            Event::Apply(id) => {
                let outcome = self.machine(id).apply();
                self.take_in(id, outcome);
                self.retire(id);
            }
            Event::Ask(id) => self.ask(id),
            Event::Disturb => self.disturb(),
        }
    }

    fn machine(&mut self, id: u64) -> &mut Machine {
        self.machines.get_mut(&id).unwrap()
    }

    /// Does something to a member that is up; sometimes its duties are taken at once.
    fn with(&mut self, id: u64, act: impl FnOnce(&mut Raft)) {
        if let Some(raft) = &mut self.machine(id).raft {
            act(raft);
            self.take_in(id, Outcome::default());
        }
    }

    fn take_in(&mut self, id: u64, outcome: Outcome) {
        self.absorb(id, outcome);
        if self.rng.one_in(2) {
            self.take_duties(id);
        }
    }

    fn take_duties(&mut self, id: u64) {
        let apply_bytes_max = self.apply_bytes_max;
        let machine = self.machine(id);
        if machine.raft.as_ref().is_some_and(|raft| raft.has_duties() || raft.has_committed()) {
            let outcome = machine.take_duties(apply_bytes_max);
            self.absorb(id, outcome);
        }
    }

    /// Checks and counts what a step brought up, and sends what it sends.
    fn absorb(&mut self, id: u64, outcome: Outcome) {
        for (number, index) in outcome.reads {
            let asked = self.reads.remove(&number).unwrap_or_default();
            assert!(index >= asked, "read {number} at {index}, {asked} was committed before");
            self.counts.reads += 1;
        }
        for (index, digest) in outcome.states {
            self.history.check_state(id, index, digest);
        }
        self.counts.changes += outcome.changes;
        self.counts.joints += outcome.joints;
        self.counts.installs += outcome.installs;
        outcome.messages.into_iter().for_each(|message| self.post(message));
        if let Some(raft) = &self.machines[&id].raft {
            self.history.check(raft);
        }
    }

    // ---- the network ----

    fn post(&mut self, mut message: Message) {
        let (from, to) = (message.from(), message.to());
        self.counts.refusals +=
            u64::from(message.r#type() == MessageType::MsgAppResp && message.reject());
        if message.r#type() == MessageType::MsgSnap && self.rng.one_in(2) {
            self.machine(from).refresh(&mut message);
        }
        let network = &self.network;
        let is_lost =
            network.cut.contains(&(from, to)) || (!self.healed && self.rng.one_in(network.lost));
        if is_lost {
            self.report(&message, false);
            return;
        }
        let copies = 1 + u64::from(!self.healed && self.rng.one_in(self.network.doubled));
        for _ in 0..copies {
            let delay = if self.healed { 0 } else { self.rng.below(self.network.delay_max) };
            self.network.messages.push((self.round + 1 + delay, message.clone()));
        }
    }

    /// The transport says what became of a snapshot always, of others sometimes.
    fn report(&mut self, message: &Message, ok: bool) {
        let to = MemberId(message.to());
        let says = self.rng.one_in(2);
        let Some(raft) = self.machines.get_mut(&message.from()).and_then(|it| it.raft.as_mut())
        else {
            return;
        };
        if message.r#type() == MessageType::MsgSnap {
            raft.report_snapshot(to, ok);
        } else if !ok && says {
            raft.report_unreachable(to);
        }
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from(), message.to());
        let receiver = &self.machines[&to];
        if receiver.raft.is_none() {
            self.report(&message, false);
            return;
        }
        // Members that know of a removal do not listen any more, and say so.
        if receiver.state.removed.contains(&from) {
            let sender = self.machine(from);
            sender.state.removed.insert(from);
            self.retire(from);
            return;
        }
        self.report(&message, true);
        self.with(to, |raft| match raft.step(message) {
            Ok(()) | Err(StepError::Dropped(_) | StepError::Stranger(_)) => {}
            Err(error) => panic!("member {to}: {error}"),
        });
    }

    /// A removed member stops.
    fn retire(&mut self, id: u64) {
        let machine = self.machine(id);
        if machine.is_removed() {
            machine.raft = None;
        }
    }

    // ---- what clients and operators want ----

    fn ask(&mut self, id: u64) {
        let Some(status) = self.machines[&id].raft.as_ref().map(Raft::status) else { return };
        match self.rng.below(24) {
            0 | 1 if status.role == Role::Leader => self.change_one(id),
            2 | 3 if status.role == Role::Leader => self.change_many(id),
            4 => {
                let to = MemberId(1 + self.rng.below(IDS));
                self.counts.transfers += u64::from(status.leader != MemberId::NONE);
                self.with(id, |raft| raft.transfer_leader(to));
            }
            5 => self.with(id, Raft::forget_leader),
            6..14 => {
                self.proposed += 1;
                let number = self.proposed;
                self.reads.insert(number, self.history.newest());
                self.with(id, |raft| raft.read_index(machine::read_context(number)));
            }
            _ => {
                for _ in 0..=self.rng.below(3) {
                    self.propose(id);
                }
            }
        }
    }

    fn propose(&mut self, id: u64) {
        self.proposed += 1;
        let data = format!(
            "{}{}",
            self.proposed,
            ".".repeat(usize::try_from(self.rng.below(40)).unwrap())
        );
        self.with(id, |raft| {
            // Refused without a leader, during a transfer, with too much on its way.
            let _refused = raft.propose(data.into());
        });
    }

    fn change(&mut self) -> ConfChangeSingle {
        let kind = match self.rng.below(8) {
            0..4 => ConfChangeType::ConfChangeAddNode,
            4..7 => ConfChangeType::ConfChangeAddLearnerNode,
            _ => ConfChangeType::ConfChangeRemoveNode,
        };
        ConfChangeSingle { r#type: Some(kind.into()), node_id: Some(1 + self.rng.below(IDS)) }
    }

    fn change_one(&mut self, id: u64) {
        let one = self.change();
        if self.stays_able(id, &[one]) {
            let (r#type, node_id) = (one.r#type, one.node_id);
            let change = ConfChange { r#type, node_id, ..ConfChange::default() };
            self.with(id, |raft| {
                let _refused = raft.propose_conf_change(&change);
            });
        }
    }

    /// Several at once; or the end of a joint change, if one is under way.
    fn change_many(&mut self, id: u64) {
        let raft = self.machines[&id].raft.as_ref().unwrap();
        let is_joint = raft.tracker().configuration().is_joint();
        let count = if is_joint { 0 } else { 1 + self.rng.below(3) };
        let transition = match self.rng.below(3) {
            _ if is_joint => ConfChangeTransition::Auto,
            0 => ConfChangeTransition::Auto,
            1 => ConfChangeTransition::JointImplicit,
            _ => ConfChangeTransition::JointExplicit,
        };
        let changes: Vec<_> = (0..count).map(|_| self.change()).collect();
        if self.stays_able(id, &changes) {
            let transition = Some(transition.into());
            let change = ConfChangeV2 { transition, changes, context: None };
            self.with(id, |raft| {
                let _refused = raft.propose_conf_change_v2(&change);
            });
        }
    }

    /// Whether who stays can elect a leader also while it does not know yet that the change was
    /// committed: a majority of the old voters stays, and nobody who stays becomes a learner
    /// (with a longer log it could neither lead nor vote for another). The library has the same
    /// limits, and etcd makes no such change.
    fn stays_able(&self, id: u64, changes: &[ConfChangeSingle]) -> bool {
        let raft = self.machines[&id].raft.as_ref().unwrap();
        let before = &raft.tracker().configuration().voters.incoming.0;
        let goes = |voter: &MemberId| {
            changes.iter().any(|it| {
                it.node_id() == voter.0 && it.r#type() == ConfChangeType::ConfChangeRemoveNode
            })
        };
        let demotes = changes.iter().any(|it| {
            it.r#type() == ConfChangeType::ConfChangeAddLearnerNode
                && before.contains(&MemberId(it.node_id()))
        });
        !demotes && before.iter().filter(|voter| !goes(voter)).count() > before.len() / 2
    }

    // ---- faults ----

    fn disturb(&mut self) {
        let mut id = 1 + self.rng.below(IDS);
        if self.rng.one_in(3) {
            // What befalls a leader is the more interesting.
            id = self.leader().map_or(id, |leader| leader.id().0);
        }
        match self.rng.below(24) {
            0 => self.crash(id),
            1..6 => self.restart_one(),
            6..11 => {
                let keep = self.rng.below(6);
                self.machine(id).compact(keep);
                self.with(id, |_| {});
            }
            11 => self.cut_off(id),
            12 => self.network.cut.clear(),
            _ => {}
        }
    }

    fn crash(&mut self, id: u64) {
        let machine = self.machines.get_mut(&id).unwrap();
        if machine.raft.is_some() {
            self.counts.lost_writes += machine.crash(&mut self.rng) as u64;
            self.counts.crashes += 1;
            self.history.forget(id);
        }
    }

    fn restart_one(&mut self) {
        let is_down = |it: &&mut Machine| it.raft.is_none() && !it.is_removed();
        if let Some(machine) = self.machines.values_mut().find(is_down) {
            machine.start();
        }
    }

    /// One member, or two, hear or are heard by nobody else.
    fn cut_off(&mut self, id: u64) {
        let (with, one_way) = (1 + self.rng.below(IDS), self.rng.one_in(3));
        let is_in = |it: u64| it == id || it == with;
        for from in 1..=IDS {
            for to in 1..=IDS {
                if is_in(from) != is_in(to) && !(one_way && is_in(from)) {
                    self.network.cut.insert((from, to));
                }
            }
        }
    }

    // ---- at the end ----

    fn heal(&mut self) {
        self.healed = true;
        self.network.cut.clear();
        for machine in self.machines.values_mut() {
            if machine.raft.is_none() && !machine.is_removed() {
                machine.start();
            }
        }
    }

    fn leader(&self) -> Option<&Machine> {
        let leads =
            |it: &&Machine| it.raft.as_ref().is_some_and(|raft| raft.status().role == Role::Leader);
        let leaders = self.machines.values().filter(leads);
        leaders.max_by_key(|it| it.raft.as_ref().map(|raft| raft.status().term))
    }

    /// Something new, which must get through.
    fn propose_marker(&mut self) {
        if let Some(id) = self.leader().map(|leader| leader.id().0) {
            self.with(id, |raft| {
                let _refused = raft.propose(MARKER.into());
            });
        }
    }

    /// Whether something new was committed since the group was healed, and everyone who takes
    /// part has it.
    fn has_got_on(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(raft) = &leader.raft else { return false };
        let (status, log) = (raft.status(), raft.log());
        let is_new = log.term(status.applied) == Some(status.term)
            && status.applied == status.last.index
            && raft.transferee().is_none();
        let members = machine::members(&leader.state.conf_state);
        is_new
            && members.contains(&leader.id().0)
            && self.history.has_committed(MARKER)
            && members.iter().all(|id| self.machines[id].state.at.index == status.applied)
    }

    fn check_pairs(&self) {
        let up: Vec<&Raft> = self.machines.values().filter_map(|it| it.raft.as_ref()).collect();
        for (at, one) in up.iter().enumerate() {
            up[at + 1..].iter().for_each(|other| checks::check_matching(one, other));
        }
    }
}
