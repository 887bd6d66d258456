//! The cluster that a restored member is to be of, as the flags name it.
//!
//! *Contract.* `VerifyBootstrap` of `server/config/config.go`, `pkg/netutil` and
//! `client/pkg/types/urlsmap.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs as _};

use base::{ClusterId, MemberId};
use net::Url;
use store::Member;
use store::identity::{cluster_id, member_id};

use crate::go;
use crate::utl::log::{Field, info};

/// A new cluster, and which of its members this one is.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    /// By ascending id; there is one at least.
    pub(super) members: Vec<Member>,
    pub(super) own: MemberId,
}

impl Cluster {
    /// Reads the flags, and holds them against each other.
    pub(super) fn read(
        name: &str,
        initial_cluster: &str,
        token: &str,
        advertised: &str,
    ) -> Result<Self, String> {
        let advertised = urls(advertised.split(','))?;
        let named = initial_members(initial_cluster)?;
        let Some(own) = named.get(name) else {
            let name = go::quote(name.as_bytes());
            return Err(format!(
                "couldn't find local name {name} in the initial cluster configuration"
            ));
        };
        check_own(name, own, &advertised)?;
        let mut seen = BTreeSet::new();
        if !named.values().flatten().all(|url| seen.insert(url)) {
            let all = named
                .iter()
                .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
            let all: BTreeSet<String> = all.collect();
            let all: Vec<String> = all.into_iter().collect();
            return Err(format!("initial cluster {} has duplicate url", all.join(",")));
        }
        let mut members: Vec<Member> = named
            .iter()
            .map(|(name, urls)| {
                let peer_urls: Vec<String> = urls.iter().map(Url::to_string).collect();
                let id = member_id(&peer_urls, token);
                Member { id, peer_urls, name: name.clone(), ..Member::default() }
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("member exists with identical ID".to_owned());
        }
        let own = members.iter().find(|member| member.name == name).map(|member| member.id);
        Ok(Self { id: cluster_id(&ids), members, own: own.unwrap_or_default() })
    }
}

/// URLs, sorted by their text; one may come twice.
fn urls<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Url>, String> {
    let mut urls = texts
        .map(|text| Url::parse(text).map_err(|error| error.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort_by_key(Url::to_string);
    Ok(urls)
}

/// `name=url,name=url`; a name may come again with another URL.
fn initial_members(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut named: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        named.entry(name.to_owned()).or_default().push(url);
    }
    named.into_iter().map(|(name, texts)| Ok((name, urls(texts.into_iter())?))).collect()
}

/// Fails unless both lists name the same places.
fn check_own(name: &str, own: &[Url], advertised: &[Url]) -> Result<(), String> {
    if own == advertised {
        return Ok(());
    }
    let reason = if own.len() == advertised.len() {
        let (advertised, own) = (resolved(advertised), resolved(own));
        match own.iter().zip(&advertised).find(|(own, advertised)| own != advertised) {
            None => return Ok(()),
            Some((own, advertised)) => format!("resolved urls: {advertised:?} != {own:?}"),
        }
    } else {
        format!("len({}) != len({})", quoted(advertised), quoted(own))
    };
    let list = |urls: &mut dyn Iterator<Item = &Url>, prefix: &str| {
        let urls: BTreeSet<String> = urls.map(|url| format!("{prefix}{url}")).collect();
        urls.into_iter().collect::<Vec<_>>().join(",")
    };
    // As it was given, with repetitions.
    let given = advertised.iter().map(Url::to_string).collect::<Vec<_>>().join(",");
    let prefix = format!("{name}=");
    let as_cluster: Vec<String> = advertised.iter().map(|url| format!("{prefix}{url}")).collect();
    let as_cluster = as_cluster.join(",");
    let missing = list(&mut own.iter().filter(|url| !advertised.contains(url)), &prefix);
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {missing} but missing from \
             --initial-advertise-peer-urls={given} ({reason})"
        ));
    }
    let missing = list(&mut advertised.iter().filter(|url| !own.contains(url)), "");
    if !missing.is_empty() {
        return Err(format!(
            "--initial-advertise-peer-urls has {missing} but missing from \
             --initial-cluster={as_cluster}"
        ));
    }
    Err(format!("failed to resolve {given} to match --initial-cluster={as_cluster} ({reason})"))
}

