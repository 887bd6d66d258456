//! The sending side of a call that answers with many messages.

use base::MemberId;
use bytes::{Bytes, BytesMut};
use node::requests::{Code, Rejected};
use prost::Message;
use tokio::sync::{mpsc, watch};

use super::body::Item;
use super::call::Call;
use super::reply::{self, Reply};
use super::status::Status;
use super::wire::{self, Encoding};
use crate::api::Phase;

/// Items that may wait for the connection. Each holds one message, or small ones together.
const ITEMS_MAX: usize = 4;

/// Small messages are sent together up to this many bytes.
const ITEM_BYTES: usize = 64 * 1024;

/// A stream under way.
pub(super) struct Stream {
    pub(super) call: Call,
    encoding: Encoding,
    items: mpsc::Sender<Item>,
    gathered: BytesMut,
    leaderless: watch::Receiver<u64>,
    phase: watch::Receiver<Phase>,
}

impl Stream {
    pub(super) fn new(call: Call, encoding: Encoding) -> (Self, mpsc::Receiver<Item>) {
        let (items, receiver) = mpsc::channel(ITEMS_MAX);
        let mut leaderless = call.api.leaderless.clone();
        leaderless.mark_unchanged();
        let phase = call.api.phase.clone();
        let gathered = BytesMut::new();
        (Self { call, encoding, items, gathered, leaderless, phase }, receiver)
    }

    /// Adds a message that is framed already; it leaves with the next [`Stream::flush`].
    pub(super) async fn push(&mut self, framed: Bytes) -> Result<(), Status> {
        self.call.sent(framed.len() - wire::PREFIX);
        let framed = match self.encoding {
            Encoding::Identity => framed,
            Encoding::Gzip => reply::compress([framed].into()).await?,
        };
        if framed.len() < ITEM_BYTES / 2 {
            self.gathered.extend_from_slice(&framed);
            if self.gathered.len() < ITEM_BYTES {
                return Ok(());
            }
            return self.flush().await;
        }
        self.flush().await?;
        self.send(Item::Message(framed)).await
    }

    /// Sends what was added.
    pub(super) async fn flush(&mut self) -> Result<(), Status> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let bytes = self.gathered.split().freeze();
        self.send(Item::Message(bytes)).await
    }

    /// Sends one message now.
    pub(super) async fn message(&mut self, message: &impl Message) -> Result<(), Status> {
        self.push(wire::frame(message)).await?;
        self.flush().await
    }

    /// Sends an answer now.
    pub(super) async fn reply(&mut self, reply: Reply) -> Result<(), Status> {
        match reply {
            Reply::Whole(framed) => {
                self.push(framed).await?;
                self.flush().await
            }
            Reply::Pieces(pieces) if self.encoding == Encoding::Gzip => {
                self.call.sent(pieces.iter().map(Bytes::len).sum::<usize>() - wire::PREFIX);
                let framed = reply::compress(pieces).await?;
                self.send(Item::Message(framed)).await
            }
            Reply::Pieces(pieces) => {
                self.call.sent(pieces.iter().map(Bytes::len).sum::<usize>() - wire::PREFIX);
                for piece in pieces {
                    self.send(Item::Message(piece)).await?;
                }
                Ok(())
            }
            Reply::Long { .. } => {
                Err(Status::new(Code::Internal, "a stream has no answer of this kind"))
            }
        }
    }

    async fn send(&mut self, item: Item) -> Result<(), Status> {
        let (items, leaderless, phase) = (&self.items, &mut self.leaderless, &mut self.phase);
        let wants_leader = self.call.wants_leader();
        tokio::select! {
            biased;
            sent = items.send(item) => sent.map_err(|_| Rejected::Canceled.into()),
            status = interrupted(leaderless, phase, wants_leader) => Err(status),
        }
    }

    /// Why the stream is to end although nobody asked for it: the client is gone, the process
    /// stops, or the leader is lost and the client wants to know.
    pub(super) async fn interrupted(&mut self) -> Status {
        let wants_leader = self.call.wants_leader();
        let (items, leaderless, phase) = (&self.items, &mut self.leaderless, &mut self.phase);
        tokio::select! {
            () = items.closed() => Rejected::Canceled.into(),
            status = interrupted(leaderless, phase, wants_leader) => status,
        }
    }

    /// Says how the stream ended.
    pub(super) async fn end(mut self, ended: Result<(), Status>) {
        let code = ended.as_ref().map_or_else(Status::number, |()| 0);
        // What was added and not sent still belongs in front of the end.
        if !self.gathered.is_empty() {
            let bytes = self.gathered.split().freeze();
            drop(self.items.send(Item::Message(bytes)).await);
        }
        drop(self.items.send(Item::End(ended)).await);
        self.call.finish(code);
    }

    /// The member's own id: whom a stream is served by.
    pub(super) fn member(&self) -> MemberId {
        self.call.api.member.id()
    }
}

async fn interrupted(
    leaderless: &mut watch::Receiver<u64>,
    phase: &mut watch::Receiver<Phase>,
    wants_leader: bool,
) -> Status {
    let leader_lost = async {
        // A sender that is gone means that the process stops, which `phase` tells.
        if !wants_leader || leaderless.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = leader_lost => Rejected::NoLeader.into(),
        _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {
            Status::new(Code::Unavailable, "etcdserver: server stopped")
        }
    }
}
