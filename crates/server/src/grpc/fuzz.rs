//! Bodies and headers of calls, almost right. How to run these for longer, and a failure again:
//! see the crate `fuzz`.

use std::fmt::Debug;

use bytes::Bytes;
use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate, mutate_text};
use prost::Message;
use proto::Shaped;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::*;
use proto::health::{HealthCheckRequest, HealthListRequest};

use super::{early, txn, wire};

/// The largest message of these.
const BYTES_MAX: usize = 50_000;

/// Decodes as a unary call does and as a stream does; what was decoded is the same again.
fn read<M: Shaped + PartialEq + Debug>(bytes: &Bytes) -> Verdict {
    let decoded = wire::decode::<M>(bytes);
    assert_eq!(wire::decode_streamed::<M>(bytes).ok().as_ref(), decoded.as_ref().ok());
    if let Ok(message) = &decoded {
        let again = wire::decode::<M>(&message.encode_to_vec().into());
        assert_eq!(again.ok().as_ref(), Some(message));
    } else {
        assert!(proto::decode::<M>(bytes.clone()).is_err());
    }
    Verdict::of(&decoded)
}

type Reader = fn(&Bytes) -> Verdict;

/// What every method reads.
const READERS: [Reader; 30] = [
    read::<RangeRequest>,
    read::<PutRequest>,
    read::<DeleteRangeRequest>,
    read::<TxnRequest>,
    read::<CompactionRequest>,
    read::<WatchRequest>,
    read::<LeaseGrantRequest>,
    read::<LeaseRevokeRequest>,
    read::<LeaseKeepAliveRequest>,
    read::<LeaseTimeToLiveRequest>,
    read::<LeaseLeasesRequest>,
    read::<MemberAddRequest>,
    read::<MemberRemoveRequest>,
    read::<MemberUpdateRequest>,
    read::<MemberListRequest>,
    read::<MemberPromoteRequest>,
    read::<AlarmRequest>,
    read::<StatusRequest>,
    read::<DefragmentRequest>,
    read::<HashRequest>,
    read::<HashKvRequest>,
    read::<SnapshotRequest>,
    read::<MoveLeaderRequest>,
    read::<DowngradeRequest>,
    read::<AuthStatusRequest>,
    read::<AuthDisableRequest>,
    read::<AuthenticateRequest>,
    read::<HealthCheckRequest>,
    read::<HealthListRequest>,
    read::<proto::leasepb::LeaseInternalRequest>,
];

fn samples() -> Vec<Vec<u8>> {
    let put = PutRequest { key: "k".into(), value: vec![b'{'; 30].into(), ..Default::default() };
    let op = |request| RequestOp { request: Some(request) };
    let compare = Compare { key: "k".into(), result: 3, ..Default::default() };
    let range = RangeRequest { key: "k".into(), range_end: "z".into(), ..Default::default() };
    let inner = TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(put.clone()))],
        failure: vec![op(Request::RequestRange(range.clone()))],
    };
    let txn = TxnRequest { success: vec![op(Request::RequestTxn(inner))], ..Default::default() };
    let create = WatchCreateRequest { key: "k".into(), filters: vec![0, 1], ..Default::default() };
    let watch = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let urls = vec!["http://a:1".to_owned(), "http://b:2".to_owned()];
    let add = MemberAddRequest { peer_ur_ls: urls, is_learner: true };
    let health = HealthCheckRequest { service: "etcdserverpb.KV".to_owned() };
    let lease = LeaseTimeToLiveRequest { id: 7, keys: true };
    vec![
        put.encode_to_vec(),
        txn.encode_to_vec(),
        range.encode_to_vec(),
        watch.encode_to_vec(),
        add.encode_to_vec(),
        health.encode_to_vec(),
        lease.encode_to_vec(),
    ]
}

fn check_gzip(u: &mut Unstructured<'_>, message: &[u8]) -> Result<Verdict> {
    let framed = Bytes::from([&[0; wire::PREFIX][..], message].concat());
    let mut compressed = wire::compress([framed].iter())[wire::PREFIX..].to_vec();
    assert_eq!(wire::decompress(&compressed, BYTES_MAX).ok().as_deref(), Some(message));
    mutate(u, &mut compressed)?;
    let max = u.int_in_range(0..=BYTES_MAX)?;
    let plain = wire::decompress(&compressed, max);
    assert!(plain.as_ref().is_ok_and(|plain| plain.len() <= max) || plain.is_err());
    Ok(Verdict::of(&plain))
}

fn check_timeout(u: &mut Unstructured<'_>) -> Result<()> {
    let text = format!("{}{}", int(u)? % 100_000_000, u.choose(&["H", "M", "S", "m", "u", "n"])?);
    assert!(early::parse(text.as_bytes()).is_ok(), "{text}");
    drop(early::parse(mutate_text(u, &text)?.as_bytes()));
    Ok(())
}

#[test]
fn bodies_of_calls_are_refused_or_requests() {
    let samples = samples();
    for sample in &samples {
        assert!(READERS.iter().any(|read| read(&sample.clone().into()) == Verdict::Taken));
    }
    fuzz("gRPC bodies", |u| {
        let mut bytes = u.choose(&samples)?.clone();
        if !u.ratio(9, 10)? {
            bytes = bytes.repeat(u.int_in_range(1..=1_000)?);
            bytes.truncate(BYTES_MAX);
            check_timeout(u)?;
            return check_gzip(u, &bytes);
        }
        mutate(u, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        drop(txn::check_depth(&bytes));
        let read = u.choose(&READERS)?;
        Ok(read(&bytes))
    });
}

/// Every client could have ended the process by a request of nothing but opened groups.
#[test]
fn groups_take_no_stack() {
    let groups = Bytes::from(vec![b'{'; 2 << 20]);
    for read in READERS {
        assert_eq!(read(&groups), Verdict::Refused);
    }
    // After a field of a wrong type the message is read field by field, past the first decoder.
    let wrong = Bytes::from([&[0x0d, 1, 2, 3, 4][..], &groups].concat());
    for read in READERS {
        assert_eq!(read(&wrong), Verdict::Refused);
    }
}
