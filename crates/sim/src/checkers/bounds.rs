//! Queues have an end.
//!
//! *Invariants checked.* What waits inside a member stays below named bounds, whatever goes wrong
//! around it.
//!
//! *Absent.* Bytes that the allocator holds: `compat` and `xtask perf` measure those.

use super::Violation;
use crate::member::Member;

const NAME: &str = "bounds";

/// What may wait in the inbox: what all clients and all members of a run can have under way.
const INBOX_MAX: usize = 20_000;

/// What may wait for the log: the node hands out more while a write is under way, but never more
/// than raft lets be under way.
const LOG_LANE_MAX: usize = 5_000;

/// Portions of entries, a freeze, a publication and an installation.
const APPLY_LANE_MAX: usize = 8;

/// Commits follow one another: one is under way at a time.
const COMMIT_LANE_MAX: usize = 1;

/// Looks at a member's queues.
pub fn check(member: &Member) -> Result<(), Violation> {
    let names = ["inbox", "log lane", "apply lane", "commit lane"];
    let bounds = [INBOX_MAX, LOG_LANE_MAX, APPLY_LANE_MAX, COMMIT_LANE_MAX];
    for ((name, waiting), bound) in names.into_iter().zip(member.waiting()).zip(bounds) {
        if waiting > bound {
            let id = member.id;
            let what = format!("{waiting} things wait in the {name} of member {id}");
            return Err(Violation::new(NAME, what));
        }
    }
    Ok(())
}
