//! One other member: which way a message goes to it, and the tasks that serve it.
//!
//! *Contract.* `peer.go` and `remote.go` in `server/etcdserver/api/rafthttp` of etcd v3.7.1.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base::MemberId;
use net::Url;
use proto::raftpb::{Message, MessageType};
use tokio::task::{AbortHandle, JoinSet};

use crate::core::{Core, Place};
use crate::event::Event;
use crate::handler::SnapshotReader;
use crate::limits;
use crate::pipeline::Pipeline;
use crate::probing::{Prober, Route};
use crate::reader::Reader;
use crate::sending::{End, Sending};
use crate::status::{Picker, Status, count};
use crate::writer::{StreamBody, StreamKind, Writer};

/// A member that is known to be one.
pub(crate) struct Peer {
    id: MemberId,
    core: Arc<Core>,
    pub(crate) status: Arc<Status>,
    picker: Arc<Picker>,
    app: Arc<Writer>,
    message: Arc<Writer>,
    pipeline: Arc<Pipeline>,
    is_cut: Arc<AtomicBool>,
    /// Snapshots on their way, at most `SNAPSHOTS_TO_MEMBER_MAX`.
    snapshots: Arc<AtomicUsize>,
    /// Readers and probers. They end with this.
    _tasks: JoinSet<()>,
    /// The snapshot on its way, if there is one.
    snapshot_task: parking_lot::Mutex<Option<AbortHandle>>,
}

impl Peer {
    pub(crate) fn start(core: &Arc<Core>, id: MemberId, urls: Vec<Url>) -> Self {
        core.event(Event::info("starting remote peer").text("remote-peer-id", id));
        let status = Arc::new(Status::new(id, Arc::clone(&core.handler)));
        let picker = Arc::new(Picker::new(urls));
        let is_cut = Arc::new(AtomicBool::new(false));
        let pipeline =
            Pipeline::new(id, Arc::clone(core), Arc::clone(&status), Arc::clone(&picker));
        let writer = |kind| Writer::new(kind, id, Arc::clone(core), Arc::clone(&status));
        let (app, message) = (writer(StreamKind::App), writer(StreamKind::Message));
        let mut tasks = JoinSet::new();
        for kind in [StreamKind::App, StreamKind::Message] {
            let reader = Reader {
                kind,
                id,
                core: Arc::clone(core),
                status: Arc::clone(&status),
                picker: Arc::clone(&picker),
                is_cut: Arc::clone(&is_cut),
            };
            tasks.spawn_on(reader.run(), &core.runtime);
        }
        for route in [Route::Snapshot, Route::Message] {
            let prober = Prober {
                route,
                id,
                core: Arc::clone(core),
                status: Arc::clone(&status),
                picker: Arc::clone(&picker),
            };
            tasks.spawn_on(prober.run(), &core.runtime);
        }
        core.event(Event::info("started remote peer").text("remote-peer-id", id));
        Self {
            id,
            core: Arc::clone(core),
            status,
            picker,
            app,
            message,
            pipeline,
            is_cut,
            snapshots: Arc::default(),
            _tasks: tasks,
            snapshot_task: parking_lot::Mutex::default(),
        }
    }

    /// Takes other addresses; whether they differ.
    pub(crate) fn update(&self, urls: Vec<Url>) -> bool {
        self.picker.update(urls)
    }

    /// Sends a message over the best way there is, or drops it.
    pub(crate) fn send(&self, message: Message) {
        if self.is_cut() {
            return;
        }
        let is_append = message.r#type == Some(MessageType::MsgApp.into());
        let message = if is_append { self.app.push(message) } else { Some(message) };
        let Some(message) = message else { return };
        let Some(message) = self.message.push(message) else { return };
        self.pipeline.push(message);
    }

    /// Sends a snapshot, or tells that it was not sent.
    pub(crate) fn send_snapshot(&self, message: Message, database: Box<dyn SnapshotReader>) {
        let place = Place::take(&self.snapshots, limits::SNAPSHOTS_TO_MEMBER_MAX);
        let Some(place) = place.filter(|_| !self.is_cut()) else {
            count(&self.status.counters.snapshot_send_failures, 1);
            let what = "skipped sending a database snapshot; another is on its way";
            self.core.event_rarely(self.id, Event::warn(what).text("remote-peer-id", self.id));
            self.core.handler.snapshot_sent(self.id, false);
            return;
        };
        let sending = Sending {
            id: self.id,
            core: Arc::clone(&self.core),
            status: Arc::clone(&self.status),
            picker: Arc::clone(&self.picker),
            end: End::of(self.id, Arc::clone(&self.core.handler)),
        };
        let task = self.core.runtime.spawn(async move {
            let _place = place;
            sending.run(message, database).await;
        });
        *self.snapshot_task.lock() = Some(task.abort_handle());
    }

    /// The member dialed a stream.
    pub(crate) fn attach(&self, kind: StreamKind) -> StreamBody {
        match kind {
            StreamKind::App => self.app.attach(),
            StreamKind::Message => self.message.attach(),
        }
    }

    /// Whether the member reads both streams.
    pub(crate) fn is_attached(&self) -> bool {
        self.app.is_attached() && self.message.is_attached()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.core.event(Event::info("stopping remote peer").text("remote-peer-id", self.id));
        self.app.stop();
        self.message.stop();
        self.pipeline.stop();
        if let Some(task) = self.snapshot_task.lock().take() {
            task.abort();
        }
        self.core.event(Event::info("stopped remote peer").text("remote-peer-id", self.id));
    }
}

/// A member that is only known by a request it sent; it is answered by posts.
pub(crate) struct Remote {
    pipeline: Arc<Pipeline>,
    pub(crate) is_cut: AtomicBool,
}

impl Remote {
    pub(crate) fn start(core: &Arc<Core>, id: MemberId, urls: Vec<Url>) -> Self {
        let status = Arc::new(Status::new(id, Arc::clone(&core.handler)));
        let picker = Arc::new(Picker::new(urls));
        let pipeline = Pipeline::new(id, Arc::clone(core), status, picker);
        Self { pipeline, is_cut: AtomicBool::new(false) }
    }

    pub(crate) fn send(&self, message: Message) {
        if !self.is_cut.load(Ordering::Relaxed) {
            self.pipeline.push(message);
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.pipeline.stop();
    }
}
