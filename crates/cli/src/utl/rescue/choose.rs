//! Chooses among what the members of one cluster have left.
//!
//! ```text
//!  database of one member   entry 480 of term 3 ──┐
//!  log of the same, or of another    ... 480 481 ─┴─► 523 of term 4   the last entry decides
//! ```
//!
//! The log whose last entry has the highest term wins, and of these the longest: a log that was
//! voted for with every entry that was committed has every one of them, and so has what is behind
//! it in this order not. A database stands for all entries up to its own.
//!
//! *Invariants.*
//! 1. A database and a log are put together only where the log has the entry that the database
//!    ends with, or is known to go on from it.
//! 2. Two directories that tell different things of one committed entry are refused.
//! 3. A log alone is taken only where everything is in it: not where it goes on from a restored
//!    database.
//! 4. An entry is certain only where a directory shows that the cluster had agreed on that one, not
//!    on any of its index.

use std::collections::BTreeSet;

use base::{LogIndex, MemberId, Term};
use proto::raftpb::{Entry, EntryType};
use storage::wal::Salvaged;
use store::Member;

use super::source::{Base, Position, Source};
use crate::failure::{Failure, Outcome};
use crate::utl::fail;

/// What the new cluster is made of.
pub(super) struct Choice<'a> {
    /// The database, and whose it is; none: the log begins with the first entry.
    pub(super) base: Option<(&'a Source, &'a Base)>,
    /// The log that goes on from it, if any does.
    pub(super) log: Option<&'a Source>,
    /// What is applied to the database.
    pub(super) tail: &'a [Entry],
    /// Where it ends.
    pub(super) last: Position,
}

/// Where the log of a database without any entry begins.
const START: Position = Position { term: Term(0), index: LogIndex(0) };

/// Picks what has the most; `None` when nothing can be used.
pub(super) fn choose(sources: &[Source]) -> Outcome<Option<Choice<'_>>> {
    check(sources)?;
    let mut bases: Vec<Option<(&Source, &Base)>> = Vec::new();
    for source in sources {
        bases.extend(source.bases.iter().map(|base| Some((source, base))));
    }
    // Whatever a whole database has was committed.
    let least = bases.iter().flatten().map(|(_, base)| base.at.index).max();
    if bases.is_empty() {
        bases.push(None);
    }
    let mut choices: Vec<Choice<'_>> = Vec::new();
    for base in bases {
        let at = base.map_or(START, |(own, base)| with_term(base.at, own, sources));
        if base.is_some() {
            choices.push(Choice { base, log: None, tail: &[], last: at });
        }
        for log in sources {
            let own = base.is_some_and(|(source, _)| std::ptr::eq(source, log));
            let tail = log.log.after(at.index);
            if let Some(last) = tail.last()
                && goes_on(log, at, tail, own)
            {
                let last = Position { term: Term(last.term()), index: LogIndex(last.index()) };
                choices.push(Choice { base, log: Some(log), tail, last });
            }
        }
    }
    let rank = |choice: &Choice<'_>| {
        let own = match (choice.base, choice.log) {
            (Some((source, _)), Some(log)) => std::ptr::eq(source, log),
            _ => true,
        };
        (Some(choice.last.index) >= least, choice.last, own, std::cmp::Reverse(choice.tail.len()))
    };
    // The first of equals: directories count in the order in which they are named.
    let mut best: Option<Choice<'_>> = None;
    for choice in choices {
        if best.as_ref().is_none_or(|best| rank(best) < rank(&choice)) {
            best = Some(choice);
        }
    }
    Ok(best)
}

/// The place with its term, where only a log tells that: rather its own one, and one that is
/// damaged last, since what was replaced may stand in that.
fn with_term(at: Position, own: &Source, sources: &[Source]) -> Position {
    if at.term != Term(0) {
        return at;
    }
    let undamaged = sources.iter().filter(|source| source.is_undamaged());
    let mut logs = std::iter::once(own).chain(undamaged).chain(sources);
    let term = logs.find_map(|source| known_term(source, at.index));
    Position { term: term.unwrap_or_default(), ..at }
}

/// The term of an entry in a log. A snapshot was made of what was committed; an entry may have been
/// replaced by one that is lost.
fn known_term(source: &Source, index: LogIndex) -> Option<Term> {
    let recorded = source.recorded().find(|found| found.index == index);
    let entry = || source.log.entry(index).map(|entry| Term(entry.term()));
    recorded.map(|found| found.term).or_else(entry)
}

/// Whether the tail of a log is what follows a place.
fn goes_on(log: &Source, at: Position, tail: &[Entry], own: bool) -> bool {
    match known_term(log, at.index) {
        _ if at.index == START.index => has_all(log, tail),
        Some(term) => term == at.term || at.term == Term(0),
        // The log has forgotten the entry, which it may only when it was committed, or lost it.
        None => {
            let follows = tail.first().is_some_and(|first| Term(first.term()) >= at.term);
            follows && (own || log.is_undamaged())
        }
    }
}

/// Whether a log that begins with the first entry has everything from there on. That of a restored
/// cluster has not: it begins with its members, and a snapshot at the last of these which stands
/// for all the data of its database.
fn has_all(log: &Source, entries: &[Entry]) -> bool {
    let is_member = |entry: &&Entry| entry.r#type() == EntryType::EntryConfChange;
    let members = entries.iter().take_while(is_member).count();
    let mut recorded = log.log.survey.snapshots.iter().map(|found| found.index());
    let restored = recorded.any(|index| (1..=members as u64).contains(&index));
    // Where the log breaks off behind them the record may be what is lost.
    !restored && (members < entries.len() || log.log_is_whole())
}

