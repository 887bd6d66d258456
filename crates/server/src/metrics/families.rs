//! Every family that is shown.

use base::MemberId;
use proto::etcdserverpb::AlarmType;
use store::Operation;

use std::collections::BTreeSet;

use super::process::Process;
use super::text::{Kind, Page};
use super::{Broken, CODES, Metrics, WatchLoop, network, storage};
use crate::api::{Api, VERSION};
use crate::config::FEATURE_GATES;
use crate::grpc::method::METHODS;

/// The text of `/metrics`.
pub(crate) fn render(api: &Api) -> String {
    let mut page = Page::default();
    consensus(&mut page, api);
    storage::show(&mut page, api);
    network::show(&mut page, api);
    own(&mut page, api);
    watching(&mut page, api);
    requests(&mut page, &api.metrics);
    times(&mut page, &api.metrics);
    grpc(&mut page, &api.metrics, api.options.are_calls_timed);
    process(&mut page);
    scrapes(&mut page, &api.metrics);
    page.finish()
}

fn consensus(page: &mut Page, api: &Api) {
    let metrics = &api.metrics;
    let status = api.member.status();
    let (own, cluster) = (api.member.id(), api.store.cluster_version());
    let id = own.to_string();
    let flag = |is: bool| f64::from(u8::from(is));
    let gauge = Kind::Gauge;
    if let Some(version) = cluster {
        let short = version.rsplit_once('.').map_or(version.as_str(), |(short, _)| short);
        let labels = [("cluster_version", short)];
        page.sample("etcd_cluster_version", "The version of the cluster.", gauge, &labels, 1.0);
    }
    let labels = [("server_version", VERSION)];
    page.sample("etcd_server_version", "The version of this member.", gauge, &labels, 1.0);
    let labels = [("server_id", id.as_str())];
    page.sample("etcd_server_id", "The id of this member.", gauge, &labels, 1.0);
    let has_leader = flag(status.leader != MemberId::NONE);
    page.gauge("etcd_server_has_leader", "Whether a leader is known.", has_leader);
    let is_leader = flag(status.leader == own);
    page.gauge("etcd_server_is_leader", "Whether this member leads.", is_leader);
    let is_learner = flag(status.is_learner);
    page.gauge("etcd_server_is_learner", "Whether this member has no vote.", is_learner);
    let changes = &metrics.leader_changes;
    page.counter("etcd_server_leader_changes_seen_total", "Leaders seen.", changes);
    let committed = status.committed.get() as f64;
    page.gauge("etcd_server_proposals_committed_total", "The committed index.", committed);
    let applied = status.applied.get() as f64;
    page.gauge("etcd_server_proposals_applied_total", "The applied index.", applied);
    let pending = api.member.proposals_pending() as f64;
    page.gauge("etcd_server_proposals_pending", "Proposals that wait for their answer.", pending);
    let failed = &metrics.proposals_failed;
    page.counter("etcd_server_proposals_failed_total", "Proposals without an answer.", failed);
    let failed = &metrics.reads_failed;
    page.counter("etcd_server_read_indexes_failed_total", "Reads not confirmed.", failed);
    let slow = &metrics.reads_slow;
    page.counter("etcd_server_slow_read_indexes_total", "Reads not confirmed in time.", slow);
    let late = &metrics.heartbeats_late;
    let name = "etcd_server_heartbeat_send_failures_total";
    page.counter(name, "Heartbeats that this leader sent too late.", late);
    let expired = &metrics.leases_expired;
    let name = "etcd_debugging_server_lease_expired_total";
    page.counter(name, "Leases that this leader has ended.", expired);
    let installing = metrics.installing.get() as f64;
    let name = "etcd_server_snapshot_apply_in_progress_total";
    page.gauge(name, "Whether a received snapshot takes the place of the state.", installing);
    let slow = &metrics.slow_applies;
    page.counter("etcd_server_slow_apply_total", "Applies that took long.", slow);
    alarms(page, api);
    let promoted = &metrics.promotions;
    page.counter("etcd_server_learner_promote_successes", "Learners promoted.", promoted);
    for (reason, count) in &*metrics.promotions_failed.lock() {
        let labels = [("Reason", reason.as_str())];
        let help = "Learners not promoted.";
        page.count("etcd_server_learner_promote_failures", help, &labels, *count);
    }
    for ((name, stage, _), is_on) in FEATURE_GATES.into_iter().zip(&api.options.gates) {
        let labels = [("name", name), ("stage", stage)];
        let (metric, help) = ("etcd_server_feature_enabled", "Feature gates.");
        page.sample(metric, help, gauge, &labels, flag(*is_on));
    }
}

