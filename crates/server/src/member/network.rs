//! Between the node and the other members: what comes in, and what goes out.
//!
//! ```text
//!  transport ─► Mailbox ─► Inbox ─► pump             message, unreachable, snapshot sent
//!            ─► Mailbox ─► tmp* ─► %016x.snap.db ─► Inbox          snapshot received
//!  pump ─► Outlet ─► transport                       messages, snapshots with their pages
//!  apply thread ─► Outlet ─► transport               who the members are
//! ```
//!
//! *Invariants.*
//! 1. What comes in is bounded in number and bytes; what does not fit is dropped and counted,
//!    which raft expects of a network.
//! 2. A received database is complete, durable and verified before the node hears of it.
//!
//! *Absent.* Bytes on the wire: `peer`'s. Order: the node's.
//!
//! *Contract.* `server/etcdserver/api/snap/db.go` and `EtcdServer.Process` of etcd v3.7.1.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::{LogIndex, MemberId};
use bytes::Bytes;
use net::Url;
use node::{Input, SendSnapshot};
use parking_lot::Mutex;
use peer::{BoxFuture, Dial, Event, Handler, Level, ReceiveError, SnapshotBody, Transport};
use proto::raftpb::Message;
use storage::bolt;
use storage::disk::{Disk, Open};
use store::Shared;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use worker::{Handoff, Place};

use super::inbox::Offered;
use super::{INBOX_MAX, Links, Observer, SERVER_VERSION};

/// Messages of other members that may wait beside all that clients may have waiting (etcd: 4096
/// proposals and 4096 others).
const MESSAGES_MAX: usize = 8_192;

/// Bytes of entries in messages that wait for the pump; one message is always taken.
const MESSAGES_BYTES_MAX: usize = 128 << 20;

/// How often it is told that messages do not fit.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// Pieces of a snapshot between the socket and the disk.
const PIECES_MAX: usize = 4;

/// Bytes of a received snapshot that may wait for the disk. All of it at once would make the syncs
/// of every log on that disk wait for the whole database.
const UNSYNCED_MAX: u64 = 1 << 20;

/// So many bytes are not taken in less time than this, 200 MiB a second: a faster transfer takes
/// processors and memory from the requests that the leader answers meanwhile.
const UNSYNCED_MIN_TIME: Duration = Duration::from_millis(5);

/// After each sync as much time is left to the logs on the same disk, up to this.
const BREATH_MAX: Duration = Duration::from_millis(20);

/// How other members are reached, and reach this one.
#[derive(Clone)]
pub struct Network {
    /// Where others reach this member.
    pub urls: Vec<Url>,
    /// How others are reached.
    pub dial: Arc<dyn Dial>,
    /// Where connections are served; a runtime that clients do not use.
    pub runtime: Handle,
    /// Who is a member as far as is known, while the member's own database does not say it.
    pub known: Vec<(MemberId, Vec<String>)>,
    /// What this server announces to others.
    pub version: peer::Version,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("urls", &self.urls).finish_non_exhaustive()
    }
}

/// Takes in what other members send.
pub(super) struct Mailbox {
    pub(super) links: Arc<Links>,
    pub(super) store: Arc<Shared>,
    pub(super) place: Place,
    pub(super) observer: Arc<dyn Observer>,
    /// Numbers files that are being received.
    pub(super) receiving: Arc<AtomicU64>,
    /// When it was told last that messages do not fit.
    pub(super) told: Mutex<Option<Instant>>,
}

/// Entries of a message that wait in memory.
pub(super) fn weight(message: &Message) -> usize {
    message.entries.iter().map(|entry| entry.data().len()).sum()
}

/// What other members have waiting for the pump.
#[derive(Debug, Default)]
pub(super) struct Received {
    bytes: AtomicUsize,
    /// Messages that did not fit.
    dropped: AtomicU64,
}

