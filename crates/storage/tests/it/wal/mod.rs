//! The log as a whole: against a model, through power losses, under damage, beside etcd's own.

mod crash;
mod damage;
mod fixture;
mod limits;
mod model;
mod received;

use std::path::Path;
use std::sync::Arc;

use base::Rng;
use bytes::Bytes;
use proto::{raftpb, walpb};
use storage::disk::{Disk, Faulty};
use storage::wal::{self, Opened, Options, Wal};

const DIR: &str = "/data/member/wal";
const METADATA: &[u8] = b"\x08\x01\x10\x02";
/// Small, so that a few records cut it.
const OPTIONS: Options = Options { segment_bytes: 2000, sync: true };

fn dir() -> &'static Path {
    Path::new(DIR)
}

/// A disk with a durable data directory.
fn new_disk() -> Faulty {
    let disk = Faulty::new(0);
    disk.create_dir_all(dir().parent().unwrap()).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new("/data")).unwrap();
    disk
}

fn create(disk: &Faulty) -> Result<Wal, wal::Error> {
    Wal::create(Arc::new(disk.clone()), dir(), Bytes::from_static(METADATA), OPTIONS)
}

fn open(disk: &Faulty, at: &walpb::Snapshot) -> Result<Opened, wal::Error> {
    Wal::open(Arc::new(disk.clone()), dir(), at, OPTIONS)
}

fn entry(term: u64, index: u64, data: &[u8]) -> raftpb::Entry {
    raftpb::Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some(Bytes::copy_from_slice(data)),
    }
}

/// An entry of the term with a payload of up to `max` bytes, some of which are zeros.
fn random_entry(rng: &mut Rng, term: u64, index: u64, max: u64) -> raftpb::Entry {
    let mut data = vec![0; rng.below(max + 1) as usize];
    if !rng.one_in(4) {
        data.iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
    }
    entry(term, index, &data)
}

fn state(term: u64, vote: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term: Some(term), vote: Some(vote), commit: Some(commit) }
}

fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = Some(raftpb::ConfState { voters: vec![1], ..Default::default() });
    walpb::Snapshot { index: Some(index), term: Some(term), conf_state }
}

/// The record that every log begins with.
fn beginning() -> walpb::Snapshot {
    walpb::Snapshot { index: Some(0), term: Some(0), conf_state: None }
}
