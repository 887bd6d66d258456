//! The machine's own address, for URLs that were left at their defaults.
//!
//! *Contract.* `Config.UpdateDefaultClusterFromName` in `server/embed/config.go` and
//! `pkg/netutil` of etcd v3.7.1.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use net::Url;

use super::Config;

/// Where Linux shows its routes.
const ROUTES: &str = "/proc/net/route";

/// Stands in for a default route without a gateway; nothing is sent there.
const ANYWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl Config {
    /// Replaces the host of URLs to advertise that are the defaults, while the port to listen on
    /// is open at every address of the machine. Returns the host if one was replaced.
    pub(super) fn advertise_default_host(&mut self) -> Result<Option<IpAddr>, String> {
        let is_default = |urls: &[Url], default: &str, listen: &[Url]| {
            matches!(urls, [url] if url.to_string() == default)
                && listen.first().is_some_and(|url| url.host() == "0.0.0.0")
        };
        let peers = is_default(
            &self.initial_advertise_peer_urls,
            super::DEFAULT_PEER_URL,
            &self.listen_peer_urls,
        );
        let clients = is_default(
            &self.advertise_client_urls,
            super::DEFAULT_CLIENT_URL,
            &self.listen_client_urls,
        );
        if !peers && !clients {
            return Ok(None);
        }
        let host = default_host()?;
        let at_host = |listen: &[Url]| {
            let port = listen.first().map(Url::port).unwrap_or_default();
            Url::parse(&format!("http://{host}:{port}")).map_err(|error| error.to_string())
        };
        if peers {
            self.initial_advertise_peer_urls = vec![at_host(&self.listen_peer_urls)?];
        }
        if clients {
            self.advertise_client_urls = vec![at_host(&self.listen_client_urls)?];
        }
        Ok(Some(host))
    }
}

/// The address from which the machine would reach the world.
fn default_host() -> Result<IpAddr, String> {
    let routes = fs::read_to_string(ROUTES).map_err(|error| format!("{ROUTES}: {error}"))?;
    let gateway = default_gateway(&routes).ok_or("could not find default route")?;
    let gateway = if gateway.is_unspecified() { ANYWHERE } else { gateway };
    // Connecting a datagram socket sends nothing; it makes the kernel choose our address.
    let chosen = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((gateway, 9)).and_then(|()| socket.local_addr()));
    chosen.map(|address| address.ip()).map_err(|error| error.to_string())
}

/// The gateway of the default route in a table of routes; unspecified when it needs none.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    const ANY: &str = "00000000";
    routes.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (destination, gateway) = (words.nth(1)?, words.next()?);
        let mask = words.nth(4)?;
        (destination == ANY && mask == ANY)
            .then(|| u32::from_str_radix(gateway, 16).ok())
            .flatten()
            // The kernel prints the four bytes as one number of the machine's, which is little
            // endian on every machine that etcd supports but one.
            .map(|number| Ipv4Addr::from(number.swap_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n";

    #[test]
    fn the_default_route_has_no_destination_and_no_mask() {
        let table = format!(
            "{HEAD}eth0\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
             eth0\t00000000\t0111A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        );
        assert_eq!(default_gateway(&table), Some(Ipv4Addr::new(192, 168, 17, 1)));
        assert_eq!(default_gateway(HEAD), None);
        assert_eq!(default_gateway("nonsense\nmore"), None);
    }

    #[test]
    fn urls_that_were_chosen_stay() {
        let mut config = Config::default();
        assert_eq!(config.advertise_default_host(), Ok(None), "it listens on localhost alone");
        config.listen_peer_urls = Url::parse_list("http://0.0.0.0:1").expect("valid");
        config.initial_advertise_peer_urls = Url::parse_list("http://127.0.0.1:1").expect("valid");
        assert_eq!(config.advertise_default_host(), Ok(None));
    }
}
