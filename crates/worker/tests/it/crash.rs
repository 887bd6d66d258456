//! Power losses and kills between any two operations of the disk.
//!
//! `CRASH_SEEDS` says how many histories are tried, `CRASH_SEED` with which one to begin.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base::Rng;
use storage::disk::Faulty;

use crate::driver::{self, Doing, History, Member, NoStart, Settings, Time};
use crate::judge::Judge;
use crate::workload::{Kinds, Workload};

const SEEDS: u64 = 12;
const LIVES: u64 = 5;
const IMAGES: u64 = 3;

/// Steps after which a life ends although its disk has not stopped.
const STEPS_MAX: usize = 20_000;

/// What the crashes came upon.
#[derive(Debug, Default)]
struct Seen {
    crashes: BTreeMap<Doing, usize>,
    images: usize,
    lost_entries: usize,
    entries: usize,
    compacted: usize,
}

struct Run {
    rng: Rng,
    disk: Faulty,
    settings: Settings,
    time: Arc<Time>,
    history: History,
    workload: Workload,
    judge: Judge,
}

impl Run {
    fn new(seed: u64, lies: bool) -> Self {
        let mut rng = Rng::new(seed);
        let disk = Faulty::new(seed);
        if lies {
            disk.lie_about_syncs();
        }
        let settings = Settings::draw(&mut rng);
        let time = Arc::new(Time::default());
        let workload = Workload::new(seed, Kinds { short_leases: true, members: true });
        let judge = Judge::new(settings.clone(), Arc::clone(&time));
        Self { rng, disk, settings, time, history: History::default(), workload, judge }
    }

    /// Starts and works until the disk stops. What was being done then.
    fn live(&mut self) -> Result<Doing, String> {
        let rng = &mut self.rng;
        let made = driver::is_made(&self.disk);
        if let Err(error) = driver::create(&self.disk, &self.settings) {
            return if self.disk.crashed() { Ok(Doing::Create) } else { Err(error.to_string()) };
        }
        let seed = rng.next_u64();
        let (settings, time, history) = (&self.settings, &self.time, &mut self.history);
        let mut member = match Member::open(&self.disk, settings, time, history, seed) {
            Ok(member) => member,
            Err(NoStart::Refused(_)) if self.disk.crashed() => return Ok(Doing::Open),
            Err(NoStart::Refused(error)) => return Err(error.to_string()),
            Err(NoStart::Wrong(what)) => return Err(what),
        };
        if self.disk.crashed() {
            return Ok(if made { Doing::Open } else { Doing::Create });
        }
        for _ in 0..STEPS_MAX {
            let stepped = member.step(rng, history, Some(&mut self.workload));
            if self.disk.crashed() {
                return Ok(member.doing);
            }
            stepped.map_err(|error| error.to_string())?;
        }
        Ok(Doing::Other)
    }

    /// One life and its end.
    fn crash(&mut self, seen: &mut Seen) -> Result<(), String> {
        let ahead = match self.rng.below(6) {
            0 => self.rng.below(40),
            1 | 2 => self.rng.below(200),
            _ => self.rng.below(900),
        };
        self.disk.crash_at(self.disk.operations() + ahead);
        let doing = self.live()?;
        *seen.crashes.entry(doing).or_default() += 1;

        let mut images: Vec<_> = (0..IMAGES).map(|_| self.disk.image(&mut self.rng)).collect();
        images.push(self.disk.live_image());
        for (number, image) in images.iter().enumerate() {
            let found = self.judge.check(image, &self.history, &mut self.rng);
            let found = found.map_err(|what| format!("while {doing:?}, image {number}: {what}"))?;
            seen.images += 1;
            if let Some(found) = found {
                seen.compacted += usize::from(found.hash.compact_revision.get() > 0);
            }
        }
        if self.rng.one_in(3) {
            // The process was killed; what is not synced is still at risk.
            self.disk.restart();
        } else {
            let image = self.rng.pick(&images);
            self.disk = Faulty::from_image(image, self.rng.clone().next_u64())
                .map_err(|error| error.to_string())?;
        }
        if !driver::is_made(&self.disk) {
            self.history = History::default();
        }
        Ok(())
    }

    fn run(&mut self, seen: &mut Seen) -> Result<(), String> {
        for life in 0..LIVES {
            let before = self.history.entries.len();
            self.crash(seen).map_err(|what| format!("life {life}: {what}"))?;
            seen.entries += self.history.entries.len().saturating_sub(before);
        }
        seen.lost_entries += self.history.entries.len() - self.history.applied as usize;
        Ok(())
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_power_interrupts() {
    let (first, seeds) = (number("CRASH_SEED", 1), number("CRASH_SEEDS", SEEDS));
    let mut seen = Seen::default();
    for seed in first..first + seeds {
        if let Err(what) = Run::new(seed, false).run(&mut seen) {
            panic!("CRASH_SEED={seed} CRASH_SEEDS=1: {what}");
        }
    }
    println!("{seen:#?}");
    if seeds >= SEEDS {
        let kinds = [
            Doing::Create,
            Doing::Open,
            Doing::Append,
            Doing::Cut,
            Doing::Snapshot,
            Doing::Commit,
            Doing::CommitWhileCompacting,
        ];
        for doing in kinds {
            assert!(seen.crashes.contains_key(&doing), "no crash while {doing:?}: {seen:?}");
        }
        assert!(seen.compacted * 2 > seen.images, "{seen:?}");
    }
}

#[test]
fn syncs_that_lie_are_found_out() {
    let found_out = (1..=20).any(|seed| {
        let run = || Run::new(seed, true).run(&mut Seen::default());
        !matches!(catch_unwind(AssertUnwindSafe(run)), Ok(Ok(())))
    });
    assert!(found_out, "the crash test cannot fail");
}
