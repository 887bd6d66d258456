//! Whether all calls can be put into one order that keeps to their times and explains every
//! answer: the search of Wing and Gong (1993), with Lowe's memory of what was tried (2017).
//!
//! ```text
//!  time ──►  |── put ──|      |─ range ─|          candidates: called before the first return
//!               |──── delete ────|                 of those that are not placed yet
//! ```
//!
//! *Invariants.*
//! 1. What has no effect is placed as soon as the model answers it as it was answered: an order
//!    that places it later can be changed into one that places it now.
//! 2. The log is only asked what came of calls whose client was told nothing, and which of several
//!    candidates to try first. It cannot make a wrong history pass.
//! 3. Which calls are placed decides the state: every change of a key tells its revision, and
//!    grants and revocations of a lease can only alternate. So the memory holds sets of calls, as
//!    the sums of random words of 128 bits; two sets with one sum are as good as impossible.
//!
//! *Absent.* Serializable reads (see [`super::revisions`]).

use std::collections::{BTreeMap, BTreeSet};

use base::{LogIndex, Moment, RequestId, Revision, Rng};
use store::{ApplyError, Response};

use super::Violation;
use super::model::{
    self, Logged, Model, agrees, header_revision, is_read, is_serializable, tells_of_changes,
};
use crate::history::{Call, History, Outcome};

const CHECKER: &str = "linearizable";

/// Sets of placed calls that are looked at before the search gives up as undecided.
pub const STATES_MAX: usize = 1 << 16;

/// Neighbours that a violation names.
const NEIGHBOURS_MAX: usize = 4;

/// The end of the list.
const NONE: usize = usize::MAX;

/// Whether a linearizable order of the whole history exists.
///
/// # Errors
/// There is none, or it was not found within [`STATES_MAX`] states ("undecided"); a refused call
/// had an effect; the log cannot be read.
pub fn check(history: &History) -> Result<(), Violation> {
    let logged = model::logged(&history.log)?;
    let items = items(history, &logged)?;
    Search::new(&items).run().map_err(|what| Violation::new(CHECKER, what))
}

/// Something to be placed.
struct Item<'a> {
    name: String,
    call: &'a Call,
    seen: Result<&'a Response, ApplyError>,
    invoked: Moment,
    /// `None` when nobody was told.
    returned: Option<Moment>,
    /// The last one of the same client that returned: it comes before this one, even when its
    /// return and this call are of one moment.
    after: Option<usize>,
    /// Where the log has it; behind everything for what is not in the log.
    hint: LogIndex,
    /// In which revision it can be placed.
    at: At,
    has_effect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Any,
    /// When this revision is the newest.
    Only(i64),
    /// That, or one below: a revocation does not tell whether it changed keys.
    OrBelow(i64),
}

impl At {
    fn fits(self, revision: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Only(at) => revision == at,
            Self::OrBelow(at) => revision == at || revision == at - 1,
        }
    }

    fn of(seen: Result<&Response, ApplyError>) -> Self {
        let Ok(response) = seen else { return Self::Any };
        let Some(Revision(header)) = header_revision(response) else { return Self::Any };
        match response {
            Response::LeaseRevoke(_) => Self::OrBelow(header),
            _ if tells_of_changes(response) => Self::Only(header - 1),
            _ => Self::Only(header),
        }
    }
}

fn has_effect(call: &Call, seen: Result<&Response, ApplyError>) -> bool {
    let Ok(response) = seen else { return false };
    match call {
        _ if is_read(call) => false,
        Call::DeleteRange(_) | Call::Txn(_) => tells_of_changes(response),
        _ => true,
    }
}

fn items<'a>(history: &'a History, logged: &'a [Logged]) -> Result<Vec<Item<'a>>, Violation> {
    let log = &history.log;
    let places: BTreeMap<RequestId, LogIndex> =
        logged.iter().map(|entry| (entry.request, entry.index)).collect();
    let in_log = |id: &RequestId| log.outcomes.get(id).map(|seen| seen.as_ref().map_err(|e| *e));
    let mut items: Vec<Item<'a>> = Vec::new();
    let (mut named, mut last) = (BTreeSet::new(), BTreeMap::new());
    for (at, operation) in history.operations.iter().enumerate() {
        named.extend(operation.request);
        let name = || format!("call {at} of client {}", operation.client.0);
        let logged = operation.request.as_ref().and_then(in_log);
        let (seen, returned) = match &operation.outcome {
            Outcome::Answered(response) => (Ok(response), Some(operation.returned)),
            Outcome::Failed(error) => (Err(*error), Some(operation.returned)),
            Outcome::Refused if logged.is_some() => {
                let what = format!("{} was refused, but took place", name());
                return Err(Violation::new(CHECKER, what));
            }
            Outcome::Refused => continue,
            Outcome::Unknown => match logged {
                Some(seen) => (seen, None),
                None => continue,
            },
        };
        let has_effect = has_effect(&operation.call, seen);
        if is_serializable(&operation.call) || (returned.is_none() && !has_effect) {
            continue;
        }
        let after = last.get(&operation.client).copied();
        if returned.is_some() {
            last.insert(operation.client, items.len());
        }
        let hint = operation.request.as_ref().and_then(|id| places.get(id)).copied();
        items.push(Item {
            name: name(),
            call: &operation.call,
            seen,
            invoked: operation.invoked,
            returned,
            after,
            hint: hint.unwrap_or(LogIndex(u64::MAX)),
            at: At::of(seen),
            has_effect,
        });
    }
    // What members have asked for by themselves.
    for entry in logged.iter().filter(|entry| !named.contains(&entry.request)) {
        let (Some(call), Some(seen)) = (&entry.call, in_log(&entry.request)) else { continue };
        if !has_effect(call, seen) {
            continue;
        }
        items.push(Item {
            name: format!("entry {}", entry.index),
            call,
            seen,
            invoked: Moment::default(),
            returned: None,
            after: None,
            hint: entry.index,
            at: At::of(seen),
            has_effect: true,
        });
    }
    Ok(items)
}

