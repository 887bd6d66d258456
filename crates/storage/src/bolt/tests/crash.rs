//! Power losses at every operation of the disk.

use base::Rng;

use super::audit::audit;
use super::*;
use crate::disk::Image;

const ROUNDS: u64 = 25;

/// Runs a history until the disk stops. What was durable then, and what was under way.
fn run(disk: &Faulty, seed: u64) -> (Model, Model) {
    let mut rng = Rng::new(seed);
    let mut durable = Model::new();
    let Ok(mut database) = open(disk, 4096) else { return (Model::new(), Model::new()) };
    let mut held = Vec::new();
    for _ in 0..ROUNDS {
        let mut after = durable.clone();
        let batch = random_batch(&mut rng, &mut after, 30);
        match database.commit(batch) {
            Ok(view) => held.push(view),
            Err(error) => {
                assert!(error.is_fatal(), "{error}");
                let again = database.commit(rows(&[("a", "1")]));
                assert!(again.is_err(), "nothing is committed after a failure");
                return (durable, after);
            }
        }
        if held.len() > 2 {
            held.remove(0);
        }
        durable = after;
    }
    (durable.clone(), durable)
}

/// Opens what a power loss left; the content, or nothing when no file was durable yet.
fn recover(image: &Image) -> Result<Model, Error> {
    let disk = Faulty::from_image(image, 1).unwrap();
    let mut database = open(&disk, 4096)?;
    audit(&disk, &database);
    let found = dump(&database.view())?;
    // It goes on from there.
    let mut expected = found.clone();
    for seed in 0..3 {
        let batch = random_batch(&mut Rng::new(seed), &mut expected, 10);
        database.commit(batch)?;
        audit(&disk, &database);
    }
    assert!(dump(&database.view())? == expected);
    Ok(found)
}

#[test]
fn a_power_loss_at_any_operation_leaves_the_last_commit_or_the_one_under_way() {
    let whole = Faulty::new(7);
    run(&whole, 7);
    let operations = whole.operations();
    assert!(operations > ROUNDS * 4, "{operations}");
    let mut in_flight = 0;
    for operation in 0..operations {
        let disk = Faulty::new(7);
        disk.crash_at(operation);
        let (durable, under_way) = run(&disk, 7);
        for seed in 0..4 {
            let found = recover(&disk.image(&mut Rng::new(seed))).unwrap();
            assert!(found == durable || found == under_way, "operation {operation}, {seed}");
            in_flight += u64::from(found != durable);
        }
        // A killed process leaves what it wrote.
        let found = recover(&disk.live_image()).unwrap();
        assert!(found == durable || found == under_way, "operation {operation}, killed");
    }
    assert!(in_flight > 0, "no loss came after the meta page was written");
}

#[test]
fn what_is_seen_after_a_kill_is_durable_before_the_next_commit_writes() {
    let mut unsynced = 0;
    for (kill, loss) in (0..6).flat_map(|kill| (0..6).map(move |loss| (kill, loss))) {
        let disk = Faulty::new(kill);
        let mut rng = Rng::new(loss);
        let mut model = Model::new();
        let mut database = open(&disk, 4096).unwrap();
        for _ in 0..6 {
            let batch = random_batch(&mut rng, &mut model, 60);
            database.commit(batch).unwrap();
        }
        // The process is killed in a commit; the machine goes on.
        let mut after = model.clone();
        disk.crash_at(disk.operations() + kill);
        let killed = database.commit(random_batch(&mut rng, &mut after, 60)).is_err();
        drop(database);
        disk.restart();
        // The next one loses its power.
        disk.crash_at(disk.operations() + loss);
        let possible = match open(&disk, 4096) {
            Err(_) => vec![model, after],
            Ok(mut database) => {
                let seen = dump(&database.view()).unwrap_or_else(|_| after.clone());
                assert!(seen == model || seen == after);
                unsynced += u64::from(killed && seen == after);
                let mut next = seen.clone();
                let _ = database.commit(random_batch(&mut rng, &mut next, 60));
                vec![seen, next]
            }
        };
        for draw in 0..6 {
            let found = recover(&disk.image(&mut Rng::new(draw))).unwrap();
            assert!(possible.contains(&found), "killed at {kill}, lost at {loss}, {draw}");
        }
    }
    assert!(unsynced > 0, "no kill came between the meta page and its sync");
}

#[test]
fn syncs_that_lie_are_found_out() {
    let mut lost = 0;
    for seed in 0..10 {
        let disk = Faulty::new(seed);
        disk.lie_about_syncs();
        let (durable, _) = run(&disk, seed);
        let image = disk.image(&mut Rng::new(seed));
        let found = std::panic::catch_unwind(|| recover(&image));
        lost += u64::from(!matches!(found, Ok(Ok(found)) if found == durable));
    }
    assert!(lost > 0, "the crash test cannot fail");
}

#[test]
fn a_failed_sync_ends_all_commits() {
    for successes in 0..2 {
        let disk = Faulty::new(1);
        let mut database = open(&disk, 4096).unwrap();
        let view = database.commit(rows(&[("a", "1")])).unwrap();
        disk.fail_sync_after(successes);
        let error = database.commit(rows(&[("a", "2")])).unwrap_err();
        assert!(error.is_fatal() && error.to_string().contains("/db: cannot sync"), "{error}");
        let error = database.commit(rows(&[("a", "3")])).unwrap_err();
        assert!(matches!(error, Error::Poisoned { .. }), "{error}");
        assert_eq!(view.get(b"rows", b"a").unwrap().as_deref(), Some(&b"1"[..]));
        drop((database, view));
        let found = recover(&disk.image(&mut Rng::new(2))).unwrap();
        assert!(found[&b"rows"[..]][&b"a"[..]] <= b"2".to_vec());
    }
}

#[test]
fn a_full_disk_loses_nothing_and_blocks_nothing_later() {
    let disk = Faulty::new(1);
    let mut database = open(&disk, 4096).unwrap();
    database.commit(rows(&[("a", "1")])).unwrap();
    disk.set_capacity(Some(100 << 10));
    let mut large = rows(&[]);
    large.put(b"rows", "b".into(), vec![1; 200 << 10].into());
    let error = database.commit(large.clone()).unwrap_err();
    assert!(matches!(error, Error::Io { action: "grow", .. }), "{error}");
    audit(&disk, &database);
    database.commit(rows(&[("a", "2")])).unwrap();
    disk.set_capacity(None);
    database.commit(large).unwrap();
    audit(&disk, &database);
    let view = database.view();
    assert_eq!(view.get(b"rows", b"a").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(view.get(b"rows", b"b").unwrap().map(|value| value.len()), Some(200 << 10));
}
