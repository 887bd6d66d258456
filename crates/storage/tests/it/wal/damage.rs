//! Bytes that are not as they were written: rot is refused with a line that says where, a torn end
//! is cut off and said, and nothing else is ever returned than what was appended.

use std::path::PathBuf;

use arbtest::arbitrary::{Result, Unstructured};
use base::Rng;
use proto::raftpb;
use storage::REMEDY;
use storage::disk::{Disk, Faulty, Image};
use storage::wal::{self, Opened};

use super::{beginning, create, dir, entry, new_disk, open, random_entry, snapshot, state};

/// The index of the last entry of a sample.
const LAST: u64 = 17;

/// A closed log of several segments, whose last record is small, and its entries and states.
struct Sample {
    image: Image,
    entries: Vec<raftpb::Entry>,
    states: Vec<raftpb::HardState>,
}

fn sample(last: &[u8]) -> Sample {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let (mut rng, mut entries, mut states) = (Rng::new(3), Vec::new(), Vec::new());
    for index in 1..=LAST {
        let more = match index {
            LAST => entry(2, index, last),
            // Zeros over more than a sector: what a lost write would look like too.
            5 | 10 | 15 => entry(1, index, &[0; 1100]),
            7 => raftpb::Entry { data: None, ..entry(1, index, b"") },
            _ => random_entry(&mut rng, 1, index, 350),
        };
        let state = state(more.term(), 1, index - 1);
        wal.append(std::slice::from_ref(&more), Some(&state).filter(|_| index < LAST)).unwrap();
        if index == 4 {
            wal.save_snapshot(&snapshot(3, 1)).unwrap();
        }
        wal.sync().unwrap();
        entries.push(more);
        if index < LAST {
            states.push(state);
        }
    }
    wal.close().unwrap();
    let segments = disk.list(dir()).unwrap();
    assert!(segments.len() >= 3, "{segments:?}");
    Sample { image: disk.live_image(), entries, states }
}

impl Sample {
    fn disk(&self) -> Faulty {
        Faulty::from_image(&self.image, 0).unwrap()
    }

    /// The segments with their lengths, ascending.
    fn segments(&self) -> Vec<(PathBuf, u64)> {
        let wal = |path: &PathBuf| path.extension().is_some_and(|end| end == "wal");
        let files = self.image.files.iter().filter(|(path, _)| wal(path));
        files.map(|(path, blob)| (path.clone(), blob.len())).collect()
    }

    fn is_whole(&self, opened: &Opened) -> bool {
        opened.entries == self.entries && Some(&opened.hard_state) == self.states.last()
    }

    /// Whether the log is what was appended up to some record.
    fn is_prefix(&self, opened: &Opened) -> bool {
        let none = raftpb::HardState::default();
        self.entries.starts_with(&opened.entries)
            && self.states.iter().chain([&none]).any(|state| *state == opened.hard_state)
    }
}

/// The error names a segment, and an offset within it.
fn names_file_and_offset(error: &wal::Error) -> bool {
    let text = error.to_string();
    text.starts_with("/data/member/wal/00000000")
        && text.contains(".wal: damaged at byte ")
        && text.ends_with(REMEDY)
        && !text.contains('\n')
}

/// Not every bit, to be fast, but every place of a bit within a byte.
const EVERY_BIT: usize = 7;

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    // The last record fits in its sector, or reaches over the end of it.
    for (last, segments) in [(b"last".as_slice(), 9), (&[7; 700], 1)] {
        let sample = sample(last);
        let (mut refused, mut harmless) = (0, 0);
        for (path, len) in sample.segments().into_iter().rev().take(segments) {
            for bit in (0..len * 8).step_by(EVERY_BIT) {
                let disk = sample.disk();
                disk.corrupt(&path, bit / 8, 1 << (bit % 8)).unwrap();
                match open(&disk, &beginning()) {
                    Ok(opened) => {
                        assert!(sample.is_whole(&opened), "{} bit {bit}: silent", path.display());
                        harmless += 1;
                    }
                    Err(error) => {
                        assert!(names_file_and_offset(&error), "{error}");
                        refused += 1;
                    }
                }
            }
        }
        // Harmless are bits of padding, and of the space reserved at the end.
        assert!(refused > 8_000 / EVERY_BIT && harmless > 100 / EVERY_BIT, "{refused} {harmless}");
    }
}

