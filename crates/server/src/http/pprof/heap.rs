//! Who asked for memory, and who holds it.
//!
//! The allocator notes the stack of about one allocation in [`SAMPLE_BYTES`], from the time that
//! profiles are served; what was taken before is not told. It writes its notes as text into a file
//! that has no name, and they are put here in the form that `go tool pprof` reads.
//!
//! *Invariants.* Numbers are estimates of all memory, not of the samples alone. One profile at a
//! time; the text of a dump is in memory no longer than that takes.
//!
//! *Absent.* Differences over `?seconds=N`: `go tool pprof -base` makes them of two files.
//!
//! *Contract.* jemalloc 5.3, `prof_dump` ("heap_v2"); the four kinds of values are those of Go.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use rustix::fs::{MemfdFlags, memfd_create};
use tikv_jemalloc_ctl::{Access, AsName};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::profile::{Builder, Kind, Symbol};
use super::{OCTETS, attachment, failure};
use crate::grpc::{self, Body};
use crate::http::{answer, query::Query};
use crate::log;

/// One stack is noted for so many bytes, as Go does.
const SAMPLE_BYTES: f64 = 524_288.0;

/// The most text that is read of the allocator: half a million stacks.
const DUMP_BYTES_MAX: u64 = 256 << 20;

/// Names of the allocator's settings, as it wants them.
const ACTIVE: &[u8] = b"prof.active\0";
const DUMP: &[u8] = b"prof.dump\0";
const POSSIBLE: &[u8] = b"opt.prof\0";

/// Why there is no profile.
const WITHOUT: &str = "this program was built without JEMALLOC_SYS_WITH_MALLOC_CONF=prof:true, so \
                       that its allocator does not know who asked for memory";

/// The allocator's own functions, in C, by the names they are exported with.
const ALLOCATOR: &str = "_rjem_";

/// How deep they are at most.
const ALLOCATOR_FRAMES_MAX: usize = 16;

/// Functions of Rust that only pass a wish for memory on; a stack begins with who called them.
const PASSED_ON: [&str; 6] =
    ["<alloc::", "<tikv_jemallocator::", "__rust_", "__rustc", "alloc::", "tikv_jemallocator::"];

/// What profiles tell of.
const KINDS: [Kind; 4] = [
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// There is one file to dump into, and names take much memory to look up.
static TURN: Semaphore = Semaphore::const_new(1);

/// Begins to note stacks.
pub(crate) fn begin() {
    if let Err(error) = ACTIVE.name().write(true) {
        log::warn("no heap profiles").field("error", &error.to_string()).emit();
    }
}

/// Whether the allocator was built to note stacks.
fn is_possible() -> bool {
    Access::<bool>::read(POSSIBLE.name()).unwrap_or(false)
}

/// A profile for `go tool pprof`; `?debug=1` asks for the allocator's own words. `name`: what it is
/// asked for as, and what `go tool pprof` shows first.
pub(super) async fn profile(name: &'static str, query: &Query) -> Response<Body> {
    if !is_possible() {
        return failure(StatusCode::NOT_IMPLEMENTED, &format!("{name}: {WITHOUT}"));
    }
    let is_text = query.first("debug").is_some_and(|level| level != "0");
    let refused = |reason: String| {
        log::warn("failed to take a heap profile").field("error", &reason).emit();
        failure(StatusCode::INTERNAL_SERVER_ERROR, &reason)
    };
    let turn = match take_turn() {
        Ok(turn) => turn,
        Err(reason) => return refused(reason),
    };
    let made = grpc::blocking(move || {
        // It ends here, also when the client does not wait.
        let _turn = turn;
        let text = dump()?;
        Ok::<_, String>(if is_text { text.into_bytes() } else { encode(name, &parse(&text)) })
    });
    match made.await {
        Ok(Ok(bytes)) if is_text => {
            answer::text(StatusCode::OK, String::from_utf8_lossy(&bytes).into_owned())
        }
        Ok(Ok(bytes)) => attachment(OCTETS, name, bytes),
        Ok(Err(reason)) => refused(reason),
        Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "the server stops"),
    }
}

fn take_turn() -> Result<SemaphorePermit<'static>, String> {
    let busy = "Could not enable heap profiling: heap profiling already in use";
    TURN.try_acquire().map_err(|_| busy.to_owned())
}

/// The file that the allocator writes into, and its name for the allocator, which wants one that
/// lasts as long as the process.
struct Target {
    file: File,
    path: &'static [u8],
}

fn target() -> Result<&'static Target, String> {
    static TARGET: OnceLock<Result<Target, String>> = OnceLock::new();
    let made = TARGET.get_or_init(|| {
        let file = memfd_create("heap", MemfdFlags::CLOEXEC)
            .map_err(|error| format!("making a file in memory: {error}"))?;
        let file = File::from(file);
        let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
        Ok(Target { file, path: Box::leak(path.into_bytes().into_boxed_slice()) })
    });
    made.as_ref().map_err(Clone::clone)
}

