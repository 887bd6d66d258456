//! `snapshot restore`: makes the first state of a new cluster's member from a snapshot file.
//!
//! ```text
//!  FILE ─ digest, structure ─► a copy ─ members replaced, revision bumped ─► member/snap/db
//!  flags ─► one conf change a member, a snapshot record ─► member/wal, member/snap/*.snap
//! ```
//!
//! *Invariants.*
//! 1. The snapshot file is only read, while nobody writes it, and once: what is judged and changed
//!    is the copy. A failure leaves nothing behind.
//! 2. Every member that is restored with the same flags (but for its name) writes the same log.
//! 3. `index of the .snap file = snapshot record = consistent index = number of members`.
//!
//! *Contract.* `Restore` of `etcdutl/snapshot/v3_snapshot.go` of etcd v3.7.1. Stricter: rows of a
//! version that no member of 3.7 starts on are refused here, and not at its start.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{LogIndex, Revision};
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::Metadata;
use proto::raftpb::{self, ConfState, HardState};
use proto::walpb;
use sha2::{Digest as _, Sha256};
use storage::bolt::{self, Batch, Database, View};
use storage::disk::{Disk, Real};
use storage::snap::{Document, DocumentMember, Snapshots, document};
use storage::wal::{self, Wal};
use store::identity::{FIRST_TERM, first_entries};
use store::{Member, RevKey, Version, schema};

use super::cluster::Cluster;
use super::directory::Directory;
use super::status::{status, storage_version};
use crate::command::{Call, Command, Flag, Kind, Running};
use crate::failure::{self, Failure, Outcome};
use crate::go;
use crate::utl::fail;
use crate::utl::files::{damage, lock_to_read, open_copy, path};
use crate::utl::log::{Field, info};

const LONG: &str = "\
Restores a snapshot as the first state of a new cluster's member. Run it once for every member,
with the same flags but for --name, --initial-advertise-peer-urls and the directories.

Give --bump-revision 1000000000 --mark-compacted if clients remember revisions, as Kubernetes does:
its watch caches keep what they saw until a newer revision comes. After a restore revisions begin
again at that of the snapshot, so that a controller may take old objects for current ones, and wait
for changes that have been. With these flags every new revision is higher than all that were seen,
and watches from older ones are told to list again. (1000000000 is 1000 changes a second for 11
days: more than there were since the snapshot.)";

// Flags that 3.4's `etcdctl snapshot restore` has, too.
pub(crate) const WAL_DIR: Flag =
    Flag::text("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)");
pub(crate) const INITIAL_CLUSTER: Flag = Flag::text(
    "initial-cluster",
    "default=http://localhost:2380",
    "Initial cluster configuration for restore bootstrap",
);
pub(crate) const INITIAL_CLUSTER_TOKEN: Flag = Flag::text(
    "initial-cluster-token",
    "etcd-cluster",
    "Initial cluster token for the etcd cluster during restore bootstrap",
);
pub(crate) const PEER_URLS: Flag = Flag::text(
    "initial-advertise-peer-urls",
    "http://localhost:2380",
    "List of this member's peer URLs to advertise to the rest of the cluster",
);
pub(crate) const NAME: Flag = Flag::text("name", "default", "Human-readable name for this member");
pub(crate) const SKIP_HASH_CHECK: Flag = Flag::bool(
    "skip-hash-check",
    "Ignore snapshot integrity hash value (required if copied from data directory)",
);

pub(super) static RESTORE: Command = Command {
    name: "restore",
    usage: "<filename> --data-dir {output dir} [options]",
    short: "Restores an etcd member snapshot to an etcd directory",
    long: LONG,
    flags: &[
        Flag::text("data-dir", "", "Path to the output data directory"),
        WAL_DIR,
        INITIAL_CLUSTER,
        INITIAL_CLUSTER_TOKEN,
        PEER_URLS,
        NAME,
        SKIP_HASH_CHECK,
        Flag::new(
            "initial-memory-map-size",
            Kind::Uint,
            "10737418240",
            "Initial memory map size of the database in bytes. It uses the default value if not \
             defined or defined to 0",
        ),
        Flag::new(
            "bump-revision",
            Kind::Uint,
            "0",
            "How much to increase the latest revision after restore",
        ),
        Flag::bool(
            "mark-compacted",
            "Mark the latest revision after restore as the point of scheduled compaction \
             (required if --bump-revision > 0, disallowed otherwise)",
        ),
    ],
    run: Some(run),
    ..Command::EMPTY
};

