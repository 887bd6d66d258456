//! Every bound that is not a flag, with its unit in its name and its reason.

use std::time::Duration;

/// Committed entries that may wait to be applied before new proposals are refused with
/// `too many requests` (etcd v3.7.1, `server/etcdserver/v3_server.go`).
pub const APPLY_BACKLOG_MAX: u64 = 5_000;

/// Bytes that a gRPC message may exceed `--max-request-bytes` by, for its framing and the fields
/// around the value (etcd v3.7.1, `server/etcdserver/api/v3rpc/grpc.go`).
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// The quota that `--quota-backend-bytes=0` stands for.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// The longest lease, in seconds.
pub const LEASE_TTL_MAX_SECONDS: i64 = 9_000_000_000;

/// How long uncommitted changes of the database may wait for their commit.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How many uncommitted changes of the database force a commit.
pub const COMMIT_CHANGES_MAX: usize = 10_000;

/// Expired leases that one scan of the lessor hands to be revoked.
pub const LEASE_EXPIRE_BATCH_MAX: usize = 500;

/// Nested transactions that a request may hold before it is refused undecoded. Above the
/// default of `--max-txn-ops` so that the refusal has etcd's text.
pub const TXN_DEPTH_MAX: usize = 512;

/// Log entries kept behind the applied index for followers that lag
/// (`--snapshot-catchup-entries`).
pub const CATCHUP_ENTRIES: u64 = 5_000;

/// Bytes of pages that may be kept for a snapshot, and for no earlier state, while it is sent to a
/// client: beyond them it is ended.
pub const SNAPSHOT_PINNED_BYTES_MAX: u64 = 1 << 30;

/// Snapshots on their way to clients at once; more wait.
pub const SNAPSHOTS_SERVED_MAX: usize = 8;

/// Bytes a second of a snapshot to a client while others write. Encryption and the client itself
/// cost several times what reading costs, often on the same machine.
pub const SNAPSHOT_BYTES_PER_SECOND: u64 = 96_000_000;

/// Snapshots on their way to other members at once. Each holds the pages of one state of the
/// database until it has arrived.
pub const SNAPSHOTS_SENDING_MAX: usize = 8;
