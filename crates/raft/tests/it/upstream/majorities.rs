//! The tables of the quorum and of the configuration changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base::{LogIndex, MemberId};
use proto::raftpb::{ConfChangeSingle, ConfChangeType};
use raft::quorum::{Joint, Majority, VoteResult};
use raft::{ConfChangeError, Configuration, Tracker};

use super::describe;
use super::file::Directive;

type Acknowledged = BTreeMap<MemberId, u64>;

fn majority(numbers: &[String]) -> Majority {
    let numbers = numbers.iter().filter(|number| *number != "zero");
    Majority(numbers.map(|number| MemberId(number.parse().unwrap())).collect())
}

fn set(ids: &BTreeSet<MemberId>) -> String {
    let ids: Vec<String> = ids.iter().map(MemberId::to_string).collect();
    format!("({})", ids.join(" "))
}

/// Each voter's index as a bar as long as there are smaller ones.
fn bars(voters: &BTreeSet<MemberId>, acknowledged: &Acknowledged) -> String {
    if voters.is_empty() {
        return "<empty majority quorum>".to_owned();
    }
    let index = |id: &MemberId| acknowledged.get(id).copied().unwrap_or(0);
    let mut out = " ".repeat(voters.len()) + "    idx\n";
    for id in voters {
        let bar = voters.iter().filter(|&other| index(other) < index(id)).count();
        let blank = voters.len() - bar;
        let bar = match acknowledged.contains_key(id) {
            true => "x".repeat(bar) + ">" + &" ".repeat(blank),
            false => "?".to_owned() + &" ".repeat(voters.len()),
        };
        let _ = writeln!(out, "{bar} {:>5}    (id={id})", index(id));
    }
    out
}

fn shown(index: LogIndex) -> String {
    if index.0 == u64::MAX { "∞".to_owned() } else { index.to_string() }
}

fn committed(joint: &Joint, acknowledged: &Acknowledged) -> LogIndex {
    joint.committed(|id| acknowledged.get(&id).copied().map(LogIndex))
}

/// The definition: the largest index that more than half have reached.
fn committed_by_counting(voters: &Majority, acknowledged: &Acknowledged) -> LogIndex {
    if voters.0.is_empty() {
        return LogIndex(u64::MAX);
    }
    let index = |id: &MemberId| acknowledged.get(id).copied().unwrap_or(0);
    let reached = |at: u64| voters.0.iter().filter(|id| index(id) >= at).count();
    let enough = voters.0.iter().map(index).filter(|&at| reached(at) > voters.0.len() / 2);
    LogIndex(enough.max().unwrap_or(0))
}

/// `committed` and `vote`.
pub(crate) fn handle(directive: &Directive) -> String {
    let (incoming, outgoing) =
        (majority(directive.values("cfg")), majority(directive.values("cfgj")));
    let is_joint = !directive.values("cfgj").is_empty();
    // In the order in which the voters are named, each once.
    let mut order: Vec<MemberId> = Vec::new();
    for name in [directive.values("cfg"), directive.values("cfgj")].concat() {
        if let Ok(id) = name.parse().map(MemberId)
            && !order.contains(&id)
        {
            order.push(id);
        }
    }
    let said: Vec<u64> = [directive.values("idx"), directive.values("votes")]
        .concat()
        .iter()
        .map(|text| match text.as_str() {
            "_" => 0,
            "n" => 1,
            "y" => 2,
            index => index.parse().unwrap(),
        })
        .collect();
    assert_eq!(order.len(), said.len(), "{}: one value for each voter", directive.position);
    let acknowledged: Acknowledged =
        order.into_iter().zip(said).filter(|&(_, index)| index > 0).collect();
    let joint = Joint { incoming: incoming.clone(), outgoing: outgoing.clone() };
    let swapped = Joint { incoming: outgoing, outgoing: incoming };
    match directive.command.as_str() {
        "committed" => {
            let index = committed(&joint, &acknowledged);
            assert_eq!(index, committed(&swapped, &acknowledged), "{}", directive.position);
            if !is_joint {
                let voters = &joint.incoming;
                let counted = committed_by_counting(voters, &acknowledged);
                assert_eq!(index, counted, "{}", directive.position);
            }
            bars(&joint.ids(), &acknowledged) + &shown(index)
        }
        "vote" => {
            let vote = |joint: &Joint| joint.vote(|id| acknowledged.get(&id).map(|&it| it == 2));
            assert_eq!(vote(&joint), vote(&swapped), "{}", directive.position);
            let result = match vote(&joint) {
                VoteResult::Pending => "VotePending",
                VoteResult::Lost => "VoteLost",
                VoteResult::Won => "VoteWon",
            };
            result.to_owned()
        }
        other => panic!("{}: no command {other}", directive.position),
    }
}

