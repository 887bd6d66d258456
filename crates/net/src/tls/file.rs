//! A value that is read from files, and read again when they change.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::TlsError;
use base::go::error_text;

/// Bytes of a file of certificates, keys or revocations.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A file that changed this short a time ago may change again without a visible difference.
const RESTLESS: Duration = Duration::from_secs(2);

/// How a file looks from outside. The time is that of the kernel's own note of a change: tools
/// that copy files set the other one, of the last writing, to whatever it was elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    changed_seconds: i64,
    changed_nanoseconds: i64,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn is_young(&self, now: SystemTime) -> bool {
        let seconds = u64::try_from(self.changed_seconds).unwrap_or_default();
        let nanoseconds = u32::try_from(self.changed_nanoseconds).unwrap_or_default();
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        // A time to come is that of a clock that was set back, and would make it young for long.
        now.duration_since(changed).is_ok_and(|age| age < RESTLESS)
    }
}

/// What makes a value of the contents of the files.
type Parse<T> = dyn Fn(&[Vec<u8>]) -> Result<T, TlsError> + Send + Sync;

/// The value of some files.
pub(super) struct Reloaded<T> {
    paths: Vec<String>,
    parse: Box<Parse<T>>,
    last: Mutex<Option<Last<T>>>,
}

struct Last<T> {
    stamps: Vec<Stamp>,
    is_restless: bool,
    value: Result<Arc<T>, TlsError>,
}

/// What reading gave.
pub(super) struct Read<T> {
    pub(super) value: Result<Arc<T>, TlsError>,
    /// Whether it is another value, or another failure, than the time before.
    pub(super) is_news: bool,
}

impl<T> Reloaded<T> {
    pub(super) fn new(
        paths: Vec<String>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Self {
        Self { paths, parse: Box::new(parse), last: Mutex::new(None) }
    }

    /// The value of the files as they are now.
    pub(super) fn read(&self) -> Read<T> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.paths.iter().map(|path| stamp(path)).collect::<Result<Vec<_>, _>>();
        let stamps = stamps.unwrap_or_default();
        if let Some(last) = last.as_ref()
            && !last.is_restless
            && !stamps.is_empty()
            && last.stamps == stamps
        {
            return Read { value: last.value.clone(), is_news: false };
        }
        let now = SystemTime::now();
        let is_restless = stamps.iter().any(|stamp| stamp.is_young(now));
        let contents = self.paths.iter().map(|path| contents(path)).collect::<Result<Vec<_>, _>>();
        let value = contents.and_then(|contents| (self.parse)(&contents)).map(Arc::new);
        let is_news = match (last.as_ref(), &value) {
            (Some(Last { value: Err(before), .. }), Err(now)) => before != now,
            (Some(last), Ok(_)) => last.value.is_err() || last.stamps != stamps,
            _ => true,
        };
        *last = Some(Last { stamps, is_restless, value: value.clone() });
        Read { value, is_news }
    }
}

fn stamp(path: &str) -> std::io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        changed_seconds: metadata.ctime(),
        changed_nanoseconds: metadata.ctime_nsec(),
        bytes: metadata.len(),
        inode: metadata.ino(),
    })
}

/// What a file holds.
pub(super) fn contents(path: &str) -> Result<Vec<u8>, TlsError> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(TlsError(format!("read {path}: more than {FILE_BYTES_MAX} bytes")))
        }
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            // A directory can be opened, and nothing more.
            let at_reading = error.kind() == std::io::ErrorKind::IsADirectory;
            let step = if at_reading { "read" } else { "open" };
            Err(TlsError(format!("{step} {path}: {}", error_text(&error))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_keeps_its_time_of_writing_is_seen_to_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file").display().to_string();
        let long_ago = SystemTime::now() - Duration::from_secs(1_000);
        let write = |contents: &str| {
            fs::write(&path, contents).expect("written");
            let file = fs::File::options().append(true).open(&path).expect("a file");
            file.set_modified(long_ago).expect("a time");
            stamp(&path).expect("a stamp")
        };
        let first = write("one");
        assert!(first.is_young(SystemTime::now()));
        assert!(!first.is_young(long_ago), "what is to come is not young");
        // The clock of the file system ticks slowly.
        while write("two") == first {
            std::thread::yield_now();
        }
    }
}
