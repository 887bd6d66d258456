//! What every handler shares: the member, its store, the limits, the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::limits::SNAPSHOTS_SERVED_MAX;
use base::{Clock, MemberId, Moment, RequestIds, Revision, Rng};
use node::requests::Rejected;
use node::requests::watch::Limits;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType, InternalRaftRequest, ResponseHeader};
use store::{Operation, Response, Shared};
use tokio::sync::{Semaphore, watch};

use crate::config::{Config, FEATURE_GATES};
use crate::live::Live;
use crate::member::Member;
use crate::metrics::Metrics;
use crate::trace::course;

/// The etcd version that we are taken for.
pub(crate) const VERSION: &str = "3.7.1";

/// Shorter intervals of progress notifications are raised to this one, as in etcd.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);

/// What the flags say about requests.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) receive_bytes_max: usize,
    pub(crate) request_bytes_max: usize,
    pub(crate) txn_ops_max: usize,
    pub(crate) strict_reconfig_check: bool,
    /// What SIGHUP may change.
    pub(crate) live: Arc<Live>,
    pub(crate) request_timeout: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) fast_lease_keep_alive: bool,
    pub(crate) enable_grpc_gateway: bool,
    /// Whether calls are measured one by one (`--metrics extensive`).
    pub(crate) are_calls_timed: bool,
    /// Which feature gates are open, in the order of their table.
    pub(crate) gates: Vec<bool>,
    /// Whether profiles are offered.
    pub(crate) profiles: bool,
    pub(crate) watch: Limits,
}

impl Options {
    pub(crate) fn of(config: &Config, live: Arc<Live>) -> Self {
        let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let progress_interval = match config.watch_progress_notify_interval {
            Duration::ZERO => PROGRESS_INTERVAL_DEFAULT,
            given => given.max(PROGRESS_INTERVAL_MIN),
        };
        Self {
            receive_bytes_max: config.receive_bytes_max(),
            request_bytes_max: bytes(config.max_request_bytes),
            txn_ops_max: bytes(config.max_txn_ops),
            strict_reconfig_check: config.strict_reconfig_check,
            live,
            request_timeout: config.request_timeout(),
            election_timeout: Duration::from_millis(config.election_timeout_ms),
            heartbeat: Duration::from_millis(config.heartbeat_interval_ms),
            enable_grpc_gateway: config.enable_grpc_gateway,
            are_calls_timed: config.metrics == "extensive",
            fast_lease_keep_alive: config.gate("FastLeaseKeepAlive"),
            gates: FEATURE_GATES.iter().map(|(gate, ..)| config.gate(gate)).collect(),
            profiles: config.serves_profiles(),
            watch: Limits {
                progress_interval,
                fragment_bytes: config.receive_bytes_max(),
                header: Default::default(),
            },
        }
    }
}

/// How far the stop of the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new connection; requests end, streams are ended.
    Stopping,
}

/// What every handler shares.
pub(crate) struct Api {
    pub(crate) member: Member,
    pub(crate) store: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) options: Options,
    pub(crate) lease_ids: RequestIds,
    /// Counts up each time that streams which want a leader are to be ended.
    pub(crate) leaderless: watch::Receiver<u64>,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Who waits for a lock or to be elected.
    pub(crate) waiting: crate::concurrency::Waiting,
    /// Who sends a snapshot to a client, and who waits to.
    pub(crate) snapshots: Semaphore,
    seeds: AtomicU64,
}

impl Api {
    pub(crate) fn new(
        member: Member,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        options: Options,
        leaderless: watch::Receiver<u64>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        let lease_ids = RequestIds::new(member.id(), clock.unix_ms());
        let store = member.store_arc();
        let seeds = AtomicU64::new(clock.unix_ms());
        let waiting = Default::default();
        let snapshots = Semaphore::new(SNAPSHOTS_SERVED_MAX);
        Self {
            member,
            store,
            clock,
            metrics,
            options,
            lease_ids,
            leaderless,
            phase,
            waiting,
            snapshots,
            seeds,
        }
    }

    /// Time now.
    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Randomness for one stream.
    pub(crate) fn rng(&self) -> Rng {
        Rng::new(self.seeds.fetch_add(1, Ordering::Relaxed))
    }

    /// Completes the header of an answer: it has the revision alone; 0 stands for the newest.
    pub(crate) fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        let revision = if revision == 0 { self.store.revision() } else { Revision(revision) };
        *header = Some(self.member.header(revision));
    }

    /// The header of an answer of the newest state.
    pub(crate) fn header(&self) -> ResponseHeader {
        self.member.header(self.store.revision())
    }

    /// Proposes, and waits until it is applied.
    pub(crate) fn propose(
        &self,
        request: InternalRaftRequest,
    ) -> impl Future<Output = Result<Response, Rejected>> + Send + '_ {
        let mut proposal = Proposal {
            api: self,
            operation: Operation::of(&request),
            began: Instant::now(),
            is_failed: true,
            is_proposed: None,
        };
        let proposed = self.member.propose(request);
        async move {
            let answer = proposed.await;
            course::note_proposal(proposal.began, answer.as_ref().ok().map(|answer| answer.steps));
            let answer = answer.map(|answer| answer.response);
            proposal.ended(&answer);
            answer
        }
    }

    /// Waits until the published view is as new as the cluster is now.
    pub(crate) async fn read_index(&self) -> Result<(), Rejected> {
        let began = Instant::now();
        let confirmed = self.member.read_index().await;
        course::note_confirmed(began);
        match &confirmed {
            Ok(()) | Err(Rejected::Stopped) => {}
            Err(Rejected::Timeout) => self.metrics.reads_slow.increment(),
            Err(_) => self.metrics.reads_failed.increment(),
        }
        confirmed
    }

    /// Refuses what does not fit the space quota, and raises the alarm.
    pub(crate) async fn check_quota(&self, cost: u64) -> Result<(), Rejected> {
        if self.store.fits_quota(cost) {
            return Ok(());
        }
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: self.member.id().get(),
            alarm: AlarmType::Nospace as i32,
        };
        let proposal =
            self.propose(InternalRaftRequest { alarm: Some(alarm), ..Default::default() });
        // Whatever comes of the alarm, this request is refused.
        drop(Box::pin(proposal).await);
        Err(Rejected::NoSpace)
    }
}

/// A proposal that is waited for. It is counted when the wait ends, also when the client goes.
struct Proposal<'a> {
    api: &'a Api,
    operation: Option<Operation>,
    began: Instant,
    is_failed: bool,
    /// Whether it came to the log; not known when its client goes before the answer.
    is_proposed: Option<bool>,
}

impl Proposal<'_> {
    fn ended(&mut self, answer: &Result<Response, Rejected>) {
        self.is_failed = matches!(
            answer,
            Err(Rejected::Timeout
                | Rejected::TimeoutLeaderFail
                | Rejected::TimeoutConnectionLost
                | Rejected::DeadlineExceeded)
        );
        // Without a leader nothing can be proposed.
        self.is_proposed = Some(!matches!(answer, Err(Rejected::DeadlineExceeded)));
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        let metrics = &self.api.metrics;
        if self.is_failed {
            metrics.proposals_failed.increment();
        }
        if let Some(operation) = self.operation {
            let has_leader = || self.api.member.status().leader != MemberId::NONE;
            let is_proposed = self.is_proposed.unwrap_or_else(has_leader);
            metrics.requested(operation, is_proposed, self.began.elapsed());
        }
    }
}
