//! Snapshots of raft: small files that say which term and index a database had reached, and who
//! the members were, in the document that etcd 3.6 starts from.
//!
//! A file is `snappb.Snapshot { crc, data }`; the data is `raftpb.Snapshot`, whose own data is the
//! membership [`document`]; the keys and values are in the database.
//!
//! *Invariants.* A file that [`Snapshots::save`] has returned for is durable, name included. It is
//! written in place: a torn one fails its checksum, is renamed `*.broken`, and an older one is
//! used.
//!
//! *Absent.* Reading the document: etcd 3.7 and we take the members from the database.
//!
//! *Contract.* `server/etcdserver/api/snap/snapshotter.go`, `server/etcdserver/api/v2store` and
//! `server/etcdserver/api/membership` of etcd v3.7.1.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{LogIndex, MemberId, Term};
use bytes::Bytes;
use prost::Message;
use proto::{raftpb, snappb, walpb};
use serde_json::{Map, Value, json};

use crate::disk::{Disk, Open};
use crate::wal::hex;

/// Snapshots and received databases that [`Snapshots::purge`] leaves, as `--max-snapshots` by
/// default.
pub const SNAPSHOTS_KEPT: usize = 5;

/// The largest file that is read: a document of a few thousand members is far smaller.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Why snapshots cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}", path.display())]
pub struct Error {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried, as an infinitive.
    pub action: &'static str,
    /// The system's reason.
    pub source: io::Error,
}

/// A file that is no snapshot, put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its name now, ending in `.broken`.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What [`Snapshots::load_newest`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest snapshot that is whole and recorded in the log.
    pub snapshot: Option<raftpb::Snapshot>,
    /// Files put aside, to be told to the operator.
    pub broken: Vec<Broken>,
}

/// The `.snap` files of a directory.
#[derive(Clone)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

/// The bytes of a snapshot file, and what its name is made of.
#[derive(Debug)]
pub struct Marshalled {
    term: Term,
    index: LogIndex,
    file: Vec<u8>,
}

/// Makes the bytes of the file of a snapshot, which must have an index.
pub fn marshal(snapshot: &raftpb::Snapshot) -> Marshalled {
    let metadata = snapshot.metadata.clone().unwrap_or_default();
    assert!(metadata.index() > 0, "a snapshot of nothing");
    let data = Bytes::from(snapshot.encode_to_vec());
    let crc = Some(crc32c::crc32c(&data));
    let file = snappb::Snapshot { crc, data: Some(data) }.encode_to_vec();
    let (term, index) = (Term(metadata.term()), LogIndex(metadata.index()));
    Marshalled { term, index, file }
}

impl Snapshots {
    /// The files in `dir`, which exists.
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Self {
        Self { disk, dir: dir.into() }
    }

    /// The name of the snapshot of that term and index.
    pub fn path(&self, term: Term, index: LogIndex) -> PathBuf {
        self.dir.join(format!("{:016x}-{:016x}.snap", term.0, index.0))
    }

    /// Writes a snapshot, which must have an index, and makes it durable.
    pub fn save(&self, snapshot: &raftpb::Snapshot) -> Result<PathBuf, Error> {
        self.save_marshalled(&marshal(snapshot))
    }

