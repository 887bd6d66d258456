//! Power losses between any two operations on the disk: what was synced is there, nothing is
//! there that was not written, and the log goes on.

use base::Rng;
use proto::{raftpb, walpb};
use storage::disk::{Faulty, Image};
use storage::wal::{self, Opened, Wal};

use super::{beginning, create, dir, new_disk, open, random_entry, snapshot, state};

/// What a workload has appended, record by record, until the disk stopped.
#[derive(Default)]
struct History {
    created: bool,
    records: Vec<Record>,
    /// How many of them a sync that returned has covered.
    synced: usize,
    now: Content,
}

enum Record {
    Entry(raftpb::Entry),
    State(raftpb::HardState),
    Snapshot(walpb::Snapshot),
}

/// What a log holds after some records.
#[derive(Debug, Default, Clone, PartialEq)]
struct Content {
    entries: Vec<raftpb::Entry>,
    state: raftpb::HardState,
    snapshots: Vec<walpb::Snapshot>,
}

impl Content {
    fn take(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.truncate(entry.index() as usize - 1);
                self.entries.push(entry.clone());
            }
            Record::State(state) => self.state = *state,
            Record::Snapshot(snapshot) => self.snapshots.push(snapshot.clone()),
        }
    }

    /// The newest snapshot that the commit index covers.
    fn start(&self) -> walpb::Snapshot {
        let covered = |snapshot: &&walpb::Snapshot| snapshot.index() <= self.state.commit();
        self.snapshots.iter().rfind(covered).cloned().unwrap_or_else(beginning)
    }
}

impl History {
    fn append(
        &mut self,
        wal: &mut Wal,
        batch: &[raftpb::Entry],
        state: raftpb::HardState,
    ) -> Result<(), wal::Error> {
        let entries = batch.iter().cloned().map(Record::Entry);
        for record in entries.chain([Record::State(state)]) {
            self.now.take(&record);
            self.records.push(record);
        }
        wal.append(batch, Some(&state))
    }

    fn sync(&mut self, wal: &mut Wal) -> Result<(), wal::Error> {
        wal.sync()?;
        self.synced = self.records.len();
        Ok(())
    }

    /// One random step; the error of a stopped disk ends the workload.
    fn step(&mut self, rng: &mut Rng, wal: &mut Wal) -> Result<(), wal::Error> {
        let (commit, last) = (self.now.state.commit(), self.now.entries.len() as u64);
        match rng.below(10) {
            0..7 => {
                let newer = rng.one_in(6);
                let term = self.now.state.term().max(1) + u64::from(newer);
                let first =
                    if newer { commit + 1 + rng.below(last - commit + 1) } else { last + 1 };
                let end = first + 1 + rng.below(4);
                let batch: Vec<_> =
                    (first..end).map(|index| random_entry(rng, term, index, 900)).collect();
                let state = state(term, 1, commit + rng.below(end - commit));
                self.append(wal, &batch, state)?;
                // Most of the time a sync follows, as raft has it.
                if rng.one_in(4) { Ok(()) } else { self.sync(wal) }
            }
            7 if commit > self.now.start().index() => {
                let term = self.now.entries[commit as usize - 1].term();
                let record = snapshot(commit, term);
                self.now.take(&Record::Snapshot(record.clone()));
                self.records.push(Record::Snapshot(record.clone()));
                wal.save_snapshot(&record)?;
                self.sync(wal)?;
                wal.release_to(base::LogIndex(commit))
            }
            8 if last > commit => {
                self.append(wal, &[], state(self.now.state.term(), 1, commit + 1))
            }
            _ => self.sync(wal),
        }
    }

    /// Which of the contents that the log may have is found on the disk: one that some of the
    /// records lead to, and all that are synced.
    fn explain(&self, disk: &Faulty) -> Result<(Opened, Content, usize), String> {
        let snapshots = wal::snapshots(disk, dir()).map_err(|error| error.to_string())?;
        let at = snapshots.last().cloned().unwrap_or_else(beginning);
        let opened = open(disk, &at).map_err(|error| error.to_string())?;
        let mut content = Content { snapshots: vec![beginning()], ..Content::default() };
        for number in 0..=self.records.len() {
            if number > 0 {
                content.take(&self.records[number - 1]);
            }
            if number >= self.synced
                && content.start() == at
                && content.state == opened.hard_state
                && content.entries[at.index() as usize..] == opened.entries
            {
                return Ok((opened, content, number));
            }
        }
        Err(format!(
            "{} records synced; found snapshot {}, then {} entries, and {:?}",
            self.synced,
            at.index(),
            opened.entries.len(),
            opened.hard_state
        ))
    }
}

const STEPS: usize = 14;

