//! Ids of proposals and leases, unique over members and restarts without coordination.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{LeaseId, MemberId, RequestId};

/// Draws ids: 16 bits of the member, then 40 bits of start time in milliseconds and an 8-bit
/// counter that carries into them (etcd v3.7.1, `pkg/idutil/id.go`).
#[derive(Debug)]
pub struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

const SUFFIX_BITS: u32 = 48;
const SUFFIX_MASK: u64 = (1 << SUFFIX_BITS) - 1;

impl RequestIds {
    /// A generator for `member`, started at `unix_ms`.
    pub const fn new(member: MemberId, unix_ms: u64) -> Self {
        let time = unix_ms & ((1 << 40) - 1);
        Self { prefix: member.0 << SUFFIX_BITS, suffix: AtomicU64::new(time << 8) }
    }

    /// The next id of a proposal.
    pub fn next(&self) -> RequestId {
        let suffix = self.suffix.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        RequestId(self.prefix | (suffix & SUFFIX_MASK))
    }

    /// The next id for a lease that its client did not name: positive and not 0.
    pub fn next_lease(&self) -> LeaseId {
        loop {
            let id = (self.next().0 & (i64::MAX as u64)).cast_signed();
            if id != 0 {
                return LeaseId(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_member_time_and_counter() {
        let ids = RequestIds::new(MemberId(0x1234_5678_9abc_def0), 0x0001_0203_0405_0607);
        assert_eq!(ids.next().0, 0xdef0_0304_0506_0701);
        assert_eq!(ids.next().0, 0xdef0_0304_0506_0702);
        assert_eq!(ids.next_lease().0, 0x5ef0_0304_0506_0703);
    }
}