    /// The same for a snapshot that is bytes already.
    pub fn save_marshalled(&self, marshalled: &Marshalled) -> Result<PathBuf, Error> {
        let Marshalled { term, index, file } = marshalled;
        let path = self.path(*term, *index);
        if let Err(source) = self.write(&path, file) {
            // A broken file would only be put aside later. The first error is the one that counts.
            self.disk.remove(&path).unwrap_or_default();
            return Err(Error { path, action: "write", source });
        }
        Ok(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, Open::Truncate)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)
    }

    /// The newest snapshot that is whole and has a record in the log (see
    /// [`crate::wal::snapshots`]).
    /// Newer files that are broken are renamed.
    pub fn load_newest(&self, recorded: &[walpb::Snapshot]) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        for name in self.names(".snap", 2)?.iter().rev() {
            let path = self.dir.join(name);
            match self.read(&path)? {
                Ok(snapshot) => {
                    let metadata = snapshot.metadata.clone().unwrap_or_default();
                    let same = |record: &walpb::Snapshot| {
                        (record.term(), record.index()) == (metadata.term(), metadata.index())
                    };
                    if recorded.iter().any(same) {
                        loaded.snapshot = Some(snapshot);
                        break;
                    }
                }
                Err(reason) => {
                    let mut aside = path.clone().into_os_string();
                    aside.push(".broken");
                    let aside = PathBuf::from(aside);
                    self.disk.rename(&path, &aside).map_err(|source| Error {
                        path,
                        action: "rename",
                        source,
                    })?;
                    loaded.broken.push(Broken { path: aside, reason });
                }
            }
        }
        Ok(loaded)
    }

    /// Every file that is named as a snapshot, oldest first, and the snapshot in it or what is
    /// wrong with it. Changes nothing.
    #[expect(clippy::type_complexity, reason = "a list of names with what they lead to")]
    pub fn read_all(&self) -> Result<Vec<(PathBuf, Result<raftpb::Snapshot, String>)>, Error> {
        let names = self.names(".snap", 2)?.into_iter().map(|name| self.dir.join(name));
        names.map(|path| self.read(&path).map(|read| (path, read))).collect()
    }

    /// Reads one file: the outer error is the disk's, the inner one the file's.
    fn read(&self, path: &Path) -> Result<Result<raftpb::Snapshot, String>, Error> {
        let read = || -> io::Result<Option<Vec<u8>>> {
            let file = self.disk.open(path, Open::Read)?;
            let len = file.len()?;
            if len > FILE_BYTES_MAX {
                return Ok(None);
            }
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, 0)?;
            Ok(Some(bytes))
        };
        match read() {
            Ok(Some(bytes)) => Ok(parse(bytes.into())),
            Ok(None) => Ok(Err(format!("longer than {FILE_BYTES_MAX} bytes"))),
            Err(source) => Err(Error { path: path.to_owned(), action: "read", source }),
        }
    }

    /// Removes all but the newest `keep` snapshots and received databases, each kind for itself,
    /// and returns their paths.
    pub fn purge(&self, keep: usize) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for (suffix, numbers) in [(".snap", 2), (".snap.db", 1)] {
            let names = self.names(suffix, numbers)?;
            for name in &names[..names.len().saturating_sub(keep)] {
                removed.push(self.remove(name)?);
            }
        }
        self.sync_names(&removed)?;
        Ok(removed)
    }

    /// Removes snapshots newer than the newest that the log tells of: the power went before their
    /// record was durable. Nobody reads them, and they must not push out one that is read.
    pub fn remove_unrecorded(&self, newest: LogIndex) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for name in self.names(".snap", 2)? {
            let index = name.to_str().and_then(|name| name.strip_suffix(".snap")?.split_once('-'));
            if index.and_then(|(_, index)| hex(index)).is_some_and(|index| index > newest.0) {
                removed.push(self.remove(&name)?);
            }
        }
        self.sync_names(&removed)?;
        Ok(removed)
    }

    /// Removes received databases that are older than the snapshot at `index`: whatever they were
    /// to become is behind.
    pub fn release_received(&self, index: LogIndex) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for name in self.names(".snap.db", 1)? {
            let number = name.to_str().and_then(|name| hex(name.strip_suffix(".snap.db")?));
            if number.is_some_and(|number| number < index.0) {
                removed.push(self.remove(&name)?);
            }
        }
        self.sync_names(&removed)?;
        Ok(removed)
    }

    /// Removes the database received with the snapshot at `index`, which is not to be installed.
    pub fn discard_received(&self, index: LogIndex) -> Result<Vec<PathBuf>, Error> {
        let mut removed = Vec::new();
        for name in self.names(".snap.db", 1)? {
            let number = name.to_str().and_then(|name| hex(name.strip_suffix(".snap.db")?));
            if number == Some(index.0) {
                removed.push(self.remove(&name)?);
            }
        }
        self.sync_names(&removed)?;
        Ok(removed)
    }

    /// File names of `numbers` hexadecimal numbers and a suffix, ascending.
    fn names(&self, suffix: &str, numbers: usize) -> Result<Vec<PathBuf>, Error> {
        let listed = self.disk.list(&self.dir).map_err(|source| Error {
            path: self.dir.clone(),
            action: "list",
            source,
        })?;
        let matches = |name: &PathBuf| {
            let stem = name.to_str().and_then(|name| name.strip_suffix(suffix));
            stem.is_some_and(|stem| {
                stem.split('-').count() == numbers
                    && stem.split('-').all(|part| hex(part).is_some())
            })
        };
        Ok(listed.into_iter().filter(matches).collect())
    }

    fn remove(&self, name: &Path) -> Result<PathBuf, Error> {
        let path = self.dir.join(name);
        match self.disk.remove(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error { path, action: "remove", source }),
        }
    }

    fn sync_names(&self, removed: &[PathBuf]) -> Result<(), Error> {
        if removed.is_empty() {
            return Ok(());
        }
        self.disk.sync_dir(&self.dir).map_err(|source| Error {
            path: self.dir.clone(),
            action: "sync",
            source,
        })
    }
}

