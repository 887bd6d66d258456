//! Segments of the log: bytes changed as rot and power losses do, and records changed with their
//! chain of checksums made right again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate};
use prost::Message as _;
use prost::encoding::{decode_varint, encode_varint};
use proto::{raftpb, walpb};
use storage::REMEDY;
use storage::disk::{Blob, Disk, Faulty, Image};
use storage::wal::{self, Error, Opened, Options, Wal};

const DIR: &str = "/data/member/wal";
const OPTIONS: Options = Options { segment_bytes: 1_500, sync: true };

const METADATA: u8 = 1;
const ENTRY: u8 = 2;
const STATE: u8 = 3;
const CRC: u8 = 4;
const SNAPSHOT: u8 = 5;

fn new_disk() -> Faulty {
    let disk = Faulty::new(0);
    disk.create_dir_all(Path::new(DIR).parent().unwrap()).unwrap();
    disk
}

fn entry(term: u64, index: u64, data: &[u8]) -> raftpb::Entry {
    let data = Some(Bytes::copy_from_slice(data));
    raftpb::Entry { r#type: Some(0), term: Some(term), index: Some(index), data }
}

fn state(term: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term: Some(term), vote: Some(1), commit: Some(commit) }
}

fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = Some(raftpb::ConfState { voters: vec![1], ..Default::default() });
    walpb::Snapshot { index: Some(index), term: Some(term), conf_state }
}

fn beginning() -> walpb::Snapshot {
    walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None }
}

/// A log of a few segments as it was written, and what was appended to it.
struct Sample {
    files: Vec<(PathBuf, Vec<u8>)>,
    entries: Vec<raftpb::Entry>,
}

fn sample() -> Sample {
    let disk = new_disk();
    let (shared, dir) = (Arc::new(disk.clone()), Path::new(DIR));
    let mut wal = Wal::create(shared, dir, Bytes::from_static(b"\x08\x01"), OPTIONS).unwrap();
    let mut entries = Vec::new();
    for index in 1..=24 {
        // Payloads without, with some and with many zeros.
        let more = entry(1 + index / 9, index, &vec![(index % 3) as u8; index as usize * 17 % 400]);
        let hard_state = state(more.term(), index - 1);
        wal.append(std::slice::from_ref(&more), Some(&hard_state)).unwrap();
        if index == 6 {
            wal.save_snapshot(&snapshot(5, 1)).unwrap();
        }
        wal.sync().unwrap();
        entries.push(more);
    }
    wal.close().unwrap();
    let paths = disk.list(dir).unwrap().into_iter().map(|name| dir.join(name));
    let mut files: Vec<_> = paths.map(|path| (path.clone(), disk.read(&path).unwrap())).collect();
    assert!(files.len() > 2);
    // Of what is reserved at the end, a little is enough.
    let tail = &mut files.last_mut().unwrap().1;
    let end = tail.iter().rposition(|byte| *byte != 0).unwrap();
    tail.truncate(end + 900);
    Sample { files, entries }
}

fn disk_of(files: &[(PathBuf, Vec<u8>)]) -> Faulty {
    let mut image: Image = new_disk().live_image();
    image.directories.push(DIR.into());
    image.files.extend(files.iter().map(|(path, bytes)| (path.clone(), Blob::new(bytes))));
    Faulty::from_image(&image, 0).unwrap()
}

/// One line that names the file or the directory, where it is, and what to do.
fn check_error(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with(DIR) && text.ends_with(REMEDY) && !text.contains('\n'), "{text}");
    if let Error::Corrupt { .. } = error {
        assert!(text.contains(".wal: damaged at byte "), "{text}");
    }
}

/// Opens a log; what was opened goes on, and is found again.
fn open(disk: &Faulty, at: &walpb::Snapshot) -> std::result::Result<Opened, Error> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIR), at, OPTIONS)
}

fn go_on(disk: &Faulty, at: &walpb::Snapshot) -> Option<Vec<raftpb::Entry>> {
    let Opened { mut wal, entries, hard_state, .. } = match open(disk, at) {
        Ok(opened) => opened,
        Err(error) => {
            check_error(&error);
            return None;
        }
    };
    for (entry, index) in entries.iter().zip(at.index() + 1..) {
        assert_eq!(entry.index(), index, "a gap");
    }
    let mut expected = entries.clone();
    let last = wal.last_index().0;
    let more = entry(hard_state.term().max(1), last + 1, &[7; 40]);
    // Behind a snapshot record beyond the last entry there is nothing to go on from.
    if at.index() + entries.len() as u64 == last && last + 1 < u64::MAX {
        wal.append(std::slice::from_ref(&more), None).unwrap();
        expected.push(more);
    }
    wal.close().unwrap();
    let again = open(disk, at).unwrap();
    assert_eq!((&again.entries, again.hard_state), (&expected, hard_state));
    assert_eq!(again.repaired, None, "mended once");
    Some(entries)
}