/// What the allocator knows, as text. To be called by whoever has the turn.
fn dump() -> Result<String, String> {
    let Target { file, path } = target()?;
    let asked = DUMP.name().write(*path).map_err(|error| format!("asking the allocator: {error}"));
    take_text(file, asked)
}

/// Empties the file, whatever came of asking for what is in it.
fn take_text(file: &File, asked: Result<(), String>) -> Result<String, String> {
    let text = asked.and_then(|()| read_text(file));
    file.set_len(0).map_err(failed)?;
    text
}

fn read_text(file: &File) -> Result<String, String> {
    let length = file.metadata().map_err(failed)?.len();
    if length > DUMP_BYTES_MAX {
        return Err(format!("the allocator wrote {length} bytes, more than {DUMP_BYTES_MAX}"));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn failed(error: std::io::Error) -> String {
    format!("reading what the allocator wrote: {error}")
}

/// How many objects and bytes were noted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Noted {
    objects: u64,
    bytes: u64,
}

/// A stack, innermost return address first, what is held of it and what it ever asked for.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    stack: Vec<usize>,
    held: Noted,
    asked: Noted,
}

/// Reads stacks and their sums (`t*`); threads one by one, and what maps are loaded, are passed
/// over.
fn parse(text: &str) -> Vec<Trace> {
    let mut traces: Vec<Trace> = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
        if let Some(addresses) = line.strip_prefix('@') {
            let stack = addresses.split_whitespace().filter_map(|address| {
                usize::from_str_radix(address.trim_start_matches("0x"), 16).ok()
            });
            let (held, asked) = <(Noted, Noted)>::default();
            traces.push(Trace { stack: stack.collect(), held, asked });
        } else if let Some(sums) = line.trim_start().strip_prefix("t*:")
            && let (Some(trace), Some((held, asked))) = (traces.last_mut(), sums.split_once('['))
        {
            trace.held = noted(held);
            trace.asked = noted(asked.trim_end_matches(']'));
        }
    }
    traces
}

/// Reads `objects: bytes`; what is no number counts as nothing.
fn noted(text: &str) -> Noted {
    let (objects, bytes) = text.split_once(':').unwrap_or_default();
    let number = |text: &str| text.trim().parse().unwrap_or_default();
    Noted { objects: number(objects), bytes: number(bytes) }
}

impl Noted {
    /// What all of it is likely to be: an allocation is noted the more likely the larger it is.
    fn of_all(self) -> [i64; 2] {
        if self.objects == 0 || self.bytes == 0 {
            return [0, 0];
        }
        let mean = self.bytes as f64 / self.objects as f64;
        let scale = 1.0 / (1.0 - (-mean / SAMPLE_BYTES).exp());
        [(self.objects as f64 * scale) as i64, (self.bytes as f64 * scale) as i64]
    }
}

fn encode(name: &str, traces: &[Trace]) -> Vec<u8> {
    let shown = if name == "allocs" { "alloc_space" } else { "inuse_space" };
    let mut builder = Builder::new(SystemTime::now(), Duration::ZERO, &KINDS)
        .period(("space", "bytes"), SAMPLE_BYTES as i64)
        .shown(shown);
    let mut places: BTreeMap<usize, Vec<Symbol>> = BTreeMap::new();
    for trace in traces {
        let named = |&address| places.entry(address).or_insert_with(|| resolve(address)).clone();
        let stack = from_caller(trace.stack.iter().map(named).collect());
        let values = [trace.asked.of_all(), trace.held.of_all()].concat();
        builder.add(&stack, values, None);
    }
    // What was read to find the names is many times what the process needs otherwise.
    backtrace::clear_symbol_cache();
    builder.finish()
}

/// Leaves out what belongs to the allocation itself.
fn from_caller(stack: Vec<Vec<Symbol>>) -> Vec<Vec<Symbol>> {
    let is_allocator =
        |place: &Vec<Symbol>| place.iter().any(|one| one.system_name.starts_with(ALLOCATOR));
    let inner = stack.iter().take(ALLOCATOR_FRAMES_MAX).rposition(is_allocator);
    let mut callers: Vec<_> = stack
        .into_iter()
        .skip(inner.map_or(0, |last| last + 1))
        .skip_while(|place| place.iter().all(passes_on))
        .collect();
    if let Some(first) = callers.first_mut() {
        let inlined = first.iter().take_while(|symbol| passes_on(symbol)).count();
        first.drain(..inlined);
    }
    callers
}