/// The newest version of rows that a member of this release starts on.
pub(in crate::utl) const VERSION_MAX: (u64, u64) = (3, 7);
/// The digest at the end of a snapshot file, and what the rest of it is a multiple of.
const DIGEST_BYTES: u64 = 32;
const SECTOR_BYTES: u64 = 512;
/// What is copied at once.
const COPY_BYTES: usize = 1 << 20;

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async {
        let [file] = call.args.as_slice() else {
            let reason = "snapshot restore requires exactly one argument";
            return Err(Failure::new(failure::BAD_ARGS, reason));
        };
        let values = &call.values;
        let bump = values.uint("bump-revision");
        if (bump > 0) != values.bool("mark-compacted") {
            let reason = "--mark-compacted required if --revision-bump > 0";
            return Err(Failure::new(failure::BAD_ARGS, reason));
        }
        let name = values.text("name");
        let cluster = Cluster::read(
            name,
            values.text("initial-cluster"),
            values.text("initial-cluster-token"),
            values.text("initial-advertise-peer-urls"),
        )
        .map_err(fail)?;
        let root = match values.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            given => PathBuf::from(given),
        };
        let wal = match values.text("wal-dir") {
            "" => root.join("member").join("wal"),
            given => PathBuf::from(given),
        };
        check_free(&root, &wal)?;
        Restore { call, file: path(file), root, wal, cluster }.run(bump)
    })
}

/// Fails unless the directories can be made.
fn check_free(root: &Path, wal: &Path) -> Outcome {
    let is_empty = |path: &Path| path.read_dir().is_ok_and(|mut names| names.next().is_none());
    if root.symlink_metadata().is_ok() && !is_empty(root) {
        let root = go::quote(root.as_os_str().as_encoded_bytes());
        return Err(fail(format!("data-dir {root} not empty or could not be read")));
    }
    if wal.symlink_metadata().is_ok() {
        let wal = go::quote(wal.as_os_str().as_encoded_bytes());
        return Err(fail(format!("wal-dir {wal} exists")));
    }
    Ok(())
}

struct Restore<'a> {
    call: &'a Call,
    file: PathBuf,
    root: PathBuf,
    wal: PathBuf,
    cluster: Cluster,
}

