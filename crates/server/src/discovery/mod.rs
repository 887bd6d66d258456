//! Finds the founding members where `--initial-cluster` does not name them.
//!
//! ```text
//!  prepare: --discovery-srv       ─► srv ─► SRV records ─► initial cluster
//!           --discovery-endpoints ─► own URLs stand for the cluster until join
//!  join:                             registry ─► service (gRPC) ─► initial cluster
//! ```
//!
//! *Invariants.* 1. A member with a log is never looked up: its log says who it is. 2. Every wait
//! is told by a line.
//!
//! *Absent.* What follows from the cluster: `begin`. The discovery service of etcd 2.
//!
//! *Contract.* `PeerURLsMapAndToken` in `server/embed/config.go` of etcd v3.7.1.

mod registry;
mod secure;
mod service;
mod srv;

use std::path::Path;

use net::Url;
use net::dns::{Resolver, Settings};

pub(crate) use registry::join;

use crate::config::Config;
use crate::log;

/// Puts into the configuration what the DNS says of the cluster, or what stands for the cluster
/// until the discovery service has told it.
pub(crate) async fn prepare(
    config: &mut Config,
    is_initialized: bool,
    wal_dir: &Path,
) -> Result<(), String> {
    if is_initialized {
        if config.discovers() {
            log::warn(
                "discovery token is ignored since cluster already initialized; valid logs are \
                 found",
            )
            .text("wal-dir", &wal_dir.display())
            .emit();
        }
        return Ok(());
    }
    if config.discovers() {
        config.initial_cluster = own_cluster(&config.name, &config.initial_advertise_peer_urls);
        config.initial_cluster_token.clone_from(&config.discovery.token);
    } else if !config.discovery_srv.is_empty() {
        let resolver = Resolver::new(Settings::read(net::dns::RESOLV_CONF));
        let found = srv::find(config, &resolver, &srv::Patience::default())
            .await
            .map_err(|reason| format!("error setting up initial cluster: {reason}"))?;
        if found.contains("https://") && config.peer_tls.trusted_ca_file.is_empty() {
            config.peer_server_name = Some(config.discovery_srv.clone());
        }
        if let Some(name) = &config.peer_server_name {
            log::info("the certificates of other members must name the domain of the SRV records")
                .field("server-name", name)
                .emit();
        }
        config.initial_cluster = found;
    }
    Ok(())
}

/// This member alone, as `--initial-cluster` would name it.
fn own_cluster(name: &str, urls: &[Url]) -> String {
    urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
}
