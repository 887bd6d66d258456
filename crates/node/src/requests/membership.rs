//! Whether the members may change now, and the entries by which they do.
//!
//! ```text
//!  request ─► strict checks (here, on the member that was asked) ─► conf change in the log
//!                                                    ─► validation when it is applied (`store`)
//! ```
//!
//! *Invariants.* What is refused here could still be applied safely: the checks keep an operator
//! from losing the quorum, the validation in `store` keeps members equal.
//!
//! *Absent.* Hashing a new member's id, which needs the time of day: the caller does.
//!
//! *Contract.* `mayAddMember`, `mayRemoveMember`, `mayPromoteMember`, `isLearnerReady` of
//! `server/etcdserver/server.go`, `server/etcdserver/util.go` and `IsReadyTo*` of
//! `server/etcdserver/api/membership/cluster.go`, etcd v3.7.1.

use std::time::Duration;

use base::{LogIndex, MemberId};
use proto::raftpb::{ConfChange, ConfChangeType};
use store::Member;

use super::error::Rejected;

/// How long a member must have been connected without a break to count as connected.
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A learner has caught up when it has this many tenths of what the leader has.
const READY_TENTHS: u128 = 9;

/// The cluster as one member sees it.
pub struct Sight<'a> {
    /// All members.
    pub members: &'a [Member],
    /// Who looks.
    pub own: MemberId,
    /// For how long another member has been connected; `None` when it is not.
    pub connected: &'a dyn Fn(MemberId) -> Option<Duration>,
}

impl Sight<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    /// Voters that have been connected for long enough; this member is always.
    fn connected_voters(&self) -> usize {
        let is_connected = |member: &&Member| {
            member.id == self.own
                || (self.connected)(member.id).is_some_and(|since| since > HEALTH_INTERVAL)
        };
        self.voters().filter(is_connected).count()
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn started<'a>(members: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    members.fold((0, 0), |(all, started), member| {
        (all + 1, started + usize::from(member.is_started()))
    })
}

/// Whether a member may be added, with the strict check on.
pub fn may_add(sight: &Sight<'_>, is_learner: bool) -> Result<(), Rejected> {
    let (voters, started) = started(sight.voters());
    // The second member of a cluster may be added although it would then need both.
    let is_restoring = voters == 1 && started == 1;
    if !is_learner && !is_restoring && started < quorum(voters + 1) {
        return Err(Rejected::MemberNotEnoughStarted);
    }
    // The newcomer counts as not connected.
    if voters != 1 && sight.connected_voters() < quorum(voters + 1) {
        return Err(Rejected::Unhealthy);
    }
    Ok(())
}

/// Whether a member may be removed, with the strict check on. Whether it exists is found out when
/// the change is applied.
pub fn may_remove(sight: &Sight<'_>, id: MemberId) -> Result<(), Rejected> {
    if sight.members.iter().any(|member| member.id == id && member.is_learner) {
        return Ok(());
    }
    let (left, started) = started(sight.voters().filter(|member| member.id != id));
    if started < quorum(left) {
        return Err(Rejected::MemberNotEnoughStarted);
    }
    // One that is down is not missed.
    if id != sight.own && (sight.connected)(id).is_none() {
        return Ok(());
    }
    let voters = sight.voters().count();
    let active = sight.connected_voters();
    if active < 2 + voters.saturating_sub(1) / 2 {
        return Err(Rejected::Unhealthy);
    }
    Ok(())
}

/// Whether a learner may be given a vote, with the strict check on.
pub fn may_promote(sight: &Sight<'_>) -> Result<(), Rejected> {
    let (voters, started) = started(sight.voters());
    // The learner counts, and counts as started.
    if started + 1 < quorum(voters + 1) {
        return Err(Rejected::MemberNotEnoughStarted);
    }
    Ok(())
}

