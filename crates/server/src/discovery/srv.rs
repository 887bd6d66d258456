//! Makes the initial cluster of SRV records.
//!
//! ```text
//!  _etcd-server-ssl[-NAME]._tcp.DOMAIN ─► https ┐  a record whose address is one of our own
//!  _etcd-server[-NAME]._tcp.DOMAIN     ─► http  ┴─► is this member; the others are 0, 1, …
//! ```
//!
//! A start beside its records, as in a cluster that is being made, finds them a little later. etcd
//! ends at the first failure; here it is asked again, [`Patience::attempts`] times.
//!
//! *Contract.* `client/pkg/srv/srv.go` of etcd v3.7.1.

use std::net::SocketAddr;
use std::time::Duration;

use net::dns::{Resolver, Srv};
use net::{Scheme, Url};

use crate::config::{Config, InitialCluster};
use crate::log;

/// How long the addresses of one name may take to be found.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the records are looked up, and the pauses between, which double.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) attempts: u32,
    pub(super) first_pause: Duration,
    pub(super) pause_max: Duration,
}

impl Default for Patience {
    /// Eleven seconds of pauses; systemd gives a start a minute and a half.
    fn default() -> Self {
        Self { attempts: 5, first_pause: Duration::from_secs(1), pause_max: Duration::from_secs(4) }
    }
}

/// What one look at the DNS found.
struct Look {
    /// `--initial-cluster`, or why there is none.
    cluster: Result<String, String>,
    /// What may be there a moment later: the cluster may lack a member.
    doubts: Vec<String>,
}

/// The cluster that the records name, in the form of `--initial-cluster`.
pub(super) async fn find(
    config: &Config,
    resolver: &Resolver,
    patience: &Patience,
) -> Result<String, String> {
    let mut pause = patience.first_pause;
    for attempt in 1.. {
        let look = look(config, resolver).await;
        let doubt = match &look.cluster {
            Ok(_) if look.doubts.is_empty() => return look.cluster,
            Ok(_) => look.doubts.join("\n"),
            Err(reason) => reason.clone(),
        };
        if attempt >= patience.attempts {
            // A record of a member that is gone must not stop the others for ever.
            return look.cluster;
        }
        log::warn("the SRV records do not name the whole cluster; looking again")
            .field("error", &doubt)
            .field("attempt", &attempt)
            .field("attempts-max", &patience.attempts)
            .duration("pause", pause)
            .emit();
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(patience.pause_max);
    }
    Err("no attempt was made".to_owned())
}

async fn look(config: &Config, resolver: &Resolver) -> Look {
    let mut doubts = Vec::new();
    let (mut nodes, mut failures) = (Vec::new(), Vec::new());
    for (service, scheme) in [("etcd-server-ssl", Scheme::Https), ("etcd-server", Scheme::Http)] {
        let service = match config.discovery_srv_name.as_str() {
            "" => service.to_owned(),
            name => format!("{service}-{name}"),
        };
        let found = nodes_of(config, resolver, &service, scheme, &mut doubts).await;
        let line = log::info(&format!("get cluster for {service} SRV"))
            .field("service-scheme", scheme.text())
            .field("service-name", &service)
            .field("server-name", &config.name)
            .field("discovery-srv", &config.discovery_srv)
            .texts("advertise-peer-urls", &config.initial_advertise_peer_urls);
        match found {
            Ok(found) => {
                line.texts("found-cluster", &found).emit();
                nodes.extend(found);
            }
            Err(error) => {
                line.texts::<String>("found-cluster", &[]).field("error", &error).emit();
                failures.push(error);
            }
        }
    }
    let failures = failures.join("\n");
    if !failures.is_empty() {
        log::warn("failed to resolve during SRV discovery").field("error", &failures).emit();
    }
    if nodes.is_empty() {
        return Look { cluster: Err(failures), doubts };
    }
    for node in &nodes {
        log::info("got bootstrap from DNS for etcd-server").field("node", node).emit();
    }
    let cluster = nodes.join(",");
    let cluster = match InitialCluster::parse(&cluster) {
        Ok(read) if read.members().any(|(name, _)| name == config.name) => Ok(cluster),
        Ok(_) => Err(format!("cannot find local etcd member {:?} in SRV records", config.name)),
        Err(error) => Err(error.to_string()),
    };
    Look { cluster, doubts }
}

/// `NAME=URL` for each record of one service.
async fn nodes_of(
    config: &Config,
    resolver: &Resolver,
    service: &str,
    scheme: Scheme,
    doubts: &mut Vec<String>,
) -> Result<Vec<String>, String> {
    let mut own = Vec::new();
    for url in &config.initial_advertise_peer_urls {
        let port = url.port().parse().map_err(|_| format!("{url}: the port is none"))?;
        own.push((address(url.host(), port).await?, url));
    }
    let wrap = |reason: &str| format!("error querying DNS SRV records for _{service} {reason}");
    let name = format!("_{service}._tcp.{}", config.discovery_srv);
    let records = match resolver.srv(&name).await {
        Ok(records) => records,
        Err(error) => {
            if !error.is_missing {
                doubts.push(error.to_string());
            }
            return Err(wrap(&error.to_string()));
        }
    };
    let (mut nodes, mut others, mut last) = (Vec::new(), 0, String::new());
    for record in records {
        let found = match address(&record.host, record.port).await {
            Ok(found) => found,
            Err(reason) => {
                log::warn("skipped an SRV record whose host has no address")
                    .field("error", &reason)
                    .emit();
                doubts.push(reason.clone());
                last = reason;
                continue;
            }
        };
        let node = node(&record, scheme);
        let Some((_, url)) = own.iter().find(|(address, _)| *address == found) else {
            nodes.push(format!("{others}={node}"));
            others += 1;
            continue;
        };
        if url.scheme() == scheme {
            nodes.push(format!("{}={node}", config.name));
            continue;
        }
        last = mismatch(&node, service, url);
        log::warn("skipped an SRV record").field("error", &last).emit();
    }
    if nodes.is_empty() && !last.is_empty() {
        return Err(wrap(&last));
    }
    Ok(nodes)
}

fn node(record: &Srv, scheme: Scheme) -> String {
    format!("{}://{}:{}", scheme.text(), record.host, record.port)
}

fn mismatch(node: &str, service: &str, url: &Url) -> String {
    format!(
        "bootstrap at {node} from DNS for {service} has scheme mismatch with expected peer {url}"
    )
}

/// The address that stands for a host; IPv4 before IPv6, as in a listener.
async fn address(host: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(ip) = host.parse() {
        return Ok(SocketAddr::new(ip, port));
    }
    // The whole name first: a search list must not find another host.
    let mut reason = "no such host".to_owned();
    for name in [format!("{host}."), host.to_owned()] {
        match tokio::time::timeout(ADDRESS_TIMEOUT, tokio::net::lookup_host((name, port))).await {
            Ok(Ok(found)) => {
                if let Some(address) = found.min_by_key(SocketAddr::is_ipv6) {
                    return Ok(address);
                }
            }
            Ok(Err(_)) => {}
            Err(_) => reason = "i/o timeout".to_owned(),
        }
    }
    Err(format!("lookup {host}: {reason}"))
}

#[cfg(test)]
mod tests;
