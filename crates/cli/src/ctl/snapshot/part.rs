//! The file that a snapshot is in until it is whole.
//!
//! *Invariants.* Of all that go through here one has it, from its opening until it is renamed or
//! removed: the lock is on the open file, and it counts only while that file is the one at the
//! path. Only its owner may read it. A link at the path is not followed.
//!
//! *Absent.* Protection from programs that take no lock, such as etcdctl; but a file that they have
//! put in its place is not taken for it.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::go;

/// How often the file may vanish between its opening and its locking: each time another run ends.
const ATTEMPTS_MAX: usize = 10;
/// The whole keyspace is in it.
const MODE: u32 = 0o600;

pub(super) struct Part {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Part {
    /// Opens the file, which may have been left by a run that was killed. The error is a text.
    pub(super) fn open(path: PathBuf) -> Result<Part, String> {
        let shown = path.display().to_string();
        let failed = |step: &str, error: io::Error| {
            format!("could not open {shown} ({step} {shown}: {})", go::os_error(&error))
        };
        for _ in 0..ATTEMPTS_MAX {
            let mut options = OpenOptions::new();
            let flags = OFlags::NOFOLLOW.bits().cast_signed();
            let options = options.write(true).create(true).mode(MODE).custom_flags(flags);
            let file = options.open(&path).map_err(|error| failed("open", error))?;
            // Other errors are those of filesystems without locks, which get their backups, too.
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                break;
            }
            let part = Part { file, path: path.clone() };
            if part.is_in_place() {
                let private = part.file.set_permissions(Permissions::from_mode(MODE));
                private.map_err(|error| failed("chmod", error))?;
                return Ok(part);
            }
        }
        Err(format!("could not open {shown}: another snapshot is being saved there"))
    }

    /// Whether what is at the path is this file.
    fn is_in_place(&self) -> bool {
        let found =
            std::fs::symlink_metadata(&self.path).and_then(|at| Ok((at, self.file.metadata()?)));
        found.is_ok_and(|(at, own)| (at.dev(), at.ino()) == (own.dev(), own.ino()))
    }

    /// Gives the file its name, as Go does: not onto a directory.
    pub(super) fn rename(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Err(rustix::io::Errno::EXIST.into());
        }
        if !self.is_in_place() {
            return Err(io::Error::other("another program has replaced it"));
        }
        std::fs::rename(&self.path, path)
    }

    /// Removes the file, unless it has its name already.
    pub(super) fn remove(self) {
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn one_has_the_file_until_it_is_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, whole) = (dir.path().join("s.part"), dir.path().join("s"));
        let first = Part::open(path.clone()).unwrap();
        let reason = Part::open(path.clone()).err().unwrap();
        let shown = path.display();
        assert_eq!(
            reason,
            format!("could not open {shown}: another snapshot is being saved there")
        );
        first.rename(&whole).unwrap();
        // The lock is still held, but on what is no part any more.
        let second = Part::open(path.clone()).unwrap();
        first.remove();
        assert!(path.exists() && whole.exists());
        second.remove();
        assert!(!path.exists() && whole.exists());
    }

    #[test]
    fn what_was_left_becomes_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.part");
        std::fs::write(&path, "left").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let part = Part::open(path.clone()).unwrap();
        assert_eq!(mode(&path), MODE);
        part.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("s.part"), dir.path().join("target"));
        std::fs::write(&target, "dear").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        let reason = Part::open(path.clone()).err().unwrap();
        assert!(reason.ends_with("s.part: too many levels of symbolic links)"), "{reason}");
        assert_eq!(std::fs::read(&target).unwrap(), b"dear");
        assert!(path.is_symlink());
    }

    #[test]
    fn what_another_program_put_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, whole) = (dir.path().join("s.part"), dir.path().join("s"));
        let part = Part::open(path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not this").unwrap();
        assert!(part.rename(&whole).is_err());
        part.remove();
        assert_eq!(std::fs::read(&path).unwrap(), b"not this");
        assert!(!whole.exists());
    }
}
