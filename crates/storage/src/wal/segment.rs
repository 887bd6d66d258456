//! The files of a log: their names, and which of them a reader needs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::LogIndex;

use super::error::{Doing, Error};
use crate::disk::{Disk, File, Lock, Open};

/// The names of a segment that lies ready. There are two, so that a new one never has the name of
/// the last one.
pub(super) const SPARES: [&str; 2] = ["0.tmp", "1.tmp"];

/// What a segment's name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// Counts the segments of this log from 0.
    pub(super) sequence: u64,
    /// The first entry that may be in it.
    pub(super) first: LogIndex,
}

impl Name {
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}-{:016x}.wal", self.sequence, self.first.0))
    }

    fn parse(name: &Path) -> Option<Self> {
        let (sequence, first) = name.to_str()?.strip_suffix(".wal")?.split_once('-')?;
        // Another segment must be able to follow.
        let sequence = hex(sequence).filter(|sequence| *sequence < u64::MAX)?;
        Some(Self { sequence, first: LogIndex(hex(first)?) })
    }
}

/// Sixteen hexadecimal digits, as in every file name of a member.
pub(crate) fn hex(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// An open segment. While it is locked no purge may remove it.
pub(super) struct Segment {
    pub(super) name: Name,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
}

/// All segments in a directory, ascending. Other files (`0.tmp`, `*.broken`) are passed over.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Name>> {
    if !disk.exists(dir)? {
        return Ok(Vec::new());
    }
    let mut names: Vec<Name> =
        disk.list(dir)?.iter().filter_map(|name| Name::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// Something that the making of a log does not leave in its directory: neither a segment nor one
/// that lies ready. The copy of a torn segment is such a thing, too: it says that a log was here.
/// What is no directory is a stranger itself.
pub(crate) fn stranger(disk: &dyn Disk, dir: &Path) -> io::Result<Option<PathBuf>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Some(dir.into())),
        names => names?,
    };
    let is_spare = |name: &Path| SPARES.iter().any(|spare| name == Path::new(spare));
    let is_own = |name: &PathBuf| Name::parse(name).is_some() || is_spare(name);
    Ok(names.into_iter().find(|name| !is_own(name)).map(|name| dir.join(name)))
}

/// The segments that hold everything after `index`, without a gap.
pub(super) fn needed(names: Vec<Name>, dir: &Path, index: LogIndex) -> Result<Vec<Name>, Error> {
    // From the newest: overwritten entries may let a later segment begin at a lower index.
    let Some(start) = names.iter().rposition(|name| name.first <= index) else {
        return Err(Error::NoSegment { dir: dir.to_owned(), index });
    };
    check_sequence(&names[start..], dir)?;
    Ok(names[start..].to_vec())
}

/// Refuses a gap in the numbers.
pub(super) fn check_sequence(names: &[Name], dir: &Path) -> Result<(), Error> {
    for pair in names.windows(2) {
        let expected = pair[0].sequence + 1;
        if pair[1].sequence != expected {
            return Err(Error::MissingSegment { path: pair[1].path(dir), expected });
        }
    }
    Ok(())
}

/// Opens segments for reading only, which needs no lock.
pub(super) fn open_to_read(
    disk: &dyn Disk,
    dir: &Path,
    names: &[Name],
) -> Result<Vec<Segment>, Error> {
    let open = |name: &Name| {
        let path = name.path(dir);
        let file = disk.open(&path, Open::Read).doing("open", &path)?;
        Ok(Segment { name: name.clone(), path, file })
    };
    names.iter().map(open).collect()
}

/// Opens segments for writing and takes their locks.
pub(super) fn open_to_write(
    disk: &dyn Disk,
    dir: &Path,
    names: &[Name],
) -> Result<Vec<Segment>, Error> {
    let open = |name: &Name| {
        let path = name.path(dir);
        let file = disk.open(&path, Open::Write).doing("open", &path)?;
        lock(&*file, &path)?;
        Ok(Segment { name: name.clone(), path, file })
    };
    names.iter().map(open).collect()
}

/// Takes etcd's lock of a segment.
pub(super) fn lock(file: &dyn File, path: &Path) -> Result<(), Error> {
    take_lock(file, path, Lock::Ofd)
}

/// Takes it alone, or with others that only read.
pub(super) fn take_lock(file: &dyn File, path: &Path, lock: Lock) -> Result<(), Error> {
    match file.try_lock(lock) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Error::Locked { path: path.to_owned() })
        }
        other => other.doing("lock", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Faulty;

    fn names(all: &[(u64, u64)]) -> Vec<Name> {
        all.iter()
            .map(|(sequence, first)| Name { sequence: *sequence, first: LogIndex(*first) })
            .collect()
    }

    #[test]
    fn names_are_etcds() {
        let name = Name { sequence: 26, first: LogIndex(0x1_0000) };
        let path = name.path(Path::new("/w"));
        assert_eq!(path, Path::new("/w/000000000000001a-0000000000010000.wal"));
        assert_eq!(Name::parse(Path::new(path.file_name().unwrap())), Some(name));
        for other in [
            "0.tmp",
            "000000000000001a-0000000000010000.wal.broken",
            "1-2.wal",
            "db",
            "+00000000000001a-0000000000010000.wal",
            "ffffffffffffffff-0000000000010000.wal",
        ] {
            assert_eq!(Name::parse(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn only_what_the_making_of_a_log_leaves_makes_room_for_one() {
        let dir = Path::new("/w");
        let found = |names: &[&str]| {
            let disk = Faulty::new(0);
            disk.create_dir_all(dir).unwrap();
            for name in names {
                disk.open(&dir.join(name), Open::Create).unwrap();
            }
            stranger(&disk, dir).unwrap()
        };
        let segment = "0000000000000000-0000000000000000.wal";
        assert_eq!(stranger(&Faulty::new(0), dir).unwrap(), None);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&["0.tmp", "1.tmp", segment]), None);
        let broken = format!("{segment}.broken");
        for other in ["2.tmp", "00.tmp", "thesis.tmp", &broken, "db"] {
            assert_eq!(found(&["0.tmp", other]), Some(dir.join(other)), "{other}");
        }
    }

    #[test]
    fn the_newest_segment_that_may_hold_the_entry_is_first() {
        let all = names(&[(0, 0), (1, 101), (2, 56), (3, 90)]);
        let pick =
            |index| needed(all.clone(), Path::new("/w"), LogIndex(index)).unwrap()[0].sequence;
        assert_eq!(
            [pick(0), pick(55), pick(56), pick(89), pick(90), pick(500)],
            [0, 0, 2, 2, 3, 3]
        );
        let gap = needed(names(&[(4, 0), (6, 10)]), Path::new("/w"), LogIndex(5)).unwrap_err();
        assert_eq!(
            gap.to_string(),
            format!(
                "/w/0000000000000006-000000000000000a.wal: a segment is missing before this one, \
                 number 0000000000000005; {}",
                crate::REMEDY
            ),
        );
        let none = needed(names(&[(4, 7)]), Path::new("/w"), LogIndex(5)).unwrap_err();
        let text =
            format!("/w: no segment holds the entry after snapshot index 5; {}", crate::REMEDY);
        assert_eq!(none.to_string(), text);
    }
}