impl Received {
    /// The pump has taken a message.
    pub(super) fn taken(&self, message: &Message) {
        self.bytes.fetch_sub(weight(message), Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Mailbox {
    /// A bounded offer: reports are small, and messages count by their entries.
    fn offer(&self, input: Input) -> bool {
        let max = INBOX_MAX + MESSAGES_MAX;
        match self.links.inbox.offer(input, max) {
            Offered::Taken => true,
            Offered::Full => {
                self.drop_one();
                false
            }
            // The member ends.
            Offered::Closed => false,
        }
    }

    fn drop_one(&self) {
        let dropped = self.links.received.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            *told = Some(Instant::now());
            self.observer.messages_dropped(dropped);
        }
    }
}

impl Handler for Mailbox {
    fn message(&self, message: Message) {
        let (received, weight) = (&self.links.received, weight(&message));
        let before = received.bytes.fetch_add(weight, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(weight) <= MESSAGES_BYTES_MAX;
        if !fits {
            self.drop_one();
        }
        if !fits || !self.offer(Input::Message(Box::new(message))) {
            received.bytes.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    fn unreachable(&self, member: MemberId) {
        self.offer(Input::Unreachable { member });
    }

    fn snapshot_sent(&self, member: MemberId, ok: bool) {
        // Must not be lost: the node counts those under way, and bounds them.
        self.links.inbox.push(Input::SnapshotSent { member, ok });
    }

    fn is_removed(&self, member: MemberId) -> bool {
        self.store.is_removed(member)
    }

    fn receive_snapshot(
        &self,
        message: Message,
        body: SnapshotBody,
    ) -> BoxFuture<'static, Result<(), ReceiveError>> {
        let (place, links) = (self.place.clone(), Arc::clone(&self.links));
        let observer = Arc::clone(&self.observer);
        let number = self.receiving.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let metadata =
                message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
            let index = LogIndex(metadata.map_or(0, |metadata| metadata.index()));
            if index == LogIndex(0) {
                return Err(ReceiveError::Save("the snapshot is of no entry".to_owned()));
            }
            let begun = Instant::now();
            save(place, index, number, body).await.map_err(ReceiveError::Save)?;
            observer.database_received(begun.elapsed());
            let input = Input::SnapshotReceived { message: Box::new(message) };
            match links.inbox.offer(input, INBOX_MAX + MESSAGES_MAX) {
                Offered::Taken => Ok(()),
                Offered::Full => Err(ReceiveError::Process("too many messages wait".to_owned())),
                Offered::Closed => Err(ReceiveError::Process("raft: stopped".to_owned())),
            }
        })
    }

    fn removed(&self) {
        self.links.removed.send_replace(true);
    }

    fn event(&self, event: Event) {
        self.observer.peer_event(&event);
    }

    fn wants(&self, level: Level) -> bool {
        self.observer.wants_peer_events(level)
    }
}

/// What the socket hands to whoever writes.
enum Piece {
    Data(Bytes),
    /// All has come. Without it the sender has gone away.
    End,
}

/// Brings the database of a snapshot to the disk.
async fn save(
    place: Place,
    index: LogIndex,
    number: u64,
    mut body: SnapshotBody,
) -> Result<(), String> {
    let (pieces, arriving) = mpsc::channel(PIECES_MAX);
    let writing = tokio::task::spawn_blocking(move || write(&place, index, number, arriving));
    let mut broken = None;
    let mut wanted = true;
    while wanted && let Some(piece) = body.next().await {
        match piece {
            // Refused only when the writer has failed; then it says why.
            Ok(bytes) => wanted = pieces.send(Piece::Data(bytes)).await.is_ok(),
            Err(error) => {
                broken = Some(error.to_string());
                break;
            }
        }
    }
    if broken.is_none() && wanted {
        drop(pieces.send(Piece::End).await);
    }
    drop(pieces);
    let written = writing.await.map_err(|error| error.to_string())?;
    match broken {
        Some(broken) => Err(broken),
        None => written,
    }
}

fn write(
    place: &Place,
    index: LogIndex,
    number: u64,
    arriving: mpsc::Receiver<Piece>,
) -> Result<(), String> {
    let (disk, snap) = (&*place.disk, place.dir.snap());
    let path = snap.join(format!("tmp{:016x}-{number}", index.0));
    let tell = |error: io::Error| format!("{}: {error}", path.display());
    let received = place.dir.received(index);
    let saved = match fill(disk, &path, arriving) {
        // The same snapshot came before; etcd keeps the former one, too. It may be on its way into
        // the place of the database: nobody may open it now.
        Ok(true) if disk.exists(&received).map_err(tell)? => Ok(false),
        Ok(true) => worker::verify_received(place, &path, index, SERVER_VERSION)
            .map(|()| true)
            .map_err(|error| error.to_string()),
        Ok(false) => Err("the sender went away".to_owned()),
        Err(error) => Err(tell(error)),
    };
    match saved {
        Ok(true) => disk.rename(&path, &received).and_then(|()| disk.sync_dir(&snap)).map_err(tell),
        Ok(false) => disk.remove(&path).map_err(tell),
        Err(error) => {
            remove(disk, &path);
            Err(error)
        }
    }
}

/// Writes a file until its end has come, durably. False when the end does not come.
fn fill(disk: &dyn Disk, path: &Path, mut arriving: mpsc::Receiver<Piece>) -> io::Result<bool> {
    let file = disk.open(path, Open::Truncate)?;
    let (mut offset, mut synced, mut begun) = (0, 0, Instant::now());
    loop {
        match arriving.blocking_recv() {
            Some(Piece::Data(bytes)) => {
                file.write_all_at(&bytes, offset)?;
                offset += bytes.len() as u64;
                if offset - synced >= UNSYNCED_MAX {
                    let written = Instant::now();
                    file.sync_data()?;
                    let breath = written.elapsed().min(BREATH_MAX);
                    let rest = UNSYNCED_MIN_TIME.saturating_sub(begun.elapsed());
                    std::thread::sleep(breath.max(rest));
                    (synced, begun) = (offset, Instant::now());
                }
            }
            Some(Piece::End) => break,
            None => return Ok(false),
        }
    }
    file.sync_data()?;
    Ok(true)
}

/// Removes what is of no use; if that fails the next start does it.
fn remove(disk: &dyn Disk, path: &Path) {
    drop(disk.remove(path));
}

/// The pages of a view, for a snapshot that is sent.
struct Pages(bolt::Image);

impl peer::SnapshotReader for Pages {
    fn size(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&mut self, offset: u64, max: usize) -> io::Result<Bytes> {
        self.0.read_at(offset, max).map_err(io::Error::other)
    }
}

/// Hands out what the node sends.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) transport: Option<Transport>,
    pub(super) known: Vec<(MemberId, Vec<String>)>,
}

impl Outlet {
    /// Sends messages.
    pub(super) fn send(&self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        if let Some(transport) = &self.transport {
            transport.send(messages);
        }
    }

    /// Sends a snapshot with the pages that belong to it.
    pub(super) fn send_snapshot(&self, snapshot: SendSnapshot, handoff: &Handoff, links: &Links) {
        let message = snapshot.message;
        let to = MemberId(message.to());
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let index = LogIndex(metadata.map_or(0, |metadata| metadata.index()));
        let view = handoff.take_snapshot_view(index);
        match (&self.transport, view) {
            (Some(transport), Some(view)) => {
                transport.send_snapshot(message, Box::new(Pages(view.image())));
            }
            _ => links.inbox.push(Input::SnapshotSent { member: to, ok: false }),
        }
    }

    /// Tells the transport who the members are.
    pub(super) fn set_members(&self, store: &Shared) {
        let Some(transport) = &self.transport else { return };
        let mut members: Vec<_> =
            store.members().into_iter().map(|member| (member.id, member.peer_urls)).collect();
        // While a new member catches up, the log tells of members that were there before those
        // which send it.
        let is_told = |id: &MemberId| members.iter().any(|(told, _)| told == id);
        let known = self.known.iter().filter(|(id, _)| !is_told(id) && !store.is_removed(*id));
        let known: Vec<_> = known.cloned().collect();
        members.extend(known);
        transport.set_members(&members);
    }
}
