//! `--memory-mlock`: keeps the member's memory from being swapped out.
//!
//! etcd locks the pages of its database alone; here pages are read into the process's own memory,
//! so that all of it is locked, each page when it is first used.

use std::fs;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// The capability that needs no limit, by its number.
const CAP_IPC_LOCK: u32 = 14;

/// Locks what is in memory and what will be. The error says what the process lacks.
pub(crate) fn lock() -> Result<(), String> {
    // Under a limit the call may succeed, and a later allocation end the process.
    let limit = getrlimit(Resource::Memlock).current;
    let may_lock = fs::read_to_string("/proc/self/status").is_ok_and(|text| may_lock(&text));
    if let (Some(limit), false) = (limit, may_lock) {
        return Err(format!(
            "--memory-mlock: the limit of locked memory is {limit} bytes: set it to unlimited \
             (systemd: LimitMEMLOCK=infinity), or give the process CAP_IPC_LOCK"
        ));
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|error| format!("--memory-mlock: the memory cannot be locked: {error}"))
}

/// Whether a process of this status may lock as much as it wants.
fn may_lock(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_is_one_bit() {
        assert!(may_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!may_lock("CapEff:\t00000000a80425fb\nCapBnd:\t0000000000004000\n"));
        assert!(!may_lock("CapEff:\t0000000000000000\n"));
        assert!(!may_lock("nonsense"));
    }
}
