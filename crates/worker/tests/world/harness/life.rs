//! One life of a member: from its start to a crash, a stop, or neither.

use base::Rng;
use storage::disk::{Faulty, Image};

use super::HandClock;
use super::world::{End, Promised, World};

/// Runs a member on `disk`, which crashes before it has done `operations` more. Returns what was
/// promised by the end of it.
pub(crate) fn one_life(
    rng: &mut Rng,
    disk: &Faulty,
    clock: &HandClock,
    promised: Promised,
    operations: u64,
) -> Result<Promised, End> {
    disk.crash_at(disk.operations() + rng.below(operations));
    let mut world = match World::start(disk, clock, promised.clone()) {
        Err(End::Crash) => return Ok(promised),
        started => started?,
    };
    let steps = 200 + rng.below(1_500);
    let mut end = world.run(rng, steps);
    if end.is_ok() && rng.one_in(3) {
        end = world.stop();
    }
    match end {
        Ok(()) | Err(End::Crash) => Ok(world.promised.clone()),
        Err(end) => Err(end),
    }
}

/// What the end leaves on the disk: the process was killed, or the power went.
pub(crate) fn leave(rng: &mut Rng, disk: &Faulty) -> Image {
    if rng.one_in(4) { disk.live_image() } else { disk.image(rng) }
}
