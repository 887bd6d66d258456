//! Power losses and kills between any two operations of the disk.

use base::Rng;
use storage::disk::Faulty;

use crate::harness::HandClock;
use crate::harness::life::{leave, one_life};
use crate::harness::reference::Summary;
use crate::harness::world::{End, Promised, World, check_order};

/// Lives `lives` times, each ended by a crash or a stop, and checks what the next one finds.
fn live(seed: u64, lives: u64, lie: bool) -> Result<(), End> {
    let mut rng = Rng::new(seed);
    let clock = HandClock::default();
    let (mut disk, mut promised) = (Faulty::new(seed), Promised::default());
    for life in 0..lives {
        if lie {
            disk.lie_about_syncs();
        }
        let operations = if life == 0 { 60 } else { 700 };
        promised = one_life(&mut rng, &disk, &clock, promised, operations)?;
        let image = leave(&mut rng, &disk);
        check_order(&image)?;
        disk = Faulty::from_image(&image, rng.next_u64()).unwrap();
        let mut world = World::start(&disk, &clock, promised.clone())?;
        world.settle()?;
        world.check()?;
        promised = world.promised.clone();
        drop(world);
        let image = disk.image(&mut rng);
        disk = Faulty::from_image(&image, rng.next_u64()).unwrap();
    }
    Ok(())
}

#[test]
fn nothing_answered_is_lost() {
    for seed in 0..24 {
        assert_eq!(live(seed, 8, false), Ok(()), "seed {seed}");
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let found = (0..10).filter(|&seed| matches!(live(seed, 8, true), Err(End::Broken(_)))).count();
    assert!(found >= 8, "only {found} of 10 histories on a lying disk were found out");
}

/// Runs a member into a fault of the disk, mends the disk, and looks what is there.
fn fail(seed: u64, arrange: impl Fn(&Faulty, &mut Rng), mend: impl Fn(&Faulty)) -> Option<String> {
    let mut rng = Rng::new(seed);
    let (disk, clock) = (Faulty::new(seed), HandClock::default());
    let mut world = World::start(&disk, &clock, Promised::default()).unwrap();
    world.run(&mut rng, 300).unwrap();
    arrange(&disk, &mut rng);
    let end = world.run(&mut rng, 3_000);
    let promised = world.promised.clone();
    drop(world);
    let line = match end {
        Ok(()) => return None,
        Err(End::Failed(line)) => line,
        Err(end) => panic!("seed {seed}: {end:?}"),
    };
    mend(&disk);
    let image = leave(&mut rng, &disk);
    check_order(&image).unwrap();
    let disk = Faulty::from_image(&image, seed).unwrap();
    let mut world = World::start(&disk, &clock, promised).unwrap();
    world.settle().unwrap();
    world.check().unwrap();
    Some(line)
}

#[test]
fn a_full_disk_stops_the_member_and_loses_nothing() {
    let mut lines = Vec::new();
    for seed in 0..12 {
        let fill = |disk: &Faulty, rng: &mut Rng| {
            let used: u64 = disk.live_image().files.values().map(|file| file.len()).sum();
            disk.set_capacity(Some(used + rng.below(60_000)));
        };
        lines.extend(fail(seed, fill, |disk| disk.set_capacity(None)));
    }
    assert!(lines.len() >= 8, "only {} of 12 members noticed", lines.len());
    for line in &lines {
        assert!(line.contains("/data/member/") && line.contains("No space left"), "{line}");
    }
}

#[test]
fn a_failed_sync_stops_the_member_and_loses_nothing() {
    for seed in 0..12 {
        let arrange = |disk: &Faulty, rng: &mut Rng| disk.fail_sync_after(rng.below(40));
        let line = fail(seed, arrange, |_| {}).expect("a member noticed the failed sync");
        assert!(line.contains("/data/member/") && line.contains("os error 5"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn a_stop_leaves_everything_in_the_database() {
    for seed in 0..8 {
        let mut rng = Rng::new(seed);
        let (disk, clock) = (Faulty::new(seed), HandClock::default());
        let mut world = World::start(&disk, &clock, Promised::default()).unwrap();
        world.run(&mut rng, 500).unwrap();
        world.stop().unwrap();
        let before = world.check().unwrap();
        let promised = world.promised.clone();
        let last = *promised.history.last_key_value().unwrap().0;
        assert_eq!(world.database(), last);
        drop(world);
        let world = World::start(&disk, &clock, promised).unwrap();
        assert_eq!(world.database(), last, "the database has all of the log");
        let after = Summary::of(world.shared());
        assert_eq!(after, before);
    }
}
