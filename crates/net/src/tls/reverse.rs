//! The names of an address: from `/etc/hosts`, else by DNS.

use std::fs;
use std::net::IpAddr;

use crate::dns::{RESOLV_CONF, Resolver, Settings};

/// The names that this address leads to, without the dot at their end. Whoever calls bounds the
/// time.
pub(super) async fn names_of(address: IpAddr) -> Result<Vec<String>, String> {
    let local = in_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), address);
    if !local.is_empty() {
        return Ok(local);
    }
    let resolver = Resolver::new(Settings::read(RESOLV_CONF));
    resolver.names_of(address).await.map_err(|error| error.to_string())
}

fn in_hosts(hosts: &str, address: IpAddr) -> Vec<String> {
    let names = |line: &str| -> Option<Vec<String>> {
        let mut words = line.split('#').next()?.split_whitespace();
        let is_it = words.next()?.parse::<IpAddr>().ok()? == address;
        is_it.then(|| words.map(str::to_owned).collect())
    };
    hosts.lines().filter_map(names).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_hosts_file() {
        let hosts =
            "127.0.0.1 localhost # a b\n::1 localhost ip6\n\n127.0.0.1\tm1.example m1\n#x\n";
        let names = |address: &str| in_hosts(hosts, address.parse().expect("an address"));
        assert_eq!(names("127.0.0.1"), ["localhost", "m1.example", "m1"]);
        assert_eq!(names("::1"), ["localhost", "ip6"]);
        assert!(names("127.0.0.2").is_empty());
    }
}
