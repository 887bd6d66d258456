//! Locks and elections, for clients that leave the recipe to the server.
//!
//! ```text
//!  name/<lease>     name/<lease>     name/<lease>      keys, in the order of their creation
//!     holds   ◄───── waits for ◄───── waits for        each for the deletion of the one before it
//! ```
//!
//! Both are recipes on keys, leases and watches, the same that etcd's client library has: who uses
//! the library and who uses these services stand in one line.
//!
//! *Invariants.*
//! 1. A waiter subscribes to one key, the one before its own, and sleeps: when a key goes away,
//!    the one behind it is woken and nobody else.
//! 2. [`WAITERS_MAX`] calls wait at most.
//! 3. Whoever gives up while it waits leaves no key behind.
//!
//! *Absent.* A lease that is kept alive: its owner does that. Everything below: transactions,
//! reads and watches are those of the KV and Watch services.
//!
//! *Contract.* `server/etcdserver/api/v3lock`, `v3election` and `client/v3/concurrency` of etcd
//! v3.7.1. What is refused inside keeps its text and loses its code there, so it does here.

pub(crate) mod election;
mod line;
pub(crate) mod lock;
mod observe;

use std::sync::Arc;

use node::requests::{Code, Rejected};
use proto::etcdserverpb::LeaseGrantRequest;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::Api;
use crate::grpc::{self, Status};
pub(crate) use observe::Observer;

/// Calls that may wait for their turn at once; a waiter has its call, a key and a lease.
const WAITERS_MAX: usize = 65_536;

/// Seconds that a lease lives which is granted to a caller who brings none.
const LEASE_SECONDS: i64 = 60;

/// Counts those who wait for their turn.
#[derive(Debug)]
pub(crate) struct Waiting(Semaphore);

impl Default for Waiting {
    fn default() -> Self {
        Self(Semaphore::new(WAITERS_MAX))
    }
}

impl Waiting {
    fn enter(&self) -> Result<SemaphorePermit<'_>, Rejected> {
        self.0.try_acquire().map_err(|_| Rejected::TooManyRequests)
    }
}

/// A reason of the recipe itself.
fn refused(text: &'static str) -> Status {
    Status::new(Code::Unknown, text)
}

/// The form in which the client hears of what went wrong inside: the text alone. But the end of its
/// own time stays that, and when this member stops, another one may be asked.
pub(crate) fn told(inside: Status) -> Status {
    match inside.code {
        Code::Canceled | Code::DeadlineExceeded => inside,
        Code::Unavailable if inside == Rejected::Stopped.into() => inside,
        _ => Status { code: Code::Unknown, ..inside },
    }
}

/// The lease that the caller brings, or a new one.
async fn lease(api: &Arc<Api>, brought: i64) -> Result<i64, Status> {
    if brought != 0 {
        return Ok(brought);
    }
    let request = LeaseGrantRequest { id: 0, ttl: LEASE_SECONDS };
    Ok(grpc::lease::grant(api, request).await?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_the_bound() {
        let waiting = Waiting::default();
        let mut inside = Vec::new();
        while let Ok(waiter) = waiting.enter() {
            inside.push(waiter);
        }
        assert_eq!(inside.len(), WAITERS_MAX);
        assert_eq!(waiting.enter().map(drop), Err(Rejected::TooManyRequests));
        inside.pop();
        assert!(waiting.enter().is_ok());
    }

    #[test]
    fn what_is_refused_inside_loses_its_code_but_not_its_time() {
        let code = |rejected: Rejected| told(rejected.into()).code;
        assert_eq!(code(Rejected::LeaseNotFound), Code::Unknown);
        assert_eq!(code(Rejected::Timeout), Code::Unknown);
        assert_eq!(code(Rejected::DeadlineExceeded), Code::DeadlineExceeded);
        assert_eq!(code(Rejected::Canceled), Code::Canceled);
        assert_eq!(code(Rejected::Stopped), Code::Unavailable);
        assert_eq!(told(Rejected::NoSpace.into()).message, Rejected::NoSpace.to_string());
    }
}
