//! What clients and operators do, and what goes wrong.

use std::time::Duration;

use base::{Clock, MemberId, Rng};
use node::Input;
use prost::Message as _;
use proto::etcdserverpb::RequestHeader;
use proto::raftpb::{ConfChange, ConfChangeType};

use super::{Slot, World, within};
use crate::workload::Proposal;

/// Proposals that may wait for an answer, all clients together.
const OUTSTANDING_MAX: usize = 60;

/// Members that a cluster may have at once.
const MEMBERS_MAX: usize = 5;

/// What goes wrong, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    /// One message in so many is lost; 0 for none.
    pub(crate) lose_one_in: u64,
    /// One message in so many comes twice; 0 for none.
    pub(crate) repeat_one_in: u64,
    /// The longest delay of a message.
    pub(crate) delay: Duration,
    /// One step in so many ends a life by a crash; 0 for none.
    pub(crate) crash_one_in: u64,
    /// One step in so many cuts links, or mends them; 0 for none.
    pub(crate) cut_one_in: u64,
    /// One step in so many stops a member as an operator would; 0 for none.
    pub(crate) stop_one_in: u64,
    /// One step in so many changes the members; 0 for none.
    pub(crate) change_one_in: u64,
    /// One step in so many moves leadership; 0 for none.
    pub(crate) transfer_one_in: u64,
    /// One step in so many stalls a disk; 0 for none.
    pub(crate) stall_one_in: u64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lose_one_in: 0,
        repeat_one_in: 0,
        delay: Duration::from_millis(2),
        crash_one_in: 0,
        cut_one_in: 0,
        stop_one_in: 0,
        change_one_in: 0,
        transfer_one_in: 0,
        stall_one_in: 0,
    };

    /// Everything, in amounts that the seed decides.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        Self {
            lose_one_in: *rng.pick(&[0, 200, 40, 12]),
            repeat_one_in: *rng.pick(&[0, 50]),
            delay: Duration::from_millis(*rng.pick(&[1, 5, 60])),
            crash_one_in: *rng.pick(&[0, 4_000, 1_500]),
            cut_one_in: *rng.pick(&[0, 3_000, 1_200]),
            stop_one_in: *rng.pick(&[0, 8_000]),
            change_one_in: *rng.pick(&[0, 400]),
            transfer_one_in: *rng.pick(&[0, 3_000]),
            stall_one_in: *rng.pick(&[0, 4_000]),
        }
    }
}

impl World {
    pub(crate) fn ask(&mut self, id: MemberId) {
        let acknowledged = self.history.acknowledged;
        let outstanding: usize = self.running().map(|member| member.pending.len()).sum();
        let slot = self.slots.get_mut(&id).expect("a slot");
        let Some(member) = &mut slot.member else { return };
        if member.node.status().is_alone {
            let seen = member.shared().revision();
            assert!(seen >= acknowledged, "a stale read of one alone: {seen} of {acknowledged}");
            self.seen.reads_alone += 1;
        }
        match self.rng.below(10) {
            0..3 => member.read(&self.history),
            3 if self.rng.one_in(4) => member.commit_now(),
            _ if outstanding < OUTSTANDING_MAX => {
                let revision = self.history.acknowledged.get().max(1);
                for _ in 0..1 + self.rng.below(4) {
                    let Proposal::Request(mut request) = self.workload.next(revision) else {
                        unreachable!("members are changed elsewhere")
                    };
                    let id = member.ids.next();
                    request.header = Some(RequestHeader { id: id.get(), ..Default::default() });
                    member.pending.insert(id, ());
                    let data = request.encode_to_vec().into();
                    member.inbox.push_back(Input::Propose { id, data });
                }
            }
            _ => {}
        }
        // Clients give up.
        if member.pending.len() > OUTSTANDING_MAX / 2 && self.rng.one_in(20) {
            member.pending.clear();
        }
    }

    pub(super) fn happens(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.one_in(one_in)
    }

