//! Brings a member up, serves until a signal or a fatal error, and takes it down in order.
//!
//! ```text
//!  flags ─► data directory ─► listeners bound ─► members found and asked ─► Member::start
//!        ─► peer port served ─► published ─► client ports served ─► ready ─► … ─► signal
//!        ─► leadership handed over, streams ended ─► connections closed ─► Member::stop
//!        ─► the signal's default end
//! ```
//!
//! *Invariants.* 1. A client's connection is accepted only when the member can answer. 2. After a
//! fatal error nothing is written any more: one line, exit code 1.
//!
//! *Contract.* `server/etcdmain/etcd.go` and `server/embed/etcd.go` of etcd v3.7.1.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use net::{BindOptions, Gate, Lanes, Listener, PEER_CONNECTIONS_MAX, Url};
use node::requests::compactor::{Compactor, Retention};
use proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};
use storage::datadir::DataDir;
use storage::disk::Real;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::{Api, Options, Phase};
use crate::begin::Begun;
use crate::clock::SystemClock;
use crate::config::{Config, shown_words};
use crate::connection::{Port, Service};
use crate::live::{Hangups, Live};
use crate::log;
use crate::member::{Member, Network};
use crate::metrics::{Measured, Metrics};
use crate::observer::Watcher;
use crate::peer_port::{self, PeerPort};
use crate::tls::{self, Endpoint, Tls};
use crate::{
    begin, cluster, damage, directory, discovery, duties, http, memory, notify, plan, trace, trust,
};

/// How long open requests have at the end.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Polls without a leader after which streams that want one are ended.
const LEADERLESS_POLLS: u32 = 3;

/// How often to look for the cluster's version, and for how long.
const VERSION_POLL: Duration = Duration::from_millis(1);
const VERSION_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why the process ends.
enum End {
    Signal(i32),
    Fatal(String),
    /// This member was removed from the cluster.
    Removed,
}

/// A member's data directory is of no use after this, and etcd says it in these words.
const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Everything that is listened on.
struct Bound {
    peers: Vec<Listener>,
    /// And metrics; each with what it speaks.
    clients: Vec<(Listener, Port)>,
}

