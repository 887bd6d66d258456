//! Another state in the place of one that is being read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{LeaseId, Moment, Revision};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, InternalRaftRequest,
    LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
};
use proto::membershippb::ClusterVersionSetRequest;
use proto::raftpb::{ConfChange, ConfChangeType};
use store::{ApplyError, OpenError, StoreOptions};

use crate::member::Member;

fn request(fill: impl FnOnce(&mut InternalRaftRequest)) -> InternalRaftRequest {
    let mut request = InternalRaftRequest::default();
    fill(&mut request);
    request
}

fn put(key: &'static str, lease: i64) -> InternalRaftRequest {
    let put = PutRequest { key: key.into(), value: "v".into(), lease, ..PutRequest::default() };
    request(|request| request.put = Some(put))
}

fn grant(id: i64) -> InternalRaftRequest {
    request(|request| request.lease_grant = Some(LeaseGrantRequest { id, ttl: 60 }))
}

fn add(id: u64) -> ConfChange {
    ConfChange {
        r#type: Some(ConfChangeType::ConfChangeAddNode.into()),
        node_id: Some(id),
        context: Some(format!(r#"{{"id":{id},"peerURLs":["http://m{id}:2380"]}}"#).into()),
        ..ConfChange::default()
    }
}

/// What both have applied.
fn common(member: &mut Member) {
    member.change(&add(1)).expect("a member");
    for request in [grant(7), put("gone", 7), put("kept", 0)] {
        member.apply(request);
    }
}

#[test]
fn who_shares_a_store_sees_the_state_that_takes_its_place() {
    let (mut old, mut new) =
        (Member::new(StoreOptions::default()), Member::new(StoreOptions::default()));
    common(&mut old);
    common(&mut new);
    new.change(&add(2)).unwrap();
    let revoke = request(|it| {
        it.lease_revoke = Some(LeaseRevokeRequest { id: 7 });
    });
    let alarm = AlarmRequest {
        action: AlarmAction::Activate.into(),
        member_id: 2,
        alarm: AlarmType::Nospace.into(),
    };
    let version = ClusterVersionSetRequest { ver: "3.7.0".into() };
    for request in [
        revoke,
        grant(8),
        put("leased", 8),
        put("last", 0),
        request(|it| it.cluster_version_set = Some(version)),
        request(|it| it.alarm = Some(alarm)),
        request(|it| {
            it.compaction = Some(CompactionRequest { revision: 4, physical: false });
        }),
    ] {
        new.apply(request).result.unwrap();
    }
    new.sweep();
    new.flush();

    let shared = old.store().handle();
    shared.lessor().promote(Moment::default(), Duration::ZERO);
    let told = Arc::new(AtomicBool::new(false));
    let teller = Arc::clone(&told);
    shared.lessor().when_removed(LeaseId(7), move || teller.store(true, Ordering::Relaxed));
    let before = shared.view();

    old.replace(&new).unwrap();
    let expected = new.store().handle();
    assert!(Arc::ptr_eq(&shared, &old.store().handle()));
    assert_eq!(shared.revision(), expected.revision());
    assert_eq!(shared.members(), expected.members());
    assert_eq!(shared.alarms(), expected.alarms());
    assert_eq!(shared.cluster_version().as_deref(), Some("3.7.0"));
    assert_eq!(shared.storage_version().as_deref(), Some("3.7.0"));
    assert_eq!(shared.lessor().leases(), [LeaseId(8)]);
    assert_eq!(shared.lessor().keys(LeaseId(8)).unwrap(), ["leased"]);
    assert!(told.load(Ordering::Relaxed), "the lease that was waited for is gone");
    let hash = |shared: &store::Shared| shared.view().hash_kv(Revision(0)).unwrap();
    assert_eq!(hash(&shared), hash(&expected));
    // A view that was taken before stays what it was.
    assert_eq!(before.revision(), Revision(3));
    assert!(before.hash_kv(Revision(2)).is_ok());

    // And both go on alike, the alarm included.
    for member in [&mut old, &mut new] {
        assert_eq!(member.apply(put("after", 8)).result, Err(ApplyError::NoSpace));
        let delete = DeleteRangeRequest { key: "kept".into(), ..DeleteRangeRequest::default() };
        member.apply(request(|it| it.delete_range = Some(delete))).result.unwrap();
    }
    assert_eq!(hash(&shared), hash(&expected));
}

#[test]
fn an_older_state_takes_no_place() {
    let (mut old, mut new) =
        (Member::new(StoreOptions::default()), Member::new(StoreOptions::default()));
    common(&mut old);
    common(&mut new);
    new.flush();
    let refused = old.replace(&new).unwrap_err();
    assert!(matches!(refused, OpenError::Backwards { .. }), "{refused}");
    assert_eq!(old.revision(), Revision(3));
    old.apply(put("next", 7)).result.unwrap();
}
