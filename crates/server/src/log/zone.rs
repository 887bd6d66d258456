//! The time zone of the machine, from its database of zones.
//!
//! ```text
//!  TZ, or /etc/localtime ─► transitions, and the rule for what comes after them
//! ```
//!
//! *Invariants.* A zone that cannot be read is UTC, as in Go. Read once.
//!
//! *Contract.* RFC 9636 (TZif), and the `TZ` rules of POSIX.

use std::path::PathBuf;
use std::sync::LazyLock;

use base::calendar::days;

const DATABASE: &str = "/usr/share/zoneinfo";
const LOCAL: &str = "/etc/localtime";
const HEADER: usize = 44;
const DAY: i64 = 86_400;
/// When a change of the clocks comes, where the rule does not say it.
const CHANGE_DEFAULT: i64 = 2 * 3_600;

/// What the clocks of a place show.
#[derive(Debug, Default, PartialEq, Eq)]
struct Zone {
    /// From when on, in seconds since 1970, they are how far from UTC.
    transitions: Vec<(i64, i32)>,
    /// Before the first transition.
    first: i32,
    /// After the last one.
    rule: Option<Rule>,
}

static ZONE: LazyLock<Zone> = LazyLock::new(|| {
    let path = match std::env::var("TZ") {
        Err(_) => PathBuf::from(LOCAL),
        Ok(name) => {
            let name = name.strip_prefix(':').unwrap_or(&name);
            // An absolute name is one by itself.
            PathBuf::from(DATABASE).join(if name.is_empty() { "UTC" } else { name })
        }
    };
    std::fs::read(path).ok().and_then(|bytes| Zone::parse(&bytes)).unwrap_or_default()
});

/// Seconds since 1970 as the clocks on the wall show them, and how far they are from UTC.
pub(super) fn local(seconds: u64) -> (u64, i32) {
    let offset = ZONE.offset(i64::try_from(seconds).unwrap_or(i64::MAX));
    (seconds.saturating_add_signed(i64::from(offset)), offset)
}

impl Zone {
    /// Reads a TZif file of version 2 or later.
    fn parse(file: &[u8]) -> Option<Self> {
        let (counts, _) = header(file)?;
        // The first block has 32-bit times, and the second says it better.
        let second = file.get(HEADER + block(&counts, 4)..)?;
        let (counts, version) = header(second)?;
        if version < b'2' {
            return None;
        }
        let [_, _, _, times, types, _] = counts;
        let body = second.get(HEADER..)?;
        let (moments, body) = body.split_at_checked(times * 8)?;
        let (indices, body) = body.split_at_checked(times)?;
        let (kinds, _) = body.split_at_checked(types * 6)?;
        let kind = |index: usize| -> Option<i32> {
            Some(i32::from_be_bytes(*kinds.get(index * 6..)?.first_chunk()?))
        };
        let mut transitions = Vec::with_capacity(times);
        for (moment, index) in moments.chunks_exact(8).zip(indices) {
            let moment = i64::from_be_bytes(*moment.first_chunk()?);
            transitions.push((moment, kind(usize::from(*index))?));
        }
        let footer = second.get(HEADER + block(&counts, 8)..)?.strip_prefix(b"\n")?;
        let footer = footer.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let rule = std::str::from_utf8(footer).ok().and_then(Rule::parse);
        Some(Self { transitions, first: kind(0)?, rule })
    }

    fn offset(&self, at: i64) -> i32 {
        let passed = self.transitions.partition_point(|(moment, _)| *moment <= at);
        match (passed.checked_sub(1), &self.rule) {
            (None, None) => self.first,
            (None, Some(rule)) if self.transitions.is_empty() => rule.offset(at),
            (None, Some(_)) => self.first,
            (Some(last), Some(rule)) if last + 1 == self.transitions.len() => rule.offset(at),
            (Some(last), _) => self.transitions[last].1,
        }
    }
}

/// Counts of a block, in the order of its header: UT and standard marks, leap seconds, times,
/// types, letters; and the version.
fn header(block: &[u8]) -> Option<([usize; 6], u8)> {
    let rest = block.get(..HEADER)?.strip_prefix(b"TZif")?;
    let mut counts = [0; 6];
    for (count, bytes) in counts.iter_mut().zip(rest.get(16..)?.chunks_exact(4)) {
        *count = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
    }
    Some((counts, rest[0]))
}

