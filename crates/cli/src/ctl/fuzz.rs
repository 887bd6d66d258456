//! What users type, almost right. How to run these for longer, and a failure again: see the crate
//! `fuzz`.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fuzz::{Result, Unstructured, Verdict, fuzz, int, mutate, mutate_text};

use super::txn;
use super::watch_args::{Environment, from_line};
use crate::go;

const TXN: &str = "mod(\"k\") > \"5\"\nlease(`l`) = \"1f\"\nval(\"v\\x41\\u00e9\") != \"x y\"\n\n\
                   put k \"v\\x41\" --lease 1f --prev-kv\nget \"\" --prefix --limit 3\nget k --rev 7\n\n\
                   put 'a b' c\n\n";

const WATCH: &str = "key \"end\\n\" --rev 7 --prefix=false --progress-notify -- sh -c 'x'";

/// What Go's functions read is what they have written, and nothing else ends the program.
fn check_go(u: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = b"a \"\\\x07\xff\xc3\xa9\xf0\x9f\x98\x80'`\n".to_vec();
    mutate(u, &mut bytes)?;
    let quoted = go::quote(&bytes);
    assert_eq!(go::scan_quoted(quoted.as_bytes()), Ok((bytes, quoted.len())));
    let text = mutate_text(u, &quoted)?;
    if let Ok((value, taken)) = go::scan_quoted(text.as_bytes()) {
        assert!(taken <= text.len() && value.len() <= taken, "{text:?}");
    }
    let number = int(u)?.cast_signed();
    for base in [10, 16] {
        let text = if base == 10 { format!("{number}") } else { format!("{:x}", number >> 1) };
        drop(go::parse_int(&mutate_text(u, &text)?, base));
    }
    assert_eq!(go::parse_int(&number.to_string(), 10), Ok(number));
    drop(go::parse_int(&mutate_text(u, "-0x_1f")?, 0));
    drop(go::parse_hex(&mutate_text(u, "1f")?));
    let span = Duration::from_nanos(int(u)? >> 1);
    assert_eq!(go::parse_duration(&go::duration(span)), Ok(span));
    drop(go::parse_duration(&mutate_text(u, "1h2m3.5s4ms5us6ns")?));
    Ok(())
}

#[test]
fn lines_are_refused_or_understood() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _inside = runtime.enter();
    fuzz("lines of ctl", |u| {
        check_go(u)?;
        let text = mutate_text(u, WATCH)?;
        if let Ok(words) = txn::split_words(text.as_bytes()) {
            assert!(words.iter().map(Vec::len).sum::<usize>() <= text.len(), "{text:?}");
            if let Ok((plan, values)) = from_line(&words, &Environment::default()) {
                drop(plan.request(&values));
            }
        }
        let text = mutate_text(u, TXN)?;
        let mut input = text.as_bytes();
        let reading = std::pin::pin!(txn::read(&mut input, false));
        // Before much is deleted there is a wait, for the user to think again; not here.
        let Poll::Ready(read) = reading.poll(&mut Context::from_waker(Waker::noop())) else {
            return Ok(Verdict::Refused);
        };
        if let Ok(request) = &read {
            let requests = request.success.len() + request.failure.len();
            assert!(requests <= text.lines().count());
        }
        Ok(Verdict::of(&read))
    });
}
