//! A snapshot comes in: to the disk first, then to the node.
//!
//! *Contract.* The steps of `server::member::network`, one after another in the same order.

use std::io;

use base::LogIndex;
use node::Input;
use proto::raftpb::Message;
use storage::disk::Open;

use super::Member;

/// Bytes of a snapshot that are written between two syncs.
const UNSYNCED_MAX: usize = 64 << 10;

/// Major and minor of the version that members are.
const SERVER_VERSION: (u64, u64) = (3, 7);

/// The entry that a `MsgSnap` stands at.
pub(super) fn index_of(message: &Message) -> LogIndex {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    LogIndex(metadata.map_or(0, |metadata| metadata.index()))
}

impl Member {
    /// Takes a snapshot in. Says why nothing came of it.
    pub fn receive(&mut self, message: Message, file: &[u8]) -> Result<(), String> {
        let index = index_of(&message);
        let (disk, snap) = (&self.place.disk, self.place.dir.snap());
        self.received += 1;
        let path = snap.join(format!("tmp{:016x}-{}", index.0, self.received));
        let received = self.place.dir.received(index);
        let tell = |error: io::Error| error.to_string();
        let opened = disk.open(&path, Open::Truncate).map_err(tell)?;
        for (number, piece) in file.chunks(UNSYNCED_MAX).enumerate() {
            opened.write_all_at(piece, (number * UNSYNCED_MAX) as u64).map_err(tell)?;
            opened.sync_data().map_err(tell)?;
        }
        if disk.exists(&received).map_err(tell)? {
            disk.remove(&path).map_err(tell)?;
        } else {
            let verified = worker::verify_received(&self.place, &path, index, SERVER_VERSION);
            if let Err(error) = verified {
                disk.remove(&path).map_err(tell)?;
                return Err(error.to_string());
            }
            disk.rename(&path, &received).map_err(tell)?;
            disk.sync_dir(&snap).map_err(tell)?;
        }
        self.inbox.push_back(Input::SnapshotReceived { message: Box::new(message) });
        Ok(())
    }
}
