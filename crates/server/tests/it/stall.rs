//! A disk that stops answering: the member says how long it has waited.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Clock;
use parking_lot::{Condvar, Mutex};
use server::clock::SystemClock;
use storage::disk::{Disk, Faulty, File, Lock, Open};

use crate::member::{block_on, put, start_on};

/// Whether syncs wait.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, is_closed: bool) {
        *self.is_closed.lock() = is_closed;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut is_closed = self.is_closed.lock();
        while *is_closed {
            self.changed.wait(&mut is_closed);
        }
    }
}

/// A disk whose syncs wait at the gate.
struct Stalling {
    disk: Faulty,
    gate: Arc<Gate>,
}

struct StallingFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl Disk for Stalling {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, how)?;
        Ok(Arc::new(StallingFile { file, gate: Arc::clone(&self.gate) }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}

impl File for StallingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn unwritten(&self, offset: u64) -> io::Result<Range<u64>> {
        self.file.unwritten(offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }
    fn try_lock(&self, lock: Lock) -> io::Result<()> {
        self.file.try_lock(lock)
    }
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_write_that_does_not_end_is_told_and_an_idle_disk_is_not() {
    let gate = Arc::new(Gate::default());
    let disk = Stalling { disk: Faulty::new(1), gate: Arc::clone(&gate) };
    let clock = Arc::new(SystemClock::start());
    let member = start_on(&(Arc::new(disk) as Arc<dyn Disk>), clock.clone()).expect("a start");
    block_on(member.propose(put("a", "1"))).expect("applied");
    wait_until(|| member.disk_busy(clock.now()).is_zero());

    gate.set(true);
    let waits = {
        let member = member.clone();
        std::thread::spawn(move || block_on(member.propose(put("b", "2"))).map(drop))
    };
    let longer = Duration::from_millis(20);
    wait_until(|| member.disk_busy(clock.now()) > longer);
    gate.set(false);
    waits.join().expect("no panic").expect("applied");
    wait_until(|| member.disk_busy(clock.now()).is_zero());
    block_on(member.stop());
}
