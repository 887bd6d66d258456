//! Leases that live as long as they are kept, and no longer than they are revoked.

use std::time::Duration;

use base::MemberId;
use proto::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, PutRequest};

use super::{Scenario, each, ensure, quick_or};
use crate::history::Call;
use crate::plan::Plan;
use crate::run::Report;
use crate::world::{Failure, World};

pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "a lease that is kept is not revoked by a leader that was stuck",
        about: "A leader that was stuck, on its disk or without time to run, revoked leases when \
                it went on, although another member had led meanwhile and had renewed them.",
        issue: Some(15247),
        run: stuck_leader,
    },
    Scenario {
        name: "a lease that is revoked is not renewed",
        about: "A keepalive that met a revocation was answered as if the lease lived.",
        issue: Some(20615),
        run: renewed_while_revoked,
    },
];

/// Grants a lease with a key, and waits until all know it.
fn grant(world: &mut World, id: i64, ttl: i64) -> Result<(), Failure> {
    let outcome = world.insist(&Call::LeaseGrant(LeaseGrantRequest { ttl, id }))?;
    World::revision_of(&outcome)?;
    let put = PutRequest { key: "kept".into(), lease: id, ..PutRequest::default() };
    world.insist(&Call::Put(put))?;
    world.rest()
}

/// How a leader gets stuck.
#[derive(Debug, Clone, Copy)]
enum Stuck {
    Suspended,
    OnItsDisk,
    CutOff,
    /// It hears others, and they do not hear it.
    Mute,
}

/// What is longer than the lease lives without being kept.
const STUCK: Duration = Duration::from_secs(9);

const TTL: i64 = 5;

fn get_stuck(world: &mut World, leader: MemberId, how: Stuck) {
    match how {
        Stuck::Suspended => world.pause(leader, STUCK),
        Stuck::OnItsDisk => world.stall(leader, STUCK),
        Stuck::CutOff => world.isolate(leader),
        Stuck::Mute => {
            for other in world.ids().into_iter().filter(|other| *other != leader) {
                world.cut_link(leader, other);
            }
        }
    }
}

fn stuck_leader(seed: u64) -> Report {
    let all = [Stuck::Suspended, Stuck::OnItsDisk, Stuck::CutOff, Stuck::Mute];
    each(
        seed,
        all,
        |_| Plan::quiet(seed, 3),
        |world, how| {
            grant(world, 7, TTL)?;
            let stuck = world.until_led()?;
            get_stuck(world, stuck, *how);
            let begun = world.now();
            while world.now() < begun + STUCK + Duration::from_secs(6) {
                if world.now() >= begun + STUCK {
                    world.mend();
                }
                let mut others = world.ids();
                others.retain(|id| *id != stuck);
                let asked = *world.rng.pick(&others);
                world.send_keep_alive(asked, 7);
                world.run_for(Duration::from_millis(500))?;
            }
            let answers = &world.history.keep_alives;
            let bad = answers.iter().find(|answer| answer.ttl != TTL);
            ensure(bad.is_none(), || format!("the lease was kept, and is gone: {bad:?}"))?;
            let count = answers.len();
            ensure(count >= 15, || format!("it was renewed {count} times only"))?;
            for id in world.ids() {
                let is_there = world.get(id, "kept")?.is_some();
                ensure(is_there, || format!("the key of the lease is gone at {id}"))?;
            }
            // And when it is kept no more, it ends.
            world.run_for(Duration::from_secs(10))?;
            let leader = world.until_led()?;
            let is_gone = world.get(leader, "kept")?.is_none();
            ensure(is_gone, || "the lease does not end".to_owned())?;
            world.finish()
        },
    )
}

/// The keepalive comes so long after the revocation, in tenths of a millisecond; the leader
/// applies in time, or late.
fn renewed_while_revoked(seed: u64) -> Report {
    let offsets = (0..80).step_by(quick_or(10, 2));
    let variants = offsets.flat_map(|after| [(after, false), (after, true)]);
    each(
        seed,
        variants,
        |_| Plan::quiet(seed, 3),
        |world, (after, is_late)| {
            grant(world, 7, 60)?;
            let leader = world.until_led()?;
            let follower = world.follower()?;
            if *is_late {
                world.hold_apply(leader, Duration::from_millis(300))?;
            }
            let revoke = Call::LeaseRevoke(LeaseRevokeRequest { id: 7 });
            let revocation = world.send_call(follower, revoke);
            world.run_for(Duration::from_micros(after * 100))?;
            let asked = if after % 4 < 2 { leader } else { follower };
            world.keep_alive(asked, 7)?;
            let outcome = world.outcome_of(revocation)?;
            World::revision_of(&outcome)?;
            for id in world.ids() {
                let ttl = world.keep_alive(id, 7)?;
                ensure(ttl == Some(0), || format!("{id} renews a revoked lease: {ttl:?}"))?;
            }
            let revoked = world.history.operations[revocation].returned;
            let late =
                world.history.keep_alives.iter().find(|one| one.invoked > revoked && one.ttl > 0);
            ensure(late.is_none(), || format!("{late:?} after the revocation"))?;
            ensure(world.get(leader, "kept")?.is_none(), || "its key is there".to_owned())?;
            world.finish()
        },
    )
}