/// A whole file as the snapshot in it.
fn parse(bytes: Bytes) -> Result<raftpb::Snapshot, String> {
    let file: snappb::Snapshot =
        proto::decode(bytes).map_err(|error| format!("not a snapshot: {error}"))?;
    let (crc, data) = (file.crc(), file.data.unwrap_or_default());
    if crc == 0 || data.is_empty() {
        return Err("empty".into());
    }
    let found = crc32c::crc32c(&data);
    if found != crc {
        return Err(format!("its checksum is {found:08x}, not {crc:08x}"));
    }
    let snapshot: raftpb::Snapshot =
        proto::decode(data).map_err(|error| format!("not a snapshot: {error}"))?;
    if snapshot.metadata.as_ref().is_none_or(|metadata| metadata.index() == 0) {
        return Err("a snapshot of nothing".into());
    }
    Ok(snapshot)
}

/// A member, as the document says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentMember {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it has published itself.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published itself.
    pub client_urls: Vec<String>,
    /// Whether it does not vote yet.
    pub is_learner: bool,
}

/// What the membership part of a state machine was at an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// The applied index.
    pub index: LogIndex,
    /// The members.
    pub members: Vec<DocumentMember>,
    /// Ids that are never used again.
    pub removed: Vec<MemberId>,
    /// The version of the cluster, when it is decided.
    pub cluster_version: Option<String>,
}