impl Restore<'_> {
    fn run(&self, bump: u64) -> Outcome {
        self.tell("restoring snapshot");
        let mut source = self.open_source()?;
        let directory = Directory::begin(&self.root, &self.wal)?;
        let database = directory.snap().join("db");
        self.copy(&mut source, &database)?;
        drop(source);
        self.change_database(&database, bump)?;
        self.cluster.write_log(&directory)?;
        directory.publish()?;
        self.tell("restored snapshot");
        Ok(())
    }

    #[track_caller]
    fn tell(&self, message: &str) {
        let text = |path: &Path| path.display().to_string();
        let (file, wal, root) = (text(&self.file), text(&self.wal), text(&self.root));
        let snap = text(&self.root.join("member").join("snap"));
        let map_size = self.call.values.uint("initial-memory-map-size");
        info(
            message,
            &[
                ("path", Field::Text(&file)),
                ("wal-dir", Field::Text(&wal)),
                ("data-dir", Field::Text(&root)),
                ("snap-dir", Field::Text(&snap)),
                ("initial-memory-map-size", Field::Number(map_size.into())),
            ],
        );
    }

    /// Opens the snapshot file, which must be long enough for a digest, and keeps writers out.
    fn open_source(&self) -> Outcome<File> {
        let shown = self.file.display();
        let doing = |action: &str, error: &std::io::Error| {
            fail(format!("{action} {shown}: {}", go::os_error(error)))
        };
        let mut file = File::open(&self.file).map_err(|error| doing("open", &error))?;
        let kind = file.metadata().map_err(|error| doing("stat", &error))?;
        if kind.is_dir() {
            return Err(fail(format!("read {shown}: is a directory")));
        }
        if kind.len() < DIGEST_BYTES {
            return Err(fail(format!("seek {shown}: invalid argument")));
        }
        file.seek(SeekFrom::Start(0)).map_err(|error| doing("seek", &error))?;
        lock_to_read(self.call, &file, &self.file)?;
        Ok(file)
    }

    /// Copies the database in the file, and compares it with its digest.
    fn copy(&self, source: &mut File, to: &Path) -> Outcome {
        let shown = self.file.display().to_string();
        let failed = |error: std::io::Error| {
            fail(format!("copy {shown} to {}: {}", to.display(), go::os_error(&error)))
        };
        let skip = self.call.values.bool("skip-hash-check");
        let len = source.metadata().map_err(failed)?.len();
        let has_digest = len % SECTOR_BYTES == DIGEST_BYTES;
        if !has_digest && !skip {
            return Err(fail("snapshot missing hash but --skip-hash-check=false"));
        }
        let mut copy =
            File::options().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
        let mut left = if has_digest { len - DIGEST_BYTES } else { len };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        while left > 0 {
            let piece = usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let piece = &mut buffer[..piece];
            source.read_exact(piece).map_err(failed)?;
            hash.update(&*piece);
            copy.write_all(piece).map_err(failed)?;
            left -= piece.len() as u64;
        }
        if has_digest && !skip {
            let mut expected = [0; DIGEST_BYTES as usize];
            source.read_exact(&mut expected).map_err(failed)?;
            let found = hash.finalize();
            if expected[..] != found[..] {
                let list =
                    |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
                let (expected, found) = (list(&expected), list(&found));
                return Err(fail(format!("expected sha256 [{expected}], got [{found}]")));
            }
        }
        Ok(())
    }

    /// Makes the copied database that of a new cluster, by one commit.
    fn change_database(&self, path: &Path, bump: u64) -> Outcome {
        // Damage is told of the file that it came from.
        let view = open_copy(path, &self.file)?;
        if self.call.values.bool("skip-hash-check") {
            // No digest speaks for the rows.
            status(&view, &self.file)?;
        }
        let version = storage_version(&view, &self.file)?;
        if let Some(found) = Version::parse(&version)
            && found.pair() > VERSION_MAX
        {
            let (file, (major, minor)) = (self.file.display(), VERSION_MAX);
            return Err(fail(format!(
                "{file}: the snapshot has rows of version {version}, which members of {major}.{minor} \
                 do not start on"
            )));
        }
        info("Trimming membership information from the backend...", &[]);
        let batch = self.cluster.batch(&view, bump).map_err(damage_or(&self.file))?;
        drop(view);
        let mut database = Database::open(&Real, path, bolt::Options::default()).map_err(damage)?;
        database.commit(batch).map_err(damage)?;
        Ok(())
    }
}

impl Cluster {
    /// What is different in a new cluster.
    pub(in crate::utl) fn batch(&self, view: &View, bump: u64) -> Result<Batch, Refused> {
        let mut batch = Batch::default();
        for bucket in [schema::MEMBERS, schema::MEMBERS_REMOVED] {
            for row in view.scan(bucket, &[]) {
                batch.delete(bucket, row?.0);
            }
        }
        for bucket in [schema::CLUSTER, schema::MEMBERS, schema::MEMBERS_REMOVED, schema::META] {
            batch.create_bucket(bucket);
        }
        if bump > 0 {
            let latest = latest(view)?;
            let bumped = i64::try_from(bump).ok().and_then(|bump| latest.0.checked_add(bump));
            // Others must be able to follow.
            let bumped = bumped.filter(|bumped| *bumped < i64::MAX / 2);
            let bumped = bumped.ok_or(Refused::Bump(latest))?;
            info(
                "bumping latest revision",
                &[
                    ("latest-revision", Field::Number(latest.0.into())),
                    ("bump-amount", Field::Number(bump.into())),
                    ("new-latest-revision", Field::Number(bumped.into())),
                ],
            );
            let at = Revision(bumped);
            let key = RevKey::first_of(at).encode(false);
            batch.create_bucket(schema::KEY);
            batch.put(schema::KEY, Bytes::copy_from_slice(key.as_ref()), Bytes::new());
            info("marking revision compacted", &[("revision", Field::Number(bumped.into()))]);
            let name = schema::name(schema::SCHEDULED_COMPACT);
            batch.put(schema::META, name, schema::compaction(at));
        }
        for member in &self.members {
            let key = schema::member(member.id);
            batch.put(schema::MEMBERS, key, Bytes::from(member.to_json()));
            self.tell_member(member);
        }
        for (name, value) in schema::applied(self.commit(), FIRST_TERM) {
            batch.put(schema::META, name, value);
        }
        Ok(batch)
    }