    pub(super) fn disturb(&mut self) {
        let ids = self.ids();
        let id = *self.rng.pick(&ids);
        if self.happens(self.faults.crash_one_in) && self.slots[&id].member.is_some() {
            let operations = self.rng.below(60);
            self.crash(id, operations);
        }
        if self.happens(self.faults.cut_one_in) {
            self.cut();
        }
        if self.happens(self.faults.stop_one_in) {
            self.stop(id);
        }
        if self.happens(self.faults.transfer_one_in)
            && let Some(leader) = self.leader()
            && let Some(member) = self.member(leader)
        {
            member.transfer(id);
        }
        if self.rng.one_in(500) {
            let versions = ids.iter().map(|id| (*id, Some("3.7.1".to_owned()))).collect();
            if let Some(member) = self.member(id) {
                member.inbox.push_back(Input::MemberVersions { versions });
                member.inbox.push_back(Input::Connected);
            }
        }
        if self.happens(self.faults.stall_one_in) {
            let until = self.time.now() + within(&mut self.rng, Duration::from_secs(5));
            if let Some(member) = self.member(id) {
                member.stalled_until = until;
                self.seen.stalls += 1;
            }
        }
        if self.happens(self.faults.change_one_in) {
            self.change_members(id);
        }
    }

    pub(crate) fn stop(&mut self, id: MemberId) {
        let connected: Vec<MemberId> = self.running().map(|member| member.id).collect();
        if let Some(member) = self.member(id)
            && !member.stopping
        {
            member.stopping = true;
            member.inbox.push_back(Input::Stop { connected });
        }
    }

    /// Adds a learner, gives it a vote, or removes somebody.
    pub(super) fn change_members(&mut self, by: MemberId) {
        let Some(member) = self.slots.get(&by).and_then(|slot| slot.member.as_ref()) else {
            return;
        };
        let members = member.shared().members();
        let learner = members.iter().find(|member| member.is_learner).map(|member| member.id);
        let voters: Vec<MemberId> =
            members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
        let (kind, id, context) = match learner {
            Some(id) if self.rng.one_in(2) => {
                let context = format!(r#"{{"id":{},"peerURLs":null,"isPromote":true}}"#, id.0);
                (ConfChangeType::ConfChangeAddNode, id, Some(context))
            }
            None if members.len() < MEMBERS_MAX => {
                let id = MemberId(self.next_member);
                self.next_member += 1;
                let member = store::Member {
                    id,
                    peer_urls: vec![format!("http://n{id}:2380")],
                    is_learner: true,
                    ..store::Member::default()
                };
                let slot = Slot::new(&mut self.rng);
                self.slots.insert(id, slot);
                (ConfChangeType::ConfChangeAddLearnerNode, id, Some(member.to_json()))
            }
            // With less, one that has lost what it knew of the commit index could need the vote of
            // the one that was removed, and knows it. (So it is with etcd.)
            _ if voters.len() > 3 => {
                let id = *self.rng.pick(&voters);
                (ConfChangeType::ConfChangeRemoveNode, id, None)
            }
            _ => return,
        };
        self.propose_change(by, kind, id, context);
    }

    pub(crate) fn propose_change(
        &mut self,
        by: MemberId,
        kind: ConfChangeType,
        id: MemberId,
        context: Option<String>,
    ) {
        self.seen.changes += 1;
        let Some(member) = self.member(by) else { return };
        let request = member.ids.next();
        let change = ConfChange {
            id: Some(request.get()),
            r#type: Some(kind.into()),
            node_id: Some(id.get()),
            context: context.map(Into::into),
        };
        member.inbox.push_back(Input::ProposeConfChange { id: request, change });
    }

    /// Adds a member, which starts at once.
    pub(crate) fn add_voter(&mut self, by: MemberId) -> MemberId {
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let member = store::Member {
            id,
            peer_urls: vec![format!("http://n{id}:2380")],
            ..store::Member::default()
        };
        let slot = Slot::new(&mut self.rng);
        self.slots.insert(id, slot);
        let kind = ConfChangeType::ConfChangeAddNode;
        self.propose_change(by, kind, id, Some(member.to_json()));
        id
    }
}
