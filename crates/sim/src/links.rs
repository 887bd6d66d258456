//! Connections between members: the peer codec's own streams, cut into pieces on their way.
//!
//! ```text
//!  message ─► (lost, repeated, held back) ─► AppEncoder / MessageEncoder ─► bytes
//!  bytes ─► (delayed; a broken connection loses what is under way) ─► decoder ─► message
//! ```
//!
//! *Invariants.* 1. The bytes of one stream of one connection arrive in order, or the connection
//! is broken: as with TCP. What is lost, repeated or overtaken is whole messages, before they are
//! encoded; a message that goes by the pipeline is overtaken. 2. After a break both ends begin
//! anew.
//!
//! *Absent.* The HTTP around the streams, and probing: `peer`'s own tests.

use std::collections::BTreeMap;

use base::{MemberId, Moment, Rng};
use bytes::BytesMut;
use peer::codec::{AppDecoder, AppEncoder, MessageDecoder, MessageEncoder};
use prost::Message as _;
use proto::raftpb::{Message, MessageType};

/// One of the two streams of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Appends.
    App,
    /// Everything.
    Message,
    /// A message alone: the pipeline of rafthttp.
    Post,
}

/// One direction between two members.
struct Link {
    /// Numbers connections: what was sent on one before is lost.
    connection: u64,
    app_encoder: AppEncoder,
    app_decoder: AppDecoder,
    message_decoder: MessageDecoder,
    /// When the last bytes of each stream arrive.
    arrives: [Moment; 2],
}

impl Link {
    fn new(from: MemberId, to: MemberId, connection: u64) -> Self {
        Self {
            connection,
            app_encoder: AppEncoder::new(),
            app_decoder: AppDecoder::new(to, from),
            message_decoder: MessageDecoder::new(),
            arrives: [Moment::default(); 2],
        }
    }
}

/// Bytes on their way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// Which stream.
    pub(crate) channel: Channel,
    connection: u64,
    bytes: BytesMut,
}

/// All connections.
#[derive(Default)]
pub(crate) struct Links {
    links: BTreeMap<(MemberId, MemberId), Link>,
    connections: u64,
}

impl Links {
    fn link(&mut self, from: MemberId, to: MemberId) -> &mut Link {
        let connections = &mut self.connections;
        self.links.entry((from, to)).or_insert_with(|| {
            *connections += 1;
            Link::new(from, to, *connections)
        })
    }

    /// Encodes a message. It arrives at `earliest`, or with what was sent before on its stream.
    pub(crate) fn send(
        &mut self,
        from: MemberId,
        to: MemberId,
        message: &Message,
        earliest: Moment,
    ) -> (Moment, Packet) {
        let link = self.link(from, to);
        let mut bytes = BytesMut::new();
        let channel = match message.r#type() {
            MessageType::MsgApp => {
                link.app_encoder.encode(message, &mut bytes);
                Channel::App
            }
            _ => {
                MessageEncoder.encode(message, &mut bytes);
                Channel::Message
            }
        };
        let last = &mut link.arrives[channel as usize];
        *last = earliest.max(*last);
        (*last, Packet { channel, connection: link.connection, bytes })
    }

    /// Encodes a message that goes by itself: it may overtake, and be overtaken.
    pub(crate) fn send_apart(
        &mut self,
        from: MemberId,
        to: MemberId,
        message: &Message,
        arrives: Moment,
    ) -> (Moment, Packet) {
        let connection = self.link(from, to).connection;
        let mut bytes = BytesMut::new();
        message.encode_raw(&mut bytes);
        (arrives, Packet { channel: Channel::Post, connection, bytes })
    }

    /// Decodes what has arrived, in pieces. Nothing when the connection was broken meanwhile.
    ///
    /// # Panics
    /// When what a member sent cannot be decoded.
    pub(crate) fn arrive(
        &mut self,
        from: MemberId,
        to: MemberId,
        packet: &Packet,
        rng: &mut Rng,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        let Some(link) = self.links.get_mut(&(from, to)) else { return messages };
        if link.connection != packet.connection {
            return messages;
        }
        if packet.channel == Channel::Post {
            let decoded = peer::codec::decode(packet.bytes.clone().freeze());
            let message = decoded
                .unwrap_or_else(|error| panic!("{from} sent {to} what cannot be read: {error}"));
            messages.push(message);
            return messages;
        }
        let cut = rng.below(packet.bytes.len() as u64 + 1);
        let (head, tail) = packet.bytes.split_at(usize::try_from(cut).unwrap_or(0));
        for mut piece in [head, tail] {
            loop {
                let decoded = match packet.channel {
                    Channel::App => link.app_decoder.decode(&mut piece),
                    Channel::Message | Channel::Post => link.message_decoder.decode(&mut piece),
                };
                match decoded {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => panic!("{from} sent {to} what cannot be read: {error}"),
                }
            }
        }
        messages
    }

    /// Breaks the connection in both directions.
    pub(crate) fn reset(&mut self, one: MemberId, other: MemberId) {
        self.links.remove(&(one, other));
        self.links.remove(&(other, one));
    }

    /// Breaks all connections of a member.
    pub(crate) fn reset_all(&mut self, member: MemberId) {
        self.links.retain(|(from, to), _| *from != member && *to != member);
    }
}
