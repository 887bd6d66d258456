//! Writes what power losses leave as real data directories, for real etcd to open.
//!
//! `crash_images OUT SEED COUNT` makes `OUT/000/default.etcd` and so on, each beside an
//! `expect.json`: what was acknowledged, what was being done when the power went, and the `HashKV`
//! that the log amounts to, by revision.

#![allow(
    dead_code,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a tool, which shares its modules with the tests"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use base::Revision;
use serde_json::{Value, json};
use storage::disk::Image;
use store::View;

#[path = "../tests/it/driver.rs"]
mod driver;
#[path = "../tests/it/judge.rs"]
mod judge;
#[path = "../tests/it/lives.rs"]
mod lives;
#[path = "../tests/it/oracle.rs"]
mod oracle;
#[path = "../tests/it/workload.rs"]
mod workload;

use lives::Run;
use workload::Kinds;

/// Lives before the one whose end is kept.
const LIVES_MAX: u64 = 4;

/// Nothing of which etcd dies, or that changes while two products look at an image one after the
/// other.
const KINDS: Kinds = Kinds { short_leases: false, members: false, deadly: false, newest: false };

/// What the power left in the last life of a seed; `None` when that was not even a member.
fn image(seed: u64) -> Result<Option<(Image, Value)>, String> {
    let mut run = Run::new(seed, KINDS);
    for _ in 0..run.rng.below(LIVES_MAX) {
        run.live()?;
        let image = run.disk.image(&mut run.rng);
        run.resume(&image)?;
    }
    let doing = run.live()?;
    let image = run.disk.image(&mut run.rng);
    if run.history.applied < 2 {
        return Ok(None);
    }
    let Some(found) = run.judge.check(&image, &run.history, &mut run.rng)? else {
        return Ok(None);
    };
    let expect = json!({
        "seed": seed,
        "doing": format!("{doing:?}"),
        "member_id": driver::own_id().to_string(),
        "acknowledged": run.history.answers.len(),
        "acknowledged_revision": run.history.acknowledged.get(),
        "revision": found.hash.hash_revision.get(),
        "compact_revision": found.hash.compact_revision.get(),
        "hash_kv": hashes(&run.judge.oracle.shared().view()),
    });
    Ok(Some((image, expect)))
}

/// `HashKV` at some revisions.
fn hashes(view: &View) -> BTreeMap<i64, u32> {
    let (compacted, newest) = (view.compact_revision().get().max(1), view.revision().get());
    let step = ((newest - compacted) / 4).max(1);
    (0..4)
        .map(|back| newest - back * step)
        // At the compaction's own revision a hash depends on when it was compacted.
        .filter(|at| *at > compacted)
        .filter_map(|at| Some((at, view.hash_kv(Revision(at)).ok()?.hash)))
        .collect()
}

fn write(out: &Path, first_seed: u64, count: usize) -> Result<(), Box<dyn Error>> {
    let mut written = 0;
    for seed in first_seed.. {
        if written == count {
            break;
        }
        let found = image(seed).map_err(|what| format!("seed {seed}: {what}"))?;
        let Some((image, expect)) = found else { continue };
        let target = out.join(format!("{written:03}"));
        image.write_to(&target)?;
        std::fs::write(target.join("expect.json"), format!("{expect:#}\n"))?;
        written += 1;
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match arguments.as_slice() {
        [out, seed, count] => seed.parse().ok().zip(count.parse().ok()).map(|n| (out, n)),
        _ => None,
    };
    let Some((out, (seed, count))) = parsed else {
        eprintln!("usage: crash_images OUT SEED COUNT");
        return ExitCode::from(2);
    };
    match write(Path::new(out), seed, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash_images: {error}");
            ExitCode::FAILURE
        }
    }
}