/// Runs a member with this configuration until its end.
pub(crate) fn run(mut config: Config) -> ExitCode {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    log::info("Running: ").field("args", &shown_words(words)).emit();
    plan::log_derived(&config.derive(), &config);
    // Before anything is loaded, which is most of what a member holds.
    if config.serves_profiles() {
        http::begin_heap_profile();
    }
    if config.memory_mlock
        && let Err(reason) = memory::lock()
    {
        return fail(&reason);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let ended = runtime.block_on(serve(&mut config));
    // A thread that waits for a disk that does not answer must not hold the process back.
    runtime.shutdown_background();
    match ended {
        Ok(End::Signal(number)) => end_by_signal(number),
        Ok(End::Removed) => ExitCode::SUCCESS,
        Ok(End::Fatal(line)) => {
            log::fatal("the member cannot go on").field("error", &line).emit();
            ExitCode::FAILURE
        }
        Err(reason) => fail(&reason),
    }
}

/// The end of a start that failed. etcd gives this message to all of them.
fn fail(reason: &str) -> ExitCode {
    log::fatal("discovery failed").field("error", reason).emit();
    ExitCode::FAILURE
}

/// Ends as a process that never handled the signal; a container's first process cannot.
fn end_by_signal(number: i32) -> ExitCode {
    log::flush();
    if std::process::id() != 1 {
        // Returns only when the signal cannot end us.
        drop(signal_hook::low_level::emulate_default_handler(number));
    }
    ExitCode::SUCCESS
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> (i32, &'static str) {
        tokio::select! {
            _ = self.terminate.recv() => (SignalKind::terminate().as_raw_value(), "terminated"),
            _ = self.interrupt.recv() => (SignalKind::interrupt().as_raw_value(), "interrupt"),
        }
    }
}

async fn serve(config: &mut Config) -> Result<End, String> {
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let hangups = Hangups::listen().map_err(|error| error.to_string())?;
    let ground = tokio::select! {
        ground = Ground::prepare(config) => ground?,
        (number, name) = signals.next() => return Ok(signalled(number, name)),
    };
    let config = &*config;
    let client = peer::Client::new(Arc::clone(&ground.network.dial), config.peer_dial_timeout());
    let begun = tokio::select! {
        begun = begin::begin(config, &client, ground.is_initialized) => begun?,
        (number, name) = signals.next() => return Ok(signalled(number, name)),
    };
    trace::start(config);
    let live = Arc::clone(&ground.live);
    let running = ground.start(config, begun).await?;
    tokio::spawn(hangups.follow(config.clone(), live, Arc::clone(&running.api.store)));
    Ok(running.run(config, &mut signals).await)
}

/// What a member stands on: its directory, its ports.
struct Ground {
    directory: DataDir,
    is_initialized: bool,
    live: Arc<Live>,
    /// The places of clients.
    gate: Gate,
    clients: Vec<(Listener, Port)>,
    peer_port: Arc<PeerPort>,
    peer_addresses: Vec<String>,
    /// Where the connections of other members live.
    peer_lanes: Lanes,
    network: Network,
    failed: mpsc::Sender<String>,
    failures: mpsc::Receiver<String>,
}

impl Ground {
    /// Looks at the directory, binds all ports, finds out who the others are and accepts them.
    async fn prepare(config: &mut Config) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let directory = plan::directory(config);
        plan::check_directory(&config.data_dir)?;
        let live = Arc::new(Live::of(config)?);
        peer::set_connection_timeouts(config.raft_read_timeout, config.raft_write_timeout);
        directory::warn_of_permissions(&config.data_dir);
        let gate = Gate::from_descriptor_limit().map_err(|error| text(&error))?;
        let tls = Tls::prepare(config, gate.places())?;
        let Bound { peers, clients } = bind(config, &tls)?;
        let is_initialized = plan::is_initialized(&Real, &directory)?;
        if !is_initialized {
            plan::check_new(&Real, &directory, config)?;
        }
        discovery::prepare(config, is_initialized, directory.wal()).await?;
        plan::log_start(config, &directory, is_initialized);
        let (failed, failures) = mpsc::channel(1);
        let peer_lanes = Lanes::start_named("peer", 1).map_err(|error| text(&error))?;
        let peer_port = Arc::new(PeerPort::default());
        let peer_addresses = peers.iter().map(|peer| peer.address().to_owned()).collect();
        // Apart from the clients' gate: they would hold all its places sooner or later.
        let peer_gate = Gate::of(PEER_CONNECTIONS_MAX);
        for listener in peers {
            let lane = peer_lanes.next().clone();
            peer_port.accept(listener, peer_gate.clone(), lane, failed.clone());
        }
        let network = plan::network(config, tls.dial(config)?, peer_lanes.next().handle().clone());
        Ok(Self {
            directory,
            is_initialized,
            live,
            gate,
            clients,
            peer_port,
            peer_addresses,
            peer_lanes,
            network,
            failed,
            failures,
        })
    }

    /// Starts the member and everything that it does by itself.
    async fn start(self, config: &Config, begun: Begun) -> Result<Running, String> {
        let directory = self.directory.clone();
        let plan = plan::member(config, self.directory, begun, self.network);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let metrics = Arc::new(Metrics::default());
        let live = Arc::clone(&self.live);
        let observer = Arc::new(Watcher { metrics: Arc::clone(&metrics), live });
        let disk = Measured::new(Arc::new(Real), &directory, Arc::clone(&metrics));
        let member = Member::start(plan, Arc::new(disk), Arc::clone(&clock), observer)
            .map_err(|error| error.to_string())?;
        plan::log_started(config, &member);

        let (phase, phases) = watch::channel(Phase::Serving);
        let (leaderless, lost) = watch::channel(0);
        let options = Options::of(config, self.live);
        let election = options.election_timeout;
        let api = Arc::new(Api::new(member.clone(), clock, metrics, options, lost, phases));
        let service = Arc::new(Service::new(Arc::clone(&api), config));
        let lanes = Lanes::start(plan::lanes()).map_err(|error| error.to_string())?;
        tokio::spawn(watch_leader(member.clone(), leaderless, election));
        tokio::spawn(duties::hasten_election(member.clone(), config.clone()));
        tokio::spawn(duties::ask_versions(member.clone()));
        cluster::start(&api, config);
        if self.is_initialized && config.gate("InitialCorruptCheck") {
            trust::check_before_serving(&api).await?;
        }
        if self.is_initialized {
            let failed = self.failed.clone();
            tokio::spawn(duties::find_strangers(member, config.clone(), failed));
        }
        let (open, all_closed) = mpsc::channel(1);
        let (gate, failed) = (self.gate, self.failed);
        let front = Front { service, lanes: Arc::new(lanes), gate, open, failed };
        self.peer_port.open(Arc::clone(&api));
        peer_port::log_serving(&self.peer_addresses);
        Ok(Running {
            api,
            front,
            clients: self.clients,
            failures: self.failures,
            phase,
            all_closed,
            _peer_lanes: self.peer_lanes,
        })
    }
}