/// Refuses directories that tell different things of what the cluster had agreed on: they have gone
/// ways of their own.
fn check(sources: &[Source]) -> Outcome {
    // In a log that is damaged may stand what was replaced later.
    let logs: Vec<&Source> = sources.iter().filter(|source| source.is_undamaged()).collect();
    for (number, one) in logs.iter().enumerate() {
        for other in &logs[number + 1..] {
            let agreed = one.commit().min(other.commit());
            let both = one.log.entries.iter().take_while(|entry| entry.index() <= agreed.0);
            for entry in both {
                let index = LogIndex(entry.index());
                if other.log.entry(index).is_some_and(|found| found != entry) {
                    return Err(apart(one, other, index));
                }
            }
        }
        for source in sources {
            for base in source.bases.iter().filter(|base| base.at.index <= one.commit()) {
                let entry = one.log.entry(base.at.index);
                if base.at.term != Term(0)
                    && entry.is_some_and(|entry| Term(entry.term()) != base.at.term)
                {
                    return Err(apart(source, one, base.at.index));
                }
            }
        }
    }
    Ok(())
}

fn apart(one: &Source, other: &Source, index: LogIndex) -> Failure {
    let (one, other) = (one.dir.root().display(), other.dir.root().display());
    fail(format!(
        "{one} and {other} have different entries {index}, and a cluster had agreed on each: they \
         are not of one cluster any more (was one of them started with --force-new-cluster?); name \
         those of one side"
    ))
}

/// The last entry of which the directories prove that the cluster had agreed on it.
pub(super) fn committed(sources: &[Source]) -> LogIndex {
    sources.iter().map(Source::committed).max().unwrap_or_default()
}

/// The last entry of what is chosen of which the cluster had agreed on it and on all before it.
pub(super) fn certain(choice: &Choice<'_>, sources: &[Source]) -> LogIndex {
    let mut certain = choice.base.map(|(_, base)| base.at.index).unwrap_or_default();
    let Some(log) = choice.log else { return certain };
    let is_shown = |entry: &&Entry| sources.iter().any(|source| shows(source, entry));
    let is_doubtful = |entry: &Entry| log.log.is_doubtful(LogIndex(entry.index()));
    // Of a log an entry shows all that it follows, and nothing of what stands before a gap.
    for part in choice.tail.chunk_by(|_, next| !is_doubtful(next)) {
        let Some(shown) = part.iter().rfind(is_shown) else { break };
        certain = LogIndex(shown.index());
        if part.last() != Some(shown) {
            break;
        }
    }
    certain
}

/// Whether a directory has that very entry, and proves that the cluster had agreed on it.
fn shows(source: &Source, entry: &Entry) -> bool {
    let at = Position { term: Term(entry.term()), index: LogIndex(entry.index()) };
    let has = || source.log.entry(at.index).is_some_and(|found| found.term() == at.term.0);
    source.snapshot == at
        || source.bases.iter().any(|base| base.at == at)
        || source.recorded().any(|found| found == at)
        || source.log.agreed(at.index) && has()
}

/// How many of the voters have left a log in which nothing is missing, and where that ends which
/// reaches the farthest.
pub(super) fn whole_voters(sources: &[Source], members: &[Member]) -> (usize, Position) {
    let is_voter = |id| members.iter().any(|member| member.id == id && !member.is_learner);
    let whole = sources.iter().filter(|source| source.log_is_whole());
    let whole = whole.filter_map(|source| Some((source.identity?.0, source.log_end())));
    let (ids, ends): (BTreeSet<MemberId>, Vec<Position>) =
        whole.filter(|(id, _)| is_voter(*id)).unzip();
    (ids.len(), ends.into_iter().max().unwrap_or_default())
}

/// Refuses directories of different clusters.
pub(super) fn check_cluster(sources: &[Source]) -> Outcome {
    let known = |source: &Source| source.identity.map(|(_, cluster)| cluster);
    let first = sources.iter().find_map(|source| Some((source, known(source)?)));
    let Some((first, cluster)) = first else {
        return match sources {
            [_] => Ok(()),
            _ => Err(fail("no log tells of which cluster the directories are: name one alone")),
        };
    };
    for source in sources {
        let (dir, of) = (source.dir.root().display(), first.dir.root().display());
        match known(source) {
            Some(found) if found == cluster => {}
            Some(found) => {
                return Err(fail(format!(
                    "{dir} is of cluster {found}, and {of} of cluster {cluster}"
                )));
            }
            // Ids of members are unlikely to be the same in two clusters.
            None if knows_members_of(source, sources) => {}
            None => {
                return Err(fail(format!(
                    "{dir}: nothing in it tells that it is of cluster {cluster}, as {of} is"
                )));
            }
        }
    }
    Ok(())
}

/// Whether a member in a directory's databases is one of those whose log is there.
fn knows_members_of(source: &Source, sources: &[Source]) -> bool {
    let ids: BTreeSet<MemberId> =
        sources.iter().filter_map(|source| source.identity).map(|id| id.0).collect();
    let known = source.bases.iter().flat_map(|base| {
        base.members.iter().map(|member| member.id).chain(base.removed.iter().copied())
    });
    let mut known = known;
    // Without any database it adds nothing that could be wrong.
    source.bases.is_empty() || known.any(|id| ids.contains(&id))
}

/// From which entry on logs are to be kept in memory: what every whole database has is not needed.
pub(super) fn floor(sources: &[Source]) -> LogIndex {
    let bases = sources.iter().flat_map(|source| &source.bases);
    bases.map(|base| base.at.index).min().unwrap_or_default()
}

/// For the report: the first and the last entry of a log.
pub(super) fn extent(log: &Salvaged) -> Option<(LogIndex, LogIndex)> {
    let first = log.survey.segments.iter().filter_map(|segment| segment.entries).map(|at| at.0);
    Some((first.min()?, log.last?.0))
}
