//! Members that come, get a vote, and go, as an operator has it.
//!
//! *Contract.* The checks are those of `node::requests::membership`, made by the member that is
//! asked; so is the flow of `server::cluster::members`.

use std::time::Duration;

use base::MemberId;
use node::Input;
use node::requests::membership::{self, Sight};
use proto::raftpb::ConfChange;

use super::{Absence, Failure, World};
use crate::coverage::Mark;

/// For how long whoever can be reached counts as connected.
const CONNECTED: Duration = Duration::from_secs(10);

impl World {
    /// Who votes, as the leader says, or else the founders.
    pub(super) fn voters(&self) -> Vec<MemberId> {
        let leader = self.leader().and_then(|leader| self.member_ref(leader));
        let Some(leader) = leader else { return Vec::new() };
        let members = leader.shared().members();
        members.into_iter().filter(|one| !one.is_learner).map(|one| one.id).collect()
    }

    /// Asks `by` for one change: a learner comes, gets a vote, or somebody goes. Whoever lost its
    /// disk goes first.
    pub(super) fn change_members(&mut self, by: MemberId) -> Result<(), Failure> {
        let Some(member) = self.member_ref(by) else { return Ok(()) };
        let members = member.shared().members();
        let lost = members
            .iter()
            .find(|one| self.slots.get(&one.id).is_some_and(|slot| slot.absence == Absence::Lost));
        let learner = members.iter().find(|one| one.is_learner).map(|one| one.id);
        let voters: Vec<MemberId> =
            members.iter().filter(|one| !one.is_learner).map(|one| one.id).collect();
        let change = match (lost.map(|lost| lost.id), learner) {
            (Some(lost), _) => membership::remove(lost),
            (_, Some(learner)) if self.rng.one_in(2) => membership::promote(learner),
            (_, None) if members.len() < self.plan.members_max => {
                let id = MemberId(self.next_member);
                self.next_member += 1;
                let is_learner = !self.rng.one_in(4);
                membership::add(&newcomer(id, is_learner))
            }
            // With less, one that has lost what it knew of the commit index could need the vote of
            // the one that was removed, and knows it. (So it is with etcd.)
            _ if voters.len() > 3 => membership::remove(*self.rng.pick(&voters)),
            _ => return Ok(()),
        };
        self.ask_change(by, change)
    }

    /// Asks `by` for a change, with the strict checks.
    pub fn ask_change(&mut self, by: MemberId, change: ConfChange) -> Result<(), Failure> {
        let Some(member) = self.member_ref(by) else { return Ok(()) };
        let members = member.shared().members();
        let reachable = self.reachable(by);
        let connected = |id: MemberId| reachable.contains(&id).then_some(CONNECTED);
        let sight = Sight { members: &members, own: by, connected: &connected };
        let id = MemberId(change.node_id());
        let is_known = members.iter().any(|one| one.id == id);
        let context = change.context.as_deref().unwrap_or_default();
        let is_learner = context.windows(16).any(|part| part == br#""isLearner":true"#);
        let allowed = match (change.r#type(), is_known) {
            (proto::raftpb::ConfChangeType::ConfChangeRemoveNode, _) => {
                membership::may_remove(&sight, id)
            }
            (_, true) => membership::may_promote(&sight).and_then(|()| self.is_ready(id)),
            (_, false) => membership::may_add(&sight, is_learner),
        };
        self.coverage.add(if allowed.is_ok() { Mark::ChangeAsked } else { Mark::ChangeForbidden });
        if allowed.is_err() {
            return Ok(());
        }
        self.propose_change(by, change)
    }

    /// Whether a learner has caught up, as its leader knows.
    fn is_ready(&self, learner: MemberId) -> Result<(), node::requests::Rejected> {
        let leader = self.leader().and_then(|leader| self.member_ref(leader));
        let leader = leader.ok_or(node::requests::Rejected::NoLeader)?;
        let last = leader.node.raft().log().last().index;
        let progress = leader.node.raft().tracker().progress(learner);
        membership::is_learner_ready(last, progress.map(|progress| progress.matched))
    }

    /// Proposes a change without any check.
    pub fn propose_change(&mut self, by: MemberId, mut change: ConfChange) -> Result<(), Failure> {
        let Some(member) = self.member(by) else { return Ok(()) };
        let request = member.ids.next();
        change.id = Some(request.get());
        self.clients.changes.insert((by, request), change.clone());
        let (kind, id) = (change.r#type(), MemberId(change.node_id()));
        self.tell_story(|| format!("{by} proposes {kind:?} of {id}"));
        let Some(member) = self.member(by) else { return Ok(()) };
        member.inbox.push_back(Input::ProposeConfChange { id: request, change });
        self.follow(by)
    }

    /// A member hears that a change it had proposed is in force: whoever was added is started.
    pub(super) fn client_changed(&mut self, by: MemberId, request: base::RequestId, is_ok: bool) {
        let Some(change) = self.clients.changes.remove(&(by, request)) else { return };
        let id = MemberId(change.node_id());
        let kind = change.r#type();
        self.tell_story(|| format!("{by} applies {kind:?} of {id}: {is_ok}"));
        if !is_ok {
            self.coverage.add(Mark::ChangeRefused);
            return;
        }
        self.coverage.add(Mark::Changed);
        if let Some(slot) = self.slots.get_mut(&id) {
            if change.r#type() == proto::raftpb::ConfChangeType::ConfChangeRemoveNode
                && slot.absence == Absence::Lost
            {
                slot.absence = Absence::Gone;
            }
            return;
        }
        self.add_slot(id);
        self.plan_start(id, Duration::from_millis(20));
    }

    /// An operator starts members that were added while nobody was told so.
    pub(super) fn start_forgotten(&mut self) {
        let newest = self.running().max_by_key(|member| member.node.status().applied);
        let members = newest.map(|newest| newest.shared().members()).unwrap_or_default();
        for member in members {
            if !self.slots.contains_key(&member.id) {
                self.add_slot(member.id);
                self.plan_start(member.id, Duration::from_millis(20));
            }
        }
    }

    /// Adds a member with a vote, or a learner; it starts when the change is applied.
    pub fn add_member(&mut self, by: MemberId, is_learner: bool) -> Result<MemberId, Failure> {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        self.propose_change(by, membership::add(&newcomer(id, is_learner)))?;
        Ok(id)
    }
}

fn newcomer(id: MemberId, is_learner: bool) -> store::Member {
    store::Member {
        id,
        peer_urls: vec![format!("http://n{id}:2380")],
        is_learner,
        ..store::Member::default()
    }
}