fn passes_on(symbol: &Symbol) -> bool {
    PASSED_ON.iter().any(|prefix| symbol.name.starts_with(prefix))
}

/// The functions at an address to which a call returns; the call is in front of it.
fn resolve(address: usize) -> Vec<Symbol> {
    let mut found = Vec::new();
    backtrace::resolve(std::ptr::without_provenance_mut(address.saturating_sub(1)), |symbol| {
        let name = symbol.name();
        found.push(Symbol {
            // Without the hash that the compiler adds.
            name: name.as_ref().map(|name| format!("{name:#}")).unwrap_or_default(),
            system_name: name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default(),
            file: symbol
                .filename()
                .map(|file| file.to_string_lossy().into_owned())
                .unwrap_or_default(),
            line: symbol.lineno().unwrap_or_default(),
        });
    });
    if found.is_empty() {
        let name = format!("{address:#x}");
        found.push(Symbol { system_name: name.clone(), name, file: String::new(), line: 0 });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMPED: &str = "heap_v2/524288\n  t*: 3: 1100000 [4: 1200000]\n  t0: 3: 1100000 [4: 1200000]\n\
                          @ 0x55a0 0x55b1 0x1\n  t*: 1: 1048576 [2: 1148576]\n  t3: 1: 1048576 [2: 1148576]\n\
                          @ 0x77\n  t*: 2: 51424 [2: 51424]\nMAPPED_LIBRARIES:\n@ 0x99\n  t*: 9: 9 [9: 9]\n";

    #[test]
    fn who_comes_second_is_refused() {
        let first = take_turn().unwrap();
        let refused = take_turn().unwrap_err();
        assert_eq!(refused, "Could not enable heap profiling: heap profiling already in use");
        drop(first);
        drop(take_turn().unwrap());
    }

    #[test]
    fn nothing_of_a_dump_stays_in_memory() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        let held = || file.metadata().unwrap().len();
        file.write_all_at(b"text", 0).unwrap();
        assert_eq!(take_text(&file, Ok(())), Ok("text".to_owned()));
        assert_eq!(held(), 0);
        file.write_all_at(b"te", 0).unwrap();
        assert_eq!(take_text(&file, Err("full".to_owned())), Err("full".to_owned()));
        assert_eq!(held(), 0);
        file.set_len(DUMP_BYTES_MAX + 1).unwrap();
        assert!(take_text(&file, Ok(())).is_err());
        assert_eq!(held(), 0);
    }

    #[test]
    fn stacks_and_their_sums_are_read() {
        let noted = |objects, bytes| Noted { objects, bytes };
        let expected = [
            Trace {
                stack: vec![0x55a0, 0x55b1, 1],
                held: noted(1, 1_048_576),
                asked: noted(2, 1_148_576),
            },
            Trace { stack: vec![0x77], held: noted(2, 51_424), asked: noted(2, 51_424) },
        ];
        assert_eq!(parse(DUMPED), expected);
        for bad in ["", "@", "t*: 1: 2 [3: 4]", "@ zz\nt*: x [", "@ 0x1\nt*: 1"] {
            assert!(parse(bad).iter().all(|trace| trace.held == Noted::default()), "{bad}");
        }
    }

    #[test]
    fn a_stack_begins_with_who_asked() {
        let place = |names: &[&str]| -> Vec<Symbol> {
            let symbol = |name: &&str| Symbol {
                name: (*name).to_owned(),
                system_name: (*name).to_owned(),
                file: String::new(),
                line: 1,
            };
            names.iter().map(symbol).collect()
        };
        let stack = vec![
            place(&["prof_backtrace", "prof_alloc_prep"]),
            place(&["imalloc", "_rjem_malloc"]),
            place(&["__rust_alloc"]),
            place(&["alloc::raw_vec::grow"]),
            place(&["alloc::vec::Vec::push", "store::index::put"]),
            place(&["alloc::boxed::call"]),
            place(&["main"]),
        ];
        let begun = from_caller(stack);
        let expected =
            [place(&["store::index::put"]), place(&["alloc::boxed::call"]), place(&["main"])];
        assert_eq!(begun, expected);
        assert_eq!(from_caller(vec![place(&["alloc::only"])]), Vec::<Vec<Symbol>>::new());
    }

    #[test]
    fn a_small_sample_stands_for_more_than_a_large_one() {
        let [objects, bytes] = Noted { objects: 1, bytes: 1024 }.of_all();
        // One in 512 of this size is noted.
        assert!((500..530).contains(&objects) && (500 << 10..530 << 10).contains(&bytes));
        let [objects, bytes] = Noted { objects: 1, bytes: 64 << 20 }.of_all();
        assert_eq!((objects, bytes), (1, 64 << 20));
        assert_eq!(Noted::default().of_all(), [0, 0]);
    }
}
