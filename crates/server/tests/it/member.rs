//! A member on its threads, from its birth through restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::{MemberId, Revision};
use node::requests::Rejected;
use proto::etcdserverpb::{
    CompactionRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest, RangeRequest,
};
use storage::datadir::DataDir;
use storage::disk::{Disk, Faulty};
use storage::{bolt, wal};
use store::Response;
use worker::Saved;
use worker::bootstrap::{FileOptions, InitialMember, StartError};

use server::clock::SystemClock;
use server::member::{Beginning, Member, MemberConfig, Observer};

struct Deaf;

impl Observer for Deaf {
    fn wal_synced(&self, _: Duration) {}
    fn database_committed(&self, _: Duration) {}
    fn applied(&self, _: &store::Applied, _: &proto::raftpb::Entry, _: Duration) {}
    fn snapshot_saved(&self, _: Saved) {}
    fn compaction_finished(&self, _: i64, _: Duration) {}
    fn leader_changed(&self, _: MemberId, _: u64) {}
    fn wal_repaired(&self, _: &str) {}
    fn meta_page_damaged(&self, _: &str) {}
}

fn config() -> MemberConfig {
    let peer_urls = vec!["http://localhost:2380".to_owned()];
    MemberConfig {
        dir: DataDir::new(PathBuf::from("default.etcd")),
        name: "default".into(),
        client_urls: vec!["http://localhost:2379".into()],
        beginning: Beginning::Found {
            members: vec![InitialMember { name: "default".into(), peer_urls }],
            token: "etcd-cluster".into(),
        },
        force_new_cluster: false,
        network: None,
        files: FileOptions {
            wal: wal::Options { segment_bytes: 1 << 16, sync: true },
            database: bolt::Options::default(),
        },
        heartbeat: Duration::from_millis(100),
        election_ticks: 10,
        pre_vote: true,
        snapshot_count: 50,
        catchup_entries: 20,
        commit_pace: node::CommitPace::default(),
        quota_bytes: None,
        request_bytes_max: 4096,
        compaction_batch: 10,
        compaction_pause: Duration::ZERO,
        kept: (5, 5),
        learners_max: 1,
    }
}

fn start(disk: &Arc<dyn Disk>) -> Result<Member, StartError> {
    start_on(disk, Arc::new(SystemClock::start()))
}

pub(crate) fn start_on(
    disk: &Arc<dyn Disk>,
    clock: Arc<SystemClock>,
) -> Result<Member, StartError> {
    Member::start(config(), Arc::clone(disk), clock, Arc::new(Deaf))
}

pub(crate) fn put(key: &str, value: impl Into<Vec<u8>>) -> InternalRaftRequest {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.into().into(),
        ..PutRequest::default()
    };
    InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() }
}

fn revision(response: &Response) -> i64 {
    match response {
        Response::Put(put) => put.header.map_or(0, |header| header.revision),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn a_member_keeps_what_it_was_told() {
    let faulty = Faulty::new(1);
    let disk: Arc<dyn Disk> = Arc::new(faulty);
    let mut expected = 1;
    for round in 0..3 {
        let member = start(&disk).unwrap();
        block_on(async {
            member.published().await;
            assert_eq!(member.store().revision(), Revision(expected), "round {round}");
            for number in 0..100 {
                let answer = member.propose(put("k", number.to_string())).await.unwrap();
                expected += 1;
                assert_eq!(revision(&answer.response), expected);
            }
            // The version is decided beside the first requests.
            assert_eq!(member.store().cluster_version().as_deref(), Some("3.7.0"));
            member.read_index().await.unwrap();
            let mut rows = Vec::new();
            let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
            let summary = member.store().view().range(&request, &mut |row| rows.push(row.len()));
            assert_eq!((summary.unwrap().count, rows.len()), (1, 1));
            member.stop().await;
        });
        assert!(block_on(member.propose(put("k", "late"))).is_err());
    }
}

#[test]
fn refusals_come_back_to_the_caller() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let member = start(&disk).unwrap();
    block_on(async {
        let large = member.propose(put("k", vec![0; 5000])).await;
        assert_eq!(large.unwrap_err(), Rejected::RequestTooLarge);
        let compaction = Some(CompactionRequest { revision: 9, physical: false });
        let future = InternalRaftRequest { compaction, ..InternalRaftRequest::default() };
        assert_eq!(member.propose(future).await.unwrap_err(), Rejected::FutureRevision);
        let lease_grant = Some(LeaseGrantRequest { ttl: 1, id: 7 });
        let grant = InternalRaftRequest { lease_grant, ..InternalRaftRequest::default() };
        match member.propose(grant.clone()).await.unwrap().response {
            Response::LeaseGrant(granted) => assert_eq!((granted.id, granted.ttl), (7, 2)),
            other => panic!("{other:?}"),
        }
        assert_eq!(member.propose(grant).await.unwrap_err(), Rejected::LeaseExists);
        member.stop().await;
    });
}

#[test]
fn a_physical_compaction_is_answered_when_its_rows_are_gone() {
    let disk: Arc<dyn Disk> = Arc::new(Faulty::new(1));
    let member = start(&disk).unwrap();
    block_on(async {
        for number in 0..200 {
            member.propose(put("k", number.to_string())).await.unwrap();
        }
        let compaction = Some(CompactionRequest { revision: 150, physical: true });
        let request = InternalRaftRequest { compaction, ..InternalRaftRequest::default() };
        member.propose(request).await.unwrap();
        let view = member.commit_now().await.unwrap();
        let rows = view.scan(b"key", &[]).count();
        assert_eq!(rows, 201 - 150 + 1, "the newest at the revision, and what came after");
        member.stop().await;
    });
}

#[test]
fn a_failed_sync_ends_the_member_with_a_line() {
    let faulty = Faulty::new(1);
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let member = start(&disk).unwrap();
    block_on(async {
        member.published().await;
        member.propose(put("k", "v")).await.unwrap();
        faulty.fail_sync_after(0);
        let refused = tokio::select! {
            answer = member.propose(put("k", "lost")) => answer.is_err(),
            () = tokio::time::sleep(Duration::from_millis(200)) => true,
        };
        assert!(refused, "what is not on disk was acknowledged");
        let line = member.fatal().await;
        assert!(line.contains("sync"), "{line}");
        assert!(!line.contains('\n'));
    });
}