/// A member that has started.
struct Running {
    api: Arc<Api>,
    front: Front,
    clients: Vec<(Listener, Port)>,
    failures: mpsc::Receiver<String>,
    phase: watch::Sender<Phase>,
    /// Closes with the last connection of a client.
    all_closed: mpsc::Receiver<()>,
    _peer_lanes: Lanes,
}

impl Running {
    /// Serves until the end, and ends in order.
    async fn run(mut self, config: &Config, signals: &mut Signals) -> End {
        let member = self.api.member.clone();
        let mut damages = damage::listen();
        let is_early = |(_, port): &(Listener, Port)| *port == Port::Metrics;
        let (metrics, clients): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.clients).into_iter().partition(is_early);
        for (listener, port) in metrics {
            self.front.accept(listener, port);
        }
        self.clients = clients;
        let mut is_settled = false;
        let end = loop {
            tokio::select! {
                () = settled(&member), if !is_settled => {
                    is_settled = true;
                    self.open(config);
                }
                line = member.fatal() => break End::Fatal(line),
                Some(line) = self.failures.recv() => break End::Fatal(line),
                Some(line) = damages.recv() => break End::Fatal(line),
                () = member.removed() => break End::Removed,
                (number, name) = signals.next() => break signalled(number, name),
            }
        };
        let Self { front, phase, mut all_closed, .. } = self;
        // Requests under way end on them.
        let _lanes = Arc::clone(&front.lanes);
        drop(front);
        if let End::Fatal(_) = end {
            return end;
        }
        if let End::Removed = end {
            log::warn("server error").field("error", REMOVED).emit();
            log::warn("data-dir used by this member must be removed").emit();
        }
        plan::log_closing(config, "closing etcd server");
        tokio::select! {
            () = stop(&phase, &mut all_closed, &member) => {
                trace::stop().await;
                plan::log_closing(config, "closed etcd server");
            }
            // A worker that cannot write any more does not report that it has stopped.
            line = member.fatal() => return End::Fatal(line),
            (number, _) = signals.next() => return End::Signal(number),
        }
        end
    }

    /// Lets clients in.
    fn open(&mut self, config: &Config) {
        plan::log_published(config, &self.api.member);
        log::info("ready to serve client requests").emit();
        for (listener, port) in self.clients.drain(..) {
            plan::log_serving(&listener, port);
            self.front.accept(listener, port);
        }
        notify::ready();
        tokio::spawn(compact(Arc::clone(&self.api), self.api.options.live.retention()));
    }
}

fn signalled(number: i32, name: &str) -> End {
    log::info("received signal; shutting down").field("signal", name).emit();
    End::Signal(number)
}

/// Hands leadership over, ends streams, lets requests end, closes the member's files.
async fn stop(phase: &watch::Sender<Phase>, all_closed: &mut mpsc::Receiver<()>, member: &Member) {
    phase.send_replace(Phase::Stopping);
    // Nothing is ever sent: the channel closes with the last connection.
    let drained = tokio::time::timeout(DRAIN_MAX, all_closed.recv());
    // Meanwhile, so that the cluster need not wait for this member's clients.
    let (drained, ()) = tokio::join!(drained, member.hand_over());
    if drained.is_err() {
        log::warn("connections are cut off: their requests did not end in time").emit();
    }
    member.stop().await;
}

fn bind(config: &Config, tls: &Tls) -> Result<Bound, String> {
    let clients = if config.listen_client_http_urls.is_empty() { Port::Client } else { Port::Grpc };
    let asked = [
        (&config.listen_client_urls, clients),
        (&config.listen_client_http_urls, Port::Http),
        (&config.listen_metrics_urls, Port::Metrics),
    ];
    let twice =
        config.listen_client_http_urls.iter().find(|url| config.listen_client_urls.contains(url));
    if let Some(url) = twice {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             {url}"
        ));
    }
    log::info("configuring peer listeners")
        .texts("listen-peer-urls", &config.listen_peer_urls)
        .emit();
    log::info("configuring client listeners")
        .texts("listen-client-urls", &config.listen_client_urls)
        .emit();
    let options = BindOptions { reuse_port: config.socket_reuse_port };
    let listen = |url: &Url| Listener::bind_with(url, options).map_err(|error| error.to_string());
    let for_peers = |url: &Url| tls.for_peers(listen(url)?, url);
    let peers = config.listen_peer_urls.iter().map(for_peers).collect::<Result<_, _>>()?;
    tls.check_clients(config)?;
    let mut clients = Vec::new();
    for (urls, port) in asked {
        for url in urls {
            let listener = listen(url)?;
            let listener = match port {
                Port::Metrics => tls.for_metrics(listener, url)?,
                _ => tls.for_clients(listener, url)?,
            };
            clients.push((listener, port));
        }
    }
    Ok(Bound { peers, clients })
}