    fn tell_member(&self, member: &Member) {
        let (cluster, id) = (self.id.to_string(), member.id.to_string());
        info(
            "added member",
            &[
                ("cluster-id", Field::Text(&cluster)),
                ("local-member-id", Field::Text("0")),
                ("added-peer-id", Field::Text(&id)),
                ("added-peer-peer-urls", Field::List(&member.peer_urls)),
                ("added-peer-is-learner", Field::Flag(false)),
            ],
        );
    }

    /// The index of the last entry: there is one for each member.
    fn commit(&self) -> LogIndex {
        LogIndex(self.members.len() as u64)
    }

    /// Writes the log and the snapshot file that it begins with.
    pub(in crate::utl) fn write_log(&self, directory: &Directory) -> Outcome {
        let disk: Arc<dyn Disk> = Arc::new(Real);
        let ids: Vec<u64> = self.members.iter().map(|member| member.id.get()).collect();
        let metadata = Metadata { node_id: Some(self.own.get()), cluster_id: Some(self.id.get()) };
        let options = wal::Options { segment_bytes: wal::SEGMENT_BYTES, sync: true };
        let metadata = Bytes::from(metadata.encode_to_vec());
        let commit = self.commit().get();
        let conf_state = Some(ConfState { voters: ids.clone(), ..ConfState::default() });
        let state = HardState {
            term: Some(FIRST_TERM.0),
            vote: ids.first().copied(),
            commit: Some(commit),
        };
        let record = walpb::Snapshot {
            index: Some(commit),
            term: Some(FIRST_TERM.0),
            conf_state: conf_state.clone(),
        };
        let write = || {
            let mut wal = Wal::create(Arc::clone(&disk), &directory.wal(), metadata, options)?;
            wal.append(&first_entries(&self.members), Some(&state))?;
            wal.save_snapshot(&record)?;
            wal.close()
        };
        write().map_err(|error: wal::Error| fail(error))?;
        let metadata =
            raftpb::SnapshotMetadata { conf_state, index: Some(commit), term: Some(FIRST_TERM.0) };
        let snapshot = raftpb::Snapshot { data: Some(self.document()), metadata: Some(metadata) };
        Snapshots::new(disk, directory.snap()).save(&snapshot).map_err(fail)?;
        Ok(())
    }

    /// The members, in the form that etcd 3.6 starts from.
    fn document(&self) -> Bytes {
        let members = self.members.iter().map(|member| DocumentMember {
            id: member.id,
            name: member.name.clone(),
            peer_urls: member.peer_urls.clone(),
            ..DocumentMember::default()
        });
        document(&Document {
            index: self.commit(),
            members: members.collect(),
            ..Document::default()
        })
    }
}

/// The newest revision in a database; 0 for none.
fn latest(view: &View) -> Result<Revision, Refused> {
    let mut rows = view.scan(schema::KEY, &[]);
    let mut latest = Revision(0);
    while let Some((name, _)) = rows.next_row()? {
        let (at, _) =
            RevKey::decode(name).ok_or_else(|| Refused::RowName(Bytes::copy_from_slice(name)))?;
        latest = latest.max(at.main);
    }
    Ok(latest)
}

/// Why a database cannot be made that of a new cluster.
pub(in crate::utl) enum Refused {
    Database(bolt::Error),
    RowName(Bytes),
    Bump(Revision),
}

impl From<bolt::Error> for Refused {
    fn from(error: bolt::Error) -> Self {
        Self::Database(error)
    }
}

/// The failure, told of that file.
pub(in crate::utl) fn damage_or(file: &Path) -> impl FnOnce(Refused) -> Failure + use<> {
    let file = file.display().to_string();
    move |refused| match refused {
        Refused::Database(error) => damage(error),
        Refused::RowName(name) => {
            let name = name.escape_ascii();
            fail(format!("{file}: bucket key, row {name}: not a revision"))
        }
        Refused::Bump(latest) => fail(format!(
            "--bump-revision is too large: the latest revision is {latest}, and others must be \
             able to follow"
        )),
    }
}
