//! What consensus promises, as an onlooker sees it who reads the minds of all members.
//!
//! *Invariants checked* (Ongaro, figure 3.2): one leader a term; entries with one index and term
//! are the same wherever they are; who leads has every entry that anybody has applied; all apply
//! the same entry at an index, each once, in order. And: a request has one outcome on all members,
//! what was refused is never applied.
//!
//! *Absent.* What entries mean.

use std::collections::{BTreeMap, BTreeSet};

use base::{LogIndex, MemberId, RequestId, Term};
use proto::raftpb::Entry;
use store::{ApplyError, Response};

use super::Violation;
use crate::coverage::{Coverage, Mark};
use crate::history::Log;
use crate::member::Member;

const NAME: &str = "raft";

/// Sees everything.
#[derive(Debug, Default)]
pub struct Onlooker {
    leaders: BTreeMap<Term, MemberId>,
    /// What any member was ever given for its log, by index and term.
    logged: BTreeMap<(u64, u64), Entry>,
    /// The lowest term in which a member was when it applied an entry: it was committed by then.
    decided: BTreeMap<LogIndex, Term>,
    /// Up to where a member has applied in this life.
    applied: BTreeMap<MemberId, LogIndex>,
    refused: BTreeSet<RequestId>,
    /// Hand-overs that were counted, by member and term.
    stalls: BTreeMap<MemberId, u64>,
}

fn wrong<T>(what: String) -> Result<T, Violation> {
    Err(Violation::new(NAME, what))
}

impl Onlooker {
    /// A member is to write entries into its log.
    pub fn logs(&mut self, id: MemberId, entries: &[Entry]) -> Result<(), Violation> {
        for entry in entries {
            let at = (entry.index(), entry.term());
            let known = self.logged.entry(at).or_insert_with(|| entry.clone());
            if known.data() != entry.data() || known.r#type() != entry.r#type() {
                return wrong(format!(
                    "entry {at:?} is not the same for member {id} as for others"
                ));
            }
        }
        Ok(())
    }

    /// A member has applied entries, and is in `term`.
    pub fn applies(
        &mut self,
        (id, term): (MemberId, Term),
        entries: Vec<Entry>,
        log: &mut Log,
    ) -> Result<(), Violation> {
        for entry in entries {
            let index = LogIndex(entry.index());
            let decided = self.decided.entry(index).or_insert(term);
            *decided = term.min(*decided);
            let known = log.entries.entry(index).or_insert_with(|| entry.clone());
            let is_same = (known.term(), known.data(), known.r#type())
                == (entry.term(), entry.data(), entry.r#type());
            if !is_same {
                return wrong(format!("member {id} applies another entry {index} than others"));
            }
            if let Some(last) = self.applied.insert(id, index)
                && index != LogIndex(last.0 + 1)
            {
                return wrong(format!("member {id} applies entry {index} after {last}"));
            }
        }
        Ok(())
    }

    /// What a member has applied in this life begins anew: it has started, or installed a
    /// snapshot.
    pub fn begins(&mut self, id: MemberId) {
        self.applied.remove(&id);
    }

    /// A request was applied.
    pub fn answers(
        &mut self,
        request: RequestId,
        result: &Result<Response, ApplyError>,
        log: &mut Log,
    ) -> Result<(), Violation> {
        if self.refused.contains(&request) {
            return wrong(format!("request {request} was refused, and is applied"));
        }
        let known = log.outcomes.entry(request).or_insert_with(|| result.clone());
        if known != result {
            return wrong(format!("request {request} comes to {known:?} and to {result:?}"));
        }
        Ok(())
    }

    /// A request was refused: it must never be applied.
    pub fn refuses(&mut self, request: RequestId, log: &Log) -> Result<(), Violation> {
        self.refused.insert(request);
        if log.outcomes.contains_key(&request) {
            return wrong(format!("request {request} is applied, and was refused"));
        }
        Ok(())
    }

    /// Looks at a member after each of its steps.
    pub fn looks_at(
        &mut self,
        member: &Member,
        log: &Log,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let stalls = member.node.disk_stalls();
        if self.stalls.insert(member.id, stalls).unwrap_or(0) < stalls {
            coverage.add(Mark::HandedOver);
        }
        let raft = member.node.raft().status();
        if raft.role != raft::Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(raft.term).or_insert_with(|| {
            coverage.add(Mark::LeaderChanged);
            MemberId::NONE
        });
        if leader == MemberId::NONE {
            self.leaders.insert(raft.term, member.id);
            return self.is_complete(member, log);
        }
        if leader != member.id {
            return wrong(format!("{leader} and {} lead in term {}", member.id, raft.term));
        }
        Ok(())
    }

    /// Whether a new leader has all that anybody has applied. Who finds out late that it has won
    /// lacks what was committed in later terms, and commits nothing any more.
    fn is_complete(&self, member: &Member, log: &Log) -> Result<(), Violation> {
        let own = member.node.raft().log();
        let leads_in = member.node.raft().status().term;
        for (index, entry) in log.entries.range(LogIndex(own.base().index.0 + 1)..) {
            if self.decided.get(index).is_some_and(|decided| *decided > leads_in) {
                continue;
            }
            if own.term(*index) != Some(Term(entry.term())) {
                let (id, term) = (member.id, own.term(*index));
                let of = entry.term();
                return wrong(format!(
                    "{id} leads and has {term:?} at entry {index}, which was applied with {of}"
                ));
            }
        }
        Ok(())
    }
}
