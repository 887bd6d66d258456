//! All connections with other members.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::{ClusterId, MemberId};
use net::Url;
use parking_lot::RwLock;
use proto::raftpb::{Message, MessageType};
use tokio::runtime::Handle;

use crate::call::Caller;
use crate::client::Client;
use crate::core::{Core, kind_name};
use crate::dial::Dial;
use crate::event::{Event, Level};
use crate::handler::{Handler, SnapshotReader};
use crate::limits;
use crate::local::Local;
use crate::peer::{Peer, Remote};
use crate::status::PeerFigures;
use crate::version::Version;

/// What a transport must know.
pub struct TransportConfig {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Where others reach it (`--initial-advertise-peer-urls`).
    pub urls: Vec<Url>,
    /// What it announces: [`Version::ETCD`].
    pub version: Version,
    /// The oldest version it works with: [`Version::MIN_CLUSTER`].
    pub min_cluster_version: Version,
    /// How others are reached.
    pub dial: Arc<dyn Dial>,
    /// How long reaching one may take (etcd: the election timeout and
    /// [`limits::DIAL_TIMEOUT_EXTRA`]).
    pub dial_timeout: Duration,
    /// Where the tasks of the transport run. It needs timers and sockets, and may run elsewhere
    /// than what calls [`Transport::serve`].
    pub runtime: Handle,
}

/// All connections with other members. Cheap to clone.
#[derive(Clone)]
pub struct Transport(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    table: RwLock<Table>,
    /// Snapshots that are coming in.
    pub(crate) receiving: Arc<AtomicUsize>,
    /// Bytes of posts that are being read.
    pub(crate) posts_bytes: AtomicU64,
}

/// Who is known.
#[derive(Default)]
struct Table {
    peers: BTreeMap<MemberId, Arc<Peer>>,
    /// Never one that is a peer, and at most `REMOTES_MAX`.
    remotes: BTreeMap<MemberId, Remote>,
    is_stopped: bool,
}

impl Transport {
    /// A transport without peers. It does nothing before it has some.
    pub fn new(config: TransportConfig, handler: Arc<dyn Handler>) -> Self {
        let versions = (config.version, config.min_cluster_version);
        let local = Local::new(config.id, config.cluster, versions, &config.urls);
        let caller = Caller { dial: config.dial, dial_timeout: config.dial_timeout };
        Self(Arc::new(Shared {
            core: Arc::new(Core::new(local, handler, caller, config.runtime)),
            table: RwLock::default(),
            receiving: Arc::default(),
            posts_bytes: AtomicU64::new(0),
        }))
    }

