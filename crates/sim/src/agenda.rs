//! What happens next: events by their moment, and by the order in which they were planned where
//! moments are equal.
//!
//! *Absent.* Removing what was planned: who has died, or was planned anew, ignores it.

use std::collections::BTreeMap;

use base::Moment;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    events: BTreeMap<(Moment, u64), E>,
    planned: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { events: BTreeMap::new(), planned: 0 }
    }
}

impl<E> Agenda<E> {
    /// Plans an event.
    pub(crate) fn plan(&mut self, at: Moment, event: E) {
        self.planned += 1;
        self.events.insert((at, self.planned), event);
    }

    /// The next event and its moment.
    pub(crate) fn next(&mut self) -> Option<(Moment, E)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_for_one_moment_happens_in_the_order_of_planning() {
        let mut agenda = Agenda::default();
        for (at, name) in [(2, "c"), (1, "a"), (1, "b"), (2, "d")] {
            agenda.plan(Moment::from_nanos(at), name);
        }
        let mut names = String::new();
        while let Some((_, name)) = agenda.next() {
            names += name;
        }
        assert_eq!(names, "abcd");
    }
}
