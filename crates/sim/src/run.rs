//! One run: drawn from its seed, gone through, judged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::coverage::{Coverage, Mark};
use crate::plan::Plan;
use crate::world::{Failure, World};

/// Time after which the phase in which things go wrong ends, done or not.
const TROUBLE_TIME_MAX: Duration = Duration::from_secs(90);

/// Events after which it does.
const TROUBLE_EVENTS_MAX: u64 = 1_500_000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which one.
    pub seed: u64,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// What was seen.
    pub coverage: Coverage,
    /// Calls that were answered.
    pub acknowledged: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Events that happened.
    pub events: u64,
    /// What a repetition must come to as well.
    pub digest: u64,
    /// What happened, line by line, when that was wanted.
    pub story: Vec<String>,
}

/// Goes through the run that a seed names; notes what happens, when that is wanted.
pub fn run(seed: u64, with_story: bool) -> Report {
    let mut world = World::new(Plan::draw(seed));
    world.story = with_story.then(Vec::new);
    judge(seed, world, go_through)
}

fn go_through(world: &mut World) -> Result<(), Failure> {
    let begun = world.now();
    while !world.clients.is_idle()
        && world.now() - begun < TROUBLE_TIME_MAX
        && world.events() < TROUBLE_EVENTS_MAX
    {
        if !world.step()? {
            break;
        }
    }
    world.finish()
}

/// Goes through a run, and takes a panic for what it is: the crash of a member.
pub fn judge(
    seed: u64,
    mut world: World,
    go: impl FnOnce(&mut World) -> Result<(), Failure>,
) -> Report {
    let ended = catch_unwind(AssertUnwindSafe(|| go(&mut world)));
    let failure = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied());
            Some(Failure::Crash(text.unwrap_or("a panic").to_owned()))
        }
    };
    Report {
        seed,
        failure,
        acknowledged: world.coverage.count(Mark::Acknowledged),
        simulated: world.now().since(base::Moment::default()),
        events: world.events(),
        digest: world.digest(),
        coverage: world.coverage,
        story: world.story.unwrap_or_default(),
    }
}
