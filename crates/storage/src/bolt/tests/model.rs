//! Random histories.

use std::collections::BTreeMap;

use arbtest::arbtest;
use base::Rng;

use super::audit::audit;
use super::*;

/// A database and what it should hold.
struct History {
    disk: Faulty,
    database: Database,
    model: Model,
    /// Views kept across commits.
    held: Vec<(View, Model)>,
    page_size: u32,
}

impl History {
    fn new(page_size: u32) -> Self {
        let disk = Faulty::new(1);
        let database = open(&disk, page_size).unwrap();
        Self { disk, database, model: Model::new(), held: Vec::new(), page_size }
    }

    fn round(&mut self, rng: &mut Rng, size: u64) {
        let batch = random_batch(rng, &mut self.model, size);
        let view = self.database.commit(batch).unwrap();
        audit(&self.disk, &self.database);
        if rng.one_in(3) {
            self.held.push((view.clone(), self.model.clone()));
        }
        if self.held.len() > 6 || (rng.one_in(4) && !self.held.is_empty()) {
            let at = rng.below(self.held.len() as u64) as usize;
            let (view, model) = self.held.swap_remove(at);
            assert!(dump(&view).unwrap() == model, "an old view changed");
        }
        if rng.one_in(6) {
            assert!(dump(&view).unwrap() == self.model);
            self.look_up(rng, &view);
        }
    }

    fn look_up(&self, rng: &mut Rng, view: &View) {
        for (name, rows) in &self.model {
            let mut lookup = view.lookup(name);
            for _ in 0..20 {
                let (bucket, from) = (rng.below(4), rng.below(rows.len() as u64 + 1) as usize);
                let key = rows.keys().nth(from).cloned().unwrap_or_else(|| key(rng, bucket));
                let expected = rows.get(&key).map(|value| &value[..]);
                assert_eq!(view.get(name, &key).unwrap().as_deref(), expected);
                assert_eq!(lookup.get(&key).unwrap().as_deref(), expected);
                let found: Vec<_> =
                    view.scan(name, &key).take(20).map(|row| row.unwrap().0.to_vec()).collect();
                let expected: Vec<_> =
                    rows.range(key..).take(20).map(|(key, _)| key.clone()).collect();
                assert_eq!(found, expected);
            }
        }
    }

    fn reopen(&mut self) {
        for (view, model) in self.held.drain(..) {
            assert!(dump(&view).unwrap() == model, "an old view changed");
        }
        // The lock of the old one goes first.
        self.database = {
            let disk = Faulty::new(2);
            let _ = std::mem::replace(&mut self.database, open(&disk, 4096).unwrap());
            open(&self.disk, self.page_size).unwrap()
        };
        assert!(self.database.damaged_meta().is_none());
        audit(&self.disk, &self.database);
        assert!(dump(&self.database.view()).unwrap() == self.model);
    }
}

#[test]
fn random_histories_equal_a_map() {
    arbtest(|u| {
        let page_size = *u.choose(&[4096, 4096, 8192, 16384, 65536])?;
        let size = *u.choose(&[3, 30, 200])?;
        let mut rng = Rng::new(u.arbitrary()?);
        let mut history = History::new(page_size);
        for _ in 0..u.int_in_range(1..=40)? {
            history.round(&mut rng, size);
            if rng.one_in(15) {
                history.reopen();
            }
        }
        history.reopen();
        Ok(())
    })
    .budget_ms(3_000);
}

#[test]
fn appended_revisions_fill_their_pages() {
    let mut history = History::new(4096);
    let rows = 20_000;
    for first in (0..rows).step_by(500) {
        let mut batch = Batch::default();
        batch.create_bucket(b"key");
        for row in first..first + 500 {
            batch.put(b"key", revision(row).into(), vec![7; 256].into());
        }
        history.database.commit(batch).unwrap();
    }
    audit(&history.disk, &history.database);
    let view = history.database.view();
    // A page takes 14 rows of 16 + 17 + 256 bytes; branches and the top tree are the rest.
    assert!(view.in_use_bytes() < rows / 14 * 4096 * 102 / 100, "{}", view.in_use_bytes());
    // Half of an old commit's path is all that a commit drops, so the file stays near that.
    assert!(view.size_bytes() < view.in_use_bytes() * 102 / 100);

    let all: Vec<_> = view.scan(b"key", b"").map(|row| row.unwrap().0).collect();
    assert_eq!(all.len() as u64, rows);
    drop(view);
    let mut batch = Batch::default();
    for key in all.iter().filter(|key| key[7] % 10 != 0) {
        batch.delete(b"key", key.clone());
    }
    let view = history.database.commit(batch).unwrap();
    audit(&history.disk, &history.database);
    assert!(view.in_use_bytes() < rows / 14 * 4096 / 4, "emptied pages are joined");
}

#[test]
fn a_batch_that_changes_nothing_writes_nothing() {
    let disk = Faulty::new(1);
    let mut database = open(&disk, 4096).unwrap();
    database.commit(rows(&[("a", "1")])).unwrap();
    let operations = disk.operations();
    database.commit(Batch::default()).unwrap();
    let mut batch = Batch::default();
    batch.create_bucket(b"rows");
    batch.delete(b"rows", "b".into());
    database.commit(batch).unwrap();
    assert_eq!(disk.operations(), operations);
    audit(&disk, &database);
}

