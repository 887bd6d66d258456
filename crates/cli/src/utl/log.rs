//! Log lines on stderr, in the form that etcdutl has for people: fields between tabs.
//!
//! *Contract.* zap's console encoder as `etcdutl/common.go` of etcd v3.7.1 sets it up.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use crate::go;

/// The value of a field.
pub(super) enum Field<'a> {
    Text(&'a str),
    Number(i128),
    Flag(bool),
    List(&'a [String]),
}

impl Field<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => go::json_string(out, text),
            Self::Number(number) => {
                let _ = write!(out, "{number}");
            }
            Self::Flag(flag) => {
                let _ = write!(out, "{flag}");
            }
            Self::List(list) => {
                out.push('[');
                for (at, text) in list.iter().enumerate() {
                    if at > 0 {
                        out.push_str(", ");
                    }
                    go::json_string(out, text);
                }
                out.push(']');
            }
        }
    }
}

/// A line without its time and without where in the program it was written.
fn line(level: &str, place: &str, message: &str, fields: &[(&str, Field<'_>)]) -> String {
    let mut out = format!("\t{level}\t{place}\t{message}");
    for (at, (name, value)) in fields.iter().enumerate() {
        out.push_str(if at == 0 { "\t{" } else { ", " });
        go::json_string(&mut out, name);
        out.push_str(": ");
        value.write(&mut out);
    }
    if !fields.is_empty() {
        out.push('}');
    }
    out.push('\n');
    out
}

/// Writes a line.
#[track_caller]
pub(super) fn log(level: &str, message: &str, fields: &[(&str, Field<'_>)]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = std::panic::Location::caller();
    let mut file: Vec<&str> = at.file().rsplit('/').take(2).collect();
    file.reverse();
    let place = format!("{}:{}", file.join("/"), at.line());
    let text = go::rfc3339(now) + &line(level, &place, message, fields);
    // Tests look at the line alone.
    if !cfg!(test) {
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// The same for what is as it should be.
#[track_caller]
pub(super) fn info(message: &str, fields: &[(&str, Field<'_>)]) {
    log("info", message, fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zaps() {
        let urls = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let fields = [
            ("path", Field::Text("a\"b")),
            ("diff", Field::Number(-4096)),
            ("is-learner", Field::Flag(false)),
            ("urls", Field::List(&urls)),
        ];
        assert_eq!(
            line("info", "a/b.rs:1", "added member", &fields),
            "\tinfo\ta/b.rs:1\tadded member\t{\"path\": \"a\\\"b\", \"diff\": -4096, \
             \"is-learner\": false, \"urls\": [\"http://a:1\", \"http://b:1\"]}\n"
        );
        assert_eq!(line("warn", "a/b.rs:1", "gone", &[]), "\twarn\ta/b.rs:1\tgone\n");
    }
}