/// Alarms that are raised, and those that were.
fn alarms(page: &mut Page, api: &Api) {
    let kind = |number| AlarmType::try_from(number).unwrap_or_default();
    let raised = api.store.alarms().into_iter();
    let raised: BTreeSet<_> =
        raised.map(|alarm| (MemberId(alarm.member_id), kind(alarm.alarm))).collect();
    let seen = api.metrics.alarms_seen.lock().clone();
    for (member, alarm) in seen.union(&raised) {
        let is_raised = f64::from(u8::from(raised.contains(&(*member, *alarm))));
        let id = member.to_string();
        let labels = [("alarm_type", alarm.as_str_name()), ("server_id", id.as_str())];
        let name = "etcd_debugging_server_alarms";
        page.sample(name, "Alarms raised.", Kind::Gauge, &labels, is_raised);
    }
}

/// What etcd does not have.
fn own(page: &mut Page, api: &Api) {
    let metrics = &api.metrics;
    page.counter(
        "quorate_disk_stalls_total",
        "How often this member led, its disk did not answer, and it asked another one to lead.",
        &metrics.disk_stalls,
    );
    page.gauge(
        "quorate_disk_stalled_seconds",
        "How long the write or sync that is under way has lasted.",
        metrics.disk.longest().as_secs_f64(),
    );
    page.gauge(
        "quorate_inbox_depth",
        "Requests, messages and receipts that wait for the member's main thread.",
        api.member.inbox_depth() as f64,
    );
    let view = api.store.view();
    page.gauge(
        "quorate_database_pinned_bytes",
        "Bytes of the database that are kept for reads and snapshots under way alone.",
        view.database().pinned_bytes() as f64,
    );
    page.gauge(
        "quorate_page_cache_bytes",
        "Memory that holds pages of the database.",
        view.database().cached_bytes() as f64,
    );
    page.gauge(
        "quorate_index_bytes",
        "Memory that the index of keys takes, about.",
        api.store.index_size().bytes() as f64,
    );
}

fn watching(page: &mut Page, api: &Api) {
    let metrics = &api.metrics;
    let (events, lagging) = api.store.hub().totals();
    page.count("etcd_debugging_mvcc_events_total", "Events sent to watchers.", &[], events);
    let alive = |begun: &super::Counter, ended: &super::Counter| {
        begun.get().saturating_sub(ended.get()) as f64
    };
    let streams = alive(&metrics.watch_streams, &metrics.watch_streams_ended);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Streams of watchers.", streams);
    let watchers = alive(&metrics.watchers, &metrics.watchers_ended);
    page.gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watchers);
    let slow = (watchers - api.store.hub().subscriptions() as f64).max(0.0);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that read history.", slow);
    let waiting = api.store.hub().events_waiting() as f64;
    page.gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait.", waiting);
    watch_loop(page, &metrics.watch_loop);
    page.count(
        "quorate_watchers_lagged_total",
        "How often a watcher's queue was full, so that it went back to history.",
        &[],
        lagging,
    );
}

/// How long messages to watchers took.
fn watch_loop(page: &mut Page, watching: &WatchLoop) {
    for (name, help, histogram) in [
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
            "Time to send events.",
            &watching.events,
        ),
        (
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
            "Time to send events, for each of them.",
            &watching.per_event,
        ),
        (
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
            "Time to send what is no event.",
            &watching.control,
        ),
        (
            "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
            "Time to find who is to be told of its progress.",
            &watching.progress,
        ),
    ] {
        page.histogram(name, help, histogram);
    }
}

fn requests(page: &mut Page, metrics: &Metrics) {
    for (name, help, counter) in [
        (
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes of requests.",
            &metrics.received_bytes,
        ),
        ("etcd_network_client_grpc_sent_bytes_total", "Bytes of answers.", &metrics.sent_bytes),
        (
            "etcd_server_health_success",
            "Answers of /health that were good.",
            &metrics.health_success,
        ),
        ("etcd_server_health_failures", "Those that were bad.", &metrics.health_failures),
    ] {
        page.counter(name, help, counter);
    }
    for (version, kind, count) in metrics.client_requests.counted() {
        let labels = [("client_api_version", version), ("type", kind)];
        let help = "Requests by their client's version.";
        page.count("etcd_server_client_requests_total", help, &labels, count);
    }
    for what in Broken::ALL {
        let count = metrics.broken_streams[what as usize].get();
        if count > 0 {
            let labels = [("API", what.name()), ("Type", "receive")];
            let help = "Streams in which something came that is no request.";
            page.count("etcd_network_server_stream_failures_total", help, &labels, count);
        }
    }
    for ((kind, name), check) in metrics.health_checks.lock().iter() {
        let labels = [("name", *name), ("type", *kind)];
        let is_ok = f64::from(u8::from(check.is_ok));
        let help = "Whether a check was good the last time.";
        page.sample("etcd_server_healthcheck", help, Kind::Gauge, &labels, is_ok);
        let results = [("error", check.errors), ("success", check.successes)];
        for (status, count) in results.into_iter().filter(|(_, count)| *count > 0) {
            let labels = [("name", *name), ("status", status), ("type", *kind)];
            page.count("etcd_server_healthchecks_total", "Checks run.", &labels, count);
        }
    }
}

