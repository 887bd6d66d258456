//! Every family that is shown.

use base::MemberId;
use proto::etcdserverpb::AlarmType;
use store::Operation;

use std::sync::atomic::Ordering;

use super::process::Process;
use super::text::{Kind, Page};
use super::{CODES, Metrics};
use crate::api::{Api, VERSION};
use crate::config::FEATURE_GATES;
use crate::grpc::method::METHODS;

/// The text of `/metrics`.
pub(crate) fn render(api: &Api) -> String {
    let mut page = Page::default();
    consensus(&mut page, api);
    storage(&mut page, api);
    watching(&mut page, api);
    requests(&mut page, &api.metrics);
    times(&mut page, &api.metrics);
    grpc(&mut page, &api.metrics);
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
    page.counter(
        "quorate_disk_stalls_total",
        "How often this member led, its disk did not answer, and it asked another one to lead.",
        &metrics.disk_stalls,
    );
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
    let slow = &metrics.slow_applies;
    page.counter("etcd_server_slow_apply_total", "Applies that took long.", slow);
    for member in api.store.members() {
        let remote = member.id.to_string();
        let labels = [("Local", id.as_str()), ("Remote", remote.as_str())];
        page.sample("etcd_network_known_peers", "Members by id.", gauge, &labels, 1.0);
    }
    for alarm in api.store.alarms() {
        let member = MemberId(alarm.member_id).to_string();
        let kind = AlarmType::try_from(alarm.alarm).unwrap_or_default();
        let labels = [("alarm_type", kind.as_str_name()), ("server_id", member.as_str())];
        page.sample("etcd_debugging_server_alarms", "Alarms raised.", gauge, &labels, 1.0);
    }
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

fn storage(page: &mut Page, api: &Api) {
    let metrics = &api.metrics;
    let view = api.store.view();
    let total = api.store.db_size() as f64;
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Length of the database file.", total);
    let in_use = api.store.db_size_in_use() as f64;
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it that hold data.", in_use);
    // etcd shows its default for a quota of 0 and nothing for one that is off.
    let quota = api.store.quota().unwrap_or(0) as f64;
    page.gauge("etcd_server_quota_backend_bytes", "The space quota.", quota);
    let (revision, compacted) = (view.revision().get(), view.compact_revision().get());
    page.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", revision as f64);
    let compacted = compacted as f64;
    page.gauge("etcd_debugging_mvcc_compact_revision", "The newest compaction.", compacted);
    let keys = api.store.index_size().live as f64;
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", keys);
    page.gauge("etcd_debugging_auth_revision", "The revision of users and roles.", 1.0);
    for (name, help, counter) in [
        ("etcd_mvcc_put_total", "Puts.", &metrics.puts),
        ("etcd_mvcc_range_total", "Ranges.", &metrics.ranges),
        ("etcd_mvcc_delete_total", "Deletes.", &metrics.deletes),
        ("etcd_mvcc_txn_total", "Transactions of several operations.", &metrics.txns),
        ("etcd_debugging_lease_granted_total", "Leases granted.", &metrics.leases_granted),
        ("etcd_debugging_lease_renewed_total", "Leases renewed.", &metrics.leases_renewed),
        ("etcd_debugging_lease_revoked_total", "Leases revoked.", &metrics.leases_revoked),
    ] {
        page.counter(name, help, counter);
    }
    for (name, help, histogram) in [
        ("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", &metrics.wal_sync_seconds),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "Commits of the database.",
            &metrics.commit_seconds,
        ),
        (
            "etcd_disk_backend_snapshot_duration_seconds",
            "Snapshots sent.",
            &metrics.snapshot_seconds,
        ),
        ("etcd_mvcc_hash_duration_seconds", "Hashes of everything.", &metrics.hash_seconds),
        ("etcd_mvcc_hash_rev_duration_seconds", "Hashes of keys.", &metrics.hash_rev_seconds),
    ] {
        page.histogram(name, help, histogram);
    }
    for (name, help, histogram) in [
        ("etcd_debugging_lease_ttl_total", "Seconds of granted leases.", &metrics.lease_ttls),
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Removals of what compactions leave.",
            &metrics.compaction_millis,
        ),
    ] {
        page.histogram(name, help, histogram);
    }
    let at = metrics.compacted_at.load(Ordering::Relaxed) as f64;
    let help = "When the last compaction was complete, in seconds since 1970.";
    page.gauge("etcd_debugging_mvcc_db_compaction_last", help, at);
    let bytes = metrics.put_bytes.get() as f64;
    page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values.", bytes);
    // There is never a stop for a defragmentation.
    page.gauge("etcd_disk_defrag_inflight", "Defragmentations under way.", 0.0);
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
    page.count(
        "quorate_watchers_lagged_total",
        "How often a watcher's queue was full, so that it went back to history.",
        &[],
        lagging,
    );
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
    for ((kind, version), counter) in metrics.client_requests.read().iter() {
        page.count(
            "etcd_server_client_requests_total",
            "Requests by their client's version.",
            &[("client_api_version", version), ("type", kind)],
            counter.get(),
        );
    }
    for ((kind, name), check) in metrics.health_checks.lock().iter() {
        let labels = [("name", *name), ("type", *kind)];
        let is_ok = f64::from(u8::from(check.is_ok));
        let help = "Whether a check was good the last time.";
        page.sample("etcd_server_healthcheck", help, Kind::Gauge, &labels, is_ok);
        for (status, count) in [("error", check.errors), ("success", check.successes)] {
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

fn grpc(page: &mut Page, metrics: &Metrics) {
    for (method, counted) in METHODS.iter().zip(&metrics.methods) {
        // etcd counts the calls of these services, and tells of them from the first one on.
        let is_told_when_used =
            ["v3lockpb.Lock", "v3electionpb.Election"].contains(&method.service);
        if is_told_when_used && counted.started.get() == 0 {
            continue;
        }
        let labels = [
            ("grpc_method", method.name),
            ("grpc_service", method.service),
            ("grpc_type", method.kind.text()),
        ];
        for (name, help, counter) in [
            ("grpc_server_started_total", "Calls begun.", &counted.started),
            ("grpc_server_msg_received_total", "Messages received.", &counted.received),
            ("grpc_server_msg_sent_total", "Messages sent.", &counted.sent),
        ] {
            page.count(name, help, &labels, counter.get());
        }
        for (code, counter) in CODES.iter().zip(&counted.handled) {
            if is_told_when_used && counter.get() == 0 {
                continue;
            }
            let labels = [("grpc_code", *code), labels[0], labels[1], labels[2]];
            page.count("grpc_server_handled_total", "Calls ended.", &labels, counter.get());
        }
    }
}

/// The answers with these metrics, without the one under way.
fn scrapes(page: &mut Page, metrics: &Metrics) {
    let (name, help) = ("promhttp_metric_handler_requests_total", "Answers with metrics.");
    page.count(name, help, &[("code", "200")], metrics.scrapes.get());
    metrics.scrapes.increment();
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
    let help = "When the process began, in seconds since 1970.";
    page.gauge("process_start_time_seconds", help, process.started);
}
