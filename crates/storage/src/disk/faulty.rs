//! A disk in memory that knows what is safe, and can stop, lose, tear, lie, fill up and rot.
//!
//! ```text
//!  write, set_len, allocate --> live bytes   --sync_data--> durable bytes
//!  create, rename, remove   --> live names   --sync_dir---> durable names
//!                                    |                          |
//!                                    +------- image(rng) <------+
//! ```
//!
//! [`Faulty::image`] draws what a power loss at this moment would leave: every unsynced change of
//! a file is kept, lost or torn at sectors of 512 bytes, each for itself; of the unsynced names of
//! a directory a prefix is kept, because file systems keep names in a journal.
//!
//! *Invariants.*
//! 1. The same seed, operations and draws give the same disk, error for error.
//! 2. Bytes and names that are durable are in every image.
//! 3. After a failed sync of a file no later sync of it makes anything durable, whatever it
//!    returns: the kernel has forgotten which pages were dirty.
//!
//! *Absent.* Renames between directories, links, permissions; freeing of memory before the disk is
//! dropped.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use base::Rng;
use nix::errno::Errno;
use parking_lot::Mutex;

use super::image::{Blob, Image};
use super::{Disk, File, Lock, Open};

/// What a disk writes at once: either all of it arrives or nothing.
const SECTOR: u64 = 512;

/// In what a kernel takes a write.
const PAGE: u64 = 4096;

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct Faulty(Arc<Mutex<State>>);

struct State {
    inodes: Vec<Inode>,
    next_handle: u64,
    /// Operations so far that change or sync something.
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    capacity_bytes: Option<u64>,
    /// How many syncs succeed before one fails.
    syncs_until_failure: Option<u64>,
    sync_failed: bool,
    /// Errors given so far, but for those after a crash.
    errors: u64,
    /// How many writes succeed before one fails half done.
    writes_until_failure: Option<u64>,
    sync_is_a_lie: bool,
    flip_one_read_in: Option<u64>,
    /// Bytes asked for by the largest read.
    largest_read: usize,
    rng: Rng,
}

/// An index into `State::inodes`; 0 is the root directory.
type InodeId = usize;

enum Inode {
    File(FileNode),
    Directory(DirectoryNode),
}

#[derive(Default)]
struct FileNode {
    live: Blob,
    durable: Blob,
    /// In order, what leads from `durable` to `live`.
    unsynced: Vec<Change>,
    /// A sync has failed: nothing becomes durable any more.
    abandoned: bool,
    /// Names and open handles: without any the file takes no space.
    references: usize,
    locks: BTreeMap<Lock, u64>,
}

enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Default)]
struct DirectoryNode {
    live: BTreeMap<OsString, InodeId>,
    durable: BTreeMap<OsString, InodeId>,
    /// In order, what leads from `durable` to `live`.
    unsynced: Vec<NameChange>,
}

enum NameChange {
    Put(OsString, InodeId),
    Remove(OsString),
    Rename(OsString, OsString),
}

