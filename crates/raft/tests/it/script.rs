//! The commands of the scripts: each prints what happened.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;

use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use goldenscript::{Argument, Command, Context};
use prost::Message as _;
use proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    Entry, EntryType, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use raft::{Append, Config, Position, Raft, ReadMode, Restored};

type Out = Result<String, Box<dyn Error>>;

/// One core with its disk.
#[derive(Default)]
pub(crate) struct Runner {
    raft: Option<Raft>,
    /// What is durable.
    disk: Restored,
    /// Handed out, not written yet.
    pending: VecDeque<Append>,
    config: Option<Config>,
}

struct Args {
    named: Vec<(String, String)>,
    plain: Vec<String>,
}

impl Args {
    fn of(command: &Command) -> Self {
        let (mut named, mut plain) = (Vec::new(), Vec::new());
        for argument in &command.args {
            match argument {
                Argument::KeyValue(key, value) => named.push((key.clone(), value.clone())),
                Argument::Positional(value) => plain.push(value.clone()),
                _ => {}
            }
        }
        Self { named, plain }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.named.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn number(&self, key: &str) -> Result<Option<u64>, Box<dyn Error>> {
        Ok(self.text(key).map(str::parse).transpose()?)
    }

    fn ids(&self, key: &str) -> Result<Vec<u64>, Box<dyn Error>> {
        let text = self.text(key).unwrap_or_default();
        Ok(text.split(',').filter(|id| !id.is_empty()).map(str::parse).collect::<Result<_, _>>()?)
    }

    fn first(&self) -> Result<&str, Box<dyn Error>> {
        Ok(self.plain.first().ok_or("an argument is missing")?)
    }

    fn first_number(&self, default: u64) -> Result<u64, Box<dyn Error>> {
        Ok(self.plain.first().map(|text| text.parse()).transpose()?.unwrap_or(default))
    }
}

/// `term/index`, `term/index:data`, `:data`, or `change:data` for what claims to be a change.
fn entry(text: &str) -> Result<Entry, Box<dyn Error>> {
    let (at, data) = text.split_once(':').unwrap_or((text, ""));
    let data = Some(Bytes::from(data.to_owned())).filter(|data| !data.is_empty());
    match at {
        "" => return Ok(Entry { data, ..Entry::default() }),
        "change" => {
            let kind = Some(EntryType::EntryConfChange.into());
            return Ok(Entry { r#type: kind, data, ..Entry::default() });
        }
        _ => {}
    }
    let (term, index) = at.split_once('/').ok_or("an entry is term/index:data")?;
    Ok(Entry { r#type: None, term: Some(term.parse()?), index: Some(index.parse()?), data })
}

fn show_entry(entry: &Entry) -> String {
    let data = match entry.r#type() {
        EntryType::EntryNormal => format!("{:?}", String::from_utf8_lossy(entry.data())),
        EntryType::EntryConfChange => ConfChange::decode(entry.data())
            .map_or("?".to_owned(), |it| format!("{:?} {}", it.r#type(), it.node_id())),
        EntryType::EntryConfChangeV2 => {
            ConfChangeV2::decode(entry.data()).map_or("?".to_owned(), |it| {
                let one = |it: &ConfChangeSingle| format!(" {:?} {}", it.r#type(), it.node_id());
                let changes: String = it.changes.iter().map(one).collect();
                format!("{:?}{changes}", it.transition())
            })
        }
    };
    format!("{}/{} {data}", entry.term(), entry.index())
}

fn show_hard(state: &HardState) -> String {
    format!("term={} vote={} commit={}", state.term(), state.vote(), state.commit())
}

fn show_message(message: &Message) -> String {
    let kind = message.r#type();
    let mut out = format!("{kind:?} {}->{}", message.from(), message.to());
    let numbers = [
        ("term", message.term),
        ("log_term", message.log_term),
        ("index", message.index),
        ("commit", message.commit),
        ("hint", message.reject_hint),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            let _ = write!(out, " {name}={value}");
        }
    }
    if message.reject() {
        out.push_str(" reject");
    }
    for entry in &message.entries {
        let _ = write!(out, " [{}]", show_entry(entry));
    }
    if let Some(snapshot) = &message.snapshot {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let voters = metadata.conf_state.clone().unwrap_or_default().voters;
        let data = String::from_utf8_lossy(snapshot.data());
        let at = format!("{}/{}", metadata.term(), metadata.index());
        let _ = write!(out, " snapshot={at} voters={voters:?} data={data:?}");
    }
    if let Ok(number) = message.context().try_into().map(u64::from_le_bytes) {
        let _ = write!(out, " reads={number}");
    } else if !message.context().is_empty() {
        let _ = write!(out, " context={:?}", String::from_utf8_lossy(message.context()));
    }
    out
}

impl Runner {
    fn raft(&mut self) -> Result<&mut Raft, Box<dyn Error>> {
        Ok(self.raft.as_mut().ok_or("no member: use `new` first")?)
    }

    /// `new voters=1,2 [learners=3] [base=term/index] [term=] [vote=] [commit=] [entry...]`: a
    /// member with the id 1 and that disk. `prevote=true`, `gather=false`, `inflight=`,
    /// `message_bytes=`, `uncommitted=`, `reads=lease` and `forward=false` configure it.
    fn create(&mut self, args: &Args) -> Out {
        let id = MemberId(args.number("id")?.unwrap_or(1));
        let base = args.text("base").map(entry).transpose()?.unwrap_or_default();
        let entries: Result<Vec<Entry>, _> = args.plain.iter().map(|text| entry(text)).collect();
        self.disk = Restored {
            base: Position { index: LogIndex(base.index()), term: Term(base.term()) },
            conf_state: ConfState {
                voters: args.ids("voters")?,
                learners: args.ids("learners")?,
                ..ConfState::default()
            },
            hard_state: HardState {
                term: args.number("term")?,
                vote: args.number("vote")?,
                commit: args.number("commit")?,
            },
            entries: entries?,
        };
        self.config = Some(Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: args.text("prevote") == Some("true"),
            check_quorum: true,
            message_bytes_max: args.number("message_bytes")?.unwrap_or(1 << 20),
            inflight_messages_max: usize::try_from(args.number("inflight")?.unwrap_or(512))?,
            inflight_bytes_max: args.number("inflight_bytes")?.unwrap_or(0),
            uncommitted_bytes_max: args.number("uncommitted")?.unwrap_or(0),
            read_mode: match args.text("reads") {
                Some("lease") => ReadMode::Lease,
                _ => ReadMode::Safe,
            },
            disable_proposal_forwarding: args.text("forward") == Some("false"),
            disable_conf_change_validation: false,
            step_down_on_removal: true,
            gather: args.text("gather") != Some("false"),
            seed: 1,
        });
        self.restart()
    }

    /// `restart`: loses everything that is not on the disk.
    fn restart(&mut self) -> Out {
        let config = self.config.clone().ok_or("no member: use `new` first")?;
        self.pending.clear();
        self.raft = Some(Raft::new(config, self.disk.clone())?);
        self.status()
    }

    /// `ready`: takes the duties. Writes wait for `written`.
    fn ready(&mut self) -> Out {
        let raft = self.raft()?;
        if !raft.has_duties() {
            assert_eq!(raft.duties(), raft::Duties::default());
            return Ok("nothing\n".into());
        }
        let duties = raft.duties();
        assert!(!raft.has_duties(), "taken once");
        let mut out = String::new();
        if let Some(soft) = duties.soft {
            let _ = writeln!(out, "{:?}, leader {}", soft.role, soft.leader);
        }
        for message in &duties.messages {
            let _ = writeln!(out, "send {}", show_message(message));
        }
        for read in &duties.reads {
            let context = String::from_utf8_lossy(&read.context).into_owned();
            let _ = writeln!(out, "read {context} at {}", read.index);
        }
        if let Some(append) = duties.append {
            let _ = writeln!(out, "append{}", if append.must_sync { " and sync" } else { "" });
            for entry in &append.entries {
                let _ = writeln!(out, "  entry {}", show_entry(entry));
            }
            if let Some(state) = &append.hard_state {
                let _ = writeln!(out, "  state {}", show_hard(state));
            }
            if append.snapshot.is_some() {
                let _ = writeln!(out, "  snapshot {:?}", append.receipt.snapshot);
            }
            for message in &append.after {
                let _ = writeln!(out, "  then {}", show_message(message));
            }
            self.pending.push_back(append);
        }
        Ok(out)
    }

    /// `written [n]`: the disk has done the first n writes, and their receipts come.
    fn written(&mut self, count: u64) -> Out {
        let mut out = String::new();
        for _ in 0..count {
            let append = self.pending.pop_front().ok_or("nothing is being written")?;
            self.store(&append);
            let raft = self.raft.as_mut().ok_or("no member")?;
            for message in append.after {
                if message.to() == raft.id().0 {
                    raft.step(message)?;
                } else {
                    let _ = writeln!(out, "send {}", show_message(&message));
                }
            }
            raft.appended(&append.receipt);
        }
        Ok(out)
    }

    fn store(&mut self, append: &Append) {
        if let Some(snapshot) = &append.snapshot {
            let metadata = snapshot.metadata.clone().unwrap_or_default();
            self.disk.base =
                Position { index: LogIndex(metadata.index()), term: Term(metadata.term()) };
            self.disk.conf_state = metadata.conf_state.unwrap_or_default();
            self.disk.entries.clear();
        }
        for entry in &append.entries {
            let keep = usize::try_from(entry.index() - self.disk.base.index.0 - 1).unwrap();
            assert!(keep <= self.disk.entries.len(), "a gap on disk");
            self.disk.entries.truncate(keep);
            self.disk.entries.push(entry.clone());
        }
        if let Some(state) = append.hard_state {
            self.disk.hard_state = state;
        }
    }

    /// `committed [max]`: takes entries to apply.
    fn committed(&mut self, args: &Args) -> Out {
        let max = args.first_number(u64::MAX)?;
        let raft = self.raft()?;
        let expected = raft.has_committed();
        let entries = raft.take_committed(usize::try_from(max)?);
        assert_eq!(expected, !entries.is_empty());
        Ok(entries.iter().fold(String::new(), |out, entry| out + &show_entry(entry) + "\n"))
    }

    /// `deliver Kind from=2 term= ..`: a message of another member.
    fn deliver(&mut self, args: &Args) -> Out {
        let kind = MessageType::from_str_name(args.first()?).ok_or("no such message type")?;
        let entries: Result<Vec<Entry>, _> =
            args.plain[1..].iter().map(|text| entry(text)).collect();
        let snapshot = args.text("snapshot").map(entry).transpose()?.map(|at| Snapshot {
            data: None,
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState {
                    voters: args.ids("voters").unwrap_or_default(),
                    ..ConfState::default()
                }),
                index: at.index,
                term: at.term,
            }),
        });
        let message = Message {
            r#type: Some(kind.into()),
            to: Some(1),
            from: Some(args.number("from")?.unwrap_or(2)),
            term: args.number("term")?,
            log_term: args.number("log_term")?,
            index: args.number("index")?,
            commit: args.number("commit")?,
            entries: entries?,
            snapshot,
            reject: args.text("reject").map(|text| text == "true"),
            reject_hint: args.number("hint")?,
            context: match args.number("confirms")? {
                Some(number) => Some(Bytes::copy_from_slice(&number.to_le_bytes())),
                None => args.text("context").map(|text| text.to_owned().into()),
            },
            ..Message::default()
        };
        self.raft()?.step(message)?;
        self.status()
    }

    fn status(&mut self) -> Out {
        let raft = self.raft()?;
        let (status, log) = (raft.status(), raft.log());
        Ok(format!(
            "{:?} term={} vote={} leader={} | base={} applied={} applying={} committed={} \
             stable={} taken={} last={}/{}\n",
            status.role,
            status.term,
            status.vote,
            status.leader,
            log.base().index,
            status.applied,
            log.applying(),
            status.committed,
            log.stable(),
            log.taken(),
            status.last.term,
            status.last.index,
        ))
    }

    /// `progress`: what a leader knows about the members.
    fn progress(&mut self) -> Out {
        let raft = self.raft()?;
        let mut out = String::new();
        for (id, progress) in raft.tracker().members() {
            let _ = write!(
                out,
                "{id}: {:?} matched={} next={}",
                progress.state, progress.matched, progress.next
            );
            let inflights = progress.inflights();
            if inflights.count() > 0 {
                let _ = write!(out, " inflight={}, {} bytes", inflights.count(), inflights.bytes());
            }
            for (word, is) in [
                ("learner", progress.is_learner),
                ("active", progress.recent_active),
                ("paused", progress.is_paused()),
            ] {
                if is {
                    let _ = write!(out, " {word}");
                }
            }
            out.push('\n');
        }
        Ok(out)
    }

    /// `auto|implicit|explicit [v1] [l2] [r3]`: a change of several members.
    fn conf_change_v2(args: &Args) -> Result<ConfChangeV2, Box<dyn Error>> {
        let transition = match args.first()? {
            "auto" => ConfChangeTransition::Auto,
            "implicit" => ConfChangeTransition::JointImplicit,
            "explicit" => ConfChangeTransition::JointExplicit,
            other => return Err(format!("no such transition: {other}").into()),
        };
        let mut changes = Vec::new();
        for change in &args.plain[1..] {
            let kind = match change.split_at(1).0 {
                "v" => ConfChangeType::ConfChangeAddNode,
                "l" => ConfChangeType::ConfChangeAddLearnerNode,
                "r" => ConfChangeType::ConfChangeRemoveNode,
                other => return Err(format!("no such change: {other}").into()),
            };
            let node_id = Some(change.split_at(1).1.parse()?);
            changes.push(ConfChangeSingle { r#type: Some(kind.into()), node_id });
        }
        Ok(ConfChangeV2 { transition: Some(transition.into()), changes, context: None })
    }

    fn conf_change(args: &Args) -> Result<ConfChange, Box<dyn Error>> {
        let kind = match args.first()? {
            "add" => ConfChangeType::ConfChangeAddNode,
            "remove" => ConfChangeType::ConfChangeRemoveNode,
            "learner" => ConfChangeType::ConfChangeAddLearnerNode,
            "update" => ConfChangeType::ConfChangeUpdateNode,
            other => return Err(format!("no such change: {other}").into()),
        };
        let node = args.plain.get(1).ok_or("which member?")?.parse()?;
        let (id, context) = (None, None);
        Ok(ConfChange { id, r#type: Some(kind.into()), node_id: Some(node), context })
    }

    fn execute(&mut self, command: &Command) -> Out {
        let args = Args::of(command);
        match command.name.as_str() {
            "new" => return self.create(&args),
            "restart" => return self.restart(),
            "ready" => return self.ready(),
            "written" => return self.written(args.first_number(1)?),
            "committed" => return self.committed(&args),
            "deliver" => return self.deliver(&args),
            "status" => return self.status(),
            "tick" => (0..args.first_number(1)?).try_for_each(|_| self.raft().map(Raft::tick))?,
            "campaign" => self.raft()?.campaign(),
            "propose" => {
                for data in &args.plain {
                    self.raft()?.propose(Bytes::from(data.clone()))?;
                }
            }
            "propose-conf-change" => {
                let change = Self::conf_change(&args)?;
                self.raft()?.propose_conf_change(&change)?;
            }
            "apply-conf-change" => {
                let state = self.raft()?.apply_conf_change(&Self::conf_change(&args)?)?;
                return Ok(format!("voters={:?} learners={:?}\n", state.voters, state.learners));
            }
            "propose-conf-change-v2" => {
                self.raft()?.propose_conf_change_v2(&Self::conf_change_v2(&args)?)?;
            }
            "apply-conf-change-v2" => {
                let state = self.raft()?.apply_conf_change_v2(&Self::conf_change_v2(&args)?)?;
                return Ok(format!("{state:?}\n"));
            }
            "progress" => return self.progress(),
            "forget-leader" => self.raft()?.forget_leader(),
            "unreachable" => {
                let member = MemberId(args.first_number(0)?);
                self.raft()?.report_unreachable(member);
            }
            "snapshot-sent" => {
                let member = MemberId(args.first_number(0)?);
                let ok = args.plain.get(1).is_some_and(|how| how == "ok");
                self.raft()?.report_snapshot(member, ok);
            }
            "create-snapshot" => {
                let at = LogIndex(args.first_number(0)?);
                let voters = args.ids("voters")?;
                let state = ConfState { voters, ..ConfState::default() };
                let data = args.plain.get(1).cloned().unwrap_or_default();
                let made = self.raft()?.create_snapshot(at, state, data.into());
                return Ok(format!("{made:?}\n"));
            }
            "read" => {
                let context = Bytes::from(args.first()?.to_owned());
                self.raft()?.read_index(context);
            }
            "transfer" => {
                let to = MemberId(args.first_number(0)?);
                self.raft()?.transfer_leader(to);
            }
            "applied" => {
                let index = LogIndex(args.first_number(0)?);
                self.raft()?.applied(index);
            }
            "compact" => {
                let index = LogIndex(args.first_number(0)?);
                self.raft()?.compact(index);
                return self.status();
            }
            other => return Err(format!("no such command: {other}").into()),
        }
        Ok(String::new())
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
