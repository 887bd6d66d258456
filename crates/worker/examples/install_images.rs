//! Writes what is on the disk of a member that is stopped while it installs a snapshot, as real
//! data directories, for real etcd to open.
//!
//! `install_images OUT` makes `OUT/000/default.etcd` and so on, one for every operation of the
//! disk, each beside an `expect.json`: the states that the log goes through, as revision, compact
//! revision and `HashKV`, and the entry that the member must at least have.

#![allow(
    dead_code,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool, which shares its modules with the tests"
)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use base::{MemberId, Revision};
use serde_json::json;

#[path = "../tests/it/cluster"]
mod cluster {
    pub(crate) mod history;
    pub(crate) mod member;
    pub(crate) mod world;
}
#[path = "../tests/it/driver.rs"]
mod driver;
#[path = "../tests/it/oracle.rs"]
mod oracle;
#[path = "../tests/it/workload.rs"]
mod workload;

use cluster::world::World;
use oracle::Oracle;
use workload::Kinds;

const SEED: u64 = 11;

/// Nothing of which etcd dies, or that changes while two products look at an image.
const KINDS: Kinds = Kinds { short_leases: false, members: false, deadly: false, newest: false };

/// Every state that the log goes through.
fn states(world: &World) -> Result<Vec<(i64, i64, u32)>, String> {
    let entries: Vec<_> = world.history.entries.values().cloned().collect();
    let mut oracle = Oracle::new(driver::Settings::draw(&mut base::Rng::new(1)).store(MemberId(1)));
    let mut states = Vec::new();
    for upto in 1..=entries.len() {
        let shared = oracle.replay(&entries[..upto], &Default::default())?;
        let hash = shared.view().hash_kv(Revision(0)).map_err(|error| error.to_string())?;
        states.push((hash.hash_revision.get(), hash.compact_revision.get(), hash.hash));
    }
    states.dedup();
    Ok(states)
}

fn write(out: &Path) -> Result<(), Box<dyn Error>> {
    let (mut world, member) = World::lagging(SEED, KINDS);
    let first = world.operations(member);
    world.mend();
    world.run_until("an install", |world| world.installs(member) > 0);
    let applied = world.status(member).committed;
    world.run_until("what follows", |world| world.status(member).database > applied);
    let operations = world.operations(member) - first;
    let states = states(&world)?;
    for at in 0..operations {
        let (mut world, member) = World::lagging(SEED, KINDS);
        let before = world.status(member).database;
        world.killed = Some(true);
        world.crash(member, at);
        world.mend();
        world.run_until("the crash", |world| world.seen.crashes == 1);
        let target = out.join(format!("{at:03}"));
        world.disk(member).live_image().write_to(&target)?;
        let expect =
            json!({ "member_id": member.to_string(), "entry": before.get(), "states": states });
        std::fs::write(target.join("expect.json"), format!("{expect:#}\n"))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out] = arguments.as_slice() else {
        eprintln!("usage: install_images OUT");
        return ExitCode::from(2);
    };
    match write(Path::new(out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("install_images: {error}");
            ExitCode::FAILURE
        }
    }
}