impl Faulty {
    /// An empty disk. The seed decides the bits that [`Self::flip_reads`] flips.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            inodes: vec![Inode::Directory(DirectoryNode::default())],
            next_handle: 0,
            operations: 0,
            crash_at: None,
            crashed: false,
            capacity_bytes: None,
            syncs_until_failure: None,
            sync_failed: false,
            errors: 0,
            writes_until_failure: None,
            sync_is_a_lie: false,
            flip_one_read_in: None,
            largest_read: 0,
            rng: Rng::new(seed),
        })))
    }

    /// The disk after power has come back: what the image holds is durable.
    pub fn from_image(image: &Image, seed: u64) -> io::Result<Self> {
        let disk = Self::new(seed);
        {
            let mut state = disk.0.lock();
            for directory in &image.directories {
                state.create_directories(directory)?;
            }
            for (path, blob) in &image.files {
                let node =
                    FileNode { live: blob.clone(), durable: blob.clone(), ..FileNode::default() };
                state.add(path, Inode::File(node))?;
            }
            for inode in &mut state.inodes {
                if let Inode::Directory(directory) = inode {
                    directory.sync();
                }
            }
            state.operations = 0;
        }
        Ok(disk)
    }

    /// How many operations have changed or synced something (reads do not count).
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Lets the operation with this number (from 0) and all later ones fail, reads included.
    pub fn crash_at(&self, operation: u64) {
        self.0.lock().crash_at = Some(operation);
    }

    /// Lets everything fail from now on, reads included.
    pub fn stop_now(&self) {
        self.0.lock().crashed = true;
    }

    /// Whether the disk has stopped.
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Lets operations succeed again after a crash, with nothing lost: the process was killed, the
    /// machine went on.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        state.crash_at = None;
        state.crashed = false;
    }

    /// What a power loss at this moment could leave. Half of the draws mix; the others lose or
    /// keep everything that is not synced.
    pub fn image(&self, rng: &mut Rng) -> Image {
        let fate = match rng.below(8) {
            0 | 1 => Fate::Lose,
            2 | 3 => Fate::Keep,
            _ => Fate::Mix,
        };
        self.0.lock().image(fate, rng)
    }

    /// What a killed process leaves: everything written, synced or not.
    pub fn live_image(&self) -> Image {
        self.0.lock().image(Fate::Keep, &mut Rng::new(0))
    }

    /// Lets growing writes fail with `ENOSPC` when the lengths of all files would exceed this.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// What [`Self::set_capacity`] has set.
    pub fn capacity(&self) -> Option<u64> {
        self.0.lock().capacity_bytes
    }

    /// The lengths of all files that are there, together.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Lets one sync fail with `EIO`, after `successes` that succeed.
    pub fn fail_sync_after(&self, successes: u64) {
        self.0.lock().syncs_until_failure = Some(successes);
    }

    /// Lets one write fail with `EIO` after some of its pages, after `successes` that succeed.
    pub fn fail_write_after(&self, successes: u64) {
        self.0.lock().writes_until_failure = Some(successes);
    }

    /// How many operations failed because the disk was full, or told to fail.
    pub fn errors(&self) -> u64 {
        self.0.lock().errors
    }

    /// Whether a sync has failed, so that what was to be synced is only in memory for good.
    pub fn sync_failed(&self) -> bool {
        self.0.lock().sync_failed
    }

    /// From now on a sync succeeds and makes nothing durable: to prove that a crash test can fail.
    pub fn lie_about_syncs(&self) {
        self.0.lock().sync_is_a_lie = true;
    }

    /// Flips one bit in about one of `reads` reads.
    pub fn flip_reads(&self, reads: u64) {
        self.0.lock().flip_one_read_in = Some(reads);
    }

    /// How many bytes were read at once, at most.
    pub fn largest_read(&self) -> usize {
        self.0.lock().largest_read
    }

    /// Changes the bits of `mask` in the byte at `offset` of a file, for good.
    pub fn corrupt(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        let file = state.file(inode)?;
        file.live.flip(offset, mask);
        file.durable.flip(offset, mask);
        Ok(())
    }

    /// All bytes of a file as they are now.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        Ok(state.file(inode)?.live.to_vec())
    }
}

/// What becomes of the unsynced changes of an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lose,
    Keep,
    Mix,
}

impl State {
    /// Counts an operation, or refuses it because the disk has stopped.
    fn act(&mut self) -> io::Result<()> {
        self.alive()?;
        if self.crash_at == Some(self.operations) {
            self.crashed = true;
            return self.alive();
        }
        self.operations += 1;
        Ok(())
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the disk has stopped")) } else { Ok(()) }
    }

    fn file(&mut self, inode: InodeId) -> io::Result<&mut FileNode> {
        match &mut self.inodes[inode] {
            Inode::File(file) => Ok(file),
            Inode::Directory(_) => Err(Errno::EISDIR.into()),
        }
    }

