//! Every rule about leases, kept and broken.

use base::Rng;

use super::super::model::fixtures::*;
use super::*;
use crate::history::ClientId;

const TTL: i64 = 5;

fn renewal(from: u64, to: u64, ttl: i64) -> KeepAlive {
    KeepAlive {
        client: ClientId(1),
        answered_by: MEMBERS[0],
        lease: LeaseId(7),
        invoked: ms(from),
        returned: ms(to),
        ttl,
        is_fast: false,
    }
}

/// A lease that is granted from 100 ms to 200 ms, and ends by itself at `end`.
fn expired(end: Moment) -> History {
    let mut builder = Builder::new();
    builder.call(1, 100, 200, grant(7, TTL));
    builder.commit(end, &revoke(7));
    builder.finish()
}

fn found(history: &History) -> String {
    let violation = check(history).unwrap_err();
    assert!(!violation.what.contains('\n'));
    violation.what
}

#[test]
fn a_lease_lasts_from_the_sending_of_its_grant() {
    check(&expired(ms(5_100))).unwrap();
    assert!(found(&expired(ms(5_099))).contains("with its grant sent at Moment(100ms)"));
    let mut asked = expired(ms(1_000));
    // A client may end it whenever it wants to.
    let operation = asked.operations[0].clone();
    asked.operations.push(Operation {
        request: Some(RequestId(2)),
        call: revoke(7),
        outcome: Outcome::Unknown,
        ..operation
    });
    check(&asked).unwrap();
}

#[test]
fn clocks_may_be_fast_within_their_bounds() {
    let mut early = expired(ms(5_096));
    found(&early);
    early.clocks.drift_ppm = 1_000;
    check(&early).unwrap();
    early = expired(ms(5_094));
    early.clocks.drift_ppm = 1_000;
    found(&early);
    early.clocks.jumps = Duration::from_millis(1);
    check(&early).unwrap();
}

#[test]
fn the_first_application_counts() {
    let mut history = expired(ms(6_000));
    history.log.applied.insert((LogIndex(2), MEMBERS[2]), ms(5_000));
    found(&history);
}

#[test]
fn a_lease_lasts_from_the_sending_of_a_renewal() {
    let mut history = expired(ms(8_000));
    history.keep_alives.push(renewal(3_000, 3_100, TTL));
    check(&history).unwrap();
    history.keep_alives[0].invoked = ms(3_001);
    assert!(found(&history).contains("with a renewal sent at Moment(3.001s)"));
    // That of another lease does not count.
    history.keep_alives[0].lease = LeaseId(8);
    assert!(found(&history).contains("no such lease"));
}

#[test]
fn what_a_replaced_leader_answers_does_not_count_for_a_while() {
    let mut builder = Builder::new();
    builder.call(1, 100, 200, grant(7, TTL));
    builder.term = 2;
    builder.commit(ms(3_000), &put("a", "1"));
    builder.commit(ms(8_000), &revoke(7));
    let mut history = builder.finish();
    history.keep_alives.push(renewal(3_900, 4_000, TTL));
    found(&history);
    // The member that answered applies the entry of the new term later.
    history.log.applied.insert((LogIndex(2), MEMBERS[0]), ms(4_500));
    check(&history).unwrap();
    history.keep_alives[0].ttl = 0;
    check(&history).unwrap();
    history.keep_alives[0].ttl = TTL;
    // But not for long.
    for index in [LogIndex(2), LogIndex(3)] {
        history.log.applied.insert((index, MEMBERS[0]), ms(20_000));
    }
    (history.keep_alives[0].invoked, history.keep_alives[0].returned) = (ms(8_001), ms(8_002));
    found(&history);
}

#[test]
fn a_late_revocation_may_hit_the_next_lease_of_its_id_only_at_once() {
    let build = |first_until: u64, between: u64, next_term: bool| {
        let mut builder = Builder::new();
        builder.call(1, 100, 200, grant(7, TTL));
        builder.call(1, first_until - 20, first_until, revoke(7));
        builder.call(1, first_until + 10, first_until + 20, grant(7, 60));
        for _ in 0..between {
            builder.commit(ms(first_until + 25), &put("a", "1"));
        }
        builder.term += u64::from(next_term);
        builder.commit(ms(first_until + 30), &revoke(7));
        check(&builder.finish())
    };
    build(6_000, 0, false).unwrap();
    build(6_000, 0, true).unwrap_err();
    build(6_000, LAG_ENTRIES_MAX, false).unwrap_err();
    build(4_000, 0, false).unwrap_err();
}

