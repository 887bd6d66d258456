//! Names and bounds everything: newtypes for ids and counts, the clock, seeded randomness, and
//! the limits of every queue and loop.
//!
//! *Absent.* Anything that touches a file, a socket, a thread or the wall clock: time comes in
//! through [`Clock`], randomness through [`Rng`].

pub mod calendar;
mod clock;
mod id;
pub mod limits;
pub mod mutant;
mod request_id;
mod rng;

pub use clock::{Clock, Moment};
pub use id::{ClusterId, LeaseId, LogIndex, MemberId, RequestId, Revision, Term, WatchId};
pub use request_id::RequestIds;
pub use rng::Rng;