/// The document in the form of etcd's v2 store: what stands in `.snap` files and in snapshots sent
/// to other members, so that a member of version 3.6 can start from it.
pub fn document(content: &Document) -> Bytes {
    let index = content.index.0;
    let leaf = |path: &str, value: &str| {
        json!({
            "Path": path, "CreatedIndex": index, "ModifiedIndex": index,
            "ExpireTime": NEVER, "Value": value, "Children": null,
        })
    };
    let directory = |path: &str, children: Map<String, Value>| {
        json!({
            "Path": path, "CreatedIndex": index, "ModifiedIndex": index,
            "ExpireTime": NEVER, "Value": "", "Children": children,
        })
    };
    let mut members = Map::new();
    for member in &content.members {
        let path = format!("/0/members/{}", member.id);
        let mut values = Map::new();
        let attribute = format!("{path}/raftAttributes");
        let value = raft_attributes(member).to_string();
        values.insert("raftAttributes".into(), leaf(&attribute, &value));
        if !member.client_urls.is_empty() {
            let attribute = format!("{path}/attributes");
            let value = json!({ "name": member.name, "clientURLs": member.client_urls });
            values.insert("attributes".into(), leaf(&attribute, &value.to_string()));
        }
        members.insert(member.id.to_string(), directory(&path, values));
    }
    let mut removed = Map::new();
    for id in &content.removed {
        removed.insert(id.to_string(), leaf(&format!("/0/removed_members/{id}"), ""));
    }
    let mut cluster = Map::new();
    cluster.insert("members".into(), directory("/0/members", members));
    cluster.insert("removed_members".into(), directory("/0/removed_members", removed));
    if let Some(version) = &content.cluster_version {
        cluster.insert("version".into(), leaf("/0/version", version));
    }
    let mut root = Map::new();
    root.insert("0".into(), directory("/0", cluster));
    root.insert("1".into(), directory("/1", Map::new()));
    let document = json!({
        "Root": directory("/", root), "CurrentIndex": index, "CurrentVersion": 2,
    });
    Bytes::from(document.to_string())
}

/// Go's zero time: no expiry.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn raft_attributes(member: &DocumentMember) -> Value {
    let mut value = json!({ "peerURLs": member.peer_urls });
    if member.is_learner {
        value["isLearner"] = Value::Bool(true);
    }
    value
}

#[cfg(test)]
mod tests {
    use base::Rng;
    use expect_test::expect;

    use super::*;
    use crate::disk::Faulty;

    fn snapshots() -> (Faulty, Snapshots) {
        let disk = Faulty::new(0);
        disk.create_dir_all(Path::new("/snap")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        (disk.clone(), Snapshots::new(Arc::new(disk), "/snap"))
    }

    fn snapshot(term: u64, index: u64) -> raftpb::Snapshot {
        let conf_state = Some(raftpb::ConfState { voters: vec![1], ..Default::default() });
        let metadata =
            raftpb::SnapshotMetadata { conf_state, index: Some(index), term: Some(term) };
        raftpb::Snapshot { data: Some(Bytes::from_static(b"{}")), metadata: Some(metadata) }
    }

    fn record(term: u64, index: u64) -> walpb::Snapshot {
        walpb::Snapshot { index: Some(index), term: Some(term), conf_state: None }
    }

    #[test]
    fn the_newest_recorded_one_is_loaded_and_broken_ones_are_put_aside() {
        let (disk, files) = snapshots();
        for index in [10, 20, 30, 40] {
            files.save(&snapshot(2, index)).unwrap();
        }
        assert_eq!(disk.image(&mut Rng::new(0)), disk.live_image(), "saved is durable");
        disk.corrupt(&files.path(Term(2), LogIndex(30)), 12, 1).unwrap();
        let loaded = files.load_newest(&[record(2, 10), record(2, 20), record(1, 40)]).unwrap();
        assert_eq!(loaded.snapshot, Some(snapshot(2, 20)));
        let aside = "/snap/0000000000000002-000000000000001e.snap.broken";
        assert_eq!(loaded.broken.len(), 1);
        assert_eq!(loaded.broken[0].path, Path::new(aside));
        assert!(loaded.broken[0].reason.starts_with("its checksum is "));
        assert!(files.load_newest(&[record(2, 30)]).unwrap().snapshot.is_none());
    }

    #[test]
    fn every_damaged_file_is_noticed() {
        let (disk, files) = snapshots();
        let path = files.save(&snapshot(2, 10)).unwrap();
        let bytes = disk.read(&path).unwrap();
        let mut refused = 0;
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            match parse(damaged.into()) {
                // Four bits of the last byte of a checksum mean nothing.
                Ok(found) => assert_eq!(found, snapshot(2, 10), "bit {bit}"),
                Err(_) => refused += 1,
            }
        }
        assert!(refused >= bytes.len() * 8 - 4);
        for cut in 0..bytes.len() {
            assert!(parse(bytes[..cut].to_vec().into()).is_err());
        }
    }

