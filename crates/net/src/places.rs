//! Holds the URLs that a member advertises against those that its cluster has for it.
//!
//! *Invariants.* Names are compared by the addresses they have; `localhost` stays a name, and so
//! does one that has no address now: it may get it later.
//!
//! *Contract.* `VerifyBootstrap` of `server/config/config.go` and `pkg/netutil` of etcd v3.7.1,
//! texts included.

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs as _};

use base::go::quoted_list;

use crate::Url;

/// Told of each URL whose host is replaced by that address.
pub type Told<'a> = &'a mut dyn FnMut(&Url, &str);

/// Fails unless both lists, sorted, name the same places. The error is how they differ.
pub fn same_places(one: &[Url], other: &[Url], told: Told<'_>) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    if one.len() != other.len() {
        return Err(format!("len({}) != len({})", quoted_list(one), quoted_list(other)));
    }
    let (one, other) = (resolved(one, told), resolved(other, told));
    match one.iter().zip(&other).find(|(one, other)| one != other) {
        None => Ok(()),
        Some((one, other)) => Err(format!("resolved urls: {one:?} != {other:?}")),
    }
}

/// Fails unless a member advertises the places that the initial cluster has under its name. Both
/// lists are sorted.
pub fn check_advertised(
    name: &str,
    in_cluster: &[Url],
    advertised: &[Url],
    told: Told<'_>,
) -> Result<(), String> {
    let Err(reason) = same_places(advertised, in_cluster, told) else { return Ok(()) };
    let without = |urls: &[Url], others: &[Url], prefix: &str| {
        let missing = urls.iter().filter(|url| !others.contains(url));
        let missing: BTreeSet<String> = missing.map(|url| format!("{prefix}{url}")).collect();
        missing.into_iter().collect::<Vec<_>>().join(",")
    };
    // As it was given, with repetitions.
    let given = |prefix: &str| {
        advertised.iter().map(|url| format!("{prefix}{url}")).collect::<Vec<_>>().join(",")
    };
    let prefix = format!("{name}=");
    let (urls, as_cluster) = (given(""), given(&prefix));
    let missing = without(in_cluster, advertised, &prefix);
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {missing} but missing from \
             --initial-advertise-peer-urls={urls} ({reason})"
        ));
    }
    let missing = without(advertised, in_cluster, "");
    if !missing.is_empty() {
        return Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from \
             --initial-cluster={as_cluster}"
        ));
    }
    Err(format!("failed to resolve {urls} to match --initial-cluster={as_cluster} ({reason})"))
}

/// The URLs with names replaced by addresses, sorted.
fn resolved(urls: &[Url], told: Told<'_>) -> Vec<String> {
    let resolve = |url: &Url| {
        if url.scheme().is_unix() || url.host() == "localhost" {
            return url.to_string();
        }
        let found = url.authority().to_socket_addrs().ok();
        // Several addresses of one name are one place; IPv4 first, as in a listener.
        match found.and_then(|found| found.min_by_key(SocketAddr::is_ipv6)) {
            Some(address) => {
                let address = address.to_string();
                told(url, &address);
                format!("{}://{address}", url.scheme().text())
            }
            None => url.to_string(),
        }
    };
    let mut all: Vec<String> = urls.iter().map(resolve).collect();
    all.sort_unstable();
    all
}
