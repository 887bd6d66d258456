//! What one request waited for, noted by the steps that it takes.
//!
//! *Invariants.* The note belongs to the task of the request: what others do on its thread is not
//! mixed up with it. Outside of a request nothing is noted.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;

use crate::member::Steps;

tokio::task_local! {
    static COURSE: Cell<Course>;
}

/// What a request waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Course {
    /// The last proposal.
    pub(crate) proposal: Option<Proposal>,
    /// How long the newest index was waited for, that a read must have seen.
    pub(crate) confirmed: Option<Duration>,
}

/// A proposal, from its offer to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proposal {
    pub(crate) offered: Instant,
    pub(crate) answered: Instant,
    /// Nothing when it was not applied.
    pub(crate) steps: Option<Steps>,
}

/// Begins the note of a request. It is in the future's value when that is done.
pub(crate) fn follow<F: Future>(request: F) -> TaskLocalFuture<Cell<Course>, F> {
    COURSE.scope(Cell::default(), request)
}

fn note(change: impl FnOnce(&mut Course)) {
    // Fails outside of a request.
    let _nobody = COURSE.try_with(|course| {
        let mut noted = course.get();
        change(&mut noted);
        course.set(noted);
    });
}

/// A proposal has ended now.
pub(crate) fn note_proposal(offered: Instant, steps: Option<Steps>) {
    note(|course| {
        course.proposal = Some(Proposal { offered, answered: Instant::now(), steps });
    });
}

/// A read has been waiting since then, and can be done now.
pub(crate) fn note_confirmed(since: Instant) {
    note(|course| course.confirmed = Some(since.elapsed()));
}
