//! Holds the generated gRPC clients of etcd's services.
//!
//! *Absent.* The messages, which are crate `proto`'s; servers, which `server` writes on hyper
//! (decision 006); and every meaning.

macro_rules! services {
    ($name:ident, $file:literal, $doc:literal) => {
#[doc = $doc]
        #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
        #[allow(clippy::too_many_lines)]
        #[rustfmt::skip]
        pub mod $name {
            include!(concat!("generated/", $file, ".rs"));
        }
    };
}

services!(etcdserverpb, "etcdserverpb", "KV, Watch, Lease, Cluster, Maintenance and Auth.");
services!(health, "grpc.health.v1", "The standard gRPC health service.");
services!(otlp, "opentelemetry.proto.collector.trace.v1", "What a collector of traces is sent.");
services!(v3electionpb, "v3electionpb", "Election.");
services!(v3lockpb, "v3lockpb", "Lock.");