/// Changes in the short form of the scripts: `v1 l2 r3 u4`.
pub(crate) fn changes(input: &str) -> Vec<ConfChangeSingle> {
    let change = |text: &str| {
        let (kind, id) = text.split_at(1);
        let kind = match kind {
            "v" => ConfChangeType::ConfChangeAddNode,
            "l" => ConfChangeType::ConfChangeAddLearnerNode,
            "r" => ConfChangeType::ConfChangeRemoveNode,
            "u" => ConfChangeType::ConfChangeUpdateNode,
            other => panic!("no change {other}"),
        };
        ConfChangeSingle { r#type: Some(kind.into()), node_id: Some(id.parse().unwrap()) }
    };
    input.split_whitespace().map(change).collect()
}

/// A configuration that is changed command by command.
pub(crate) struct Changer {
    tracker: Tracker,
    last: LogIndex,
}

impl Default for Changer {
    fn default() -> Self {
        Self { tracker: Tracker::new(10, 0), last: LogIndex(0) }
    }
}

fn configuration(it: &Configuration) -> String {
    let mut out = format!("voters={}", set(&it.voters.incoming.0));
    if it.is_joint() {
        out = out + "&&" + &set(&it.voters.outgoing.0);
    }
    if !it.learners.is_empty() {
        out = out + " learners=" + &set(&it.learners);
    }
    if !it.learners_next.is_empty() {
        out = out + " learners_next=" + &set(&it.learners_next);
    }
    if it.auto_leave {
        out.push_str(" autoleave");
    }
    out
}

impl Changer {
    pub(crate) fn handle(&mut self, directive: &Directive) -> String {
        let changes = changes(&directive.input);
        let command = directive.command.as_str();
        let done = match command {
            "simple" => self.tracker.change_simply(&changes, self.last),
            "enter-joint" => {
                self.tracker.enter_joint(directive.flag("autoleave"), &changes, self.last)
            }
            "leave-joint" => self.tracker.leave_joint(),
            other => panic!("{}: no command {other}", directive.position),
        };
        self.last = self.last.next();
        let refusal = match done {
            Ok(()) => {
                let members = self.tracker.members();
                return configuration(self.tracker.configuration())
                    + "\n"
                    + &members
                        .map(|(id, it)| format!("{id}: {}\n", describe::progress(it)))
                        .collect::<String>();
            }
            Err(ConfChangeError::NoVoters) => "removed all voters",
            Err(ConfChangeError::Joint) if command == "simple" => {
                "can't apply simple config change in joint config"
            }
            Err(ConfChangeError::Joint) => "config is already joint",
            Err(ConfChangeError::NotJoint) => "can't leave a non-joint config",
            Err(ConfChangeError::Empty) => "can't make a zero-voter config joint",
            Err(ConfChangeError::TooMany) => {
                "more than one voter changed without entering joint config"
            }
            Err(other) => panic!("{}: {other}", directive.position),
        };
        refusal.to_owned()
    }
}
