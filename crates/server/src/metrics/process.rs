//! What the system says of this process.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// One look at `/proc/self`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Process {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) virtual_max: u64,
    pub(crate) open_files: u64,
    pub(crate) files_max: u64,
    /// Seconds since 1970.
    pub(crate) started: f64,
    /// Bytes that the network of this process has received and sent; `None` when it does not say.
    pub(crate) network: Option<(u64, u64)>,
}

impl Process {
    /// Looks now; what the system does not tell is 0.
    pub(crate) fn now() -> Self {
        let files_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let virtual_max = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let known =
            Self { files_max, open_files, virtual_max, network: network(), ..Self::default() };
        let Ok(stat) = fs::read_to_string("/proc/self/stat") else { return known };
        // After the name in parentheses: field 3 and on.
        let tail = stat.rsplit_once(')').map_or("", |(_, tail)| tail);
        let fields: Vec<u64> =
            tail.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let ticks = clock_ticks_per_second().max(1);
        let boot = boot_time().unwrap_or(0.0);
        Self {
            cpu: Duration::from_secs_f64((field(14) + field(15)) as f64 / ticks as f64),
            virtual_bytes: field(23),
            resident_bytes: field(24) * page_size() as u64,
            started: boot + field(22) as f64 / ticks as f64,
            ..known
        }
    }
}

fn boot_time() -> Option<f64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64() - uptime)
}

/// What the system counts of the network that the process sees, other processes on it included.
fn network() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let find = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((find("InOctets")?, find("OutOctets")?))
}
