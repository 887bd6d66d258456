//! Feeds decoders with bytes that are almost right; for tests only.
//!
//! A property gets random choices ([`Unstructured`]), makes an input of them, usually a valid one
//! with a few [`mutate`]d bytes, and looks at what the decoder makes of it. [`fuzz`] repeats that
//! for a time and says how often. A panic, an input that takes longer than [`HANG`], and memory
//! beyond [`MEMORY_BYTES_MAX`] are findings; so is a property that never sees an input taken or
//! never sees one refused, because then it looks at one half only.
//!
//! The environment says how:
//!
//! * `FUZZ_SECONDS`: how long each property is tried; a fraction is allowed. Default: 0.4.
//! * `FUZZ_SEED`: a number from which all inputs follow. Default: another one in each run.
//! * `ARBTEST_SEED=0x…`: tries the one input that a failure has printed, and nothing else. Together
//!   with the name of the test: `ARBTEST_SEED=0x… cargo test -p storage --test it fuzz::wal`.
//! * `FUZZ_TRACE=1`: prints the seed of each input before it is tried, for failures after which
//!   nothing more can be printed: a stack that is too small, a process that is killed.
//!
//! *Absent.* Coverage as a guide, which needs an unstable compiler: a property must build its
//! inputs so that they reach deep.

mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use arbtest::arbitrary::{Result, Unstructured};
use base::Rng;

pub use mutate::{int, mutate, mutate_text, pieces};

/// What a decoder made of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A value.
    Taken,
    /// An error.
    Refused,
}

impl Verdict {
    /// What a result comes to.
    pub fn of<T, E>(result: &std::result::Result<T, E>) -> Self {
        if result.is_ok() { Self::Taken } else { Self::Refused }
    }
}

/// No input takes so long, on a machine that is busy with other things, too.
pub const HANG: Duration = Duration::from_secs(20);

/// Address space that a process may take while a property is tried, beside what each thread of
/// other tests takes for its allocations. No property keeps more than a few MiB.
pub const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// What glibc sets aside for a thread that allocates, before it does.
const THREAD_BYTES: u64 = 64 << 20;

/// How long a property is tried when nobody says it.
const SECONDS_DEFAULT: f64 = 0.4;

/// From so many inputs on, some must have been taken and some refused.
const JUDGED_FROM: u64 = 500;

/// Random bytes of an input: from few, that all choices can be varied, to many.
const SIZES: [u32; 6] = [64, 128, 256, 512, 2_048, 8_192];

/// The input that is being tried.
type Current = Mutex<Option<(u64, Instant)>>;

/// Tries a property with one input after the other until the time is up.
///
/// # Panics
///
/// When the property does, after printing the seed of the input.
#[expect(clippy::print_stdout, reason = "what it says is evidence, and shown with --nocapture")]
pub fn fuzz(name: &str, mut property: impl FnMut(&mut Unstructured<'_>) -> Result<Verdict>) {
    if std::env::var_os("ARBTEST_SEED").is_some() {
        arbtest::arbtest(|u| property(u).map(drop)).run();
        return;
    }
    let (start, seconds, seed) = (Instant::now(), seconds(), seed());
    let trace = std::env::var_os("FUZZ_TRACE").is_some();
    let current = Arc::new(Current::default());
    watch(name, &current);
    let (mut rng, before) = (Rng::new(seed), address_space());
    let (mut taken, mut refused) = (0_u64, 0_u64);
    while start.elapsed().as_secs_f64() < seconds {
        let input = rng.next_u64() << 32 | u64::from(*rng.pick(&SIZES));
        if trace {
            println!("{name}: 0x{input:016x}");
        }
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some((input, Instant::now()));
        let mut verdict = None;
        let tried = catch_unwind(AssertUnwindSafe(|| {
            // An input that ran out of choices is one like any other.
            let once = |u: &mut Unstructured<'_>| {
                verdict = property(u).ok();
                Ok(())
            };
            arbtest::arbtest(once).seed(input).run();
        }));
        if let Err(panic) = tried {
            println!("{name}: found with FUZZ_SEED={seed}");
            resume_unwind(panic);
        }
        match verdict {
            Some(Verdict::Taken) => taken += 1,
            Some(Verdict::Refused) => refused += 1,
            None => {}
        }
    }
    drop(current);
    let (count, took) = (taken + refused, start.elapsed().as_secs_f64());
    println!(
        "evidence: {name}: {count} inputs in {took:.1} s, {:.0} a second; {taken} taken, {refused} \
         refused; seed {seed}",
        count as f64 / took
    );
    let grown = address_space().saturating_sub(before);
    assert!(grown < growth_max(), "{name}: {grown} bytes of address space were taken");
    let one_sided = count >= JUDGED_FROM && (taken == 0 || refused == 0);
    assert!(!one_sided, "{name}: {taken} inputs taken, {refused} refused: it shows too little");
}

fn growth_max() -> u64 {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    MEMORY_BYTES_MAX + THREAD_BYTES * threads
}

fn seconds() -> f64 {
    let given = std::env::var("FUZZ_SECONDS").ok();
    given.map_or(SECONDS_DEFAULT, |text| text.parse().expect("FUZZ_SECONDS is a number"))
}

fn seed() -> u64 {
    match std::env::var("FUZZ_SEED") {
        Ok(text) => text.parse().expect("FUZZ_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())),
    }
}

/// Has the process ended when an input takes too long: a loop cannot be ended otherwise. One thread
/// watches all properties.
fn watch(name: &str, current: &Arc<Current>) {
    static WATCHED: Mutex<Vec<(String, Weak<Current>)>> = Mutex::new(Vec::new());
    static WATCHER: Once = Once::new();
    let watched = || WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    watched().push((name.to_owned(), Arc::downgrade(current)));
    WATCHER.call_once(|| {
        thread::spawn(move || {
            loop {
                watched().retain(|(name, current)| is_moving(name, current));
                thread::sleep(Duration::from_millis(200));
            }
        });
    });
}

/// False when a property is over; ends the process when it hangs.
#[expect(clippy::print_stderr, reason = "the last words of the process")]
fn is_moving(name: &str, current: &Weak<Current>) -> bool {
    let Some(current) = current.upgrade() else { return false };
    let tried = *current.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((input, since)) = tried
        && since.elapsed() > HANG
    {
        eprintln!("{name}: hangs\n    Seed: 0x{input:016x}");
        std::process::abort();
    }
    true
}

/// The most address space that the process has had; 0 where the system does not say it. What is
/// reserved and never touched counts too.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_passed_on() {
        let found = catch_unwind(|| {
            fuzz("panic", |u| {
                assert!(u.arbitrary::<u8>()? != 7, "found");
                Ok(Verdict::Taken)
            });
        });
        assert!(found.is_err());
    }

    #[test]
    fn a_property_that_sees_one_half_fails() {
        assert!(catch_unwind(|| fuzz("half", |_| Ok(Verdict::Refused))).is_err());
    }

    #[test]
    fn memory_that_is_only_reserved_is_seen() {
        let found = catch_unwind(|| {
            fuzz("memory", |u| {
                let reserved: Vec<u8> = Vec::with_capacity(2 * growth_max() as usize);
                assert!(reserved.is_empty());
                Ok(if u.arbitrary()? { Verdict::Taken } else { Verdict::Refused })
            });
        });
        assert!(found.is_err() || !cfg!(target_os = "linux"));
    }
}
