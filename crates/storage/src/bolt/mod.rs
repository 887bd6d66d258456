//! The database: rows in buckets, in one file of bbolt's format, written by sorted batches.
//!
//! ```text
//! Batch --merge--> new pages --write, sync--> meta page --write, sync--> View
//!                    ^                                                     |
//!                    +--- pages that no live view can reach <--- drop -----+
//! ```
//!
//! A copy-on-write B+tree of trees: the top tree maps bucket names to buckets, a bucket maps keys
//! to values. Two meta pages take turns in naming the tree that counts. A [`View`] is one state;
//! its pages are never written while it lives.
//!
//! *Invariants.*
//! 1. Every page that the newest durable meta page reaches is durable, and is not written before
//!    a newer meta page is durable. So a power loss at any moment leaves the last commit, or the
//!    one under way, whole. (`docs/formats.md` has the argument.)
//! 2. Free pages, live pages and pages retired for the sake of old views are disjoint, and
//!    together they are all pages below the high-water mark.
//! 3. After a failed write or sync nothing is committed any more.
//!
//! *Absent.* A list of free pages in the file (it is found at open, by walking the trees), memory
//! mapping, shrinking in place, page checksums, more than one writer, writing to nested buckets.
//!
//! *Contract.* go.etcd.io/bbolt v1.5.0, with etcd v3.7.1's settings for it
//! (`server/storage/backend/backend.go`): no freelist in the file, flock.

mod batch;
mod cache;
mod db;
mod error;
mod freelist;
mod image;
mod meta;
mod page;
mod pager;
mod reach;
mod rewrite;
mod run;
mod scan;
mod view;
mod write;

pub use batch::Batch;
pub use db::{Database, Options};
pub use error::Error;
pub use image::Image;
pub use scan::{LentRow, Scan};
pub use view::{Lookup, View};

#[cfg(test)]
mod tests;
