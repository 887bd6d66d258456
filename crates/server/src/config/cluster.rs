//! Reads `--initial-cluster` and holds it against the member's own URLs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use net::{Url, UrlError, places};
use thiserror::Error;

use super::Config;
use crate::log;

/// The founding members: name and peer URLs, as given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InitialCluster(BTreeMap<String, Vec<Url>>);

/// The initial cluster cannot be what was meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ClusterError {
    #[error("error setting up initial cluster: {0}")]
    Url(#[from] UrlError),
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NotNamed(String),
    #[error("{0}")]
    Differs(String),
    #[error("initial cluster {0} has duplicate url")]
    Duplicate(String),
}

impl InitialCluster {
    /// Reads `name=url,name=url`; a name may come again with another URL.
    pub(crate) fn parse(text: &str) -> Result<Self, ClusterError> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for item in text.split(',').filter(|item| !item.is_empty()) {
            let (name, url) = item.split_once('=').unwrap_or((item, ""));
            members.entry(name.to_owned()).or_default().push(Url::parse(url)?);
        }
        for urls in members.values_mut() {
            urls.sort_by_key(ToString::to_string);
        }
        Ok(Self(members))
    }

    /// Every member, by name.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &[Url])> {
        self.0.iter().map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The URLs of all members but one, sorted by their text.
    pub(crate) fn urls_but_of(&self, name: &str) -> Vec<Url> {
        let others = self.0.iter().filter(|(other, _)| other.as_str() != name);
        let mut urls: Vec<Url> = others.flat_map(|(_, urls)| urls).cloned().collect();
        urls.sort_by_key(Url::to_string);
        urls
    }

    /// Who has exactly these peer URLs, as text or by the addresses that their names resolve to.
    /// Otherwise how the last member that was looked at differs.
    pub(crate) fn name_of(&self, urls: &[String]) -> Result<&str, String> {
        let read = urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>();
        let mut given = read.map_err(|error| error.to_string())?;
        given.sort_by_key(Url::to_string);
        if let Some((name, _)) = self.0.iter().find(|(_, urls)| **urls == given) {
            return Ok(name);
        }
        let mut differs = "no member".to_owned();
        for (name, urls) in &self.0 {
            match places::same_places(&given, urls, &mut tell) {
                Ok(()) => return Ok(name),
                Err(reason) => differs = reason,
            }
        }
        Err(differs)
    }

    /// Fails unless the cluster has this member, with exactly the peer URLs that it advertises,
    /// as text or by the addresses that their names resolve to.
    pub(crate) fn check_founding(&self, config: &Config) -> Result<(), ClusterError> {
        let Some(cluster) = self.0.get(&config.name) else {
            return Err(ClusterError::NotNamed(config.name.clone()));
        };
        // Repeated URLs are one, but not in the initial cluster: so it is in etcd.
        let mut own = config.initial_advertise_peer_urls.clone();
        own.sort_by_key(Url::to_string);
        own.dedup();
        places::check_advertised(&config.name, cluster, &own, &mut tell)
            .map_err(ClusterError::Differs)?;
        self.check_unique()
    }

    /// Fails unless the cluster has this member. Its URLs are with the cluster already.
    pub(crate) fn check_joining(&self, config: &Config) -> Result<(), ClusterError> {
        if !self.0.contains_key(&config.name) {
            return Err(ClusterError::NotNamed(config.name.clone()));
        }
        self.check_unique()
    }

    fn check_unique(&self) -> Result<(), ClusterError> {
        let mut seen = BTreeSet::new();
        if self.0.values().flatten().all(|url| seen.insert(url)) {
            return Ok(());
        }
        Err(ClusterError::Duplicate(self.to_string()))
    }
}

impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = |(name, urls): (&String, &Vec<Url>)| join(urls.iter(), &format!("{name}="));
        f.write_str(&self.0.iter().map(each).collect::<Vec<_>>().join(","))
    }
}

fn join<'a>(urls: impl Iterator<Item = &'a Url>, prefix: &str) -> String {
    urls.map(|url| format!("{prefix}{url}")).collect::<Vec<_>>().join(",")
}

/// Tells which address a URL was taken for.
fn tell(url: &Url, address: &str) {
    log::info("resolved URL Host")
        .field("url", &url.to_string())
        .field("host", url.authority())
        .field("resolved-addr", address)
        .emit();
}