    #[test]
    fn the_oldest_are_purged() {
        let (disk, files) = snapshots();
        for index in 1..=7 {
            files.save(&snapshot(1, index)).unwrap();
            let received = format!("/snap/{index:016x}.snap.db");
            disk.open(Path::new(&received), Open::Create).unwrap();
        }
        let other = disk.open(Path::new("/snap/db"), Open::Create).unwrap();
        drop(other);
        assert_eq!(files.release_received(LogIndex(3)).unwrap().len(), 2);
        let removed = files.purge(4).unwrap();
        let names: Vec<_> = removed.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "/snap/0000000000000001-0000000000000001.snap",
                "/snap/0000000000000001-0000000000000002.snap",
                "/snap/0000000000000001-0000000000000003.snap",
                "/snap/0000000000000003.snap.db",
            ]
        );
        assert_eq!(disk.list(Path::new("/snap")).unwrap().len(), 9);
    }

    #[test]
    fn what_the_log_does_not_tell_of_is_removed() {
        let (disk, files) = snapshots();
        for index in [1, 16, 17] {
            files.save(&snapshot(1, index)).unwrap();
        }
        let removed = files.remove_unrecorded(LogIndex(16)).unwrap();
        assert_eq!(removed, [files.path(Term(1), LogIndex(17))]);
        assert_eq!(disk.list(Path::new("/snap")).unwrap().len(), 2);
    }

    #[test]
    fn a_full_disk_leaves_no_broken_file() {
        let (disk, files) = snapshots();
        disk.set_capacity(Some(10));
        let error = files.save(&snapshot(1, 1)).unwrap_err().to_string();
        let path = "/snap/0000000000000001-0000000000000001.snap: cannot write: ";
        assert!(error.starts_with(path), "{error}");
        assert!(disk.list(Path::new("/snap")).unwrap().is_empty());
    }

    #[test]
    fn the_document_is_etcds() {
        let member = DocumentMember {
            id: MemberId(0xab),
            name: "a \"quoted\" name".into(),
            peer_urls: vec!["http://p:1".into()],
            client_urls: vec!["http://c:1".into()],
            is_learner: false,
        };
        let learner = DocumentMember {
            id: MemberId(0xcd),
            peer_urls: vec!["http://q:1".into()],
            is_learner: true,
            ..DocumentMember::default()
        };
        let content = Document {
            index: LogIndex(9),
            members: vec![member, learner],
            removed: vec![MemberId(0xef)],
            cluster_version: Some("3.7.0".into()),
        };
        let text = String::from_utf8(document(&content).to_vec()).unwrap();
        let values: Value = serde_json::from_str(&text).unwrap();
        let at =
            |path: &str| values.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
        expect![[r#"{"peerURLs":["http://p:1"]}"#]].assert_eq(&at(
            "/Root/Children/0/Children/members/Children/ab/Children/raftAttributes/Value",
        ));
        expect![[r#"{"clientURLs":["http://c:1"],"name":"a \"quoted\" name"}"#]].assert_eq(&at(
            "/Root/Children/0/Children/members/Children/ab/Children/attributes/Value",
        ));
        expect![[r#"{"isLearner":true,"peerURLs":["http://q:1"]}"#]].assert_eq(&at(
            "/Root/Children/0/Children/members/Children/cd/Children/raftAttributes/Value",
        ));
        assert_eq!(
            at("/Root/Children/0/Children/members/Children/cd/Children/attributes/Value"),
            "-"
        );
        assert_eq!(at("/Root/Children/0/Children/removed_members/Children/ef/Value"), "");
        assert_eq!(at("/Root/Children/0/Children/version/Value"), "3.7.0");
        assert_eq!(at("/Root/Children/1/Path"), "/1");
        assert_eq!(values["CurrentIndex"], 9);
    }
}