/// How long requests took.
fn times(page: &mut Page, metrics: &Metrics) {
    let (name, help) = ("etcd_server_request_duration_seconds", "Requests by their kind.");
    page.outcomes(name, help, &[("type", "Range")], &metrics.read_seconds);
    page.outcomes(name, help, &[("type", "ReadonlyTxn")], &metrics.read_txn_seconds);
    for (operation, outcomes) in Operation::ALL.iter().zip(&metrics.request_seconds) {
        page.outcomes(name, help, &[("type", operation.name())], outcomes);
    }
    let (name, help) = ("etcd_server_apply_duration_seconds", "Applied requests by their kind.");
    for (operation, outcomes) in Operation::ALL.iter().zip(&metrics.apply_seconds) {
        let labels = [("op", operation.name()), ("version", "v3")];
        page.outcomes(name, help, &labels, outcomes);
    }
    let (name, help) = ("etcd_server_range_duration_seconds", "Reads of intervals.");
    page.outcomes(name, help, &[], &metrics.range_seconds);
}

/// Services that etcd adds when it has made the first values of all others: what is counted of
/// them appears with the first call.
const LATE_SERVICES: [&str; 2] = ["v3lockpb.Lock", "v3electionpb.Election"];

fn grpc(page: &mut Page, metrics: &Metrics, are_calls_timed: bool) {
    for (method, counted) in METHODS.iter().zip(&metrics.methods) {
        let labels = [
            ("grpc_method", method.name),
            ("grpc_service", method.service),
            ("grpc_type", method.kind.text()),
        ];
        let is_shown = |is_used: bool| is_used || !LATE_SERVICES.contains(&method.service);
        for (name, help, counter) in [
            ("grpc_server_started_total", "Calls begun.", &counted.started),
            ("grpc_server_msg_received_total", "Messages received.", &counted.received),
            ("grpc_server_msg_sent_total", "Messages sent.", &counted.sent),
        ] {
            if is_shown(counter.get() > 0) {
                page.count(name, help, &labels, counter.get());
            }
        }
        if are_calls_timed && is_shown(!counted.handling_seconds.is_unused()) {
            let name = "grpc_server_handling_seconds";
            page.counted(name, "Time of calls.", &labels, &counted.handling_seconds.counted());
        }
        for (code, counter) in CODES.iter().zip(&counted.handled) {
            if is_shown(counter.get() > 0) {
                let labels = [("grpc_code", *code), labels[0], labels[1], labels[2]];
                page.count("grpc_server_handled_total", "Calls ended.", &labels, counter.get());
            }
        }
    }
}

/// The answers with these metrics: all so far, and those on their way, this one among them.
fn scrapes(page: &mut Page, metrics: &Metrics) {
    let (name, help) = ("promhttp_metric_handler_requests_total", "Answers with metrics.");
    let scrapes = &metrics.scrapes;
    // etcd's library for this names all three from the start. Making a text cannot fail, so there
    // has been no 500: its 0 is true.
    for (code, count) in
        [("200", scrapes.answered.get()), ("500", 0), ("503", scrapes.refused.get())]
    {
        page.count(name, help, &[("code", code)], count);
    }
    let (name, help) = ("promhttp_metric_handler_requests_in_flight", "Answers on their way.");
    page.gauge(name, help, scrapes.open() as f64);
}

fn process(page: &mut Page) {
    let process = Process::now();
    let cpu = process.cpu.as_secs_f64();
    let help = "Processor time in seconds.";
    page.sample("process_cpu_seconds_total", help, Kind::Counter, &[], cpu);
    for (name, help, value) in [
        ("process_open_fds", "Open files.", process.open_files),
        ("process_max_fds", "Files that may be open.", process.files_max),
        ("process_resident_memory_bytes", "Memory in use.", process.resident_bytes),
        ("process_virtual_memory_bytes", "Memory addressed.", process.virtual_bytes),
        ("process_virtual_memory_max_bytes", "Memory that may be addressed.", process.virtual_max),
        ("os_fd_used", "Open files.", process.open_files),
        ("os_fd_limit", "Files that may be open.", process.files_max),
    ] {
        page.gauge(name, help, value as f64);
    }
    if let Some((received, sent)) = process.network {
        for (name, help, bytes) in [
            ("process_network_receive_bytes_total", "Bytes from the network.", received),
            ("process_network_transmit_bytes_total", "Bytes to the network.", sent),
        ] {
            page.sample(name, help, Kind::Counter, &[], bytes as f64);
        }
    }
    let help = "When the process began, in seconds since 1970.";
    page.gauge("process_start_time_seconds", help, process.started);
}