#[test]
fn a_renewal_that_may_be_of_the_next_lease_does_not_count() {
    let mut builder = Builder::new();
    builder.call(1, 100, 200, grant(7, TTL));
    builder.commit(ms(6_000), &revoke(7));
    builder.call(1, 6_100, 6_200, grant(7, TTL));
    let mut history = builder.finish();
    history.keep_alives.push(renewal(5_000, 7_000, TTL));
    check(&history).unwrap();
    history.keep_alives[0].returned = ms(6_099);
    found(&history);
}

#[test]
fn a_renewal_of_the_lease_before_does_not_count() {
    let build = |first_ttl, renewal: KeepAlive, end: u64| {
        let mut builder = Builder::new();
        builder.call(1, 100, 200, grant(7, first_ttl));
        builder.call_at(1, (ms(900), ms(950), ms(1_000)), revoke(7));
        builder.call(1, 1_100, 1_200, grant(7, TTL));
        builder.term = 2;
        builder.commit(ms(end), &revoke(7));
        let mut history = builder.finish();
        history.log.applied.insert((LogIndex(2), MEMBERS[2]), ms(1_600));
        history.keep_alives.push(renewal);
        check(&history)
    };
    // A member that is behind renews the first one, on the fast path.
    let behind = KeepAlive { is_fast: true, answered_by: MEMBERS[2], ..renewal(1_500, 1_550, 60) };
    build(60, behind, 6_200).unwrap();
    build(60, behind, 6_000).unwrap_err();
    // The renewal of the first one does not make the second one older than it is.
    build(TTL, renewal(300, 350, TTL), 6_000).unwrap_err();
    build(TTL, renewal(300, 350, TTL), 6_100).unwrap();
}

#[test]
fn a_renewal_after_the_end_by_a_member_that_is_behind_does_not_count() {
    let mut history = expired(ms(6_000));
    history.log.applied.insert((LogIndex(2), MEMBERS[2]), ms(6_100));
    let late = renewal(6_050, 6_060, TTL);
    history.keep_alives.push(KeepAlive { is_fast: true, answered_by: MEMBERS[2], ..late });
    check(&history).unwrap();
    history.keep_alives[0].is_fast = false;
    found(&history);
}

/// A lease that is granted, and that a client ends: applied at 1 s on the first member, at 2 s on
/// the second, at 3 s on the third; told at 4 s.
fn revoked() -> History {
    let mut builder = Builder::new();
    builder.call(1, 100, 200, grant(7, TTL));
    builder.call_at(1, (ms(900), ms(1_000), ms(4_000)), revoke(7));
    let mut history = builder.finish();
    history.log.applied.insert((LogIndex(2), MEMBERS[1]), ms(2_000));
    history.log.applied.insert((LogIndex(2), MEMBERS[2]), ms(3_000));
    history
}

#[test]
fn nothing_renews_a_lease_that_is_gone() {
    let judge = |keep_alive: KeepAlive| {
        let mut history = revoked();
        history.keep_alives.push(keep_alive);
        check(&history)
    };
    judge(renewal(1_000, 9_000, TTL)).unwrap();
    judge(renewal(1_001, 9_000, TTL)).unwrap_err();
    judge(renewal(1_001, 9_000, 0)).unwrap();
    // On the fast path, only what the answering member has applied counts.
    let fast = |from, member| {
        let slow = renewal(from, 9_000, TTL);
        judge(KeepAlive { is_fast: true, answered_by: member, ..slow })
    };
    fast(1_001, MEMBERS[1]).unwrap();
    fast(2_001, MEMBERS[1]).unwrap_err();
    fast(2_001, MEMBERS[2]).unwrap();
    fast(3_001, MEMBERS[2]).unwrap_err();
    // Nor a lease that never was, nor for another time than was granted.
    judge(KeepAlive { lease: LeaseId(8), ..renewal(300, 400, TTL) }).unwrap_err();
    judge(renewal(300, 400, TTL + 1)).unwrap_err();
    judge(renewal(50, 99, TTL)).unwrap_err();
}

