//! The API by a foreign gRPC client: texts and codes that clients match, and long answers.

use std::time::Duration;

use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest, RangeRequest, SnapshotRequest,
    WatchCancelRequest, WatchCreateRequest, WatchRequest,
};
use rpc::etcdserverpb::kv_client::KvClient;
use rpc::etcdserverpb::lease_client::LeaseClient;
use rpc::etcdserverpb::maintenance_client::MaintenanceClient;
use rpc::etcdserverpb::watch_client::WatchClient;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::process::Server;

struct Fixture {
    _directory: TempDir,
    _server: Server,
    channel: Channel,
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), &["--max-request-bytes=1000000"]);
    let channel =
        Channel::from_shared(format!("http://{}", server.client)).unwrap().connect().await.unwrap();
    Fixture { _directory: directory, _server: server, channel }
}

fn put(key: impl Into<Vec<u8>>, value: Vec<u8>) -> PutRequest {
    PutRequest { key: key.into().into(), value: value.into(), ..PutRequest::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() }
}

#[tokio::test]
async fn sizes_are_bounded_in_etcds_words() {
    let fixture = fixture().await;
    let mut kv = KvClient::new(fixture.channel.clone()).max_encoding_message_size(usize::MAX);
    let refused = kv.put(put("a", vec![0; 1_000_000])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "etcdserver: request is too large");
    let refused = kv.put(put("a", vec![0; 2_000_000])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let told = "grpc: received message larger than max (2000007 vs. 1524288)";
    assert_eq!(refused.message(), told);
    let refused = kv.range(RangeRequest::default()).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: key is not provided");
}

#[tokio::test]
async fn a_long_range_leaves_whole_plain_and_compressed() {
    let fixture = fixture().await;
    let mut kv = KvClient::new(fixture.channel.clone()).max_decoding_message_size(usize::MAX);
    // More than is held in memory at once, in rows of uneven sizes.
    let sizes: Vec<usize> = (0..40).map(|number| (number * 37_123) % 400_000 + number).collect();
    for (number, size) in sizes.iter().enumerate() {
        kv.put(put(format!("k{number:03}"), vec![b'x'; *size])).await.unwrap();
    }
    let mut zipped = kv
        .clone()
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    for limit in [0, 30] {
        let request = RangeRequest { limit, ..all() };
        let plain = kv.range(request.clone()).await.unwrap().into_inner();
        let expected = if limit == 0 { &sizes[..] } else { &sizes[..30] };
        let lengths: Vec<_> = plain.kvs.iter().map(|kv| kv.value.len()).collect();
        assert_eq!(lengths, expected);
        assert_eq!((plain.count, plain.more), (40, limit != 0));
        assert_eq!(plain.header.unwrap().revision, 41);
        assert_eq!(zipped.range(request.clone()).await.unwrap().into_inner(), plain);

        let mut stream = kv.range_stream(request).await.unwrap().into_inner();
        let (mut kvs, mut last) = (Vec::new(), None);
        while let Some(part) = stream.message().await.unwrap() {
            let part = part.range_response.unwrap();
            kvs.extend(part.kvs.clone());
            last = Some(part);
        }
        assert_eq!(kvs, plain.kvs);
        let last = last.unwrap();
        assert_eq!((last.count, last.more, last.header), (plain.count, plain.more, plain.header));
    }
}

#[tokio::test]
async fn streams_answer_and_end() {
    let fixture = fixture().await;
    let mut kv = KvClient::new(fixture.channel.clone());
    let mut watch = WatchClient::new(fixture.channel.clone());
    let (send, requests) = mpsc::channel(4);
    let ask = |union| WatchRequest { request_union: Some(union) };
    let create = WatchCreateRequest { key: "a".into(), ..WatchCreateRequest::default() };
    send.send(ask(RequestUnion::CreateRequest(create))).await.unwrap();
    let mut responses = watch.watch(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let created = responses.message().await.unwrap().unwrap();
    assert!(created.created && !created.canceled);
    kv.put(put("a", b"1".to_vec())).await.unwrap();
    let told = responses.message().await.unwrap().unwrap();
    assert_eq!(told.events[0].kv.as_ref().unwrap().value, "1");
    send.send(ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 }))).await.unwrap();
    assert!(responses.message().await.unwrap().unwrap().canceled);

    let mut lease = LeaseClient::new(fixture.channel.clone());
    let grant = LeaseGrantRequest { ttl: 60, id: 7 };
    assert_eq!(lease.lease_grant(grant).await.unwrap().into_inner().ttl, 60);
    let alive = tokio_stream::iter([7, 8].map(|id| LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(alive).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 60);
    assert_eq!(answers.message().await.unwrap().unwrap().ttl, 0, "an unknown lease");
    assert_eq!(answers.message().await.unwrap(), None, "the end of the requests ends the stream");
}

#[tokio::test]
async fn a_snapshot_ends_with_its_digest() {
    let fixture = fixture().await;
    KvClient::new(fixture.channel.clone()).put(put("a", vec![1; 100_000])).await.unwrap();
    let mut maintenance = MaintenanceClient::new(fixture.channel.clone());
    let mut parts = maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let (mut digest, mut total, mut last) = (Sha256::new(), 0, None);
    while let Some(part) = parts.message().await.unwrap() {
        assert_eq!((part.version.as_str(), part.header), ("3.7.0", None));
        if let Some(blob) = last.replace(part.blob) {
            assert!(blob.len() <= 32_768);
            total += blob.len();
            digest.update(&blob);
        }
    }
    assert_eq!(total % 4096, 0);
    assert_eq!(last.unwrap()[..], digest.finalize()[..]);
}

#[tokio::test]
async fn headers_are_read_as_etcd_does() {
    let fixture = fixture().await;
    let mut kv = KvClient::new(fixture.channel.clone());
    let mut request = Request::new(put("a", Vec::new()));
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request.metadata_mut().insert("client-api-version", "3.7".parse().unwrap());
    request.metadata_mut().insert("token", "whatever".parse().unwrap());
    request.set_timeout(Duration::from_secs(5));
    kv.put(request).await.unwrap();
    let mut client = tonic::client::Grpc::new(fixture.channel.clone());
    for (path, told) in [
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
        ("/nothing.Service/Range", "unknown service nothing.Service"),
    ] {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeRequest>::default();
        let refused = client.unary(Request::new(all()), path.parse().unwrap(), codec).await;
        let refused = refused.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::Unimplemented, told));
    }
}
