//! The families of disk, database and keys.

use std::sync::atomic::Ordering;

use store::{View, schema};

use super::Metrics;
use super::text::Page;
use crate::api::Api;

/// What a new database has.
const FIRST_AUTH_REVISION: u64 = 1;

pub(super) fn show(page: &mut Page, api: &Api) {
    database(page, api);
    keys(page, api);
    disk(page, &api.metrics);
    compactions(page, &api.metrics);
}

fn database(page: &mut Page, api: &Api) {
    let total = api.store.db_size() as f64;
    page.gauge("etcd_mvcc_db_total_size_in_bytes", "Length of the database file.", total);
    let in_use = api.store.db_size_in_use() as f64;
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of it that hold data.", in_use);
    // etcd shows its default for a quota of 0 and nothing for one that is off.
    let quota = api.store.quota().unwrap_or(0) as f64;
    page.gauge("etcd_server_quota_backend_bytes", "The space quota.", quota);
    let open = api.store.view().database().open_views() as f64;
    let help = "States of the database that are being read.";
    page.gauge("etcd_mvcc_db_open_read_transactions", help, open);
    let metrics = &api.metrics;
    let defragmenting = metrics.defragmenting.get() as f64;
    page.gauge("etcd_disk_defrag_inflight", "Defragmentations under way.", defragmenting);
}

fn keys(page: &mut Page, api: &Api) {
    let metrics = &api.metrics;
    let view = api.store.view();
    let (revision, compacted) = (view.revision().get(), view.compact_revision().get());
    page.gauge("etcd_debugging_mvcc_current_revision", "The newest revision.", revision as f64);
    let compacted = compacted as f64;
    page.gauge("etcd_debugging_mvcc_compact_revision", "The newest compaction.", compacted);
    let keys = api.store.index_size().live as f64;
    page.gauge("etcd_debugging_mvcc_keys_total", "Keys that exist.", keys);
    if let Some(revision) = auth_revision(&view) {
        let help = "The revision of users and roles.";
        page.gauge("etcd_debugging_auth_revision", help, revision as f64);
    }
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
        ("etcd_mvcc_hash_duration_seconds", "Hashes of everything.", &metrics.hash_seconds),
        ("etcd_mvcc_hash_rev_duration_seconds", "Hashes of keys.", &metrics.hash_rev_seconds),
        ("etcd_debugging_lease_ttl_total", "Seconds of granted leases.", &metrics.lease_ttls),
    ] {
        page.histogram(name, help, histogram);
    }
    let bytes = metrics.put_bytes.get() as f64;
    page.gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values.", bytes);
}

/// The revision of users and roles; nothing when it cannot be read.
fn auth_revision(view: &View) -> Option<u64> {
    match view.database().get(schema::AUTH, schema::AUTH_REVISION).ok()? {
        Some(row) => schema::read_number(&row),
        // Its first row is on its way to the disk.
        None => Some(FIRST_AUTH_REVISION),
    }
}

fn disk(page: &mut Page, metrics: &Metrics) {
    for (name, help, histogram) in [
        ("etcd_disk_wal_fsync_duration_seconds", "Syncs of the log.", &metrics.wal_sync_seconds),
        ("etcd_disk_wal_write_duration_seconds", "Writes of the log.", &metrics.wal_write_seconds),
        (
            "etcd_disk_backend_commit_duration_seconds",
            "Commits of the database.",
            &metrics.commit_seconds,
        ),
        (
            "etcd_debugging_disk_backend_commit_spill_duration_seconds",
            "Of a commit: making its pages.",
            &metrics.commit_spill_seconds,
        ),
        (
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "Of a commit: writing and syncing its pages.",
            &metrics.commit_write_seconds,
        ),
        (
            "etcd_disk_backend_defrag_duration_seconds",
            "Requests to defragment.",
            &metrics.defragment_seconds,
        ),
        (
            "etcd_disk_backend_snapshot_duration_seconds",
            "Snapshots sent to clients.",
            &metrics.snapshot_seconds,
        ),
        (
            "etcd_debugging_snap_save_marshalling_duration_seconds",
            "Making the bytes of a snapshot file.",
            &metrics.snap_marshal_seconds,
        ),
        (
            "etcd_debugging_snap_save_total_duration_seconds",
            "Making and saving a snapshot file.",
            &metrics.snap_save_seconds,
        ),
        (
            "etcd_snap_fsync_duration_seconds",
            "Syncs of snapshot files.",
            &metrics.snap_sync_seconds,
        ),
        (
            "etcd_snap_db_fsync_duration_seconds",
            "Syncs of databases that are received.",
            &metrics.received_sync_seconds,
        ),
        (
            "etcd_snap_db_save_total_duration_seconds",
            "Receiving and saving a database.",
            &metrics.received_save_seconds,
        ),
    ] {
        page.histogram(name, help, histogram);
    }
    let bytes = metrics.wal_write_bytes.get() as f64;
    page.gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log.", bytes);
}

fn compactions(page: &mut Page, metrics: &Metrics) {
    for (name, help, histogram) in [
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Removals of what compactions leave.",
            &metrics.compaction_millis,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Slices of them that remove rows.",
            &metrics.row_slice_millis,
        ),
        (
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Slices of them that go through the index.",
            &metrics.index_slice_millis,
        ),
    ] {
        page.histogram(name, help, histogram);
    }
    let removed = &metrics.rows_removed;
    page.counter("etcd_debugging_mvcc_db_compaction_keys_total", "Rows removed.", removed);
    let at = metrics.compacted_at.load(Ordering::Relaxed) as f64;
    let help = "When the last compaction was complete, in seconds since 1970.";
    page.gauge("etcd_debugging_mvcc_db_compaction_last", help, at);
}
