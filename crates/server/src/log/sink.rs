//! Where lines are written: a stream that the process was given, or a file.
//!
//! *Invariants.* 1. A line begins at the start of a line, also after one that was torn by a full
//! disk. 2. A file that was moved away or removed is opened again under its name within
//! [`LOOK_INTERVAL`], so that a rotation from outside needs no signal.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::outlet::Entry;

/// How often to look whether a file is still the one under its name.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How often to try a stream again that does not wait itself.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Writes lines, on a thread of its own: it may wait.
pub(super) trait Sink: Send {
    /// Writes a line. After an error the line is not there, or only its beginning.
    fn write(&mut self, entry: &Entry) -> io::Result<()>;
}

/// Bytes that end in whole lines.
pub(super) struct Lines<W> {
    to: W,
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    pub(super) const fn new(to: W) -> Self {
        Self { to, is_torn: false }
    }

    /// Writes a whole line, and waits for a stream that takes nothing now.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.all(b"\n")?;
        }
        self.all(line)
    }

    fn all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process made the terminal so that it does not wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Sink for Lines<File> {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        Self::write(self, &entry.bytes)
    }
}

/// The standard error of the process, without the lock that others would wait for.
pub(super) fn stderr() -> io::Result<Box<dyn Sink>> {
    stream(&io::stderr())
}

/// The standard output of the process.
pub(super) fn stdout() -> io::Result<Box<dyn Sink>> {
    stream(&io::stdout())
}

fn stream(of: &impl AsFd) -> io::Result<Box<dyn Sink>> {
    let file = File::from(of.as_fd().try_clone_to_owned()?);
    Ok(Box::new(Lines::new(file)))
}

/// A file by its name.
pub(super) struct Named {
    path: PathBuf,
    lines: Lines<File>,
    looked: Instant,
}

impl Named {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let lines = Lines::new(append(path)?);
        Ok(Self { path: path.to_owned(), lines, looked: Instant::now() })
    }

    fn look(&mut self) {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.looked = Instant::now();
        if is_elsewhere(&self.lines.to, &self.path)
            // Otherwise the lines go on into the file that there is.
            && let Ok(file) = append(&self.path)
        {
            self.lines = Lines::new(file);
        }
    }
}

impl Sink for Named {
    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        self.look();
        self.lines.write(&entry.bytes)
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the name leads to another file than this one, or to none.
pub(super) fn is_elsewhere(file: &File, path: &Path) -> bool {
    let Ok(here) = file.metadata() else { return false };
    let kind = here.file_type();
    if kind.is_char_device() || kind.is_fifo() {
        return false;
    }
    match std::fs::metadata(path) {
        Ok(there) => (here.dev(), here.ino()) != (there.dev(), there.ino()),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}