    fn directory(&mut self, inode: InodeId) -> io::Result<&mut DirectoryNode> {
        match &mut self.inodes[inode] {
            Inode::Directory(directory) => Ok(directory),
            Inode::File(_) => Err(Errno::ENOTDIR.into()),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<InodeId> {
        let mut at = 0;
        for name in names(path)? {
            at = *self.directory(at)?.live.get(name).ok_or(Errno::ENOENT)?;
        }
        Ok(at)
    }

    /// The directory of `path` and the name in it.
    fn find_parent<'a>(&mut self, path: &'a Path) -> io::Result<(InodeId, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let parent = self.find(path.parent().unwrap_or(Path::new("/")))?;
        self.directory(parent)?;
        Ok((parent, name))
    }

    fn add(&mut self, path: &Path, inode: Inode) -> io::Result<InodeId> {
        let (parent, name) = self.find_parent(path)?;
        let id = self.inodes.len();
        self.inodes.push(inode);
        if let Inode::File(file) = &mut self.inodes[id] {
            file.references += 1;
        }
        self.directory(parent)?.change(NameChange::Put(name.to_owned(), id));
        Ok(id)
    }

    fn create_directories(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for name in names(path)? {
            at.push(name);
            match self.find(&at) {
                Ok(inode) => _ = self.directory(inode)?,
                Err(_) => {
                    self.act()?;
                    self.add(&at, Inode::Directory(DirectoryNode::default()))?;
                }
            }
        }
        Ok(())
    }

    /// Takes a name away; a directory is emptied first, one operation a name.
    fn unlink(&mut self, parent: InodeId, name: &OsStr) -> io::Result<()> {
        let inode = *self.directory(parent)?.live.get(name).ok_or(Errno::ENOENT)?;
        if let Inode::Directory(directory) = &self.inodes[inode] {
            for inner in directory.live.keys().cloned().collect::<Vec<_>>() {
                self.unlink(inode, &inner)?;
            }
        }
        self.act()?;
        if let Inode::File(file) = &mut self.inodes[inode] {
            file.references -= 1;
        }
        self.directory(parent)?.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    /// The lengths of all files that have a name or are open.
    fn used(&self) -> u64 {
        let lengths = self.inodes.iter().map(|inode| match inode {
            Inode::File(file) if file.references > 0 => file.live.len(),
            _ => 0,
        });
        lengths.sum()
    }

    /// How long `inode` may become when it wants `len`.
    fn space_for(&mut self, inode: InodeId, len: u64) -> io::Result<u64> {
        let Some(capacity) = self.capacity_bytes else { return Ok(len) };
        let own = self.file(inode)?.live.len();
        Ok(len.min(own + capacity.saturating_sub(self.used())))
    }

    fn set_len(&mut self, inode: InodeId, len: u64) -> io::Result<()> {
        if len > self.file(inode)?.live.len() && self.space_for(inode, len)? < len {
            return Err(self.fail(Errno::ENOSPC));
        }
        let file = self.file(inode)?;
        file.live.set_len(len);
        file.unsynced.push(Change::SetLen(len));
        Ok(())
    }

    fn write(&mut self, inode: InodeId, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(Errno::EFBIG)?;
        let mut fits = bytes.len();
        let fails = self.writes_until_failure == Some(0);
        self.writes_until_failure = match self.writes_until_failure {
            None | Some(0) => None,
            Some(left) => Some(left - 1),
        };
        if fails {
            // As far as whole pages went.
            let middle = offset + fits as u64 / 2;
            let whole = (middle / PAGE * PAGE).saturating_sub(offset);
            fits = fits.min(usize::try_from(whole).unwrap_or(0));
        }
        if end > self.file(inode)?.live.len() {
            // A full disk takes the part of a write that fits.
            let room = self.space_for(inode, end)?.saturating_sub(offset);
            fits = fits.min(usize::try_from(room).unwrap_or(usize::MAX));
        }
        if fits > 0 {
            let file = self.file(inode)?;
            file.live.write(&bytes[..fits], offset);
            file.unsynced.push(Change::Write { offset, bytes: bytes[..fits].to_vec() });
        }
        match () {
            () if fails => Err(self.fail(Errno::EIO)),
            () if fits < bytes.len() => Err(self.fail(Errno::ENOSPC)),
            () => Ok(()),
        }
    }

    /// An error that the disk was told to give.
    fn fail(&mut self, error: Errno) -> io::Error {
        self.errors += 1;
        error.into()
    }

    /// Whether a sync may do its work; `Ok(false)` when it only claims so.
    fn may_sync(&mut self) -> io::Result<bool> {
        self.act()?;
        match self.syncs_until_failure {
            Some(0) => {
                self.syncs_until_failure = None;
                self.sync_failed = true;
                return Err(self.fail(Errno::EIO));
            }
            Some(left) => self.syncs_until_failure = Some(left - 1),
            None => {}
        }
        Ok(!self.sync_is_a_lie)
    }

    fn image(&self, fate: Fate, rng: &mut Rng) -> Image {
        let mut image = Image::default();
        let mut pending = vec![(PathBuf::from("/"), 0)];
        while let Some((path, inode)) = pending.pop() {
            match &self.inodes[inode] {
                Inode::Directory(directory) => {
                    if inode != 0 {
                        image.directories.push(path.clone());
                    }
                    for (name, inner) in directory.survivors(fate, rng) {
                        pending.push((path.join(name), inner));
                    }
                }
                Inode::File(file) => _ = image.files.insert(path, file.survivors(fate, rng)),
            }
        }
        image.directories.sort_unstable();
        image
    }
}

impl FileNode {
    fn survivors(&self, fate: Fate, rng: &mut Rng) -> Blob {
        if fate == Fate::Keep {
            return self.live.clone();
        }
        let mut blob = self.durable.clone();
        if fate == Fate::Lose {
            return blob;
        }
        for change in &self.unsynced {
            let draw = rng.below(3);
            match change {
                _ if draw == 0 => {}
                Change::SetLen(len) => blob.set_len(*len),
                Change::Write { offset, bytes } if draw == 1 => blob.write(bytes, *offset),
                Change::Write { offset, bytes } => tear(&mut blob, *offset, bytes, rng),
            }
        }
        blob
    }
}

/// Writes some of the sectors; the file may have grown to the full length before they came.
fn tear(blob: &mut Blob, offset: u64, bytes: &[u8], rng: &mut Rng) {
    let end = offset + bytes.len() as u64;
    if end > blob.len() && rng.one_in(2) {
        blob.set_len(end);
    }
    let mut rest = bytes;
    let mut at = offset;
    while !rest.is_empty() {
        let in_sector = (SECTOR - at % SECTOR) as usize;
        let (sector, next) = rest.split_at(in_sector.min(rest.len()));
        if rng.one_in(2) {
            blob.write(sector, at);
        }
        at += sector.len() as u64;
        rest = next;
    }
}

impl DirectoryNode {
    fn change(&mut self, change: NameChange) {
        change.perform(&mut self.live);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.durable = self.live.clone();
        self.unsynced.clear();
    }

    fn survivors(&self, fate: Fate, rng: &mut Rng) -> BTreeMap<OsString, InodeId> {
        let kept = match fate {
            Fate::Keep => self.unsynced.len(),
            Fate::Lose => 0,
            Fate::Mix => rng.below(self.unsynced.len() as u64 + 1) as usize,
        };
        let mut names = self.durable.clone();
        self.unsynced[..kept].iter().for_each(|change| change.perform(&mut names));
        names
    }
}

impl NameChange {
    fn perform(&self, names: &mut BTreeMap<OsString, InodeId>) {
        match self {
            Self::Put(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Remove(name) => _ = names.remove(name),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(Ok(name)),
            Component::RootDir | Component::CurDir => None,
            Component::ParentDir | Component::Prefix(_) => Some(Err(Errno::EINVAL.into())),
        })
        .collect()
}

impl Disk for Faulty {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        state.alive()?;
        let inode = match state.find(path) {
            Ok(inode) => {
                if how == Open::Truncate && !state.file(inode)?.live.is_empty() {
                    state.act()?;
                    state.set_len(inode, 0)?;
                }
                inode
            }
            Err(_) if matches!(how, Open::Create | Open::Truncate) => {
                state.find_parent(path)?;
                state.act()?;
                state.add(path, Inode::File(FileNode::default()))?
            }
            Err(error) => return Err(error),
        };
        state.file(inode)?.references += 1;
        state.next_handle += 1;
        Ok(Arc::new(Handle {
            disk: self.clone(),
            inode,
            id: state.next_handle,
            writable: how != Open::Read,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        state.create_directories(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut state = self.0.lock();
        state.alive()?;
        let inode = state.find(path)?;
        Ok(state.directory(inode)?.live.keys().map(PathBuf::from).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.0.lock();
        state.alive()?;
        Ok(state.find(path).is_ok())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let (parent, old) = state.find_parent(from)?;
        let (target, new) = state.find_parent(to)?;
        if parent != target {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.find(from)?;
        let replaced = state.find(to).ok();
        if let Some(Inode::Directory(directory)) = replaced.map(|inode| &state.inodes[inode])
            && !directory.live.is_empty()
        {
            return Err(Errno::ENOTEMPTY.into());
        }
        state.act()?;
        if let Some(Inode::File(file)) = replaced.map(|inode| &mut state.inodes[inode]) {
            file.references -= 1;
        }
        state.directory(parent)?.change(NameChange::Rename(old.to_owned(), new.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        state.file(inode)?;
        let (parent, name) = state.find_parent(path)?;
        state.unlink(parent, name)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        state.directory(inode)?;
        let (parent, name) = state.find_parent(path)?;
        state.unlink(parent, name)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        if state.may_sync()? {
            state.directory(inode)?.sync();
        }
        Ok(())
    }
}

struct Handle {
    disk: Faulty,
    inode: InodeId,
    id: u64,
    writable: bool,
}

impl Handle {
    /// Performs an operation on the disk that changes the file.
    fn change(&self, change: impl FnOnce(&mut State, InodeId) -> io::Result<()>) -> io::Result<()> {
        if !self.writable {
            return Err(Errno::EBADF.into());
        }
        let mut state = self.disk.0.lock();
        state.act()?;
        change(&mut state, self.inode)
    }
}

impl File for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.0.lock();
        state.alive()?;
        Ok(state.file(self.inode)?.live.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.alive()?;
        state.file(self.inode)?.live.read(buffer, offset)?;
        state.largest_read = state.largest_read.max(buffer.len());
        if let Some(reads) = state.flip_one_read_in
            && !buffer.is_empty()
            && state.rng.one_in(reads)
        {
            let bit = state.rng.below(buffer.len() as u64 * 8);
            buffer[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        Ok(())
    }

    fn unwritten(&self, offset: u64) -> io::Result<Range<u64>> {
        let mut state = self.disk.0.lock();
        state.alive()?;
        Ok(state.file(self.inode)?.live.unwritten(offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(|state, inode| state.write(inode, bytes, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|state, inode| state.set_len(inode, len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(|state, inode| {
            if state.file(inode)?.live.len() < len { state.set_len(inode, len) } else { Ok(()) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let synced = state.may_sync();
        let stopped = state.crashed;
        let file = state.file(self.inode)?;
        match synced {
            Ok(true) if !file.abandoned => {
                file.durable = file.live.clone();
                file.unsynced.clear();
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                // A stopped disk has not even tried.
                file.abandoned |= !stopped;
                Err(error)
            }
        }
    }

    fn try_lock(&self, lock: Lock) -> io::Result<()> {
        // Nothing on this disk is read by two at a time.
        let lock = match lock {
            Lock::FlockShared => Lock::Flock,
            Lock::OfdShared => Lock::Ofd,
            lock => lock,
        };
        let mut state = self.disk.0.lock();
        state.alive()?;
        let holder = *state.file(self.inode)?.locks.entry(lock).or_insert(self.id);
        if holder == self.id { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if let Inode::File(file) = &mut state.inodes[self.inode] {
            file.references -= 1;
            file.locks.retain(|_, holder| *holder != self.id);
        }
    }
}

#[cfg(test)]
mod tests;