#[test]
fn a_refused_batch_changes_nothing() {
    let disk = Faulty::new(1);
    let mut database = open(&disk, 4096).unwrap();
    database.commit(rows(&[("a", "1")])).unwrap();
    let mut missing = rows(&[("a", "2")]);
    missing.put(b"none", "a".into(), "1".into());
    let error = database.commit(missing).unwrap_err();
    assert_eq!(error.to_string(), "bucket \"none\" does not exist");
    assert!(!error.is_fatal());
    let mut long = rows(&[("a", "2")]);
    long.put(b"rows", vec![1; 32_769].into(), "1".into());
    assert!(matches!(database.commit(long), Err(Error::KeyLength(32_769))));
    let mut empty = rows(&[("a", "2")]);
    empty.delete(b"rows", "".into());
    assert!(matches!(database.commit(empty), Err(Error::KeyLength(0))));
    audit(&disk, &database);
    assert_eq!(database.view().get(b"rows", b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert!(matches!(open(&disk, 4096), Err(Error::Locked { .. })));
}

#[test]
fn an_image_is_the_view_whatever_is_committed_meanwhile() {
    let mut rng = Rng::new(5);
    let mut history = History::new(4096);
    for _ in 0..30 {
        history.round(&mut rng, 100);
    }
    let (image, model) = (history.database.view().image(), history.model.clone());
    let copy = Faulty::new(3);
    let file = crate::disk::Disk::open(&copy, DB.as_ref(), crate::disk::Open::Create).unwrap();
    let mut offset = 0;
    while offset < image.len() {
        let bytes = image.read_at(offset, 10_007).unwrap();
        file.write_all_at(&bytes, offset).unwrap();
        offset += bytes.len() as u64;
        if rng.one_in(20) {
            history.round(&mut rng, 100);
        }
    }
    assert_eq!(offset, image.len());
    drop(file);
    // Either meta page alone is enough.
    for slot in [None, Some(0), Some(1)] {
        let copy = Faulty::from_image(&copy.live_image(), 1).unwrap();
        if let Some(slot) = slot {
            copy.corrupt(DB.as_ref(), slot * 4096 + 40, 1).unwrap();
        }
        let mut database = open(&copy, 4096).unwrap();
        assert_eq!(database.damaged_meta().is_some(), slot.is_some());
        audit(&copy, &database);
        assert!(dump(&database.view()).unwrap() == model);
        database.commit(rows(&[("a", "1")])).unwrap();
        audit(&copy, &database);
    }
}

#[test]
fn one_view_pins_no_more_than_its_own_pages() {
    let mut history = History::new(4096);
    let batch = |value: u8| {
        let mut batch = Batch::default();
        batch.create_bucket(b"key");
        for row in 0..2_000 {
            batch.put(b"key", revision(row).into(), vec![value; 256].into());
        }
        batch
    };
    let old = history.database.commit(batch(1)).unwrap();
    let size = old.size_bytes();
    for value in 2..20 {
        history.database.commit(batch(value)).unwrap();
        audit(&history.disk, &history.database);
    }
    // The old state, the newest and the one under way.
    assert!(history.database.view().size_bytes() < size * 3 + size / 4);
    let mut rows = BTreeMap::new();
    for row in old.scan(b"key", b"") {
        let (key, value) = row.unwrap();
        rows.insert(key, value[0]);
    }
    assert!(rows.len() == 2_000 && rows.values().all(|value| *value == 1));
}

#[test]
fn readers_beside_the_writer_see_one_state_each() {
    const ROWS: u64 = 200;
    const COMMITS: u64 = 150;
    let disk = Faulty::new(1);
    let mut options = options(4096);
    // So small that readers and writer contend for the file and the cache alike.
    options.cache_bytes = 16 * 10 * 4096;
    let mut database = Database::open(&disk, DB.as_ref(), options).unwrap();
    let batch = |commit: u64| {
        let mut batch = Batch::default();
        batch.create_bucket(b"key");
        for row in 0..ROWS {
            let len = 100 + (row * commit) % 500;
            let value = commit.to_be_bytes().repeat(len as usize / 8);
            batch.put(b"key", revision(row).into(), value.into());
        }
        batch
    };
    let published = parking_lot::Mutex::new(database.commit(batch(0)).unwrap());
    let read = || {
        let mut seen = 0;
        while seen < COMMITS {
            let view = published.lock().clone();
            let mut rows = view.scan(b"key", b"").map(|row| row.unwrap().1[..8].to_vec());
            let first = rows.next().unwrap();
            assert!(rows.all(|row| row == first));
            let mut lookup = view.lookup(b"key");
            for row in 0..ROWS {
                assert_eq!(lookup.get(&revision(row)).unwrap().unwrap()[..8], first);
            }
            let mut number = [0; 8];
            number.copy_from_slice(&first);
            assert!(u64::from_be_bytes(number) >= seen, "time runs forward");
            seen = u64::from_be_bytes(number);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(read);
        }
        for commit in 1..=COMMITS {
            *published.lock() = database.commit(batch(commit)).unwrap();
        }
    });
    audit(&disk, &database);
}
