//! Files that are not as they should be.

use base::Rng;

use super::*;
use crate::disk::{Disk, Open};

fn sample() -> (Faulty, Model) {
    let disk = Faulty::new(1);
    let mut model = Model::new();
    let mut database = open(&disk, 4096).unwrap();
    let mut rng = Rng::new(11);
    for _ in 0..25 {
        let batch = random_batch(&mut rng, &mut model, 40);
        database.commit(batch).unwrap();
    }
    (disk, model)
}

/// What a damaged file leads to: an error that names file and place, or the right content.
fn check(disk: &Faulty, model: &Model, what: &str) -> Option<Error> {
    let result = open(disk, 4096).and_then(|database| dump(&database.view()));
    match result {
        Ok(found) => {
            assert!(found == *model, "{what}: wrong data");
            None
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("/db: damaged at byte "), "{what}: {line}");
            Some(error)
        }
    }
}

#[test]
fn a_flipped_bit_in_a_page_header_never_gives_wrong_data() {
    let (disk, model) = sample();
    let reached: Vec<u64> = {
        let database = open(&disk, 4096).unwrap();
        let view = database.view();
        let pages = super::super::reach::walk(&database.pager, view.meta()).unwrap().pages;
        (2..view.meta().high_water).filter(|id| pages.contains(*id)).collect()
    };
    let bytes = disk.read(DB.as_ref()).unwrap();
    let (mut refused, mut tried) = (0, 0);
    for id in reached {
        let offset = id * 4096;
        if bytes[offset as usize..][..8] != id.to_le_bytes() {
            continue; // The rest of a large page.
        }
        for bit in 0..16 * 8 {
            // All bits of the first pages, some of the others.
            if id > 12 && bit % 11 != id % 11 {
                continue;
            }
            let disk = Faulty::from_image(&disk.live_image(), 1).unwrap();
            disk.corrupt(DB.as_ref(), offset + bit / 8, 1 << (bit % 8)).unwrap();
            tried += 1;
            if let Some(error) = check(&disk, &model, &format!("page {id}, bit {bit}")) {
                refused += 1;
                let Error::Corrupt { offset: found, .. } = error else { panic!("{error}") };
                // Wrong overflow shows at the page that is claimed twice.
                assert!(bit >= 96 || found / 4096 == id, "page {id}, bit {bit}: {error}");
            }
        }
    }
    assert!(refused * 100 > tried * 95, "{refused} of {tried}");
}

#[test]
fn a_flipped_bit_in_a_meta_page_falls_back_to_the_other() {
    let (disk, model) = sample();
    let slot = open(&disk, 4096).unwrap().slot;
    for at in 0..80 {
        if (10..16).contains(&at) {
            continue;
        }
        let broken = Faulty::from_image(&disk.live_image(), 1).unwrap();
        broken.corrupt(DB.as_ref(), (1 - slot) * 4096 + at, 0x10).unwrap();
        let database = open(&broken, 4096).unwrap();
        let damaged = database.damaged_meta().unwrap().to_string();
        assert!(damaged.starts_with("/db: damaged at byte "), "{damaged}");
        assert!(dump(&database.view()).unwrap() == model);
        drop(database);
        broken.corrupt(DB.as_ref(), slot * 4096 + at, 0x10).unwrap();
        let error = check(&broken, &model, "both").unwrap();
        assert!(matches!(error, Error::Corrupt { offset: 0..4096, .. }), "{error}");
    }
}

#[test]
fn random_damage_never_panics() {
    let (disk, _) = sample();
    let len = disk.read(DB.as_ref()).unwrap().len() as u64;
    let mut rng = Rng::new(3);
    for _ in 0..300 {
        let broken = Faulty::from_image(&disk.live_image(), 1).unwrap();
        for _ in 0..1 + rng.below(8) {
            // Elements stand near the beginning of a page.
            let at = rng.below(len / 4096) * 4096 + rng.below(400);
            broken.corrupt(DB.as_ref(), at, (1 + rng.below(255)) as u8).unwrap();
        }
        let Ok(mut database) = open(&broken, 4096) else { continue };
        let _ = dump(&database.view());
        let _ = database.commit(random_batch(&mut rng, &mut Model::new(), 30));
    }
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let (disk, model) = sample();
    let size = open(&disk, 4096).unwrap().view().size_bytes();
    for len in [1, 79, 4096, 5000, 8192, size - 1] {
        let cut = Faulty::from_image(&disk.live_image(), 1).unwrap();
        cut.open(DB.as_ref(), Open::Write).unwrap().set_len(len).unwrap();
        check(&cut, &model, &format!("cut to {len}")).unwrap();
    }
    // An empty file is what a creation that was killed leaves: a new database.
    let empty = Faulty::from_image(&disk.live_image(), 1).unwrap();
    empty.open(DB.as_ref(), Open::Write).unwrap().set_len(0).unwrap();
    assert!(dump(&open(&empty, 4096).unwrap().view()).unwrap().is_empty());
}
