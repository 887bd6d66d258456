//! `--discovery-srv`: endpoints from the SRV records of a domain.
//!
//! ```text
//!  _etcd-client-ssl[-NAME]._tcp.DOMAIN ─► https ┐
//!  _etcd-client[-NAME]._tcp.DOMAIN     ─► http  ┴─► endpoints, the secure ones first
//! ```
//!
//! *Contract.* `GetClient` in `client/pkg/srv/srv.go` of etcd v3.7.1.

use net::dns::{RESOLV_CONF, Resolver, Settings};

use super::failure::{self, Failure, Outcome};

/// The endpoints that the records of `domain` name.
pub(crate) fn endpoints(domain: &str, service_name: &str) -> Outcome<Vec<String>> {
    let found = std::thread::scope(|scope| {
        let look = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(look(domain, service_name)))
        };
        // The command's own runtime is running on this thread, which therefore cannot wait.
        scope.spawn(look).join().expect("looking up does not panic")
    });
    found
        .map_err(|error| error.to_string())
        .flatten()
        .map_err(|reason| Failure::new(failure::ERROR, reason))
}

async fn look(domain: &str, service_name: &str) -> Result<Vec<String>, String> {
    let resolver = Resolver::new(Settings::read(RESOLV_CONF));
    let suffix = if service_name.is_empty() { String::new() } else { format!("-{service_name}") };
    let mut endpoints = Vec::new();
    let mut failures = Vec::new();
    for (service, scheme) in [("etcd-client-ssl", "https"), ("etcd-client", "http")] {
        match resolver.srv(&format!("_{service}{suffix}._tcp.{domain}")).await {
            Ok(records) => endpoints.extend(
                records
                    .iter()
                    .map(|srv| format!("{scheme}://{}:{}", bracketed(&srv.host), srv.port)),
            ),
            Err(error) => failures.push(error.to_string()),
        }
    }
    match failures.as_slice() {
        [secure, plain] => Err(format!("dns lookup errors: {secure} and {plain}")),
        _ => Ok(endpoints),
    }
}

/// A host as it stands before a port; that of a record has its dot at the end.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { format!("{host}.") }
}