/// Bytes of a block whose times have `width` bytes.
const fn block([ut, standard, leaps, times, types, letters]: &[usize; 6], width: usize) -> usize {
    *times * (width + 1) + *types * 6 + *letters + *leaps * (width + 4) + *standard + *ut
}

/// `CET-1CEST,M3.5.0,M10.5.0/3`: two offsets, and when each begins.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    standard: i32,
    summer: Option<(i32, Change, Change)>,
}

/// A day of each year, and the second of the day on which the clocks change.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    day: Day,
    second: i64,
}

#[derive(Debug, PartialEq, Eq)]
enum Day {
    /// The day of the year, from 1 on, where February has 28 days.
    Julian(i64),
    /// The day of the year, from 0 on.
    Zero(i64),
    /// A day of the week in the first to fourth or last (5) week of a month.
    Week { month: u64, week: i64, day: i64 },
}

impl Rule {
    fn parse(text: &str) -> Option<Self> {
        let rest = name(text)?;
        let (standard, rest) = clock(rest)?;
        let standard = -i32::try_from(standard).ok()?;
        if rest.is_empty() {
            return Some(Self { standard, summer: None });
        }
        let rest = name(rest)?;
        let (summer, rest) = match rest.strip_prefix(',') {
            Some(rest) => (standard + 3_600, rest),
            None => {
                let (offset, rest) = clock(rest)?;
                (-i32::try_from(offset).ok()?, rest.strip_prefix(',')?)
            }
        };
        let (begin, end) = rest.split_once(',')?;
        Some(Self { standard, summer: Some((summer, Change::parse(begin)?, Change::parse(end)?)) })
    }

    fn offset(&self, at: i64) -> i32 {
        let Some((summer, begin, end)) = &self.summer else { return self.standard };
        let standard = i64::from(self.standard);
        let year = year_of(at + standard);
        // Each change is told in the time before it.
        let begin = begin.at(year) - standard;
        let end = end.at(year) - i64::from(*summer);
        let is_summer = if begin < end { begin <= at && at < end } else { at < end || begin <= at };
        if is_summer { *summer } else { self.standard }
    }
}

impl Change {
    fn parse(text: &str) -> Option<Self> {
        let (day, second) = match text.split_once('/') {
            Some((day, time)) => (day, clock(time).filter(|(_, rest)| rest.is_empty())?.0),
            None => (text, CHANGE_DEFAULT),
        };
        let day = if let Some(day) = day.strip_prefix('M') {
            let mut parts = day.split('.');
            let (month, week, day) = (parts.next()?, parts.next()?, parts.next()?);
            let (month, week, day) = (month.parse().ok()?, week.parse().ok()?, day.parse().ok()?);
            if !(1..=12).contains(&month) || !(1..=5).contains(&week) || !(0..7).contains(&day) {
                return None;
            }
            Day::Week { month, week, day }
        } else if let Some(day) = day.strip_prefix('J') {
            Day::Julian(day.parse().ok()?)
        } else {
            Day::Zero(day.parse().ok()?)
        };
        Some(Self { day, second })
    }