/// Whether a learner has caught up: `leader` and `learner` are the last entries that each is
/// known to have; `None` for one that the leader does not know.
pub fn is_learner_ready(leader: LogIndex, learner: Option<LogIndex>) -> Result<(), Rejected> {
    let learner = learner.ok_or(Rejected::MemberNotFound)?;
    if u128::from(learner.0) * 10 < u128::from(leader.0) * READY_TENTHS {
        return Err(Rejected::LearnerNotReady);
    }
    Ok(())
}

fn change(kind: ConfChangeType, id: MemberId, context: Option<String>) -> ConfChange {
    ConfChange {
        // Whoever proposes it gives it an id.
        id: None,
        r#type: Some(kind.into()),
        node_id: Some(id.get()),
        context: context.map(Into::into),
    }
}

/// The change that adds `member`.
pub fn add(member: &Member) -> ConfChange {
    let kind = match member.is_learner {
        true => ConfChangeType::ConfChangeAddLearnerNode,
        false => ConfChangeType::ConfChangeAddNode,
    };
    change(kind, member.id, Some(member.to_json()))
}

/// The change that removes a member.
pub fn remove(id: MemberId) -> ConfChange {
    change(ConfChangeType::ConfChangeRemoveNode, id, None)
}

/// The change that gives a member other addresses.
pub fn update(id: MemberId, peer_urls: Vec<String>) -> ConfChange {
    let member = Member { id, peer_urls, ..Member::default() };
    change(ConfChangeType::ConfChangeUpdateNode, id, Some(member.to_json()))
}

