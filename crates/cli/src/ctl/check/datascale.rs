//! `check datascale`: how much memory a server needs for many keys.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use net::tls::{Algorithms, Client, Report, TlsError};
use net::{Dialer, Url};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::{
    AUTO_COMPACT, AUTO_DEFRAG, CLEANUP_TIME_MAX, INTERRUPTED, Load, Puts, attend, begin, bounded,
    connect_all, fail, failed, remove, say, settle, tell_errors, work,
};
use crate::command::{Call, Command, Flag};
use crate::ctl::bar::{Bar, Unit};
use crate::ctl::secure::Secure;
use crate::ctl::session::Interrupts;
use crate::failure::{Failure, Outcome};
use crate::go;

const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 512;
/// The line of the metrics that tells the memory.
const RESIDENT: &str = "process_resident_memory_bytes";
/// A page of metrics is not longer, and not slower.
const METRICS_BYTES_MAX: u64 = 64 << 20;
const METRICS_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) static DATASCALE: Command = Command {
    name: "datascale",
    usage: "[options]",
    short: "Check the memory usage of holding data for different workloads on a given server \
            endpoint.",
    long: "If no endpoint is provided, localhost will be used. If multiple endpoints are provided, \
           first endpoint will be used.",
    flags: &[
        Flag::text(
            "load",
            "s",
            "The datascale check's workload model. Accepted workloads: s(small), m(medium), \
             l(large), xl(xLarge)",
        ),
        Flag::text(
            "prefix",
            "/etcdctl-check-datascale/",
            "The prefix for writing the datascale check's keys.",
        ),
        AUTO_COMPACT,
        AUTO_DEFRAG,
    ],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

/// Keys, and clients.
fn plan(load: Load) -> (u64, usize) {
    match load {
        Load::Small => (10_000, 50),
        Load::Medium => (100_000, 200),
        Load::Large => (1_000_000, 500),
        Load::ExtraLarge => (3_000_000, 1000),
    }
}

async fn run(call: &mut Call) -> Outcome {
    let (keys, clients) = plan(Load::of(call)?);
    let prefix = call.values.text("prefix").to_owned();
    let settings = Rc::new(call.settings()?);
    let first = begin(&settings, &prefix, None, "").await?;
    let endpoint = settings.endpoints.first().cloned().unwrap_or_default();
    let before = resident_bytes(&endpoint, &settings.secure, "before").await?;
    let connected = connect_all(&settings, clients, None).await?;
    say(&format!(
        "Start data scale check for work load [{keys} key-value pairs, {} bytes per key-value, \
         {clients} concurrent clients].",
        KEY_BYTES + VALUE_BYTES
    ))?;
    let bar = Rc::new(Bar::start(keys, Unit::Pieces));
    let (sender, queue) = mpsc::channel(clients);
    let mut puts = Puts::new(&prefix, KEY_BYTES, VALUE_BYTES);
    let producer = tokio::task::spawn_local(async move {
        for _ in 0..keys {
            if sender.send(puts.next()).await.is_err() {
                return;
            }
        }
    });
    let mut interrupts = Interrupts::new()?;
    let work = work(connected, queue, Some(&bar));
    let (report, is_interrupted) = attend(work, producer, &mut interrupts).await?;
    if let Some(bar) = Rc::into_inner(bar) {
        bar.finish();
    }
    let rest = async {
        if is_interrupted {
            // A part of the keys says nothing of the memory that all of them need.
            bounded(CLEANUP_TIME_MAX, remove(&first, &prefix)).await.map_err(fail)?;
            return Err(Failure::silent(INTERRUPTED));
        }
        let after = resident_bytes(&endpoint, &settings.secure, "after").await;
        let removed = bounded(CLEANUP_TIME_MAX, remove(&first, &prefix)).await;
        let bytes = after? - before;
        settle(call, &settings, &first, Some(removed.map_err(fail)?)).await?;
        judge(&report, bytes)
    };
    tokio::select! {
        judged = rest => judged,
        () = interrupts.next() => Err(Failure::silent(INTERRUPTED)),
    }
}

/// The verdict on a load that took so many bytes of the member's memory.
fn judge(report: &super::Report, bytes: f64) -> Outcome {
    if tell_errors(report)? {
        return Err(failed());
    }
    let megabytes = bytes / f64::from(1 << 20);
    say(&format!("PASS: Approximate system memory used : {megabytes:.2} MB."))
}

/// The memory of the member at an endpoint, which must say it.
async fn resident_bytes(endpoint: &str, secure: &Secure, when: &str) -> Outcome<f64> {
    let found = fetch(endpoint, secure).await.and_then(|page| find_resident(&page));
    match found {
        Ok(bytes) if bytes != 0.0 => return Ok(bytes),
        Ok(_) => {}
        Err(error) => say(&error)?,
    }
    say(&format!("FAIL: Could not read {RESIDENT} {when} the put operations."))?;
    Err(failed())
}

/// Asks for a page of metrics. The error is worded as etcdctl words the Go client's.
async fn fetch(endpoint: &str, secure: &Secure) -> Result<String, String> {
    let base = match endpoint.starts_with("http://") || endpoint.starts_with("https://") {
        true => endpoint.to_owned(),
        false => format!("http://{endpoint}"),
    };
    let page = format!("{base}/metrics");
    let failed =
        |reason: String| format!("fetch error: Get {}: {reason}", go::quote(page.as_bytes()));
    let url = Url::parse(&base).map_err(|error| failed(error.to_string()))?;
    let dialer = dialer(secure).map_err(|error| format!("client certificate error: {error}"))?;
    let host = url.authority();
    let ask = async {
        let mut stream = dialer.dial(&url).await.map_err(|error| {
            let connecting = if error.raw_os_error().is_some() { "connect: " } else { "" };
            failed(format!("dial tcp {host}: {connecting}{}", go::os_error(&error)))
        })?;
        // An answer in HTTP/1.0 is not cut into chunks and ends with the connection.
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
        let mut page = Vec::new();
        stream.write_all(request.as_bytes()).await.map_err(|e| failed(go::os_error(&e)))?;
        let mut stream = stream.take(METRICS_BYTES_MAX);
        stream.read_to_end(&mut page).await.map_err(|e| failed(go::os_error(&e)))?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    };
    tokio::time::timeout(METRICS_TIME_MAX, ask)
        .await
        .unwrap_or_else(|_| Err(failed("context deadline exceeded".to_owned())))
}

/// Connections to the metrics, with the certificates of the other requests.
fn dialer(secure: &Secure) -> Result<Dialer, TlsError> {
    let report: Report = Arc::new(|_| ());
    let settings = net::tls::Settings {
        cert_file: secure.cert.clone(),
        key_file: secure.key.clone(),
        trusted_ca_file: secure.cacert.clone(),
        server_name: secure.server_name.clone(),
        trusts_any_server: secure.insecure_skip_tls_verify,
        ..net::tls::Settings::default()
    };
    let client =
        Client::new(&settings, &Algorithms::new(&[], None, None)?, &["http/1.1"], &report)?;
    Ok(Dialer::new(Arc::new(client), None))
}

fn find_resident(page: &str) -> Result<f64, String> {
    let value = page.lines().find_map(|line| line.strip_prefix(RESIDENT));
    let value = value.map(str::trim).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| format!("could not find: {RESIDENT}"))?;
    value.parse().map_err(|_| {
        let value = go::quote(value.as_bytes());
        format!("parse error: strconv.ParseFloat: parsing {value}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_among_metrics() {
        let page = "HTTP/1.0 200 OK\r\n\r\n# HELP process_resident_memory_bytes Resident\n\
                    a 1\nprocess_resident_memory_bytes 3.5794944e+07\nb 2\n";
        assert_eq!(find_resident(page), Ok(35_794_944.0));
        assert_eq!(
            find_resident("404 page not found"),
            Err("could not find: process_resident_memory_bytes".to_owned())
        );
        assert_eq!(
            find_resident("process_resident_memory_bytes x"),
            Err("parse error: strconv.ParseFloat: parsing \"x\": invalid syntax".to_owned())
        );
    }

    #[test]
    fn loads_are_those_of_etcd() {
        let all = [Load::Small, Load::Medium, Load::Large, Load::ExtraLarge].map(plan);
        assert_eq!(all, [(10_000, 50), (100_000, 200), (1_000_000, 500), (3_000_000, 1000)]);
    }
}
