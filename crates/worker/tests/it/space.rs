//! Disks that are full, syncs that fail, and stops: a member ends with one line that names the
//! file, or with everything in the database, and nothing acknowledged is missing afterwards.

use std::path::PathBuf;

use storage::disk::{Blob, Faulty};

use crate::driver::{self, Member, NoStart, ROOT};
use crate::lives::Run;
use crate::workload::Kinds;

const STEPS_MAX: usize = 30_000;

fn new(seed: u64) -> Run {
    Run::new(seed, Kinds::ALL)
}

impl Run {
    fn open(&mut self) -> Result<Member, String> {
        driver::create(&self.disk, &self.settings).map_err(|error| error.to_string())?;
        let (settings, seed) = (&self.settings, self.rng.next_u64());
        let opened = Member::open(&self.disk, settings, &self.time, &mut self.history, seed);
        opened.map_err(|error| match error {
            NoStart::Refused(error) => error.to_string(),
            NoStart::Wrong(what) => panic!("{what}"),
        })
    }

    /// Works until something fails, and says the line.
    fn work(&mut self, member: &mut Member, steps: usize) -> Option<String> {
        for _ in 0..steps {
            let work = Some(&mut self.workload);
            if let Err(error) = member.step(&mut self.rng, &mut self.history, work) {
                return Some(error.to_string());
            }
        }
        None
    }

    /// What is left is whole, after a kill and after a power loss.
    fn judge_all(&mut self) {
        for image in [self.disk.live_image(), self.disk.image(&mut self.rng)] {
            self.judge.check(&image, &self.history, &mut self.rng).unwrap();
        }
    }

    fn used(&self) -> u64 {
        self.disk.live_image().files.values().map(Blob::len).sum()
    }
}

/// One line, which says where.
fn check_line(line: &str) {
    assert!(line.contains(&format!("{ROOT}/member/")) && !line.contains('\n'), "{line}");
}

#[test]
fn a_full_disk_ends_the_member_and_space_brings_it_back() {
    let (mut logs, mut databases) = (0, 0);
    for seed in 1..=14 {
        let mut run = new(seed);
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 400), None);
        run.disk.set_capacity(Some(run.used() + run.rng.clone().below(80 << 10)));
        let line = run.work(&mut member, STEPS_MAX).expect("the disk was not full in time");
        check_line(&line);
        assert!(line.contains("No space left on device"), "{line}");
        logs += u32::from(line.starts_with("write-ahead log: "));
        databases += u32::from(line.starts_with("database: "));
        drop(member);
        run.judge_all();
        // Still full: it may start and fail, or not start, and says the same.
        let started = run.open().map(|mut member| run.work(&mut member, STEPS_MAX));
        if let Ok(Some(line)) | Err(line) = started {
            check_line(&line);
        }
        run.disk.set_capacity(None);
        run.judge_all();
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 400), None);
        drop(member);
        run.judge_all();
    }
    assert!(logs > 0 && databases > 0, "{logs} logs and {databases} databases met the full disk");
}

#[test]
fn a_failed_sync_ends_the_member() {
    for seed in 1..=12 {
        let mut run = new(seed);
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 200), None);
        run.disk.fail_sync_after(run.rng.clone().below(60));
        let line = run.work(&mut member, STEPS_MAX).expect("no sync failed");
        check_line(&line);
        assert!(line.contains("Input/output error"), "{line}");
        drop(member);
        run.judge_all();
    }
}

#[test]
fn a_stop_leaves_everything_in_the_database() {
    for seed in 1..=10 {
        let mut run = new(seed);
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 700), None);
        member.stop(&mut run.rng, &mut run.history).unwrap();
        // So that the next start finds it there.
        run.history.database = run.history.entries.len() as u64;
        run.judge_all();
    }
}

#[test]
fn a_disk_that_is_full_from_the_start_is_named_and_left_usable() {
    let mut refused = 0;
    for kib in (0..60).step_by(4) {
        let mut run = new(kib);
        run.disk.set_capacity(Some(kib << 10));
        if let Err(line) = run.open() {
            assert!(line.contains(ROOT) && !line.contains('\n'), "{line}");
            refused += 1;
        }
        run.disk.set_capacity(None);
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 100), None);
        drop(member);
        run.judge_all();
    }
    assert!(refused > 5, "{refused}");
}

/// Sectors that were synced and are gone: what the database has of them does not make up for it.
#[test]
fn a_log_that_lost_what_the_database_has_is_refused() {
    let mut refused = 0;
    for seed in 1..=10 {
        let mut run = new(seed);
        let mut member = run.open().unwrap();
        assert_eq!(run.work(&mut member, 700), None);
        member.stop(&mut run.rng, &mut run.history).unwrap();
        let mut image = run.disk.live_image();
        let is_log = |path: &&PathBuf| path.extension().is_some_and(|end| end == "wal");
        let tail = image.files.keys().rfind(is_log).unwrap().clone();
        let blob = image.files.get_mut(&tail).unwrap();
        let end = blob.to_vec().iter().rposition(|byte| *byte != 0).unwrap();
        let lost = (end / 512).saturating_sub(2).max(1) * 512;
        blob.write(&vec![0; end + 1 - lost.min(end)], lost as u64);
        run.disk = Faulty::from_image(&image, seed).unwrap();
        // A segment that has just begun may have lost nothing but a commit index.
        let Err(line) = run.open() else { continue };
        refused += 1;
        check_line(&line);
        assert!(line.ends_with(storage::REMEDY), "{line}");
        assert!(line.contains(": it ends at entry ") || line.contains("damaged at byte"), "{line}");
    }
    assert!(refused >= 5, "{refused}");
}
