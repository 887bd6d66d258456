//! Finds clients that ping too often, by the heads of the HTTP/2 frames that pass.
//!
//! ```text
//!  from the client ─► HEADERS: a stream opens · RST_STREAM: it ends · PING: a strike, perhaps
//!  to the client   ─► DATA, trailers: strikes are forgiven · END_STREAM, RST_STREAM: a stream ends
//! ```
//!
//! The HTTP/2 library answers pings itself and tells nobody.
//!
//! *Invariants.*
//! 1. Nine bytes of a frame are looked at, and none is changed; whether they make sense is the
//!    library's to say, which ends the connection if not.
//! 2. A stream is open here no longer than the library keeps it.
//!
//! *Absent.* Sockets and clocks: see `guarded`.
//!
//! *Contract.* `handlePing` of `internal/transport/http2_server.go` of grpc-go v1.82, with the
//! policy of `server/embed/etcd.go` of etcd v3.7.1: pings without an open stream are not permitted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// The flag of a PING that is an answer.
const ACK: u8 = 1;
/// The flag of a stream's last HEADERS or DATA.
const END_STREAM: u8 = 1;

const ENHANCE_YOUR_CALM: u32 = 0xb;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// Strikes that a client may have.
const STRIKES_MAX: u8 = 2;

/// The interval while no stream is open.
const IDLE_INTERVAL: Duration = Duration::from_secs(2 * 60 * 60);

/// The interval when none is given: grpc-go's.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// What is known of one frame.
#[derive(Debug, Clone, Copy)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of the frames in one direction.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there.
    have: usize,
    /// Bytes of the frame's payload that are still to come.
    skip: usize,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
                // The first bit is reserved.
                found(Head { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
            }
        }
    }
}

/// What the connection is known to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// So many bytes of the preface have come.
    Undecided(usize),
    Http2,
    Other,
}

/// The pings of one connection.
#[derive(Debug)]
pub(super) struct Pings {
    interval: Duration,
    protocol: Protocol,
    received: Frames,
    sent: Frames,
    streams: Streams,
    strikes: Strikes,
}

#[derive(Debug, Default)]
struct Streams {
    open: BTreeSet<u32>,
    newest: u32,
}

#[derive(Debug, Default)]
struct Strikes {
    count: u8,
    /// Something was sent since the last ping.
    are_forgiven: bool,
    last: Option<Instant>,
}

impl Strikes {
    fn ping(&mut self, now: Instant, interval: Duration) {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.are_forgiven) {
            self.count = 0;
        } else if last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            self.count = self.count.saturating_add(1);
        }
    }
}

impl Pings {
    /// A connection whose client may ping once in `interval`; zero is grpc-go's default, as in
    /// etcd.
    pub(super) fn new(interval: Duration) -> Self {
        let interval = if interval.is_zero() { INTERVAL_DEFAULT } else { interval };
        Self {
            interval,
            protocol: Protocol::Undecided(0),
            received: Frames::default(),
            sent: Frames::default(),
            streams: Streams::default(),
            strikes: Strikes::default(),
        }
    }

    /// A connection that is not looked at.
    pub(super) fn unwatched() -> Self {
        Self { protocol: Protocol::Other, ..Self::new(Duration::ZERO) }
    }

    /// Bytes that the client has sent. True when it has pinged too often.
    pub(super) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> bool {
        let bytes = self.behind_preface(bytes);
        if self.protocol != Protocol::Http2 {
            return false;
        }
        let Self { received, streams, strikes, interval, .. } = self;
        received.pass(bytes, |head| match head.kind {
            HEADERS if head.stream > streams.newest => {
                streams.newest = head.stream;
                streams.open.insert(head.stream);
            }
            RST_STREAM => {
                streams.open.remove(&head.stream);
            }
            PING if head.flags & ACK == 0 => {
                let idle = streams.open.is_empty();
                strikes.ping(now(), if idle { IDLE_INTERVAL } else { *interval });
            }
            _ => {}
        });
        self.strikes.count > STRIKES_MAX
    }

