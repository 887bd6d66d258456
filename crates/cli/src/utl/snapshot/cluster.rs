//! The cluster that a restored member is to be of, as the flags name it.
//!
//! *Contract.* `VerifyBootstrap` of `server/config/config.go` and `client/pkg/types/urlsmap.go` of
//! etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};

use base::{ClusterId, MemberId};
use net::{Url, places};
use store::Member;
use store::identity::{cluster_id, member_id};

use crate::go;
use crate::utl::log::{Field, info};

/// A new cluster, and which of its members this one is.
#[derive(Debug)]
pub(in crate::utl) struct Cluster {
    pub(in crate::utl) id: ClusterId,
    /// By ascending id; there is one at least.
    pub(in crate::utl) members: Vec<Member>,
    pub(in crate::utl) own: MemberId,
}

impl Cluster {
    /// Reads the flags, and holds them against each other.
    pub(in crate::utl) fn read(
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
        places::check_advertised(name, own, &advertised, &mut tell)?;
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

/// Tells which address a URL was taken for.
fn tell(url: &Url, address: &str) {
    let text = url.to_string();
    let fields = [
        ("url", Field::Text(&text)),
        ("host", Field::Text(url.authority())),
        ("resolved-addr", Field::Text(address)),
    ];
    info("resolved URL Host", &fields);
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