#[test]
fn what_was_acknowledged_counts_where_no_application_was_seen() {
    let mut history = revoked();
    history.log.applied.retain(|(index, _), _| *index == LogIndex(1));
    history.keep_alives.push(renewal(4_000, 4_100, TTL));
    check(&history).unwrap();
    history.keep_alives[0].invoked = ms(4_001);
    found(&history);
}

#[test]
fn a_lease_that_is_there_is_found() {
    let judge = |from, to| {
        let mut history = revoked();
        history.keep_alives.push(renewal(from, to, 0));
        check(&history)
    };
    assert!(judge(201, 999).unwrap_err().what.contains("the lease of entry 1 was there"));
    judge(200, 999).unwrap();
    judge(201, 1_000).unwrap();
    judge(0, 50).unwrap();
}

#[test]
fn a_lease_does_not_outlive_its_time_by_much() {
    let mut builder = Builder::new();
    builder.call(1, 100, 200, grant(7, TTL)).call(1, 200, 300, grant(8, TTL));
    builder.commit(ms(6_000), &revoke(8));
    let mut history = builder.finish();
    let end = ms(150) + secs(TTL as u64) + EXPIRY_GRACE;
    let after = end + Duration::from_nanos(1);
    let judge = |history: &History, now, calm, remaining: &[i64]| {
        let remaining: Vec<_> = remaining.iter().copied().map(LeaseId).collect();
        check_expired(history, now, calm, &remaining).map_err(|violation| violation.what)
    };
    let (start, calm) = (Moment::default(), ms(1_000));
    judge(&history, end, start, &[7]).unwrap();
    assert!(judge(&history, after, start, &[7]).unwrap_err().contains("still there"));
    judge(&history, after, calm, &[7]).unwrap();
    assert!(judge(&history, end, start, &[]).unwrap_err().contains("does not say why"));
    assert!(judge(&history, end, start, &[7, 8]).unwrap_err().contains("has ended it"));
    assert!(judge(&history, end, start, &[7, 9]).unwrap_err().contains("not begun"));
    history.keep_alives.push(renewal(1_000, 1_100, TTL));
    judge(&history, after, start, &[7]).unwrap();
    history.keep_alives[0].ttl = 0;
    judge(&history, after, start, &[7]).unwrap_err();
    history.keep_alives.clear();
    history.clocks.drift_ppm = 1;
    judge(&history, after, start, &[7]).unwrap();
}

/// Leases that are kept alive for a while and then expire, with a leader that scans now and then.
fn random_leases(seed: u64) -> History {
    let mut rng = Rng::new(seed);
    let mut builder = Builder::new();
    for id in 1..=8_i64 {
        let mut at = 1_000 * id as u64 + rng.below(500);
        builder.call(id as u32, at, at + 40, grant(id, TTL));
        let mut renewed = at + 20;
        for _ in 0..rng.below(6) {
            at = renewed + 20 + rng.below(4_000);
            let keep_alive = renewal(at, at + 40, TTL);
            builder.history.keep_alives.push(KeepAlive { lease: LeaseId(id), ..keep_alive });
            renewed = at + 20;
        }
        let end = renewed + 5_000 + rng.below(500);
        builder.commit(ms(end), &revoke(id));
        let keep_alive = KeepAlive { lease: LeaseId(id), ..renewal(end + 10, end + 20, 0) };
        builder.history.keep_alives.push(keep_alive);
    }
    builder.finish()
}

#[test]
fn random_leases_pass_and_corrupted_ones_are_found() {
    let (mut corrupted, mut missed) = (0, 0);
    for seed in 0..200 {
        let history = random_leases(seed);
        check(&history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let mut rng = Rng::new(seed);
        for _ in 0..4 {
            let mut wrong = history.clone();
            if rng.one_in(2) {
                let at = rng.below(wrong.keep_alives.len() as u64) as usize;
                let keep_alive = &mut wrong.keep_alives[at];
                keep_alive.ttl = TTL - keep_alive.ttl;
            } else {
                // A second of the lease's time is missing.
                let index = LogIndex(2 * (1 + rng.below(8)));
                let at = wrong.log.applied[&(index, MEMBERS[1])];
                let early = Moment::from_nanos(at.as_nanos() - 1_000_000_000);
                wrong.log.applied.insert((index, MEMBERS[1]), early);
            }
            corrupted += 1;
            missed += u32::from(check(&wrong).is_ok());
        }
    }
    println!("{corrupted} corrupted, {missed} missed");
    assert!(missed * 20 <= corrupted);
}