    fn behind_preface<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Protocol::Undecided(have) = self.protocol else { return bytes };
        let rest = &PREFACE[have..];
        let taken = rest.len().min(bytes.len());
        self.protocol = if bytes[..taken] != rest[..taken] {
            Protocol::Other
        } else if taken == rest.len() {
            Protocol::Http2
        } else {
            Protocol::Undecided(have + taken)
        };
        &bytes[taken..]
    }

    /// Bytes that were sent to the client.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if self.protocol == Protocol::Other {
            return;
        }
        let Self { sent, streams, strikes, .. } = self;
        sent.pass(bytes, |head| {
            let is_last = matches!(head.kind, HEADERS | DATA) && head.flags & END_STREAM != 0;
            // The first headers of a stream do not count: grpc-go keeps them until there is data.
            strikes.are_forgiven |= head.kind == DATA || is_last;
            if is_last || head.kind == RST_STREAM {
                streams.open.remove(&head.stream);
            }
        });
    }

    /// The frame that ends the connection of a client that pings too often; nothing while a frame
    /// to it is not complete.
    pub(super) fn farewell(&self) -> Option<Vec<u8>> {
        if !self.sent.is_between() {
            return None;
        }
        let length = u8::try_from(8 + TOO_MANY_PINGS.len()).unwrap_or(u8::MAX);
        let head = [0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
        let (newest, code) = (self.streams.newest.to_be_bytes(), ENHANCE_YOUR_CALM.to_be_bytes());
        Some([&head[..], &newest, &code, TOO_MANY_PINGS].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        // Payload that looks like a ping of its own.
        frame.extend([0, 0, 8, PING, 0, 0, 0, 0, 0].iter().cycle().take(length));
        frame
    }

    struct Client {
        pings: Pings,
        now: Instant,
    }

    impl Client {
        fn new() -> Self {
            let mut client =
                Self { pings: Pings::new(Duration::from_secs(5)), now: Instant::now() };
            assert!(!client.says(PREFACE));
            client
        }

        /// Byte by byte: nothing depends on how a stream is cut.
        fn says(&mut self, bytes: &[u8]) -> bool {
            let now = self.now;
            bytes.iter().fold(false, |_, byte| self.pings.received(&[*byte], || now))
        }

        fn ping(&mut self) -> bool {
            self.says(&frame(PING, 0, 0, 8))
        }

        fn hears(&mut self, bytes: &[u8]) {
            bytes.iter().for_each(|byte| self.pings.sent(&[*byte]));
        }

        fn waits(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn the_third_strike_is_one_too_many() {
        let mut client = Client::new();
        assert_eq!([(); 4].map(|()| client.ping()), [false, false, false, true]);
        let farewell = client.pings.farewell().expect("between two frames");
        assert_eq!(&farewell[..9], [0, 0, 22, GOAWAY, 0, 0, 0, 0, 0]);
        assert_eq!(&farewell[9..], b"\0\0\0\0\0\0\0\x0btoo_many_pings");
    }

    #[test]
    fn patience_is_shorter_while_a_stream_is_open() {
        let mut client = Client::new();
        client.says(&frame(HEADERS, 4, 1, 20));
        for _ in 0..9 {
            client.waits(5);
            assert!(!client.ping());
        }
        client.hears(&frame(RST_STREAM, 0, 1, 4));
        client.waits(5);
        assert!(!client.ping() && !client.ping() && client.ping(), "one interval was too short");
    }

    #[test]
    fn an_answer_forgives() {
        let mut client = Client::new();
        for stream in [1, 3, 5] {
            assert!(!client.ping() && !client.ping() && !client.ping());
            client.says(&frame(HEADERS, 5, stream, 30));
            client.says(&frame(HEADERS, 5, stream, 30));
            client.hears(&frame(HEADERS, 4, stream, 10));
            assert!(!client.pings.strikes.are_forgiven);
            client.hears(&frame(DATA, END_STREAM, stream, 1000));
        }
        assert!(client.pings.streams.open.is_empty());
        client.hears(&frame(PING, ACK, 0, 8));
        assert!(!client.ping(), "forgiven");
        assert!(!client.ping() && !client.ping() && client.ping());
        assert_eq!(client.pings.farewell().map(|frame| frame[12]), Some(5), "the newest stream");
    }

    #[test]
    fn acknowledgements_and_other_protocols_are_no_pings() {
        let mut client = Client::new();
        for _ in 0..9 {
            assert!(!client.says(&frame(PING, ACK, 0, 8)));
        }
        client.hears(&frame(DATA, 0, 1, 10)[..15]);
        assert_eq!(client.pings.farewell(), None, "in the middle of a frame");
        client.pings.protocol = Protocol::Undecided(0);
        client.says(b"PRIX / HTTP/1.1\r\n");
        assert_eq!(client.pings.protocol, Protocol::Other);
        for _ in 0..9 {
            assert!(!client.ping());
        }
    }
}
