//! Names and bounds everything: newtypes for ids and counts, the clock, seeded randomness, the
//! limits of every queue and loop, and what is written as Go writes it.
//!
//! *Absent.* Anything that touches a file, a socket, a thread or the wall clock: time comes in
//! through [`Clock`], randomness through [`Rng`].

pub mod calendar;
mod clock;
pub mod go;
mod id;
pub mod limits;
pub mod mutant;
mod request_id;
mod rng;

pub use clock::{Clock, Moment};
pub use id::{ClusterId, LeaseId, LogIndex, MemberId, RequestId, Revision, Term, WatchId};
pub use request_id::RequestIds;
pub use rng::Rng;
