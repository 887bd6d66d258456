//! What plain HTTP brings, almost right. How to run these for longer, and a failure again: see the
//! crate `fuzz`.

use fuzz::{Verdict, fuzz, int, mutate_text};

use super::forwarded::read_revision;
use super::query::Query;

#[test]
fn questions_and_parameters_are_refused_or_read() {
    fuzz("HTTP questions", |u| {
        let number = int(u)?.cast_signed();
        let question = format!(r#"{{"revision":{number},"other":[{{"x":null}}]}}"#);
        assert_eq!(read_revision(question.as_bytes()).map(|at| at.0), Some(number));
        let question = mutate_text(u, &question)?;
        let read = read_revision(question.as_bytes());
        let text = mutate_text(u, "verbose&exclude=a%20b&exclude=c+d&timeout=5s&x=%e2%82%ac")?;
        let query = Query::of(Some(&text));
        for name in ["verbose", "exclude", "timeout", "x", ""] {
            assert!(query.has(name) || query.first(name).is_none());
            assert!(query.all(name).count() <= text.len());
        }
        drop(net::Url::parse(&mutate_text(u, "http://user@[::1]:2379/a?b#c")?));
        Ok(Verdict::of(&read.ok_or(())))
    });
}

/// Values in values are bounded by the parser.
#[test]
fn brackets_take_no_stack() {
    for bracket in ["[", r#"{"a":"#] {
        assert_eq!(read_revision(bracket.repeat(1 << 20).as_bytes()), None);
    }
}
