//! Writes and reads text as Go's standard library does, because etcdctl's users compare it.
//!
//! *Invariants.* `unquote(quote(b)) == b` for all bytes; `parse_duration(duration(d)) == d`.
//!
//! *Contract.* `strconv`, `time.Duration`, `fmt` (`%q`) and `encoding/json` of Go 1.26, and
//! `humanize.Bytes` of go-humanize 1.0.1.

use std::fmt::Write as _;
use std::time::Duration;

use base::calendar::DateTime;
pub(crate) use base::go::error_text as os_error;

use crate::failure::{self, Failure, Outcome};

/// Go's `%q` of a string or a byte slice.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(&mut out, c, '"');
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

/// Go's `%q` of one character.
pub(crate) fn quote_rune(c: char) -> String {
    let mut out = String::from("'");
    quote_char(&mut out, c, '\'');
    out.push('\'');
    out
}

fn quote_char(out: &mut String, c: char, delimiter: char) {
    match c {
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        '\\' => out.push_str("\\\\"),
        _ if c == delimiter => {
            out.push('\\');
            out.push(c);
        }
        '"' | '\'' => out.push(c),
        _ if is_print(c) => out.push(c),
        _ => {
            let code = u32::from(c);
            let _ = match code {
                0..0x80 => write!(out, "\\x{code:02x}"),
                0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
                _ => write!(out, "\\U{code:08x}"),
            };
        }
    }
}

/// Whether a character is shown as it is. The letter in front keeps Rust from escaping combining
/// marks, which Go prints.
fn is_print(c: char) -> bool {
    c == ' ' || (!c.is_whitespace() && format!("a{c}").escape_debug().count() == 2)
}

/// Reads a Go string literal (`"..."` or a raw one in back quotes) from the start of `text`;
/// returns its value and the number of bytes it took. The error is the text Go would print.
pub(crate) fn scan_quoted(text: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    match text.first() {
        Some(b'`') => {
            let end = text[1..].iter().position(|b| *b == b'`').ok_or("unexpected EOF")?;
            Ok((text[1..=end].iter().copied().filter(|b| *b != b'\r').collect(), end + 2))
        }
        Some(b'"') => scan_double_quoted(text),
        Some(_) => Err("expected quoted string"),
        None => Err("unexpected EOF"),
    }
}

fn scan_double_quoted(text: &[u8]) -> Result<(Vec<u8>, usize), &'static str> {
    const SYNTAX: &str = "invalid syntax";
    let mut value = Vec::new();
    let mut at = 1;
    loop {
        let byte = *text.get(at).ok_or("unexpected EOF")?;
        at += 1;
        match byte {
            b'"' => return Ok((value, at)),
            b'\n' => return Err(SYNTAX),
            b'\\' => {
                let escape = *text.get(at).ok_or("unexpected EOF")?;
                at += 1;
                match escape {
                    b'a' => value.push(7),
                    b'b' => value.push(8),
                    b'f' => value.push(12),
                    b'n' => value.push(b'\n'),
                    b'r' => value.push(b'\r'),
                    b't' => value.push(b'\t'),
                    b'v' => value.push(11),
                    b'\\' | b'"' => value.push(escape),
                    b'0'..=b'7' => {
                        let code = digits(text, at - 1, 3, 8).ok_or(SYNTAX)?;
                        value.push(u8::try_from(code).map_err(|_| SYNTAX)?);
                        at += 2;
                    }
                    b'x' => {
                        let code = digits(text, at, 2, 16).ok_or(SYNTAX)?;
                        value.push(u8::try_from(code).map_err(|_| SYNTAX)?);
                        at += 2;
                    }
                    b'u' | b'U' => {
                        let length = if escape == b'u' { 4 } else { 8 };
                        let code = digits(text, at, length, 16).ok_or(SYNTAX)?;
                        let c = char::from_u32(code).ok_or(SYNTAX)?;
                        value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                        at += length;
                    }
                    _ => return Err(SYNTAX),
                }
            }
            _ => value.push(byte),
        }
    }
}

