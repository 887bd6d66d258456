//! `snapshot status` and `snapshot restore`: looks at a snapshot file, and makes a member of it.
//!
//! A snapshot file is a database, followed by the SHA-256 digest of it if a member has sent it.

mod cluster;
mod directory;
pub(crate) mod restore;
mod status;
#[cfg(test)]
mod tests;

use crate::command::Command;

pub(super) use cluster::Cluster;
pub(super) use directory::Directory;
pub(super) use restore::{VERSION_MAX, damage_or};
pub(crate) use status::old_status;
pub(super) use status::{status, storage_version};

pub(super) static SNAPSHOT: Command = Command {
    name: "snapshot",
    short: "Manages etcd node snapshots",
    commands: &[&restore::RESTORE, &status::STATUS],
    ..Command::EMPTY
};