    /// Makes these the peers: adds, updates and removes. This member itself is skipped.
    pub fn set_members(&self, members: &[(MemberId, Vec<String>)]) {
        let core = &self.0.core;
        let local = core.local.id;
        let members = members.iter().filter(|(id, _)| *id != local);
        let members: BTreeMap<_, _> = members.map(|(id, urls)| (*id, urls)).collect();
        let mut table = self.0.table.write();
        if table.is_stopped {
            return;
        }
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut table.peers)
            .into_iter()
            .partition(|(id, _)| members.contains_key(id));
        table.peers = kept;
        let mut remotes = Vec::new();
        for (id, texts) in members {
            // A remote of the same id would only take what is the peer's.
            remotes.extend(table.remotes.remove(&id));
            let urls = self.read_urls(id, texts);
            if let Some(peer) = table.peers.get(&id) {
                if peer.update(urls) {
                    let event = Event::info("updated remote peer")
                        .text("local-member-id", local)
                        .text("updated-remote-peer-id", id)
                        .texts("updated-remote-peer-urls", texts);
                    core.event(event);
                }
                continue;
            }
            table.peers.insert(id, Arc::new(Peer::start(core, id, urls)));
            let event = Event::info("added remote peer")
                .text("local-member-id", local)
                .text("remote-peer-id", id)
                .texts("remote-peer-urls", texts);
            core.event(event);
        }
        // What they do at their end needs no lock.
        drop(table);
        drop(remotes);
        for (id, peer) in gone {
            drop(peer);
            let event = Event::info("removed remote peer")
                .text("local-member-id", local)
                .text("removed-remote-peer-id", id);
            core.event(event);
        }
    }

    /// Adds a member that is not (yet) known to be one, so that it can be answered.
    pub fn add_remote(&self, id: MemberId, urls: &[String]) {
        let core = &self.0.core;
        let is_known = |table: &Table| {
            table.is_stopped || table.peers.contains_key(&id) || table.remotes.contains_key(&id)
        };
        if id == core.local.id || is_known(&self.0.table.read()) {
            return;
        }
        let parsed = self.read_urls(id, urls);
        let mut table = self.0.table.write();
        if parsed.is_empty() || is_known(&table) {
            return;
        }
        if table.remotes.len() >= limits::REMOTES_MAX {
            let event = Event::warn("ignored new remote peer; too many are known")
                .text("local-member-id", core.local.id)
                .text("remote-peer-id", id);
            core.event_rarely(core.local.id, event);
            return;
        }
        table.remotes.insert(id, Remote::start(core, id, parsed));
        let event = Event::info("added new remote peer")
            .text("local-member-id", core.local.id)
            .text("remote-peer-id", id)
            .texts("remote-peer-urls", urls);
        core.event(event);
    }

    /// The addresses among some texts; others are told about.
    fn read_urls(&self, id: MemberId, texts: &[String]) -> Vec<Url> {
        let mut urls = Vec::new();
        for text in texts.iter().take(limits::URLS_MAX) {
            match Url::parse(text) {
                Ok(url) => urls.push(url),
                Err(error) => {
                    let event = Event::warn("ignored an address of a remote peer")
                        .text("remote-peer-id", id)
                        .text("error", error);
                    self.0.core.event_rarely(id, event);
                }
            }
        }
        urls
    }

    /// Sends messages, each to its receiver. Never waits: what does not fit is dropped, and the
    /// receiver reported as unreachable. What is for nobody known is dropped.
    ///
    /// A `MsgSnap` goes by [`Self::send_snapshot`]; here it fails.
    pub fn send(&self, messages: Vec<Message>) {
        let core = &self.0.core;
        let table = self.0.table.read();
        for message in messages {
            let to = MemberId(message.to());
            if to == MemberId::NONE {
                continue;
            }
            if message.r#type == Some(MessageType::MsgSnap.into()) {
                // Without its database a snapshot would end a real member.
                core.handler.snapshot_sent(to, false);
            } else if let Some(peer) = table.peers.get(&to) {
                peer.send(message);
            } else if let Some(remote) = table.remotes.get(&to) {
                remote.send(message);
            } else if core.handler.wants(Level::Debug) {
                let what = "ignored message send request; unknown remote peer target";
                let event = Event::new(Level::Debug, what)
                    .text("type", kind_name(&message))
                    .text("unknown-target-peer-id", to);
                core.event(event);
            }
        }
    }

    /// Sends a `MsgSnap` with its database. [`Handler::snapshot_sent`] tells the end of it, once,
    /// also when the receiver is removed meanwhile.
    pub fn send_snapshot(&self, message: Message, database: Box<dyn SnapshotReader>) {
        let to = MemberId(message.to());
        match self.peer(to) {
            Some(peer) => peer.send_snapshot(message, database),
            None => self.0.core.handler.snapshot_sent(to, false),
        }
    }

    /// Since when a peer has answered; `None` while it does not.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.peer(id)?.status.since()
    }

    /// How many peers answer.
    pub fn active_peers(&self) -> usize {
        self.0.table.read().peers.values().filter(|peer| peer.status.is_active()).count()
    }

    /// Whether a peer reads both streams from us, so that messages go to it at once.
    pub fn is_streaming(&self, id: MemberId) -> bool {
        self.peer(id).is_some_and(|peer| peer.is_attached())
    }

    /// The figures of all peers, for metrics.
    pub fn figures(&self) -> Vec<PeerFigures> {
        self.0.table.read().peers.values().map(|peer| peer.status.figures()).collect()
    }

    /// Asks other members over the same dial.
    pub fn client(&self) -> Client {
        Client::of(self.0.core.caller.clone())
    }

    /// Drops everything to and from all peers of now, for tests.
    pub fn pause(&self) {
        self.0.table.read().peers.values().for_each(|peer| peer.cut(true));
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        self.0.table.read().peers.values().for_each(|peer| peer.cut(false));
    }

    /// Drops everything to and from one member, for tests.
    pub fn cut(&self, id: MemberId) {
        self.set_cut(id, true);
    }

    /// Ends [`Self::cut`].
    pub fn mend(&self, id: MemberId) {
        self.set_cut(id, false);
    }

    fn set_cut(&self, id: MemberId, is_cut: bool) {
        let table = self.0.table.read();
        if let Some(peer) = table.peers.get(&id) {
            peer.cut(is_cut);
        }
        if let Some(remote) = table.remotes.get(&id) {
            remote.is_cut.store(is_cut, Ordering::Relaxed);
        }
    }

    /// Closes all connections for good. Answers under way end.
    pub fn stop(&self) {
        let stopped = Table { is_stopped: true, ..Table::default() };
        let ended = std::mem::replace(&mut *self.0.table.write(), stopped);
        drop(ended);
    }

    pub(crate) fn peer(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.0.table.read().peers.get(&id).cloned()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("id", &self.0.core.local.id).finish_non_exhaustive()
    }
}
