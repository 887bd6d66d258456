//! Cuts a torn end off, after keeping a copy of it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::error::{Doing, Error};
use super::segment::Segment;
use crate::disk::{Disk, File, Open};

/// Bytes copied at once.
const CHUNK_BYTES: u64 = 256 * 1024;

/// A torn end that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub path: PathBuf,
    /// Its new length: the end of the last record that is whole.
    pub offset: u64,
    /// A copy of the segment as it was.
    pub copy: PathBuf,
    /// What was wrong.
    pub reason: &'static str,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: torn at byte {}: {}; the unfinished write was cut off, the file as it was is {}",
            self.path.display(),
            self.offset,
            self.reason,
            self.copy.display()
        )
    }
}

/// Copies the segment to `<name>.broken`, cuts it at `offset`, and makes both durable.
pub(super) fn cut_off(
    disk: &dyn Disk,
    dir: &Path,
    segment: &Segment,
    offset: u64,
    reason: &'static str,
) -> Result<Repair, Error> {
    let mut name = segment.path.clone().into_os_string();
    name.push(".broken");
    let copy = PathBuf::from(name);
    let target = disk.open(&copy, Open::Truncate).doing("create", &copy)?;
    copy_sparse(&*segment.file, &*target).doing("copy the torn log to", &copy)?;
    target.sync_data().doing("sync", &copy)?;
    disk.sync_dir(dir).doing("sync", dir)?;
    segment.file.set_len(offset).doing("cut", &segment.path)?;
    segment.file.sync_data().doing("sync", &segment.path)?;
    Ok(Repair { path: segment.path.clone(), offset, copy, reason })
}

/// Reserves space up to the size of a segment, which is zero. A full disk is no reason not to
/// open: writes will say so.
pub(super) fn reserve_rest(segment: &Segment, segment_bytes: u64) -> Result<(), Error> {
    match segment.file.allocate(segment_bytes) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(()),
        other => other.doing("reserve space for", &segment.path),
    }
}

/// Copies a file, leaving out chunks of zeros.
fn copy_sparse(source: &dyn File, target: &dyn File) -> io::Result<()> {
    let len = source.len()?;
    target.set_len(len)?;
    let mut buffer = vec![0; len.min(CHUNK_BYTES) as usize];
    let mut at = 0;
    while at < len {
        let count = (len - at).min(CHUNK_BYTES);
        let chunk = &mut buffer[..count as usize];
        source.read_exact_at(chunk, at)?;
        if chunk.iter().any(|byte| *byte != 0) {
            target.write_all_at(chunk, at)?;
        }
        at += count;
    }
    Ok(())
}
