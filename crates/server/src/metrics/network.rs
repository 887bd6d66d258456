//! The families of what passes between members.
//!
//! Those that have a label for the other member appear when there is something to show of it, as
//! etcd's do.

use base::MemberId;
use peer::PeerFigures;

use super::text::{Kind, Page};
use crate::api::Api;

pub(super) fn show(page: &mut Page, api: &Api) {
    let own = api.member.id().to_string();
    for member in api.store.members() {
        let remote = member.id.to_string();
        let labels = [("Local", own.as_str()), ("Remote", remote.as_str())];
        page.sample("etcd_network_known_peers", "Members by id.", Kind::Gauge, &labels, 1.0);
    }
    let Some(transport) = api.member.transport() else { return };
    for figures in transport.figures() {
        connection(page, &own, &figures);
        traffic(page, &figures);
        snapshots(page, &figures);
    }
    page.count(
        "quorate_peer_messages_dropped_total",
        "Messages of other members that did not fit into the inbox.",
        &[],
        api.member.messages_dropped(),
    );
}

fn connection(page: &mut Page, own: &str, figures: &PeerFigures) {
    let remote = figures.id.to_string();
    let labels = [("Local", own), ("Remote", remote.as_str())];
    if figures.is_active || figures.disconnects > 0 {
        let active = f64::from(u8::from(figures.is_active));
        let help = "Whether another member answers.";
        page.sample("etcd_network_active_peers", help, Kind::Gauge, &labels, active);
    }
    let help = "How often another member did not answer any more.";
    let name = "etcd_network_disconnected_peers_total";
    count_if_any(page, name, help, &labels, figures.disconnects);
}

fn count_if_any(
    page: &mut Page,
    name: &'static str,
    help: &str,
    labels: &[(&str, &str)],
    count: u64,
) {
    if count > 0 {
        page.count(name, help, labels, count);
    }
}

fn traffic(page: &mut Page, figures: &PeerFigures) {
    let id = figures.id.to_string();
    let (to, from) = ([("To", id.as_str())], [("From", id.as_str())]);
    for (name, help, labels, count) in [
        ("etcd_network_peer_sent_bytes_total", "Bytes sent.", to, figures.sent_bytes),
        (
            "etcd_network_peer_sent_failures_total",
            "Messages that could not be sent.",
            to,
            figures.sent_failures,
        ),
        ("etcd_network_peer_received_bytes_total", "Bytes received.", from, figures.received_bytes),
        (
            "etcd_network_peer_received_failures_total",
            "Messages received that were not good.",
            from,
            figures.received_failures,
        ),
    ] {
        count_if_any(page, name, help, &labels, count);
    }
    if figures.round_trips.count > 0 {
        let help = "Time of a question and its answer.";
        let name = "etcd_network_peer_round_trip_time_seconds";
        page.counted(name, help, &to, &(&figures.round_trips).into());
    }
}

fn snapshots(page: &mut Page, figures: &PeerFigures) {
    let id: MemberId = figures.id;
    let id = id.to_string();
    let (to, from) = ([("To", id.as_str())], [("From", id.as_str())]);
    let sent = &figures.snapshot_sends;
    let received = &figures.snapshot_receipts;
    for (name, help, labels, count) in [
        ("etcd_network_snapshot_send_success", "Snapshots sent.", to, sent.count),
        (
            "etcd_network_snapshot_send_failures",
            "Snapshots that could not be sent.",
            to,
            figures.snapshot_send_failures,
        ),
        ("etcd_network_snapshot_receive_success", "Snapshots received.", from, received.count),
        (
            "etcd_network_snapshot_receive_failures",
            "Snapshots that could not be received.",
            from,
            figures.snapshot_receive_failures,
        ),
    ] {
        count_if_any(page, name, help, &labels, count);
    }
    if sent.count + figures.snapshot_send_failures + figures.snapshots_sending > 0 {
        let help = "Snapshots on their way to another member.";
        let name = "etcd_network_snapshot_send_inflights_total";
        page.sample(name, help, Kind::Gauge, &to, figures.snapshots_sending as f64);
    }
    if received.count + figures.snapshot_receive_failures + figures.snapshots_receiving > 0 {
        let help = "Snapshots on their way from another member.";
        let name = "etcd_network_snapshot_receive_inflights_total";
        page.sample(name, help, Kind::Gauge, &from, figures.snapshots_receiving as f64);
    }
    if sent.count > 0 {
        let help = "Time to send a snapshot.";
        let name = "etcd_network_snapshot_send_total_duration_seconds";
        page.counted(name, help, &to, &sent.into());
    }
    if received.count > 0 {
        let help = "Time to receive a snapshot.";
        let name = "etcd_network_snapshot_receive_total_duration_seconds";
        page.counted(name, help, &from, &received.into());
    }
}