/// Runs a workload until it ends or the disk stops.
fn workload(disk: &Faulty, seed: u64) -> History {
    let (mut rng, mut history) = (Rng::new(seed), History::default());
    let run = |history: &mut History, rng: &mut Rng| -> Result<(), wal::Error> {
        let mut wal = create(disk)?;
        history.created = true;
        for step in 0..STEPS {
            history.step(rng, &mut wal)?;
            if step == STEPS / 2 {
                // The process is killed and starts again: what it reads counts as stable.
                drop(wal);
                let (opened, content, number) = match history.explain(disk) {
                    Ok(found) => found,
                    Err(_) if disk.crashed() => return Ok(()),
                    Err(fault) => panic!("after a kill: {fault}"),
                };
                history.now = content;
                history.records.truncate(number);
                history.synced = number;
                wal = opened.wal;
            }
        }
        Ok(())
    };
    match run(&mut history, &mut rng) {
        Err(error) if !disk.crashed() => panic!("{error}"),
        _ => history,
    }
}

/// Opens what a power loss left; says what is wrong with it.
fn judge(image: &Image, history: &History, rng: &mut Rng) -> Result<(), String> {
    let disk = Faulty::from_image(image, 1).unwrap();
    if !wal::exists(&disk, dir()).map_err(|error| error.to_string())? {
        if history.created {
            return Err("the log is gone".into());
        }
        return create(&disk).map(drop).map_err(|error| format!("cannot be made: {error}"));
    }
    let (mut opened, content, _) = history.explain(&disk)?;
    // The chain goes on: append, lose the power, open again.
    let more = random_entry(rng, 99, content.entries.len() as u64 + 1, 3000);
    let state = state(99, 1, content.state.commit());
    opened.wal.append(std::slice::from_ref(&more), Some(&state)).map_err(|e| e.to_string())?;
    opened.wal.sync().map_err(|error| error.to_string())?;
    let again = Faulty::from_image(&disk.image(rng), 2).unwrap();
    let reopened =
        open(&again, &content.start()).map_err(|error| format!("after going on: {error}"))?;
    opened.entries.push(more);
    if reopened.entries != opened.entries || reopened.hard_state != state {
        return Err("what was appended after the power loss is not there".into());
    }
    Ok(())
}

/// Crashes a workload at every operation; returns how many images were judged, or the first fault.
fn crash_everywhere(seed: u64, lie: bool) -> Result<u64, String> {
    let mut judged = 0;
    for operation in 0.. {
        let disk = new_disk();
        if lie {
            disk.lie_about_syncs();
        }
        disk.crash_at(disk.operations() + operation);
        let history = workload(&disk, seed);
        let mut rng = Rng::new(seed ^ (operation << 32));
        for image in 0..4 {
            judge(&disk.image(&mut rng), &history, &mut rng).map_err(|fault| {
                format!("seed {seed}, operation {operation}, image {image}: {fault}")
            })?;
            judged += 1;
        }
        if !disk.crashed() {
            return Ok(judged);
        }
    }
    Ok(judged)
}

#[test]
fn no_power_loss_loses_what_was_synced() {
    let mut judged = 0;
    for seed in 0..25 {
        match crash_everywhere(seed, false) {
            Ok(images) => judged += images,
            Err(fault) => panic!("{fault}"),
        }
    }
    assert!(judged > 5_000, "only {judged} images");
}

/// Loses the power again while the log is being opened, at every operation of that.
fn crash_while_opening(image: &Image, history: &History, rng: &mut Rng) -> u64 {
    for operation in 0.. {
        let disk = Faulty::from_image(image, 1).unwrap();
        disk.crash_at(operation);
        let opened = history.explain(&disk);
        assert!(disk.crashed() || opened.is_ok());
        drop(opened);
        for _ in 0..3 {
            let again = Faulty::from_image(&disk.image(rng), 2).unwrap();
            history.explain(&again).map(drop).unwrap();
        }
        if !disk.crashed() {
            return operation;
        }
    }
    0
}

#[test]
fn a_power_loss_during_a_repair_loses_nothing_more() {
    let mut repairs = 0;
    for seed in 200..260 {
        let disk = new_disk();
        let mut rng = Rng::new(seed);
        disk.crash_at(30 + rng.below(40));
        let history = workload(&disk, seed);
        for _ in 0..4 {
            let image = disk.image(&mut rng);
            let trial = Faulty::from_image(&image, 0).unwrap();
            let repaired = history.explain(&trial).map(|(opened, ..)| opened.repaired.is_some());
            if repaired.unwrap() {
                repairs += 1;
                assert!(crash_while_opening(&image, &history, &mut rng) > 5);
            }
        }
    }
    assert!(repairs > 5, "only {repairs} torn ends");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let faults = (0..10).filter(|seed| crash_everywhere(*seed, true).is_err()).count();
    assert_eq!(faults, 10, "the test above would not notice a missing sync");
}

#[test]
fn a_killed_process_loses_nothing_written() {
    for seed in 100..140 {
        let disk = new_disk();
        let history = workload(&disk, seed);
        let killed = Faulty::from_image(&disk.live_image(), 0).unwrap();
        history.explain(&killed).map(drop).unwrap();
    }
}
