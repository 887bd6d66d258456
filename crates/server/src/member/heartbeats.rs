//! Whether a leader's heartbeats leave in time.
//!
//! *Contract.* `contention.TimeoutDetector` of etcd v3.7.1, as its `raftNode` uses it.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{MemberId, Moment};
use proto::raftpb::{Message, MessageType};

/// When a heartbeat left last, for each member.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// How long after one of them the next may leave.
    pause_max: Duration,
    left: BTreeMap<MemberId, Moment>,
}

impl Heartbeats {
    /// None has left yet.
    pub(super) fn new(heartbeat: Duration) -> Self {
        Self { pause_max: 2 * heartbeat, left: BTreeMap::new() }
    }

    /// Leadership has changed: what left before is no measure any more.
    pub(super) fn forget(&mut self) {
        self.left.clear();
    }

    /// Notes what leaves now; how many heartbeats are too late, and by how much the latest is.
    pub(super) fn leave(&mut self, messages: &[Message], now: Moment) -> (u64, Duration) {
        let (mut late, mut exceeded) = (0, Duration::ZERO);
        let heartbeat = Some(MessageType::MsgHeartbeat.into());
        for message in messages.iter().filter(|message| message.r#type == heartbeat) {
            let to = MemberId(message.to());
            let Some(before) = self.left.insert(to, now) else { continue };
            let pause = now.since(before);
            if pause > self.pause_max {
                late += 1;
                exceeded = exceeded.max(pause - self.pause_max);
            }
        }
        (late, exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_late_after_two_intervals() {
        let to = |to, kind: MessageType| Message {
            to: Some(to),
            r#type: Some(kind.into()),
            ..Message::default()
        };
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        let mut heartbeats = Heartbeats::new(Duration::from_millis(100));
        let both = [to(1, MessageType::MsgHeartbeat), to(2, MessageType::MsgHeartbeat)];
        assert_eq!(heartbeats.leave(&both, at(0)).0, 0);
        assert_eq!(heartbeats.leave(&both[..1], at(200)).0, 0);
        // Appends are no heartbeats.
        assert_eq!(heartbeats.leave(&[to(2, MessageType::MsgApp)], at(201)).0, 0);
        assert_eq!(heartbeats.leave(&both, at(250)), (1, Duration::from_millis(50)));
        heartbeats.forget();
        assert_eq!(heartbeats.leave(&both, at(9_000)).0, 0);
    }
}
