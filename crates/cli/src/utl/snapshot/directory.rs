//! Makes a member's directory, all of it or nothing.
//!
//! ```text
//!  DIR/member.tmp/snap/{db, *.snap}                      ─► DIR/member/
//!                 wal/*.wal   or   WAL-DIR.tmp/*.wal     ─► WAL-DIR/      before that
//! ```
//!
//! *Invariants.* Under their own names the directories appear whole and durable. A log that is
//! there without the rest (killed between two renames) is refused by every member, ours or
//! etcd's; the rest without its log would be taken by etcd for the start of a new member, while
//! ours refuses that, too.

use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};

use storage::disk::{Disk as _, Real};
use storage::wal;

use crate::failure::{Failure, Outcome};
use crate::go;
use crate::utl::fail;

/// A directory being made. What was made is removed again unless [`Directory::publish`] is called.
pub(in crate::utl) struct Directory {
    root: PathBuf,
    log: Log,
    /// The directories above those under way that this made, outermost first.
    parents: Vec<PathBuf>,
    /// Whether those under way are this one's to remove.
    under_way: bool,
}

/// Where the log is to be.
enum Log {
    /// In the member's directory, by the rest of its path.
    Inside(PathBuf),
    Elsewhere(PathBuf),
}

impl Log {
    fn new(root: &Path, wal: &Path) -> io::Result<Self> {
        let member = path::absolute(root.join("member"))?;
        Ok(match path::absolute(wal)?.strip_prefix(member) {
            Ok(rest) => Self::Inside(rest.to_owned()),
            Err(_) => Self::Elsewhere(wal.to_owned()),
        })
    }

    /// The directory, if it is given its name for itself.
    fn elsewhere(&self) -> Option<&Path> {
        match self {
            Self::Inside(_) => None,
            Self::Elsewhere(wal) => Some(wal),
        }
    }
}

/// Names what was attempted on what.
fn cannot(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let text = format!("cannot {action} {}", path.display());
    move |error| fail(format!("{text}: {}", go::os_error(&error)))
}

impl Directory {
    /// Begins to make the directory `root`, with the log at `wal`.
    pub(in crate::utl) fn begin(root: &Path, wal: &Path) -> Outcome<Self> {
        let log = Log::new(root, wal).map_err(cannot("find", wal))?;
        if let Log::Inside(rest) = &log
            && (rest.as_os_str().is_empty() || rest.starts_with("snap"))
        {
            return Err(fail(format!("wal-dir {} is where the database is to be", wal.display())));
        }
        let mut this = Self { root: root.to_owned(), log, parents: Vec::new(), under_way: false };
        this.create_parents(root)?;
        let (member, wal, snap) = (this.member(), this.wal(), this.snap());
        for path in [&member, &wal, &wal::temporary_dir(&wal)] {
            if path.symlink_metadata().is_ok() {
                return Err(fail(format!("{} is in the way", path.display())));
            }
        }
        this.under_way = true;
        Real.create_dir_all(&snap).map_err(cannot("create", &snap))?;
        if let Some(parent) = wal.parent() {
            this.create_parents(parent)?;
        }
        Ok(this)
    }

    /// Creates a directory and those above it, and makes their names durable.
    fn create_parents(&mut self, path: &Path) -> Outcome {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .collect();
        for path in missing.into_iter().rev() {
            Real.create_dir_all(path).map_err(cannot("create", path))?;
            self.parents.push(path.to_owned());
            sync_parent(path)?;
        }
        Ok(())
    }

    fn member(&self) -> PathBuf {
        self.root.join("member.tmp")
    }

    /// Where the database and the snapshot file are made.
    pub(in crate::utl) fn snap(&self) -> PathBuf {
        self.member().join("snap")
    }

    /// Where the log is made.
    pub(in crate::utl) fn wal(&self) -> PathBuf {
        match &self.log {
            Log::Inside(rest) => self.member().join(rest),
            Log::Elsewhere(wal) => {
                let mut name = wal.as_os_str().to_owned();
                name.push(".restored");
                PathBuf::from(name)
            }
        }
    }

    /// Gives everything its name. The files in it are synced, and the directories that hold them.
    pub(in crate::utl) fn publish(mut self) -> Outcome {
        let member = self.member();
        Real.sync_dir(&member).map_err(cannot("sync", &member))?;
        let name = self.root.join("member");
        let log = self.publish_log()?;
        let renamed = log
            .map_or(Ok(()), sync_parent)
            .and_then(|()| Real.rename(&member, &name).map_err(cannot("rename", &member)));
        if let Err(failure) = renamed {
            if let Some(log) = log {
                let _ = fs::remove_dir_all(log);
            }
            return Err(failure);
        }
        self.under_way = false;
        self.parents.clear();
        sync_parent(&name)
    }
}

impl Directory {
    /// Gives a log elsewhere its name, under which it is this one's. What is there after a failure
    /// is somebody else's.
    fn publish_log(&self) -> Outcome<Option<&Path>> {
        let Some(wal) = self.log.elsewhere() else { return Ok(None) };
        let made = self.wal();
        Real.rename(&made, wal).map_err(cannot("rename", &made))?;
        Ok(Some(wal))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The failure that led here is the one to tell.
        if self.under_way {
            let wal = self.wal();
            for path in [self.member(), wal::temporary_dir(&wal), wal] {
                let _ = fs::remove_dir_all(path);
            }
        }
        for parent in self.parents.iter().rev() {
            // Not if somebody has put something there meanwhile.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Makes the name of a file or directory durable.
fn sync_parent(path: &Path) -> Outcome {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    Real.sync_dir(parent).map_err(cannot("sync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_somebody_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal) = (dir.path().join("data"), dir.path().join("log"));
        let directory = Directory::begin(&root, &wal).unwrap();
        let made = directory.wal();
        fs::create_dir(&made).unwrap();
        // It comes after it was looked for.
        fs::create_dir(&wal).unwrap();
        fs::write(wal.join("0.wal"), "theirs").unwrap();
        let told = directory.publish().unwrap_err().text;
        assert!(told.contains("cannot rename"), "{told}");
        assert_eq!(fs::read(wal.join("0.wal")).unwrap(), b"theirs");
        assert!(!root.exists() && !made.exists());
    }

    #[test]
    fn a_log_of_ours_goes_with_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal) = (dir.path().join("data"), dir.path().join("log"));
        let directory = Directory::begin(&root, &wal).unwrap();
        fs::create_dir(directory.wal()).unwrap();
        fs::create_dir(root.join("member")).unwrap();
        fs::write(root.join("member/db"), "theirs").unwrap();
        directory.publish().unwrap_err();
        assert!(!wal.exists());
        assert_eq!(fs::read(root.join("member/db")).unwrap(), b"theirs");
    }
}
