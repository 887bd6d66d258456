//! Profiles of the running process under `/debug/pprof/`, with `--enable-pprof` or at log level
//! debug.
//!
//! ```text
//!  profile     where processor time goes, as `go tool pprof` reads it
//!  flamegraph  the same as a picture
//!  heap        who holds memory (`allocs`: who asked for it), for `go tool pprof`
//!  threads     every thread, what it does and has used (also by the names `goroutine` and
//!              `threadcreate`)
//! ```
//!
//! *Invariants.* One profile of memory and one of time are taken at a time, the latter for
//! [`cpu::SECONDS_MAX`] at most.
//!
//! *Absent.* What only Go's runtime has: `block`, `mutex`, `trace`. They are known, and answered
//! with a line that says so.
//!
//! *Contract.* `net/http/pprof` of Go 1.26: paths, parameters, headers and texts.

mod cpu;
mod flame;
mod heap;
mod profile;
mod threads;

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

pub(crate) use heap::begin as begin_heap_profile;

use super::answer;
use super::query::Query;
use crate::grpc::{self, Body};

/// Where profiles are.
const ROOT: &str = "/debug/pprof/";

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// What Go's profiler adds to its errors.
const GO_PPROF: HeaderName = HeaderName::from_static("x-go-pprof");

/// What the index lists: names, and what is there.
const LISTED: [(&str, &str); 7] = [
    ("allocs", "Who asked for memory since the start, for go tool pprof."),
    ("cmdline", "The command line of this process."),
    ("flamegraph", "Where processor time goes, as a picture. ?seconds=N says for how long."),
    ("heap", "Who holds memory, for go tool pprof. ?debug=1: as the allocator tells it."),
    ("profile", "Where processor time goes, for go tool pprof. ?seconds=N says for how long."),
    ("symbol", "Names of addresses; profiles have theirs already."),
    ("threads", "Every thread, its state and its processor time."),
];

/// Whether a path is for this module.
pub(super) fn is_profile(path: &str) -> bool {
    path.starts_with(ROOT) || path == ROOT.trim_end_matches('/')
}

/// Answers a request for a profile.
pub(super) async fn serve(request: &Request<Incoming>) -> Response<Body> {
    let Some(name) = request.uri().path().strip_prefix(ROOT) else { return redirect() };
    let query = Query::of(request.uri().query());
    match name {
        "" => page(&index()),
        "cmdline" => answer::text(StatusCode::OK, cmdline()),
        "profile" => cpu::profile(&query).await,
        "flamegraph" => cpu::flamegraph(&query).await,
        "heap" => heap::profile("heap", &query).await,
        "allocs" => heap::profile("allocs", &query).await,
        "symbol" => answer::text(StatusCode::OK, "num_symbols: 0\n".to_owned()),
        "threads" | "goroutine" | "threadcreate" => {
            // Thousands of the system's files are read where no other connection waits.
            match grpc::blocking(threads::listing).await {
                Ok(listing) => answer::text(StatusCode::OK, listing),
                Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "the server stops"),
            }
        }
        "block" | "mutex" | "trace" => {
            let text =
                format!("{name}: there is no such profile of a process without Go's runtime");
            failure(StatusCode::NOT_IMPLEMENTED, &text)
        }
        _ => failure(StatusCode::NOT_FOUND, "Unknown profile"),
    }
}

fn redirect() -> Response<Body> {
    let text = format!("<a href=\"{ROOT}\">Temporary Redirect</a>.\n\n");
    let mut response = answer::with_type(HTML, text);
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(ROOT));
    response
}

fn page(html: &str) -> Response<Body> {
    let mut response = answer::text(StatusCode::OK, html.to_owned());
    response.headers_mut().insert(header::CONTENT_TYPE, HTML);
    response
}

fn index() -> String {
    let lines: String = LISTED
        .iter()
        .map(|(name, told)| format!("<li><a href=\"{name}\">{name}</a>: {told}</li>\n"))
        .collect();
    format!(
        "<html>\n<head>\n<title>{ROOT}</title>\n</head>\n<body>\n{ROOT}\n<ul>\n{lines}</ul>\n\
         </body>\n</html>\n"
    )
}

/// The words of the command line, with a zero byte between them.
fn cmdline() -> String {
    let words: Vec<_> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join("\0")
}

/// A file to keep.
fn attachment(kind: HeaderValue, name: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = answer::text(StatusCode::OK, String::new());
    *response.body_mut() = Body::Plain(bytes.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    response
}

fn failure(code: StatusCode, what: &str) -> Response<Body> {
    let mut response = answer::error(code, what);
    response.headers_mut().insert(GO_PPROF, HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_lists_what_is_there() {
        let index = index();
        for (name, _) in LISTED {
            assert!(index.contains(&format!("<a href=\"{name}\">")), "{name}");
        }
        assert!(is_profile("/debug/pprof") && is_profile("/debug/pprof/x"));
        assert!(!is_profile("/debug/pprofx") && !is_profile("/debug"));
    }
}
