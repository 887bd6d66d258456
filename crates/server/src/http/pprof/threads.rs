//! Every thread of the process, as the system sees it.

use std::collections::BTreeMap;
use std::fs;

use rustix::param::clock_ticks_per_second;

/// Threads that are listed; a process with more of them is ill.
const THREADS_MAX: usize = 4_096;

/// One thread.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    /// `R` runs, `S` sleeps, `D` waits for a disk.
    state: char,
    /// Clock ticks of processor time, its own and the kernel's.
    user: u64,
    system: u64,
}

/// Reads a thread's `stat`.
fn read(stat: &str) -> Option<Thread> {
    // The name may have any character, parentheses as well.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    // After the name: field 3 and on.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Thread {
        name,
        state: field(3)?.chars().next()?,
        user: field(14)?.parse().ok()?,
        system: field(15)?.parse().ok()?,
    })
}

/// One line a thread, and how many there are in which state.
pub(super) fn listing() -> String {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return "threads: the system does not tell\n".to_owned();
    };
    let mut threads: BTreeMap<u64, (Thread, String)> = BTreeMap::new();
    for task in tasks.flatten().take(THREADS_MAX) {
        let number = task.file_name().to_string_lossy().parse().unwrap_or_default();
        let told = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if let Some(thread) = read(&told("stat")) {
            // Where in the kernel it waits: `0` or nothing when it does not.
            threads.insert(number, (thread, told("wchan")));
        }
    }
    let mut text = format!("threads: total {}\n", threads.len());
    let ticks = clock_ticks_per_second().max(1) as f64;
    for (number, (thread, waits)) in threads {
        let Thread { name, state, user, system } = thread;
        let (user, system) = (user as f64 / ticks, system as f64 / ticks);
        let waits = if waits.is_empty() || waits == "0" { "-" } else { &waits };
        text.push_str(&format!(
            "{number} {state} user {user:.2}s system {system:.2}s in {waits}: {name}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_read_whatever_their_names_are() {
        let stat = "77 (lane (0) x) S 1 2 3 4 5 6 7 8 9 10 55 66 0 0 20 0";
        let thread = Thread { name: "lane (0) x".to_owned(), state: 'S', user: 55, system: 66 };
        assert_eq!(read(stat), Some(thread));
        assert_eq!(read("nonsense"), None);
    }

    #[test]
    fn this_thread_is_listed() {
        let listing = std::thread::Builder::new().name("named-one".to_owned()).spawn(listing);
        let listing = listing.expect("a thread").join().expect("no panic");
        assert!(listing.contains(": named-one\n"), "{listing}");
    }
}
