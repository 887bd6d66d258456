//! Every bound of this crate, with its unit in its name and its reason.
//!
//! *Contract.* `server/etcdserver/api/rafthttp` of etcd v3.7.1 for what its comment says so.

use std::time::Duration;

/// How long a connection may take no byte and give none before it is taken for broken (etcd:
/// `ConnReadTimeout`, `ConnWriteTimeout`).
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a stream says that it lives. etcd gives a stream up after [`CONNECTION_TIMEOUT`].
pub const LINK_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(5_000 / 3);

/// How often a stream is dialed at most (etcd: `DialRetryFrequency`).
pub const DIAL_INTERVAL: Duration = Duration::from_millis(100);

/// What is added to the election timeout to get etcd's time to reach another member.
pub const DIAL_TIMEOUT_EXTRA: Duration = Duration::from_secs(1);

/// Bytes of one message, or of one entry in a stream of appends (etcd: `readBytesLimit`). Bytes
/// are kept as they come, so that a length which lies takes no memory.
pub const MESSAGE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Bytes of the message in front of a database (etcd: `snapshotLimitByte`).
pub const SNAPSHOT_MESSAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of message bodies that all posts together may hold while they are read.
pub const POSTS_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Entries, and members of configurations, of one message. An entry of six bytes on the wire takes
/// some eighty in memory; an honest message has 1 MiB of entries at most.
pub const MESSAGE_PARTS_MAX: u64 = 1 << 20;

/// What is reserved at first for a length that someone else claims.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// Messages that may wait for a stream (etcd: `streamBufSize`).
pub const STREAM_MESSAGES_MAX: usize = 4_096;

/// Bytes of messages that may wait for a stream. etcd has no such bound; the entries are shared
/// with the log, but a member that does not read must not keep them alive.
pub const STREAM_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Messages that are taken from a stream's queue at once.
pub(crate) const BATCH_MESSAGES_MAX: usize = 256;

/// Bytes of messages that are encoded into one piece of a stream, unless one message has more.
pub(crate) const BATCH_BYTES: usize = 128 * 1024;

/// Messages that may wait to be posted (etcd: `pipelineBufSize`).
pub const PIPELINE_MESSAGES_MAX: usize = 64;

/// Posts to one member at a time (etcd: `connPerPipeline`).
pub const PIPELINE_POSTS_MAX: usize = 4;

/// How long one post of a message may take, beside the time to connect.
pub const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept. etcd closes it after [`CONNECTION_TIMEOUT`].
pub(crate) const IDLE_MAX: Duration = Duration::from_millis(4_500);

/// Members that are only known by the requests they sent; each may hold a pipeline.
pub const REMOTES_MAX: usize = 64;

/// Addresses of one member.
pub const URLS_MAX: usize = 64;

/// Snapshots that are sent to one member at a time.
pub const SNAPSHOTS_TO_MEMBER_MAX: usize = 1;

/// Snapshots that are received at a time.
pub const SNAPSHOTS_RECEIVING_MAX: usize = 2;

/// Bytes of one read from the database for a snapshot.
pub const SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;

/// Pieces of a snapshot that are read ahead.
pub const SNAPSHOT_PIECES_MAX: usize = 4;

/// How long the receiver of a snapshot may take nothing.
pub const SNAPSHOT_STALL_MAX: Duration = Duration::from_secs(30);

/// How often the receiver of a snapshot is looked at.
pub(crate) const SNAPSHOT_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the receiver of a snapshot may take to put it on disk once it has all of it.
pub const SNAPSHOT_ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// How often a member is probed, below [`CONNECTION_TIMEOUT`] so that the connection stays.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(4);

/// How long a probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the result of probing is looked at while a member is healthy, and while it is not.
pub const PROBE_REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// See [`PROBE_REPORT_INTERVAL`].
pub const PROBE_REPORT_INTERVAL_FAILING: Duration = Duration::from_secs(5);

/// A difference of clocks that is worth a line.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(1);

/// How often the same is told about the same member, when it may happen with every message.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of the text with which a request was refused.
pub(crate) const REFUSAL_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of the headers of an answer.
pub(crate) const ANSWER_HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an answer about leases, which may name every key (etcd: `maxLeaseHTTPResponseSize`).
pub const LEASE_ANSWER_BYTES_MAX: u64 = 100 * 1024 * 1024;

/// Bytes of any other answer.
pub const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

const _: () = {
    assert!(LINK_HEARTBEAT_INTERVAL.as_millis() * 2 < CONNECTION_TIMEOUT.as_millis());
    assert!(IDLE_MAX.as_millis() < CONNECTION_TIMEOUT.as_millis());
    assert!(PROBE_INTERVAL.as_millis() < IDLE_MAX.as_millis());
    assert!(SNAPSHOT_MESSAGE_BYTES_MAX <= MESSAGE_BYTES_MAX);
};