fn digits(text: &[u8], at: usize, length: usize, radix: u32) -> Option<u32> {
    let text = text.get(at..at + length)?;
    if !text.iter().all(|b| char::from(*b).is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// Go's `strconv.ParseInt(text, base, 64)`; base 0 means that a prefix tells the base. The error
/// is the text Go would print.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let fail = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text.as_bytes()));
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = magnitude(digits, base).map_err(fail)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| fail(OUT_OF_RANGE))
}

/// Go's `strconv.ParseUint(text, 0, 64)`.
pub(crate) fn parse_uint(text: &str) -> Result<u64, String> {
    let fail = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", quote(text.as_bytes()));
    let magnitude = magnitude(text, 0).map_err(fail)?;
    u64::try_from(magnitude).map_err(|_| fail(OUT_OF_RANGE))
}

const INVALID_SYNTAX: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

/// A number without a sign, as Go reads it.
fn magnitude(digits: &str, base: u32) -> Result<i128, &'static str> {
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if base != 0 {
        (base, lower)
    } else {
        let (radix, rest) = match lower.as_bytes() {
            [b'0', b'x', ..] => (16, &lower[2..]),
            [b'0', b'b', ..] => (2, &lower[2..]),
            [b'0', b'o', ..] => (8, &lower[2..]),
            [b'0', _, ..] => (8, &lower[1..]),
            _ => (10, lower.as_str()),
        };
        // Underscores may stand between digits, and after a prefix.
        let first_free = radix == 10;
        let bad =
            rest.contains("__") || rest.ends_with('_') || (first_free && rest.starts_with('_'));
        if bad {
            return Err(INVALID_SYNTAX);
        }
        (radix, rest.replace('_', ""))
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(INVALID_SYNTAX);
    }
    i128::from_str_radix(&digits, radix).map_err(|_| OUT_OF_RANGE)
}

/// Go's `strconv.ParseUint` of a 64-bit number in base 16, without a prefix.
pub(crate) fn parse_hex(text: &str) -> Result<u64, String> {
    let fail = |why: &str| format!("strconv.ParseUint: parsing {}: {why}", quote(text.as_bytes()));
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(fail("invalid syntax"));
    }
    u64::from_str_radix(text, 16).map_err(|_| fail("value out of range"))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

/// Comma separated words, of which some may be quoted.
pub(crate) fn split_csv(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    if text.is_empty() {
        return words;
    }
    let mut word = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                word.push('"');
            }
            '"' if quoted || word.is_empty() => quoted = !quoted,
            ',' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words
}

/// Go's `time.ParseDuration`; a negative duration counts as zero, since no flag means one.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (value, after) = rest.split_at(number);
        let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale: u128 = match unit {
            "" => return Err(format!("time: missing unit in duration {quoted}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => {
                let unit = quote(unit.as_bytes());
                return Err(format!("time: unknown unit {unit} in duration {quoted}"));
            }
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        nanos += u128::from(whole) * scale;
        // Eighteen digits are finer than a nanosecond of an hour.
        let fraction = &fraction[..fraction.len().min(18)];
        if let Ok(digits) = fraction.parse::<u128>() {
            nanos += digits * scale / 10_u128.pow(fraction.len() as u32);
        }
        rest = next;
    }
    let nanos = i64::try_from(nanos).map_err(|_| invalid())?;
    Ok(if negative { Duration::ZERO } else { Duration::from_nanos(nanos.unsigned_abs()) })
}