/// How much damage is found by looking at all segments, which changes nothing.
fn look(disk: &Faulty) -> usize {
    let before = disk.live_image();
    let survey = wal::survey(disk, Path::new(DIR)).unwrap();
    survey.damage().for_each(check_error);
    assert_eq!(disk.live_image(), before);
    survey.damage().count()
}

#[test]
fn damaged_segments_are_refused_or_a_beginning() {
    let sample = sample();
    fuzz("wal, bytes", |u| {
        let mut files = sample.files.clone();
        for _ in 0..u.int_in_range(1..=2)? {
            // Rather the last one: damage to the others is seldom harmless.
            let at = if u.arbitrary()? { files.len() - 1 } else { u.choose_index(files.len())? };
            mutate(u, &mut files[at].1)?;
        }
        if u.ratio(1, 20)? {
            let at = u.choose_index(files.len())?;
            files.remove(at);
        }
        let disk = disk_of(&files);
        if let Err(error) = wal::snapshots(&disk, Path::new(DIR)) {
            check_error(&error);
        }
        let damage = look(&disk);
        let read = wal::read(&disk, Path::new(DIR), &beginning()).map(|contents| contents.entries);
        let found = go_on(&disk, &beginning());
        if let Some(found) = &found {
            assert_eq!(damage, 0, "a log that can be opened");
            assert_eq!(read.as_ref().ok(), Some(found), "who only reads");
            assert!(sample.entries.starts_with(found), "{} entries, invented", found.len());
        }
        Ok(Verdict::of(&found.ok_or(())))
    });
}

/// A record: its type, and its data if it has any.
type Record = (u8, Option<Vec<u8>>);

fn records_of(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<8>() {
        let length = u64::from_le_bytes(*length);
        let (len, padding) = ((length & !(0xff << 56)) as usize, (length >> 56 & 7) as usize);
        if len == 0 {
            break;
        }
        let (mut record, rest) = rest.split_at(len);
        let kind = record[1];
        record = &record[3..];
        decode_varint(&mut record).unwrap();
        let data = record.split_first().map(|(_, mut rest)| {
            decode_varint(&mut rest).unwrap();
            rest.to_vec()
        });
        records.push((kind, data));
        bytes = &rest[padding..];
    }
    records
}

/// Frames with the checksums that they should have.
fn frames(records: &[Record], crc: &mut u32, bytes: &mut Vec<u8>) {
    for (kind, data) in records {
        *crc = crc32c::crc32c_append(*crc, data.as_deref().unwrap_or_default());
        let mut record = vec![0x08, *kind, 0x10];
        encode_varint(u64::from(*crc), &mut record);
        if let Some(data) = data {
            record.push(0x1a);
            encode_varint(data.len() as u64, &mut record);
            record.extend_from_slice(data);
        }
        let len = record.len() as u64;
        let padding = len.next_multiple_of(8) - len;
        let top = if padding == 0 { 0 } else { 0x80 | padding };
        bytes.extend_from_slice(&(len | top << 56).to_le_bytes());
        bytes.extend_from_slice(&record);
        bytes.extend(std::iter::repeat_n(0, padding as usize));
    }
}

/// Another record of a known type, its numbers close to those of the log or far off.
fn new_record(u: &mut Unstructured<'_>) -> Result<Record> {
    let number = |u: &mut Unstructured<'_>| {
        if u.ratio(3, 4)? { u.int_in_range(0..=30) } else { int(u) }
    };
    let (one, other) = (number(u)?, number(u)?);
    let kind = u.int_in_range(METADATA..=SNAPSHOT)?;
    let data = match kind {
        ENTRY => {
            let kind = u.int_in_range(0..=3)?;
            raftpb::Entry { r#type: Some(kind), ..entry(one, other, b"new") }.encode_to_vec()
        }
        STATE => state(one, other).encode_to_vec(),
        CRC => return Ok((CRC, None)),
        SNAPSHOT => snapshot(one, other).encode_to_vec(),
        _ => b"\x08\x01".to_vec(),
    };
    Ok((kind, Some(data)))
}