/// A call or a return, in a list from which both go when the call is placed.
struct Event {
    item: usize,
    is_return: bool,
    before: usize,
    after: usize,
}

/// A choice that was made.
struct Frame {
    /// The candidates not tried yet, the next one last.
    left: Vec<usize>,
    /// The state in which they are candidates; `None` when none is left.
    state: Option<Model>,
    /// How many were placed.
    placed: usize,
    sum: u128,
}

/// How far the best attempt came.
struct Deepest {
    placed: usize,
    blocked: usize,
    beside: Vec<usize>,
    revision: Revision,
}

struct Search<'a> {
    items: &'a [Item<'a>],
    words: Vec<u128>,
    /// Calls and returns of what has returned, by time. The first one is no event.
    events: Vec<Event>,
    /// Where in the list an item's call and return stand.
    stands: Vec<(usize, usize)>,
    /// Those that never returned, by the revisions in which they can be placed.
    endless: BTreeMap<i64, Vec<usize>>,
    is_placed: Vec<bool>,
    /// What is placed, in order.
    trail: Vec<usize>,
    sum: u128,
    model: Model,
    tried: BTreeSet<u128>,
    deepest: Option<Deepest>,
}

impl<'a> Search<'a> {
    fn new(items: &'a [Item<'a>]) -> Self {
        let mut rng = Rng::new(0x0051_3b1e);
        let mut word = || (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
        let words = items.iter().map(|_| word()).collect();
        // At one moment calls come before returns: then they overlap.
        let mut order: Vec<(Moment, bool, usize)> = Vec::new();
        let mut endless: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            match (item.returned, item.at) {
                (Some(returned), _) => {
                    order.push((item.invoked, false, at));
                    order.push((returned, true, at));
                }
                // Not reached: what has an effect tells its revision.
                (None, At::Any) => {}
                (None, At::Only(revision)) => endless.entry(revision).or_default().push(at),
                (None, At::OrBelow(revision)) => {
                    endless.entry(revision).or_default().push(at);
                    endless.entry(revision - 1).or_default().push(at);
                }
            }
        }
        order.sort_unstable();
        let mut events = vec![Event { item: NONE, is_return: false, before: NONE, after: NONE }];
        let mut stands = vec![(0, 0); items.len()];
        for (_, is_return, item) in order {
            let at = events.len();
            events[at - 1].after = at;
            events.push(Event { item, is_return, before: at - 1, after: NONE });
            let stand = &mut stands[item];
            *(if is_return { &mut stand.1 } else { &mut stand.0 }) = at;
        }
        Self {
            items,
            words,
            events,
            stands,
            endless,
            is_placed: vec![false; items.len()],
            trail: Vec::new(),
            sum: 0,
            model: Model::new(),
            tried: BTreeSet::new(),
            deepest: None,
        }
    }

    fn run(mut self) -> Result<(), String> {
        let mut frames: Vec<Frame> = Vec::new();
        loop {
            let blocked = self.place_what_changes_nothing();
            let Some(blocked) = blocked else { return Ok(()) };
            let mut left = self.candidates(blocked);
            self.note(blocked);
            let (placed, sum) = (self.trail.len(), self.sum);
            let next = left.pop();
            let state = (!left.is_empty()).then(|| self.model.clone());
            frames.push(Frame { left, state, placed, sum });
            let mut went_on = next.is_some_and(|next| self.try_to_place(next));
            while !went_on {
                if self.tried.len() > STATES_MAX {
                    return Err(format!("undecided after {STATES_MAX} states"));
                }
                let Some(frame) = frames.last_mut() else { return Err(self.complain()) };
                let Some(next) = frame.left.pop() else {
                    frames.pop();
                    continue;
                };
                let state =
                    if frame.left.is_empty() { frame.state.take() } else { frame.state.clone() };
                let (placed, sum) = (frame.placed, frame.sum);
                self.model = state.expect("kept while candidates are left");
                self.take_back(placed, sum);
                went_on = self.try_to_place(next);
            }
        }
    }

    /// Places every candidate without an effect that the model answers as it was answered.
    /// Returns whose return comes first then; `None` when all are placed.
    fn place_what_changes_nothing(&mut self) -> Option<usize> {
        let mut at = self.events[0].after;
        loop {
            if at == NONE {
                return None;
            }
            let Event { item, is_return, after, .. } = self.events[at];
            if is_return {
                return Some(item);
            }
            at = after;
            let found = &self.items[item];
            if !found.has_effect && self.is_candidate(item) {
                let predicted = self.model.clone().apply(found.call);
                if agrees(&predicted, found.seen) {
                    self.place(item);
                    // Others may have become candidates.
                    at = self.events[0].after;
                }
            }
        }
    }

    fn is_candidate(&self, item: usize) -> bool {
        let found = &self.items[item];
        !self.is_placed[item]
            && found.at.fits(self.model.revision().get())
            && found.after.is_none_or(|after| self.is_placed[after])
    }

    /// What changes the state and can be next, the one to try first at the end.
    fn candidates(&self, blocked: usize) -> Vec<usize> {
        let mut candidates = Vec::new();
        let mut at = self.events[0].after;
        while at != NONE && !self.events[at].is_return {
            let item = self.events[at].item;
            if self.items[item].has_effect && self.is_candidate(item) {
                candidates.push(item);
            }
            at = self.events[at].after;
        }
        let horizon = self.items[blocked].returned;
        let endless = self.endless.get(&self.model.revision().get());
        candidates.extend(
            endless.into_iter().flatten().copied().filter(|item| {
                self.is_candidate(*item) && Some(self.items[*item].invoked) <= horizon
            }),
        );
        candidates.sort_by_key(|item| std::cmp::Reverse((self.items[*item].hint, *item)));
        candidates
    }

    /// Places an item if the model answers it as it was answered and this set of items is new.
    /// The model is spoilt otherwise.
    fn try_to_place(&mut self, item: usize) -> bool {
        let found = &self.items[item];
        let predicted = self.model.apply(found.call);
        if !agrees(&predicted, found.seen) {
            return false;
        }
        self.place(item);
        self.tried.insert(self.sum)
    }

    fn place(&mut self, item: usize) {
        self.is_placed[item] = true;
        self.trail.push(item);
        self.sum ^= self.words[item];
        if self.items[item].returned.is_some() {
            let (call, end) = self.stands[item];
            self.unlink(call);
            self.unlink(end);
        }
    }

    fn take_back(&mut self, placed: usize, sum: u128) {
        while self.trail.len() > placed {
            let Some(item) = self.trail.pop() else { break };
            self.is_placed[item] = false;
            if self.items[item].returned.is_some() {
                let (call, end) = self.stands[item];
                self.link(end);
                self.link(call);
            }
        }
        self.sum = sum;
    }

    fn unlink(&mut self, at: usize) {
        let Event { before, after, .. } = self.events[at];
        self.events[before].after = after;
        if after != NONE {
            self.events[after].before = before;
        }
    }

    fn link(&mut self, at: usize) {
        let Event { before, after, .. } = self.events[at];
        self.events[before].after = at;
        if after != NONE {
            self.events[after].before = at;
        }
    }

    /// Remembers the attempt that came furthest.
    fn note(&mut self, blocked: usize) {
        let placed = self.trail.len();
        if self.deepest.as_ref().is_some_and(|deepest| deepest.placed >= placed) {
            return;
        }
        let mut beside = Vec::new();
        let mut at = self.events[0].after;
        while at != NONE && beside.len() < NEIGHBOURS_MAX {
            let Event { item, is_return, after, .. } = self.events[at];
            if !is_return && item != blocked {
                beside.push(item);
            }
            at = after;
        }
        let revision = self.model.revision();
        self.deepest = Some(Deepest { placed, blocked, beside, revision });
    }

    fn complain(&self) -> String {
        let Some(Deepest { placed, blocked, beside, revision }) = &self.deepest else {
            return "nothing can be placed".into();
        };
        let beside: Vec<String> = beside.iter().map(|item| self.items[*item].show()).collect();
        let (blocked, beside) = (self.items[*blocked].show(), beside.join("; "));
        format!(
            "{blocked} cannot be placed after {placed} others at revision {revision}; \
             beside it: {beside}"
        )
    }
}

impl Item<'_> {
    fn show(&self) -> String {
        let until = self.returned.map_or_else(|| "…".into(), |at| format!("{at:?}"));
        let (call, seen) = (model::short(self.call), model::short(&self.seen));
        format!("{} ({:?} to {until}) {call} answered {seen}", self.name, self.invoked)
    }
}

#[cfg(test)]
mod tests;
