//! Golden tests: what every format makes of the same answers. The expected texts were seen from
//! etcdctl 3.7.1.

use expect_test::{Expect, expect};
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::{Event, KeyValue};

use super::*;

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: 7, member_id: 0xf693, revision: 9, raft_term: 2 })
}

fn pair(key: &'static str, value: &'static [u8]) -> KeyValue {
    KeyValue {
        key: key.into(),
        create_revision: 8,
        mod_revision: 9,
        version: 2,
        value: value.into(),
        lease: 0x1f,
    }
}

fn check(answer: &Answer, format: Format, hex: bool, expected: Expect) {
    let printer = Printer { format, hex, value_only: false };
    let text = match printer.render(answer) {
        Ok(Text { out, err }) => {
            let err = String::from_utf8_lossy(&err).into_owned();
            String::from_utf8_lossy(&out).into_owned() + &err
        }
        Err(Failure { code, text }) => format!("{text}exit {code}\n"),
    };
    expected.assert_eq(&text);
}

#[test]
fn pairs() {
    let kvs = vec![pair("foo", b"b<a>&\"\xff")];
    let get = Answer::Get(pb::RangeResponse { header: header(), kvs, more: true, count: 3 });
    check(
        &get,
        Format::Simple,
        true,
        expect![[r"
        \x66\x6f\x6f
        \x62\x3c\x61\x3e\x26\x22\xff
    "]],
    );
    check(
        &get,
        Format::Json,
        true,
        expect![[r#"
        {"header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2},"kvs":[{"key":"Zm9v","create_revision":8,"mod_revision":9,"version":2,"value":"YjxhPiYi/w==","lease":31}],"more":true,"count":3}
    "#]],
    );
    check(
        &get,
        Format::Fields,
        true,
        expect![[r#"
        "ClusterID" : 7
        "MemberID" : f693
        "Revision" : 9
        "RaftTerm" : 2
        "Key" : "foo"
        "CreateRevision" : 8
        "ModRevision" : 9
        "Version" : 2
        "Value" : "b<a>&\"\xff"
        "Lease" : 000000000000001f
        "More" : true
        "Count" : 3
    "#]],
    );
    check(
        &get,
        Format::Table,
        false,
        expect![[r"
        Error: table not supported as output format
        exit 4
    "]],
    );
    let empty = Answer::Get(pb::RangeResponse { header: header(), ..Default::default() });
    check(&empty, Format::Simple, false, expect![[""]]);
    check(
        &empty,
        Format::Json,
        false,
        expect![[r#"
        {"header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2}}
    "#]],
    );
}

#[test]
fn values_alone() {
    let kvs = vec![pair("a", b"1"), pair("b", b"")];
    let get = Answer::Get(pb::RangeResponse { kvs, ..Default::default() });
    let printer = Printer { format: Format::Simple, hex: false, value_only: true };
    assert_eq!(printer.render(&get), Ok(Text { out: b"1\n\n".to_vec(), err: Vec::new() }));
}

#[test]
fn transactions() {
    let revision = Some(pb::ResponseHeader { revision: 9, ..Default::default() });
    let operation = |response| pb::ResponseOp { response: Some(response) };
    let put = pb::PutResponse { header: revision, prev_kv: Some(pair("foo", b"bar")) };
    let range = pb::RangeResponse { header: revision, ..Default::default() };
    let del = pb::DeleteRangeResponse { header: revision, deleted: 1, ..Default::default() };
    let txn = Answer::Txn(pb::TxnResponse {
        header: header(),
        succeeded: true,
        responses: vec![
            operation(Response::ResponsePut(put)),
            operation(Response::ResponseRange(range)),
            operation(Response::ResponseDeleteRange(del)),
        ],
    });
    check(
        &txn,
        Format::Simple,
        false,
        expect![[r"
        SUCCESS

        OK
        foo
        bar


        1
    "]],
    );
    check(
        &txn,
        Format::Json,
        false,
        expect![[r#"
        {"header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2},"succeeded":true,"responses":[{"Response":{"response_put":{"header":{"revision":9},"prev_kv":{"key":"Zm9v","create_revision":8,"mod_revision":9,"version":2,"value":"YmFy","lease":31}}}},{"Response":{"response_range":{"header":{"revision":9}}}},{"Response":{"response_delete_range":{"header":{"revision":9},"deleted":1}}}]}
    "#]],
    );
}

#[test]
fn watches() {
    let delete = KeyValue { key: "foo".into(), mod_revision: 10, ..Default::default() };
    let events = vec![
        Event { r#type: 0, kv: Some(pair("foo", b"bar")), prev_kv: None },
        Event { r#type: 1, kv: Some(delete), prev_kv: Some(pair("foo", b"bar")) },
    ];
    let watch = Answer::Watch(pb::WatchResponse { header: header(), events, ..Default::default() });
    check(
        &watch,
        Format::Simple,
        false,
        expect![[r"
        PUT
        foo
        bar
        DELETE
        foo
        bar
        foo

    "]],
    );
    check(
        &watch,
        Format::Json,
        false,
        expect![[r#"
        {"Header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2},"Events":[{"kv":{"key":"Zm9v","create_revision":8,"mod_revision":9,"version":2,"value":"YmFy","lease":31}},{"type":1,"kv":{"key":"Zm9v","mod_revision":10},"prev_kv":{"key":"Zm9v","create_revision":8,"mod_revision":9,"version":2,"value":"YmFy","lease":31}}],"CompactRevision":0,"Canceled":false,"Created":false,"CancelReason":""}
    "#]],
    );
    let canceled = Answer::Watch(pb::WatchResponse {
        compact_revision: 25,
        canceled: true,
        ..Default::default()
    });
    check(&canceled, Format::Simple, false, expect![[""]]);
    check(
        &canceled,
        Format::Json,
        false,
        expect![[r#"
        {"Header":{},"Events":null,"CompactRevision":25,"Canceled":true,"Created":false,"CancelReason":""}
    "#]],
    );
}

#[test]
fn leases() {
    let grant = Answer::Grant(pb::LeaseGrantResponse {
        header: header(),
        id: 0x5a81,
        ttl: 100,
        error: String::new(),
    });
    check(
        &grant,
        Format::Simple,
        false,
        expect![[r"
        lease 0000000000005a81 granted with TTL(100s)
    "]],
    );
    check(
        &grant,
        Format::Json,
        false,
        expect![[r#"
        {"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2,"ID":23169,"TTL":100,"Error":""}
    "#]],
    );
    let time_to_live = |granted_ttl, ttl, list: &[&'static str], keys| Answer::TimeToLive {
        answer: pb::LeaseTimeToLiveResponse {
            header: header(),
            id: 0x5a81,
            ttl,
            granted_ttl,
            keys: list.iter().map(|key| (*key).into()).collect(),
        },
        keys,
    };
    check(
        &time_to_live(0, -1, &[], false),
        Format::Simple,
        false,
        expect![[r"
        lease 0000000000005a81 already expired
    "]],
    );
    let attached = time_to_live(300, 299, &["lk", "k2"], true);
    check(
        &attached,
        Format::Simple,
        false,
        expect![[r"
        lease 0000000000005a81 granted with TTL(300s), remaining(299s), attached keys([lk k2])
    "]],
    );
    check(
        &attached,
        Format::Json,
        false,
        expect![[r#"
        {"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2,"id":23169,"ttl":299,"granted-ttl":300,"keys":["bGs=","azI="]}
    "#]],
    );
    check(
        &time_to_live(0, -1, &[], false),
        Format::Json,
        false,
        expect![[r#"
        {"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2,"id":23169,"ttl":-1,"granted-ttl":0,"keys":null}
    "#]],
    );
    let none = Answer::Leases(pb::LeaseLeasesResponse { header: header(), leases: Vec::new() });
    check(
        &none,
        Format::Simple,
        false,
        expect![[r"
        found 0 leases
    "]],
    );
    check(
        &none,
        Format::Json,
        false,
        expect![[r#"
        {"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2,"leases":[]}
    "#]],
    );
}

#[test]
fn changes_of_members() {
    let member = |id, name: &str, url: &str| pb::Member {
        id,
        name: name.to_owned(),
        peer_ur_ls: vec![url.to_owned()],
        ..Default::default()
    };
    let new = pb::Member { is_learner: true, ..member(0xab, "", "http://n:2380") };
    let members = vec![new.clone(), member(0xf693, "ctl", "http://h:2380")];
    let header = pb::ResponseHeader { revision: 0, ..header().unwrap() };
    let answer =
        pb::MemberAddResponse { header: Some(header), member: Some(new), members: members.clone() };
    let (name, urls) = ("n".to_owned(), "http://n:2380".to_owned());
    let added = Answer::MemberAdded { answer, name, urls };
    check(
        &added,
        Format::Simple,
        false,
        expect![[r#"
        Member               ab added as learner to cluster                7

        ETCD_NAME="n"
        ETCD_INITIAL_CLUSTER="n=http://n:2380,ctl=http://h:2380"
        ETCD_INITIAL_ADVERTISE_PEER_URLS="http://n:2380"
        ETCD_INITIAL_CLUSTER_STATE="existing"
    "#]],
    );
    check(
        &added,
        Format::Json,
        false,
        expect![[r#"
        {"header":{"cluster_id":7,"member_id":63123,"raft_term":2},"member":{"ID":171,"peerURLs":["http://n:2380"],"isLearner":true},"members":[{"ID":171,"peerURLs":["http://n:2380"],"isLearner":true},{"ID":63123,"name":"ctl","peerURLs":["http://h:2380"]}]}
    "#]],
    );
    check(
        &added,
        Format::Fields,
        false,
        expect![[r"
        Error: fields not supported as output format
        exit 4
    "]],
    );
    let answer = pb::MemberRemoveResponse { header: Some(header), members };
    let removed = Answer::MemberChanged { id: 0xcd, how: "removed from", answer };
    check(
        &removed,
        Format::Simple,
        false,
        expect![[r"
        Member               cd removed from cluster                7
    "]],
    );
    check(
        &removed,
        Format::Json,
        true,
        expect![[r#"
        {"header":{"cluster_id":"7","member_id":"f693","raft_term":2},"members":[{"ID":"ab","peerURLs":["http://n:2380"],"isLearner":true},{"ID":"f693","name":"ctl","peerURLs":["http://h:2380"]}]}
    "#]],
    );
}

#[test]
fn leaders_and_versions() {
    let moved = Answer::LeaderMoved { from: 0xf693, to: 0xab };
    check(
        &moved,
        Format::Simple,
        false,
        expect![[r"
        Leadership transferred from f693 to ab
    "]],
    );
    check(
        &moved,
        Format::Json,
        false,
        expect![[r"
        {}
    "]],
    );
    let answer = pb::DowngradeResponse { header: header(), version: "3.7".to_owned() };
    let downgrade = Answer::Downgrade { step: "enable", answer };
    check(
        &downgrade,
        Format::Simple,
        false,
        expect![[r"
        Downgrade enable success, cluster version 3.7
    "]],
    );
    check(
        &downgrade,
        Format::Json,
        false,
        expect![[r#"
        {"header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2},"version":"3.7"}
    "#]],
    );
}

#[test]
fn members_and_alarms() {
    let member = pb::Member {
        id: 0xf693,
        name: "ctl".to_owned(),
        peer_ur_ls: vec!["http://h:2380".to_owned()],
        client_ur_ls: vec!["http://h:2379".to_owned(), "http://i:2379".to_owned()],
        is_learner: false,
    };
    let unstarted = pb::Member { id: 1, is_learner: true, ..Default::default() };
    let members = vec![member, unstarted];
    let list = Answer::Members(pb::MemberListResponse { header: header(), members });
    check(
        &list,
        Format::Simple,
        false,
        expect![[r"
        f693, started, ctl, http://h:2380, http://h:2379,http://i:2379, false
        1, unstarted, , , , true
    "]],
    );
    check(
        &list,
        Format::Json,
        true,
        expect![[r#"
        {"header":{"cluster_id":"7","member_id":"f693","revision":9,"raft_term":2},"members":[{"ID":"f693","name":"ctl","peerURLs":["http://h:2380"],"clientURLs":["http://h:2379","http://i:2379"]},{"ID":"1","isLearner":true}]}
    "#]],
    );
    check(
        &list,
        Format::Table,
        false,
        expect![[r"
        ┌──────┬───────────┬──────┬───────────────┬─────────────────────────────┬────────────┐
        │  ID  │  STATUS   │ NAME │  PEER ADDRS   │        CLIENT ADDRS         │ IS LEARNER │
        ├──────┼───────────┼──────┼───────────────┼─────────────────────────────┼────────────┤
        │ f693 │   started │  ctl │ http://h:2380 │ http://h:2379,http://i:2379 │      false │
        │    1 │ unstarted │      │               │                             │       true │
        └──────┴───────────┴──────┴───────────────┴─────────────────────────────┴────────────┘
    "]],
    );
    let alarms = vec![pb::AlarmMember { member_id: 63123, alarm: 1 }];
    let alarms = Answer::Alarms(pb::AlarmResponse { header: None, alarms });
    check(
        &alarms,
        Format::Simple,
        false,
        expect![[r"
        memberID:63123 alarm:NOSPACE
    "]],
    );
    check(
        &alarms,
        Format::Json,
        false,
        expect![[r#"
        {"alarms":[{"memberID":63123,"alarm":1}]}
    "#]],
    );
}

#[test]
fn endpoints() {
    let status = pb::StatusResponse {
        header: header(),
        version: "3.7.1".to_owned(),
        db_size: 20_480,
        db_size_in_use: 16_384,
        leader: 0xf693,
        raft_index: 16,
        raft_term: 2,
        raft_applied_index: 15,
        storage_version: "3.7.0".to_owned(),
        db_size_quota: 2_147_483_648,
        downgrade_info: Some(pb::DowngradeInfo::default()),
        ..Default::default()
    };
    let status = Answer::Status(vec![("h:2379".to_owned(), status)]);
    check(
        &status,
        Format::Simple,
        false,
        expect![[r"
        h:2379, f693, 3.7.1, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 16, 15, , , false
    "]],
    );
    check(
        &status,
        Format::Json,
        false,
        expect![[r#"
        [{"Endpoint":"h:2379","Status":{"header":{"cluster_id":7,"member_id":63123,"revision":9,"raft_term":2},"version":"3.7.1","dbSize":20480,"leader":63123,"raftIndex":16,"raftTerm":2,"raftAppliedIndex":15,"dbSizeInUse":16384,"storageVersion":"3.7.0","dbSizeQuota":2147483648,"downgradeInfo":{}}}]
    "#]],
    );
    let took = Some(Duration::from_nanos(2_047_156));
    let health = |endpoint: &str, error: &str| Health {
        endpoint: endpoint.to_owned(),
        took,
        error: error.to_owned(),
    };
    let list = vec![health("a:1", ""), health("b:1", "context deadline exceeded")];
    let list = Answer::Health(list);
    check(
        &list,
        Format::Simple,
        false,
        expect![[r"
        a:1 is healthy: successfully committed proposal: took = 2.047156ms
        b:1 is unhealthy: failed to commit proposal: context deadline exceeded
    "]],
    );
    check(
        &list,
        Format::Json,
        false,
        expect![[r#"
        [{"endpoint":"a:1","health":true,"took":"2.047156ms"},{"endpoint":"b:1","health":false,"took":"2.047156ms","error":"context deadline exceeded"}]
    "#]],
    );
    check(
        &Answer::Health(Vec::new()),
        Format::Json,
        false,
        expect![[r"
        null
    "]],
    );
    check(
        &Answer::HashKv(Vec::new()),
        Format::Table,
        false,
        expect![[r"
        ┌──────────┬──────┬───────────────┐
        │ ENDPOINT │ HASH │ HASH REVISION │
        └──────────┴──────┴───────────────┘
    "]],
    );
    check(
        &list,
        Format::Protobuf,
        false,
        expect![[r"
        Error: protobuf not supported as output format
        exit 4
    "]],
    );
}