/// A list as Go's `%q` shows it.
fn quoted(urls: &[Url]) -> String {
    let each: Vec<String> = urls.iter().map(|url| go::quote(url.to_string().as_bytes())).collect();
    format!("[{}]", each.join(" "))
}

/// The URLs with names replaced by addresses, sorted; `localhost` stays, and so does a name that
/// has no address now: the member may get it later.
fn resolved(urls: &[Url]) -> Vec<String> {
    let resolve = |url: &Url| {
        let text = url.to_string();
        if url.scheme().is_unix() || url.host() == "localhost" {
            return text;
        }
        let found = url.authority().to_socket_addrs().ok();
        match found.and_then(|found| found.min_by_key(SocketAddr::is_ipv6)) {
            Some(address) => {
                let address = address.to_string();
                let fields = [
                    ("url", Field::Text(&text)),
                    ("host", Field::Text(url.authority())),
                    ("resolved-addr", Field::Text(&address)),
                ];
                info("resolved URL Host", &fields);
                format!("{}://{address}", url.scheme().text())
            }
            None => text,
        }
    };
    let mut all: Vec<String> = urls.iter().map(resolve).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, cluster: &str, advertised: &str) -> Result<String, String> {
        let cluster = Cluster::read(name, cluster, "tok", advertised)?;
        let members: Vec<String> =
            cluster.members.iter().map(|member| format!("{} {}", member.id, member.name)).collect();
        Ok(format!("{} {}: {}", cluster.id, cluster.own, members.join(", ")))
    }

    #[test]
    fn ids_are_etcds() {
        let cluster = "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3,\
                       m2=http://127.0.0.1:4";
        let own = "http://127.0.0.1:4,http://127.0.0.1:2";
        assert_eq!(
            read("m2", cluster, own).as_deref(),
            Ok("da9a01c9bcfae8f2 2d10a74b2037b8fa: b647f29678b82df m1, 1b86cb6f4861f3fd m3, \
                2d10a74b2037b8fa m2")
        );
    }

    #[test]
    fn what_does_not_fit_is_told_in_etcds_words() {
        const LOCAL: &str = "http://localhost:2380";
        let default = "default=http://localhost:2380";
        for (name, cluster, advertised, error) in [
            (
                "x",
                default,
                LOCAL,
                "couldn't find local name \"x\" in the initial cluster configuration",
            ),
            ("default", "foo", LOCAL, "URL scheme must be http, https, unix, or unixs: "),
            ("default", default, "", "URL scheme must be http, https, unix, or unixs: "),
            (
                "default",
                "default=http://127.0.0.1:2380",
                LOCAL,
                "--initial-cluster has default=http://127.0.0.1:2380 but missing from \
                 --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \
                 \"http://localhost:2380\" != \"http://127.0.0.1:2380\")",
            ),
            (
                "default",
                "default=http://localhost:2380,b=http://localhost:2380",
                LOCAL,
                "initial cluster b=http://localhost:2380,default=http://localhost:2380 has \
                 duplicate url",
            ),
            (
                "default",
                default,
                "http://localhost:2380,http://localhost:2380",
                "failed to resolve http://localhost:2380,http://localhost:2380 to match \
                 --initial-cluster=default=http://localhost:2380,default=http://localhost:2380 \
                 (len([\"http://localhost:2380\" \"http://localhost:2380\"]) != \
                 len([\"http://localhost:2380\"]))",
            ),
            (
                "default",
                default,
                "http://localhost:2380,http://localhost:2381",
                "--initial-advertise-peer-urls has http://localhost:2381 but missing from \
                 --initial-cluster=default=http://localhost:2380,default=http://localhost:2381",
            ),
        ] {
            assert_eq!(read(name, cluster, advertised), Err(error.to_owned()), "{cluster}");
        }
    }
}