/// Go's `time.Duration.String`.
pub(crate) fn duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    let decimal = |units: u128, per: u128| {
        let text =
            format!("{}.{:0width$}", units / per, units % per, width = per.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = decimal(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// A size for people, in decimal units: `20 kB`, `2.1 GB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut power = 0;
    let mut unit = 1_u64;
    while bytes / unit >= 1000 {
        unit *= 1000;
        power += 1;
    }
    let value = (bytes as f64 / unit as f64 * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 {
        format!("{value:.1} {}", UNITS[power])
    } else {
        format!("{value:.0} {}", UNITS[power])
    }
}

/// A JSON string as `encoding/json` writes it, with HTML's special characters escaped.
pub(crate) fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// A moment as the log lines of etcdutl write it: `2026-11-21T06:52:56Z`.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    format!("{}Z", DateTime(since_epoch.as_secs()))
}

/// A moment as etcd's log lines write it: `2026-11-21T06:52:56.924320Z`.
pub(crate) fn timestamp(since_epoch: Duration) -> String {
    format!("{}.{:06}Z", DateTime(since_epoch.as_secs()), since_epoch.subsec_micros())
}

/// Text of a message. Go's client finds out that it is none when it sends it.
pub(crate) fn text(bytes: &[u8]) -> Outcome<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        let reason = "rpc error: code = Internal desc = grpc: error while marshaling: string \
                      field contains invalid UTF-8";
        Failure::new(failure::ERROR, reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go() {
        for (bytes, text) in [
            (&b"foo"[..], r#""foo""#),
            (b"a\"b\\c\n\t\x00\x7f", r#""a\"b\\c\n\t\x00\x7f""#),
            ("a\u{e9}'\u{a0}\u{301}\u{10ffff}".as_bytes(), "\"aé'\\u00a0\u{301}\\U0010ffff\""),
            (b"\xff\xc3x", r#""\xff\xc3x""#),
        ] {
            assert_eq!(quote(bytes), text);
            assert_eq!(scan_quoted(text.as_bytes()), Ok((bytes.to_vec(), text.len())));
        }
        assert_eq!(quote_rune('\''), r"'\''");
    }

    #[test]
    fn unquotes_as_go() {
        assert_eq!(scan_quoted(br#""a\101\x42\u00e9" rest"#), Ok(("aAB\u{e9}".into(), 17)));
        assert_eq!(scan_quoted(b"`a\"\\` x"), Ok((b"a\"\\".to_vec(), 5)));
        for (text, error) in [
            (&b"\"a\\z\""[..], "invalid syntax"),
            (b"\"a", "unexpected EOF"),
            (b"abc", "expected quoted string"),
            (b"\"\\400\"", "invalid syntax"),
            (b"\"\\xg0\"", "invalid syntax"),
        ] {
            assert_eq!(scan_quoted(text), Err(error));
        }
    }

    #[test]
    fn reads_numbers_as_go() {
        for (text, base, value) in [
            ("0x10", 0, Ok(16)),
            ("017", 0, Ok(15)),
            ("1_000", 0, Ok(1000)),
            ("-0b11", 0, Ok(-3)),
            ("7fffffffffffffff", 16, Ok(i64::MAX)),
            ("8000000000000000", 16, Err("value out of range")),
            ("99999999999999999999", 0, Err("value out of range")),
            ("", 10, Err("invalid syntax")),
            ("1_0", 10, Err("invalid syntax")),
            ("0x", 0, Err("invalid syntax")),
            ("zz", 16, Err("invalid syntax")),
        ] {
            let expected =
                value.map_err(|why| format!("strconv.ParseInt: parsing \"{text}\": {why}"));
            assert_eq!(parse_int(text, base), expected);
        }
        assert_eq!(parse_bool("T"), Ok(true));
        assert!(parse_bool("yes").is_err());
    }

    #[test]
    fn durations_as_go() {
        for (text, nanos) in [
            ("0", 0),
            ("1h2m3.5s", 3_723_500_000_000),
            ("1.5ms", 1_500_000),
            (".5s", 500_000_000),
            ("-5s", 0),
            ("2us", 2_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for (text, error) in [
            ("abc", "time: invalid duration \"abc\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("", "time: invalid duration \"\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()));
        }
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (2_047_156, "2.047156ms"),
            (5_000_000_000, "5s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (60_000_000_000, "1m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn sizes_strings_and_times() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (9_951, "10 kB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
        let mut out = String::new();
        json_string(&mut out, "<a>&\"\u{1}\u{2028}é\n");
        assert_eq!(out, r#""\u003ca\u003e\u0026\"\u0001\u2028é\n""#);
        assert_eq!(
            timestamp(Duration::from_micros(951_782_400_000_007)),
            "2000-02-29T00:00:00.000007Z"
        );
        assert_eq!(timestamp(Duration::from_secs(1_795_243_976)), "2026-11-21T06:52:56.000000Z");
    }
}