fn change(u: &mut Unstructured<'_>, records: &mut Vec<Record>) -> Result<()> {
    let at = u.int_in_range(0..=records.len())?;
    if at == records.len() || u.ratio(1, 3)? {
        records.insert(at, new_record(u)?);
        return Ok(());
    }
    match u.int_in_range(0..=4)? {
        0 => records[at].0 = u.int_in_range(0..=6)?,
        1 => drop(records.remove(at)),
        2 => {
            let to = u.choose_index(records.len())?;
            records.swap(at, to);
        }
        3 => records[at] = new_record(u)?,
        _ => {
            let data = records[at].1.get_or_insert_default();
            mutate(u, data)?;
        }
    }
    Ok(())
}

#[test]
fn strange_records_are_refused_or_a_log() {
    let sample = sample();
    let segments: Vec<_> = sample.files.iter().map(|(_, bytes)| records_of(bytes)).collect();
    // What is written again without a change is what was there.
    let mut crc = 0;
    for ((_, before), records) in sample.files.iter().zip(&segments) {
        let mut after = Vec::new();
        frames(records, &mut crc, &mut after);
        assert!(before.starts_with(&after) && before[after.len()..].iter().all(|byte| *byte == 0));
    }
    fuzz("wal, records", |u| {
        let (mut segments, mut files, mut crc) = (segments.clone(), sample.files.clone(), 0);
        for _ in 0..u.int_in_range(0..=4)? {
            let at = u.choose_index(segments.len())?;
            change(u, &mut segments[at])?;
        }
        for ((path, bytes), records) in files.iter_mut().zip(&segments) {
            bytes.clear();
            frames(records, &mut crc, bytes);
            if u.ratio(1, 10)? {
                let (sequence, first) = (int(u)?, int(u)?);
                *path = Path::new(DIR).join(format!("{sequence:016x}-{first:016x}.wal"));
            }
        }
        if u.ratio(1, 4)? {
            let at = u.choose_index(files.len())?;
            mutate(u, &mut files[at].1)?;
        }
        let disk = disk_of(&files);
        let mut at = beginning();
        match wal::snapshots(&disk, Path::new(DIR)) {
            Ok(mut found) if !found.is_empty() && u.arbitrary()? => {
                at = found.swap_remove(u.choose_index(found.len())?);
            }
            Ok(_) => {}
            Err(error) => check_error(&error),
        }
        look(&disk);
        let read = wal::read(&disk, Path::new(DIR), &at).map(|contents| contents.entries);
        let found = go_on(&disk, &at);
        if found.is_some() {
            assert_eq!(read.ok(), found, "who only reads");
        }
        Ok(Verdict::of(&found.ok_or(())))
    });
}

/// Opens the log made of these records after its head.
fn opened(records: &[Record], at: &walpb::Snapshot) -> std::result::Result<Opened, Error> {
    let (mut bytes, mut crc) = (Vec::new(), 0);
    let head = [(CRC, None), (METADATA, Some(b"\x08\x01".to_vec()))];
    frames(&[&head[..], records].concat(), &mut crc, &mut bytes);
    let path = Path::new(DIR).join(format!("{:016x}-{:016x}.wal", 0, 0));
    open(&disk_of(&[(path, bytes)]), at)
}

fn refusal(records: &[Record], at: &walpb::Snapshot) -> String {
    let error = opened(records, at).map(drop).unwrap_err();
    check_error(&error);
    error.to_string()
}

#[test]
fn the_end_of_the_numbers_is_refused() {
    let last = snapshot(u64::MAX, 1);
    let records = [
        (SNAPSHOT, Some(last.encode_to_vec())),
        (STATE, Some(state(1, u64::MAX).encode_to_vec())),
        (ENTRY, Some(entry(1, u64::MAX, b"").encode_to_vec())),
    ];
    assert!(refusal(&records[..1], &last).contains("no index is left"), "a snapshot at the end");
    assert!(refusal(&records, &last).contains("no index is left"));
    let at = snapshot(u64::MAX - 1, 1);
    let records = [(SNAPSHOT, Some(at.encode_to_vec())), records[2].clone()];
    assert!(refusal(&records, &at).contains("no index is left"), "an entry at the end");
}

#[test]
fn numbers_of_segments_end_somewhere() {
    let names = [(u64::MAX, 0), (0, 1)].map(|(sequence, first): (u64, u64)| {
        Path::new(DIR).join(format!("{sequence:016x}-{first:016x}.wal"))
    });
    let disk = disk_of(&names.map(|path| (path, Vec::new())));
    check_error(&open(&disk, &beginning()).map(drop).unwrap_err());
    check_error(&wal::snapshots(&disk, Path::new(DIR)).unwrap_err());
}

#[test]
fn groups_in_a_record_take_no_stack() {
    for kind in [STATE, SNAPSHOT] {
        let line = refusal(&[(kind, Some(vec![b'{'; 2 << 20]))], &beginning());
        assert!(line.contains("nests deeper"), "{line}");
    }
}
