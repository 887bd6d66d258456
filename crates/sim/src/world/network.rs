//! What is under way between members: delayed, lost, repeated, overtaken, cut.

use std::time::Duration;

use base::MemberId;
use node::Input;
use proto::raftpb::{Message, MessageType};

use super::{Event, Failure, World, within};
use crate::coverage::Mark;
use crate::links::Packet;
use crate::member::Sent;

/// How long a message is held back so that others overtake it.
const HELD_BACK_MAX: Duration = Duration::from_millis(80);

/// How long a snapshot takes, beside a message's delay.
const SNAPSHOT_TIME_MAX: Duration = Duration::from_millis(300);

impl World {
    fn chance(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.one_in(one_in)
    }

    pub(super) fn send(&mut self, from: MemberId, sent: Sent) {
        let (to, is_snapshot) = match &sent {
            Sent::Message(message) => (MemberId(message.to()), false),
            Sent::Snapshot(message, _) => (MemberId(message.to()), true),
        };
        let is_lost = self.chance(self.network.lose_one_in);
        let is_cut = self.cut.contains(&(from, to));
        let delay = within(&mut self.rng, self.network.delay);
        let now = self.now();
        if is_lost || is_cut || !self.slots.contains_key(&to) {
            self.coverage.add_if(is_lost, Mark::MessageLost);
            if is_snapshot {
                let report = Event::SnapshotSent { at: from, member: to, ok: false };
                self.agenda.plan(now + delay, report);
            } else if self.rng.one_in(2) {
                self.agenda.plan(now + delay, Event::Unreachable { at: from, member: to });
            }
            return;
        }
        if self.chance(self.network.reset_one_in) {
            self.coverage.add(Mark::ConnectionBroken);
            self.links.reset(from, to);
        }
        match sent {
            Sent::Message(message) => self.send_message(from, to, message, delay),
            Sent::Snapshot(message, file) => {
                self.coverage.add(Mark::SnapshotSent);
                let takes = delay + within(&mut self.rng, SNAPSHOT_TIME_MAX);
                let message = Box::new(message);
                self.agenda.plan(now + takes, Event::Snapshot { from, to, message, file });
            }
        }
    }

    fn send_message(&mut self, from: MemberId, to: MemberId, message: Message, delay: Duration) {
        let now = self.now();
        // What repeats a proposal is a client.
        let may_repeat = message.r#type() != MessageType::MsgProp;
        let copies = 1 + u64::from(may_repeat && self.chance(self.network.repeat_one_in));
        self.coverage.add_if(copies > 1, Mark::MessageRepeated);
        for _ in 0..copies {
            let mut delay = delay;
            // Overtaken by what leaves later: only a message on another way than the stream can
            // be. rafthttp has such ways (a pipeline beside the streams).
            let is_held_back = self.chance(self.network.reorder_one_in);
            if is_held_back {
                self.coverage.add(Mark::MessageReordered);
                delay += within(&mut self.rng, HELD_BACK_MAX);
                let (at, packet) = self.links.send_apart(from, to, &message, now + delay);
                self.agenda.plan(at, Event::Packet { from, to, packet });
                continue;
            }
            let (at, packet) = self.links.send(from, to, &message, now + delay);
            self.agenda.plan(at, Event::Packet { from, to, packet });
        }
    }

    pub(super) fn arrive(
        &mut self,
        from: MemberId,
        to: MemberId,
        packet: &Packet,
    ) -> Result<(), Failure> {
        let messages = self.links.arrive(from, to, packet, &mut self.rng);
        let is_cut = self.cut.contains(&(from, to));
        let Some(member) = self.member(to) else { return Ok(()) };
        if is_cut || messages.is_empty() || member.shared().is_removed(from) {
            return Ok(());
        }
        let messages = messages.into_iter().map(|message| Input::Message(Box::new(message)));
        member.inbox.extend(messages);
        self.follow(to)
    }

    pub(super) fn receive(
        &mut self,
        from: MemberId,
        to: MemberId,
        message: Message,
        file: &[u8],
    ) -> Result<(), Failure> {
        let is_cut = self.cut.contains(&(from, to));
        let mut ok = false;
        if let Some(member) = self.member(to)
            && !is_cut
        {
            // A sender may have died, or the connection broken, in the middle.
            let received = member.receive(message, file);
            ok = received.is_ok();
            if let Err(why) = received {
                self.digest.add(why.len() as u64);
            }
            let crashed = self.slots[&to].disk.crashed();
            self.coverage.add_if(crashed, Mark::CrashWhileReceiving);
            ok &= !crashed;
            self.follow(to)?;
        }
        let at = self.now() + within(&mut self.rng, self.network.delay);
        self.agenda.plan(at, Event::SnapshotSent { at: from, member: to, ok });
        Ok(())
    }

    /// Cuts links of one member, in one direction or both, or mends all.
    pub(super) fn cut_some(&mut self) {
        self.cut.clear();
        let ids = self.ids();
        let victim = *self.rng.pick(&ids);
        let kind = self.rng.below(6);
        for other in ids.into_iter().filter(|other| *other != victim) {
            let half = self.rng.one_in(2);
            if matches!(kind, 1 | 2) || (kind == 4 && half) {
                self.cut_link(victim, other);
            }
            if matches!(kind, 1 | 3) || (kind == 4 && half) {
                self.cut_link(other, victim);
            }
        }
        let mark = match kind {
            1 => Mark::CutBothWays,
            2 | 3 => Mark::CutOneWay,
            4 => Mark::CutPartly,
            _ => Mark::Mended,
        };
        self.coverage.add(mark);
    }

    /// Cuts one direction.
    pub fn cut_link(&mut self, from: MemberId, to: MemberId) {
        self.cut.insert((from, to));
        self.links.reset(from, to);
    }

    /// Cuts one member off.
    pub fn isolate(&mut self, victim: MemberId) {
        for other in self.ids().into_iter().filter(|other| *other != victim) {
            self.cut_link(victim, other);
            self.cut_link(other, victim);
        }
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.cut.clear();
    }
}