#[test]
fn every_cut_of_the_tail_is_repaired_or_refused() {
    let sample = sample(&[7; 700]);
    let segments = sample.segments();
    let (tail, len) = segments.last().unwrap();
    let (mut repaired, mut refused) = (0, 0);
    for cut in 0..*len {
        let mut image = sample.image.clone();
        image.files.get_mut(tail).unwrap().set_len(cut);
        let before = image.files[tail].clone();
        let disk = Faulty::from_image(&image, 0).unwrap();
        match open(&disk, &beginning()) {
            Ok(Opened { repaired: Some(repair), entries, .. }) => {
                repaired += 1;
                assert!(sample.entries.starts_with(&entries) && entries.len() < LAST as usize);
                assert_eq!((&repair.path, repair.offset < cut), (tail, true));
                assert_eq!(disk.read(&repair.copy).unwrap(), before.to_vec());
            }
            Ok(opened) => assert!(sample.is_prefix(&opened)),
            Err(error) => {
                refused += 1;
                assert!(names_file_and_offset(&error), "{error}");
            }
        }
    }
    // Refused are those that end in the head of the segment, which is synced before it is named.
    assert!(repaired > 500 && (16..100).contains(&refused), "{repaired} {refused}");
    for (path, len) in &segments[..segments.len() - 1] {
        for cut in 0..*len {
            let mut image = sample.image.clone();
            image.files.get_mut(path).unwrap().set_len(cut);
            let disk = Faulty::from_image(&image, 0).unwrap();
            let error = open(&disk, &beginning()).map(|_| ()).unwrap_err();
            assert!(names_file_and_offset(&error), "{error}");
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_said() {
    let sample = sample(&[7; 700]);
    let tail = sample.segments().pop().unwrap().0;
    let mut image = sample.image.clone();
    let bytes = image.files[&tail].to_vec();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    // The sector in which the last record ends was lost.
    let sector = end / 512 * 512;
    image.files.get_mut(&tail).unwrap().write(&[0; 512], sector);
    let disk = Faulty::from_image(&image, 0).unwrap();
    let opened = open(&disk, &beginning()).unwrap();
    let repair = opened.repaired.as_ref().unwrap();
    let path = tail.display();
    assert_eq!(
        repair.to_string(),
        format!(
            "{path}: torn at byte {}: the checksum of a record does not match; the unfinished write \
             was cut off, the file as it was is {path}.broken",
            repair.offset,
        ),
    );
    assert_eq!(opened.entries, sample.entries[..LAST as usize - 1]);
    assert!(disk.read(&tail).unwrap()[repair.offset as usize..].iter().all(|byte| *byte == 0));
    drop(opened);
    assert_eq!(open(&disk, &beginning()).unwrap().repaired, None, "once is enough");
}

#[test]
fn a_flipped_bit_is_refused_where_etcd_would_cut_off() {
    let disk = new_disk();
    let mut wal = create(&disk).unwrap();
    let path = wal.tail_path().to_owned();
    // Zero sectors in a record: etcd takes it for torn, and drops it with all that follows.
    wal.append(&[entry(1, 1, &[0; 1100])], Some(&state(1, 1, 1))).unwrap();
    wal.append(&[entry(1, 2, b"acknowledged")], Some(&state(1, 1, 2))).unwrap();
    wal.close().unwrap();
    let bytes = disk.read(&path).unwrap();
    let zeros = bytes.windows(1100).position(|window| window == [0; 1100]).unwrap();
    let refusal = |offset: u64| {
        let disk = Faulty::from_image(&disk.live_image(), 0).unwrap();
        disk.corrupt(&path, offset, 0x40).unwrap();
        let error = open(&disk, &beginning()).map(|_| ()).unwrap_err().to_string();
        error.strip_prefix(path.to_str().unwrap()).unwrap().to_owned()
    };
    assert_eq!(
        refusal(zeros as u64 + 20),
        format!(": damaged at byte 64: one bit of a record is wrong; {REMEDY}"),
    );
    // A length beyond the end of the file, which a torn end has too.
    assert_eq!(
        refusal(64 + 2),
        format!(": damaged at byte 64: one bit of a length is wrong; {REMEDY}"),
    );
}

fn overwrite(u: &mut Unstructured<'_>, sample: &Sample) -> Result<()> {
    let mut image = sample.image.clone();
    for _ in 0..u.int_in_range(1..=3)? {
        let (path, len) = u.choose(&sample.segments())?.clone();
        let bytes: Vec<u8> = match u.int_in_range(0..=2)? {
            0 => vec![0; u.int_in_range(1..=1500)?],
            1 => vec![0xff; u.int_in_range(1..=30)?],
            _ => {
                let count = u.int_in_range(1..=40)?;
                u.bytes(count)?.to_vec()
            }
        };
        image.files.get_mut(&path).unwrap().write(&bytes, u.int_in_range(0..=len)?);
    }
    let disk = Faulty::from_image(&image, 0).unwrap();
    _ = wal::snapshots(&disk, dir());
    if let Ok(opened) = open(&disk, &beginning()) {
        assert!(sample.is_prefix(&opened), "invented");
        let short = !sample.is_whole(&opened);
        // Zeros over the whole end of a log are indistinguishable from its end.
        let shortened = opened.entries.len() < LAST as usize && opened.repaired.is_none();
        assert!(!shortened || disk.list(dir()).unwrap().len() >= 3 && short);
    }
    Ok(())
}

#[test]
fn garbage_never_panics_and_never_invents() {
    let sample = sample(b"last");
    arbtest::arbtest(|u| overwrite(u, &sample)).budget_ms(2_000);
}

#[test]
fn bits_that_flip_while_reading_are_noticed() {
    let sample = sample(b"last");
    let mut refused = 0;
    for seed in 0..300 {
        let disk = Faulty::from_image(&sample.image, seed).unwrap();
        disk.flip_reads(3);
        match open(&disk, &beginning()) {
            Ok(opened) => assert!(sample.is_whole(&opened), "seed {seed}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_gap_and_strange_records_are_refused() {
    let (sample, disk) = (sample(b"last"), new_disk());
    let segments = sample.segments();
    let mut image = sample.image.clone();
    image.files.remove(&segments[1].0);
    let error =
        open(&Faulty::from_image(&image, 0).unwrap(), &beginning()).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("a segment is missing before this one, number 0000000000000001")
    );
    // Opened at a snapshot whose entries follow later than they should.
    let mut wal = create(&disk).unwrap();
    wal.append(&[entry(1, 1, b"a")], Some(&state(1, 1, 1))).unwrap();
    wal.save_snapshot(&snapshot(5, 1)).unwrap();
    wal.append(&[entry(1, 6, b"b")], None).unwrap();
    wal.close().unwrap();
    let error = open(&disk, &beginning()).map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "/data/member/wal/0000000000000000-0000000000000000.wal: damaged at byte 152: entry 6 \
             follows entry 1; {REMEDY}"
        ),
    );
    assert_eq!(open(&disk, &snapshot(5, 1)).unwrap().entries, [entry(1, 6, b"b")]);
    // A term that the snapshot does not have.
    let error = open(&disk, &snapshot(5, 2)).map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("damaged at byte 120: the snapshot at index 5 has term 1, not 2"),
        "{error}"
    );
}
