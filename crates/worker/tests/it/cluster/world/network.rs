//! What is under way between members: delayed, lost, repeated, cut.

use std::time::Duration;

use base::{Clock, MemberId};
use node::Input;
use proto::raftpb::{Message, MessageType};

use super::{World, within};
use crate::cluster::member::Sent;

/// What is under way between two members.
pub(super) enum Delivery {
    Message(Message),
    Snapshot { message: Message, file: Vec<u8> },
    Sent { member: MemberId, ok: bool },
    Unreachable { member: MemberId },
}

impl World {
    pub(super) fn send(&mut self, from: MemberId, sent: Sent) {
        let (to, delivery) = match sent {
            Sent::Message(message) => (MemberId(message.to()), Delivery::Message(message)),
            Sent::Snapshot(message, file) => {
                (MemberId(message.to()), Delivery::Snapshot { message, file })
            }
        };
        let lost = self.faults.lose_one_in > 0 && self.rng.one_in(self.faults.lose_one_in);
        if lost || self.cut.contains(&(from, to)) || !self.slots.contains_key(&to) {
            match delivery {
                Delivery::Snapshot { .. } => {
                    self.post(to, from, Delivery::Sent { member: to, ok: false });
                }
                _ if self.rng.one_in(2) => {
                    self.post(to, from, Delivery::Unreachable { member: to });
                }
                _ => {}
            }
            return;
        }
        // What repeats a proposal is a client.
        if let Delivery::Message(message) = &delivery
            && message.r#type() != MessageType::MsgProp
            && self.faults.repeat_one_in > 0
            && self.rng.one_in(self.faults.repeat_one_in)
        {
            let again = Delivery::Message(message.clone());
            self.post(from, to, again);
        }
        self.post(from, to, delivery);
    }

    pub(super) fn post(&mut self, from: MemberId, to: MemberId, delivery: Delivery) {
        let mut delay = within(&mut self.rng, self.faults.delay);
        if matches!(delivery, Delivery::Snapshot { .. }) {
            delay += within(&mut self.rng, Duration::from_millis(200));
        }
        self.next_delivery += 1;
        let at = (self.time.now() + delay, self.next_delivery);
        self.network.insert(at, (from, to, delivery));
    }

    pub(super) fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.time.now()
        {
            let (from, to, delivery) = entry.remove();
            let disk_crashed = {
                let Some(slot) = self.slots.get_mut(&to) else { continue };
                match (&mut slot.member, delivery) {
                    (Some(member), Delivery::Message(message)) => {
                        let message = Box::new(message);
                        member.inbox.push_back(Input::Message(message));
                    }
                    (Some(member), Delivery::Sent { member: to, ok }) => {
                        member.inbox.push_back(Input::SnapshotSent { member: to, ok });
                    }
                    (Some(member), Delivery::Unreachable { member: to }) => {
                        member.inbox.push_back(Input::Unreachable { member: to });
                    }
                    (Some(member), Delivery::Snapshot { message, file }) => {
                        let ok = member.receive(message, &file);
                        let crashed = slot.disk.crashed();
                        self.post(to, from, Delivery::Sent { member: to, ok: ok && !crashed });
                    }
                    (None, Delivery::Snapshot { .. }) => {
                        self.post(to, from, Delivery::Sent { member: to, ok: false });
                    }
                    (None, _) => {}
                }
                self.slots[&to].disk.crashed()
            };
            if disk_crashed {
                self.crashed(to);
            }
        }
    }

    /// Cuts some links, in one direction or both, or mends all.
    pub(super) fn cut(&mut self) {
        self.cut.clear();
        let ids = self.ids();
        let victim = *self.rng.pick(&ids);
        let kind = self.rng.below(5);
        for other in ids.into_iter().filter(|other| *other != victim) {
            if kind == 1 || kind == 2 {
                self.cut.insert((victim, other));
            }
            if kind == 1 || kind == 3 {
                self.cut.insert((other, victim));
            }
            if kind == 4 && self.rng.one_in(2) {
                self.cut.insert((other, victim));
                self.cut.insert((victim, other));
            }
        }
    }

    /// Cuts one member off.
    pub(crate) fn isolate(&mut self, victim: MemberId) {
        for other in self.ids() {
            self.cut.insert((victim, other));
            self.cut.insert((other, victim));
        }
    }

    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }
}