/// The change that gives a learner a vote.
pub fn promote(id: MemberId) -> ConfChange {
    let context = format!(r#"{{"id":{},"peerURLs":null,"isPromote":true}}"#, id.get());
    change(ConfChangeType::ConfChangeAddNode, id, Some(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(6);

    /// A member for each letter: `s`tarted, `u`nstarted, `l`earner; ids from 1, the first looks.
    /// Those named in `connected` have been for long.
    fn check(
        members: &str,
        connected: &[u64],
        ask: impl Fn(&Sight<'_>) -> Result<(), Rejected>,
    ) -> Result<(), Rejected> {
        let member = |(at, kind): (usize, char)| Member {
            id: MemberId(at as u64 + 1),
            name: if kind == 'u' { String::new() } else { "m".to_owned() },
            is_learner: kind == 'l',
            ..Member::default()
        };
        let members: Vec<_> = members.chars().enumerate().map(member).collect();
        let connected = |id: MemberId| connected.contains(&id.0).then_some(LONG);
        ask(&Sight { members: &members, own: MemberId(1), connected: &connected })
    }

    #[test]
    fn voters_are_added_while_a_quorum_is_started_and_connected() {
        use Rejected::{MemberNotEnoughStarted, Unhealthy};
        for (members, connected, told) in [
            ("s", &[][..], Ok(())),
            ("u", &[], Err(MemberNotEnoughStarted)),
            ("su", &[], Err(MemberNotEnoughStarted)),
            ("ss", &[2], Ok(())),
            ("ss", &[], Err(Unhealthy)),
            ("sss", &[2, 3], Ok(())),
            ("sss", &[2], Err(Unhealthy)),
            ("ssu", &[2], Err(MemberNotEnoughStarted)),
            ("sssu", &[2, 3], Ok(())),
            ("ssss", &[2, 3], Ok(())),
            ("ssss", &[2], Err(Unhealthy)),
            ("sl", &[], Ok(())),
        ] {
            let added = check(members, connected, |sight| may_add(sight, false));
            assert_eq!(added, told, "{members} {connected:?}");
        }
    }

    #[test]
    fn learners_are_added_whoever_is_started() {
        let add = |members: &str, connected: &[u64]| {
            check(members, connected, |sight| may_add(sight, true))
        };
        assert_eq!(add("su", &[2]), Ok(()));
        assert_eq!(add("su", &[]), Err(Rejected::Unhealthy));
        assert_eq!(add("u", &[]), Ok(()));
    }

    #[test]
    fn a_short_connection_does_not_count() {
        let members =
            [1, 2].map(|id| Member { id: MemberId(id), name: "m".to_owned(), ..Member::default() });
        let connected = |_| Some(HEALTH_INTERVAL);
        let sight = Sight { members: &members, own: MemberId(1), connected: &connected };
        assert_eq!(may_add(&sight, false), Err(Rejected::Unhealthy));
    }

    #[test]
    fn members_are_removed_while_a_quorum_is_left() {
        use Rejected::{MemberNotEnoughStarted, Unhealthy};
        for (members, connected, id, told) in [
            ("s", &[][..], 1, Err(MemberNotEnoughStarted)),
            // One that does not exist is told later.
            ("s", &[], 9, Ok(())),
            ("ss", &[2], 2, Ok(())),
            ("ss", &[], 2, Ok(())),
            ("su", &[], 1, Err(MemberNotEnoughStarted)),
            ("su", &[], 2, Ok(())),
            ("sss", &[2, 3], 3, Ok(())),
            ("sss", &[2, 3], 1, Ok(())),
            // Two of three are up; the one that is down may go, no other.
            ("sss", &[2], 3, Ok(())),
            ("sss", &[2], 2, Err(Unhealthy)),
            ("sss", &[2], 1, Err(Unhealthy)),
            ("ssu", &[2], 2, Err(MemberNotEnoughStarted)),
            ("ssl", &[], 3, Ok(())),
            ("sssss", &[2, 3], 3, Err(Unhealthy)),
            ("sssss", &[2, 3, 4], 3, Ok(())),
        ] {
            let removed = check(members, connected, |sight| may_remove(sight, MemberId(id)));
            assert_eq!(removed, told, "{members} {connected:?} {id}");
        }
    }

    #[test]
    fn learners_are_promoted_while_a_quorum_is_started() {
        for (members, told) in [
            ("sl", Ok(())),
            ("ssl", Ok(())),
            ("sul", Ok(())),
            ("suul", Err(Rejected::MemberNotEnoughStarted)),
            ("uul", Err(Rejected::MemberNotEnoughStarted)),
        ] {
            assert_eq!(check(members, &[], may_promote), told, "{members}");
        }
    }

    #[test]
    fn a_learner_is_ready_with_nine_tenths_of_the_log() {
        let ready = |leader, learner: Option<u64>| {
            is_learner_ready(LogIndex(leader), learner.map(LogIndex))
        };
        assert_eq!(ready(10, Some(9)), Ok(()));
        assert_eq!(ready(10, Some(8)), Err(Rejected::LearnerNotReady));
        assert_eq!(ready(1_000_001, Some(900_000)), Err(Rejected::LearnerNotReady));
        assert_eq!(ready(10, None), Err(Rejected::MemberNotFound));
        assert_eq!(ready(0, Some(0)), Ok(()));
    }

    #[test]
    fn changes_are_etcds() {
        let text = |change: ConfChange| {
            let context = String::from_utf8(change.context().to_vec()).unwrap();
            (change.r#type.unwrap(), change.node_id(), context)
        };
        let peer_urls = vec!["http://a:1".to_owned()];
        let member = Member { id: MemberId(5), peer_urls, ..Member::default() };
        let json = r#"{"id":5,"peerURLs":["http://a:1"]}"#;
        assert_eq!(text(add(&member)), (0, 5, json.to_owned()));
        let learner = Member { is_learner: true, ..member };
        let json = r#"{"id":5,"peerURLs":["http://a:1"],"isLearner":true}"#;
        assert_eq!(text(add(&learner)), (3, 5, json.to_owned()));
        assert_eq!(remove(MemberId(5)).context, None);
        let json = r#"{"id":5,"peerURLs":["zzz"]}"#;
        assert_eq!(text(update(MemberId(5), vec!["zzz".to_owned()])), (2, 5, json.to_owned()));
        let json = r#"{"id":5,"peerURLs":null,"isPromote":true}"#;
        assert_eq!(text(promote(MemberId(5))), (0, 5, json.to_owned()));
    }
}
