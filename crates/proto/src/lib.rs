//! Holds the wire messages of etcd, generated from our own `.proto` files by `cargo xtask codegen`.
//!
//! *Invariants.* A `bytes` field is [`bytes::Bytes`], so that decoding borrows the input buffer
//! and a value is not copied. proto2 packages (`raftpb`, `walpb`, `snappb`) keep field presence.
//!
//! [`json`] maps those that clients send and get to JSON, by tables.
//!
//! *Absent.* gRPC services (crate `rpc`), and any meaning: this crate only has shapes.
//!
//! *Contract.* `api/` and `server/storage/wal/walpb` of etcd v3.7.1, `raftpb` of raft v3.7.0.

mod depth;
pub mod json;
mod shape;
mod wire;

pub use depth::{DepthError, check_nesting};
pub use shape::{DecodeError, GROUPS_MAX, LEVELS_MAX, Shape, Shaped, check_depth, decode};
pub use wire::next_field;

macro_rules! package {
    ($name:ident, $file:literal, $doc:literal) => {
#[doc = $doc]
        #[allow(missing_docs, unreachable_pub, clippy::all)]
        #[rustfmt::skip]
        pub mod $name {
            include!(concat!("generated/", $file, ".rs"));
        }
    };
}

package!(authpb, "authpb", "Users, roles and permissions.");
package!(etcdserverpb, "etcdserverpb", "The client API, and the payload of log entries.");
package!(health, "grpc.health.v1", "The standard gRPC health service.");
package!(leasepb, "leasepb", "Rows of the `lease` bucket, and lease queries between members.");
package!(membershippb, "membershippb", "Membership requests inside the replicated log.");
package!(mvccpb, "mvccpb", "Key-value rows and change events.");
package!(
    otlp,
    "opentelemetry.proto.collector.trace.v1",
    "Spans, as a collector of traces is sent them."
);
package!(raftpb, "raftpb", "Consensus messages, entries and snapshots.");
package!(snappb, "snappb", "The envelope of a `.snap` file.");
package!(v3electionpb, "v3electionpb", "The election service.");
package!(v3lockpb, "v3lockpb", "The lock service.");
package!(walpb, "walpb", "Records of the write-ahead log.");