    /// Local seconds since 1970.
    fn at(&self, year: u64) -> i64 {
        let first = |month: u64| signed(days(year + month / 13, (month - 1) % 12 + 1, 1));
        let day = match self.day {
            Day::Zero(day) => first(1) + day,
            Day::Julian(day) => {
                let is_leap = first(3) - first(1) == 60;
                first(1) + day - 1 + i64::from(is_leap && day >= 60)
            }
            Day::Week { month, week, day } => {
                let begin = first(month);
                // 1970 began on a Thursday.
                let weekday = (begin + 4).rem_euclid(7);
                let at = begin + (day - weekday).rem_euclid(7) + (week - 1) * 7;
                if at < first(month + 1) { at } else { at - 7 }
            }
        };
        day * DAY + self.second
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn year_of(at: i64) -> u64 {
    let day = u64::try_from(at.div_euclid(DAY)).unwrap_or_default();
    let mut year = 1970 + day / 366;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    year
}

/// What follows the name of a zone.
fn name(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('<') {
        return rest.split_once('>').map(|(_, rest)| rest);
    }
    let end = text.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(text.len());
    (end >= 3).then(|| &text[end..])
}

/// Reads `[+-]h[:m[:s]]` as seconds, and gives what follows it.
fn clock(text: &str) -> Option<(i64, &str)> {
    let is_part = |letter: char| letter.is_ascii_digit() || "+-:".contains(letter);
    let end = text.find(|letter: char| !is_part(letter)).unwrap_or(text.len());
    let (time, rest) = text.split_at(end);
    let (sign, time) = match time.strip_prefix('-') {
        Some(time) => (-1, time),
        None => (1, time.strip_prefix('+').unwrap_or(time)),
    };
    let mut seconds = 0;
    for (part, unit) in time.split(':').zip([3_600, 60, 1]) {
        let part: i64 = part.parse().ok().filter(|part| *part <= 167)?;
        seconds += part * unit;
    }
    Some((sign * seconds, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_follow_the_rule_of_their_place() {
        let at = |year, month, day, hour: i64| signed(days(year, month, day)) * DAY + hour * 3_600;
        for (rule, moment, offset) in [
            ("CET-1CEST,M3.5.0,M10.5.0/3", at(2026, 3, 29, 0), 3_600),
            ("CET-1CEST,M3.5.0,M10.5.0/3", at(2026, 3, 29, 1), 7_200),
            ("CET-1CEST,M3.5.0,M10.5.0/3", at(2026, 10, 25, 0), 7_200),
            ("CET-1CEST,M3.5.0,M10.5.0/3", at(2026, 10, 25, 1), 3_600),
            ("EST5EDT,M3.2.0,M11.1.0", at(2026, 7, 1, 0), -14_400),
            ("EST5EDT,M3.2.0,M11.1.0", at(2026, 12, 31, 23), -18_000),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", at(2026, 1, 1, 0), 39_600),
            ("AEST-10AEDT,M10.1.0,M4.1.0/3", at(2026, 7, 1, 0), 36_000),
            ("<+0545>-5:45", at(2026, 7, 1, 0), 20_700),
            ("XXX3YYY,J60/0,J300/0", at(2024, 3, 1, 3), -7_200),
            ("XXX3YYY,59/0,300/0", at(2024, 2, 29, 2), -10_800),
        ] {
            assert_eq!(Rule::parse(rule).expect("rule").offset(moment), offset, "{rule} {moment}");
        }
        for bad in ["", "A", "CET", "CET-1CEST", "CET-1CEST,M13.1.0,M1.1.0", "CET-1CEST,M1.1.0"] {
            assert_eq!(Rule::parse(bad), None, "{bad}");
        }
    }

    /// A file with one transition, and a rule after it.
    fn file(rule: &str) -> Vec<u8> {
        let mut file = Vec::new();
        for (width, moment) in [(4, &[0, 0, 0, 9][..]), (8, &[0, 0, 0, 0, 0, 0, 0, 9][..])] {
            assert_eq!(moment.len(), width);
            file.extend_from_slice(b"TZif2");
            file.extend_from_slice(&[0; 15]);
            for count in [0u32, 0, 0, 1, 2, 4] {
                file.extend_from_slice(&count.to_be_bytes());
            }
            file.extend_from_slice(moment);
            file.push(1);
            file.extend_from_slice(&[&60i32.to_be_bytes()[..], &[0, 0]].concat());
            file.extend_from_slice(&[&120i32.to_be_bytes()[..], &[0, 0]].concat());
            file.extend_from_slice(b"ABC\0");
        }
        file.extend_from_slice(format!("\n{rule}\n").as_bytes());
        file
    }

    #[test]
    fn a_file_tells_the_past_and_its_rule_the_rest() {
        let zone = Zone::parse(&file("")).expect("zone");
        assert_eq!((zone.offset(8), zone.offset(9), zone.offset(i64::MAX)), (60, 120, 120));
        let zone = Zone::parse(&file("XYZ-1")).expect("zone");
        assert_eq!((zone.offset(8), zone.offset(9)), (60, 3_600));
    }

    #[test]
    fn a_broken_file_is_no_zone() {
        let whole = file("XYZ-1");
        for length in 0..whole.len() - 8 {
            assert_eq!(Zone::parse(&whole[..length]), None, "{length} bytes");
        }
    }
}