/// Takes connections in.
struct Front {
    service: Arc<Service>,
    lanes: Arc<Lanes>,
    gate: Gate,
    open: mpsc::Sender<()>,
    failed: mpsc::Sender<String>,
}

impl Front {
    /// Accepts on this port until the process stops.
    fn accept(&self, listener: Listener, port: Port) {
        let (service, lanes) = (Arc::clone(&self.service), Arc::clone(&self.lanes));
        let (gate, open, failed) = (self.gate.clone(), self.open.clone(), self.failed.clone());
        let mut phase = service.api.phase.clone();
        tokio::spawn(async move {
            loop {
                let permit = gate.enter().await;
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return,
                };
                let (accepted, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        let address = listener.address();
                        // Only the first one ends the process.
                        drop(failed.try_send(format!("accept on {address}: {error}")));
                        return;
                    }
                };
                let (service, open) = (Arc::clone(&service), open.clone());
                lanes.next().spawn(async move {
                    match accepted.open().await {
                        Ok((stream, identity)) => {
                            service.serve(stream, (peer, identity), port).await;
                        }
                        Err(refused) => tls::log_refused(Endpoint::Client, peer, &refused),
                    }
                    drop((permit, open));
                });
            }
        });
    }
}

/// Waits until the cluster knows this member and, if that comes soon, its own version: then the
/// first client is told what all later ones are told.
async fn settled(member: &Member) {
    member.published().await;
    let version = async {
        while member.store().cluster_version().is_none() {
            tokio::time::sleep(VERSION_POLL).await;
        }
    };
    // Without it the member serves all the same, as etcd does.
    let _undecided = tokio::time::timeout(VERSION_WAIT_MAX, version).await;
}

/// Counts the polls without a leader, and tells streams that want one.
async fn watch_leader(member: Member, leaderless: watch::Sender<u64>, election: Duration) {
    let mut polls = 0;
    loop {
        tokio::time::sleep(election).await;
        let has_leader = member.status().leader != base::MemberId::NONE;
        polls = if has_leader { 0 } else { polls + 1 };
        if polls >= LEADERLESS_POLLS {
            leaderless.send_modify(|times| *times += 1);
        }
    }
}

/// Compacts the history as the configuration asks, and anew when that changes.
async fn compact(api: Arc<Api>, mut retention: watch::Receiver<Option<Retention>>) {
    loop {
        let asked = *retention.borrow_and_update();
        let changed = match asked {
            None => retention.changed().await,
            Some(asked) => {
                let compactor = Compactor::new(asked, api.now(), api.store.revision());
                tokio::select! {
                    changed = retention.changed() => changed,
                    () = compact_for_ever(&api, compactor) => return,
                }
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Compacts the history in one way, while this member leads.
async fn compact_for_ever(api: &Api, mut compactor: Compactor) {
    loop {
        tokio::time::sleep(compactor.interval()).await;
        // Who follows notes revisions, too, so that it knows what to keep when it comes to lead.
        let due = compactor.tick(api.now(), api.store.revision());
        let Some(at) = due.filter(|_| api.member.is_leader()) else { continue };
        let compaction = CompactionRequest { revision: at.get(), physical: false };
        log::info("starting auto compaction").field("revision", &at.get()).emit();
        let request =
            InternalRaftRequest { compaction: Some(compaction), ..InternalRaftRequest::default() };
        match api.propose(request).await {
            Ok(_) | Err(node::requests::Rejected::Compacted) => {
                compactor.done(at, api.now());
                log::info("completed auto compaction").field("revision", &at.get()).emit();
            }
            Err(error) => {
                log::warn("failed auto compaction")
                    .field("revision", &at.get())
                    .text("error", &error)
                    .emit();
            }
        }
    }
}
