//! Files of the operating system.
//!
//! *Invariants.* New files have mode 0600, new directories 0700, both close on exec.
//!
//! *Contract.* `client/pkg/fileutil` of etcd v3.7.1: which lock guards which file, and what is
//! done on a file system that cannot reserve space.

use std::fs::{self, DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, File, Lock, Open};

/// The real file system.
#[derive(Debug, Default, Clone, Copy)]
pub struct Real;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

impl Disk for Real {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match how {
            Open::Read => {}
            Open::Write => _ = options.write(true),
            Open::Create => _ = options.write(true).create(true).truncate(false),
            Open::Truncate => _ = options.write(true).create(true).truncate(true),
        }
        let file = options.open(path)?;
        // Unlike for writing, the system opens these for reading, and gives them a length.
        if how == Open::Read && file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(PathBuf::from(entry?.file_name()));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // What stands above a relative path of one name is nothing, by name.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn unwritten(&self, offset: u64) -> io::Result<Range<u64>> {
        let len = self.len()?;
        let Some(start) = seek(&self.0, offset, Seek::Hole)?.filter(|at| *at < len) else {
            return Ok(len..len);
        };
        let end = seek(&self.0, start, Seek::Data)?.unwrap_or(len);
        Ok(start..end.max(start))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match reserve(&self.0, len) {
            // The file system cannot reserve: a file of zeros that may run out of space later.
            Err(error) if error.kind() == io::ErrorKind::Unsupported && self.len()? < len => {
                self.0.set_len(len)
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self, lock: Lock) -> io::Result<()> {
        match lock {
            Lock::Ofd => lock_description(&self.0, false),
            Lock::OfdShared => lock_description(&self.0, true),
            Lock::Flock => locked(self.0.try_lock()),
            Lock::FlockShared => locked(self.0.try_lock_shared()),
        }
    }
}

/// `fallocate` from the start to `len`, extending the file.
#[cfg(target_os = "linux")]
fn reserve(file: &fs::File, len: u64) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};

    let len = i64::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Ok(()) => return Ok(()),
            // A signal; the kernel keeps what it has reserved, so that the loop makes progress.
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &fs::File, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[derive(Clone, Copy)]
enum Seek {
    Hole,
    Data,
}

/// The next hole (the end of the file is one) or data from `offset` on; `None` when there is none,
/// or no telling. Space that was reserved and never written is a hole, except for what of it is in
/// the page cache.
#[cfg(target_os = "linux")]
fn seek(file: &fs::File, offset: u64, what: Seek) -> io::Result<Option<u64>> {
    use nix::errno::Errno;
    use nix::unistd::{Whence, lseek64};

    let start = i64::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let whence = match what {
        Seek::Hole => Whence::SeekHole,
        Seek::Data => Whence::SeekData,
    };
    // The file's own position moves, which nobody uses.
    match lseek64(file, start, whence) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn seek(_: &fs::File, _: u64, _: Seek) -> io::Result<Option<u64>> {
    Ok(None)
}

fn locked(result: Result<(), TryLockError>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A record lock over the whole file, owned by the open file description: unlike a
/// POSIX lock it excludes other descriptors of this process, and outlives their closing.
#[cfg(target_os = "linux")]
fn lock_description(file: &fs::File, shared: bool) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;

    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
        Err(errno) => Err(errno.into()),
    }
}

/// Systems without such locks: etcd falls back to `flock` there too.
#[cfg(not(target_os = "linux"))]
fn lock_description(file: &fs::File, shared: bool) -> io::Result<()> {
    locked(if shared { file.try_lock_shared() } else { file.try_lock() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn locks_exclude_within_the_process_and_end_with_the_handle() {
        let dir = tempfile::tempdir().unwrap();
        for lock in [Lock::Ofd, Lock::Flock] {
            let path = dir.path().join(format!("{lock:?}"));
            let first = Real.open(&path, Open::Create).unwrap();
            let second = Real.open(&path, Open::Write).unwrap();
            first.try_lock(lock).unwrap();
            assert_eq!(second.try_lock(lock).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            // Closing another descriptor of the file must not end the lock (as POSIX ones do).
            drop(Real.open(&path, Open::Read).unwrap());
            assert_eq!(second.try_lock(lock).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(first);
            second.try_lock(lock).unwrap();
        }
    }

    #[test]
    fn readers_share_and_keep_writers_out() {
        let dir = tempfile::tempdir().unwrap();
        for (shared, alone) in [(Lock::FlockShared, Lock::Flock), (Lock::OfdShared, Lock::Ofd)] {
            let path = dir.path().join(format!("{alone:?}"));
            let first = Real.open(&path, Open::Create).unwrap();
            let second = Real.open(&path, Open::Read).unwrap();
            let writer = Real.open(&path, Open::Write).unwrap();
            first.try_lock(shared).unwrap();
            second.try_lock(shared).unwrap();
            drop(first);
            assert_eq!(writer.try_lock(alone).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(second);
            writer.try_lock(alone).unwrap();
        }
    }

    #[test]
    fn allocation_extends_and_never_cuts() {
        let dir = tempfile::tempdir().unwrap();
        let file = Real.open(&dir.path().join("a"), Open::Create).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        file.allocate(10).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 20);
        let mut bytes = [1; 5];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"abc\0\0");
        let end = file.read_exact_at(&mut bytes, (1 << 20) - 4).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_never_written_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = Real.open(&dir.path().join("a"), Open::Create).unwrap();
        file.allocate(1 << 22).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(b"far", 3 << 20).unwrap();
        // What is known to be unwritten is the file system's business; what was written is not.
        for from in [0, 4, 1 << 20, 3 << 20, (3 << 20) + 2, (1 << 22) - 1, 1 << 22] {
            let hole = file.unwritten(from).unwrap();
            assert!(from <= hole.start && hole.start <= hole.end && hole.end <= 1 << 22);
            assert!(!hole.contains(&3) && !hole.contains(&(3 << 20)), "{hole:?} from {from}");
        }
    }

    #[test]
    fn names_modes_and_order() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, mode) = (dir.path().join("x/y"), |path: &Path| {
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        });
        Real.create_dir_all(&inner).unwrap();
        for name in ["b", "a", "c"] {
            Real.open(&inner.join(name), Open::Truncate).unwrap();
        }
        assert_eq!((mode(&inner), mode(&inner.join("a"))), (0o700, 0o600));
        Real.rename(&inner.join("c"), &inner.join("0")).unwrap();
        Real.remove(&inner.join("b")).unwrap();
        Real.sync_dir(&inner).unwrap();
        Real.sync_dir(Path::new("log").parent().unwrap()).unwrap();
        assert_eq!(Real.list(&inner).unwrap(), [PathBuf::from("0"), PathBuf::from("a")]);
        assert!(Real.open(&inner.join("b"), Open::Write).is_err());
        for how in [Open::Read, Open::Write] {
            let refused = Real.open(&inner, how).err().map(|error| error.kind());
            assert_eq!(refused, Some(io::ErrorKind::IsADirectory));
        }
        Real.remove_dir_all(&dir.path().join("x")).unwrap();
        assert!(!Real.exists(&inner).unwrap());
    }
}
