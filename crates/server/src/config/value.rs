//! Reads and prints the values of flags as Go does: numbers, durations, truth.
//!
//! *Contract.* Go's `strconv.ParseBool`, `ParseInt` and `ParseUint` (base 0), `time.ParseDuration`
//! and `Duration.String`, and the reasons that package `flag` gives.

use std::fmt::Write as _;
use std::time::Duration;

/// What package `flag` says of a value that is not of the flag's type.
const PARSE_ERROR: &str = "parse error";
const OUT_OF_RANGE: &str = "value out of range";

/// `true`, `T`, `1` and so on.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(PARSE_ERROR.to_owned()),
    }
}

/// A whole number that is not negative: decimal, or with a base prefix and underscores.
pub(super) fn parse_u64(text: &str) -> Result<u64, String> {
    magnitude(text).map_err(str::to_owned)
}

/// A whole number.
pub(super) fn parse_i64(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = i128::from(magnitude(digits).map_err(str::to_owned)?);
    i64::try_from(if negative { -value } else { value }).map_err(|_| OUT_OF_RANGE.to_owned())
}

/// A whole number that counts something, where etcd takes a negative one for none.
pub(super) fn parse_count(text: &str) -> Result<u64, String> {
    parse_i64(text).map(|number| u64::try_from(number).unwrap_or(0))
}

/// The number of a flag that prints the reason of `strconv` itself.
pub(super) fn parse_u32_verbose(text: &str) -> Result<u32, String> {
    let tell = |reason: &str| format!("strconv.ParseUint: parsing {text:?}: {reason}");
    match magnitude(text) {
        Ok(value) => u32::try_from(value).map_err(|_| tell(OUT_OF_RANGE)),
        Err(reason) if reason == OUT_OF_RANGE => Err(tell(OUT_OF_RANGE)),
        Err(_) => Err(tell("invalid syntax")),
    }
}

fn magnitude(text: &str) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (base, digits) = if let Some(digits) = lower.strip_prefix("0x") {
        (16, digits)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        (2, digits)
    } else if let Some(digits) = lower.strip_prefix("0o") {
        (8, digits)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    let has_prefix = base != 10;
    let bare = if has_prefix { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    if bare.is_empty() || bare.starts_with('_') || bare.ends_with('_') || bare.contains("__") {
        return Err(PARSE_ERROR);
    }
    let mut value = 0u64;
    for digit in bare.chars().filter(|&letter| letter != '_') {
        let digit = digit.to_digit(base).ok_or(PARSE_ERROR)?;
        value = value
            .checked_mul(u64::from(base))
            .and_then(|value| value.checked_add(u64::from(digit)))
            .ok_or(OUT_OF_RANGE)?;
    }
    Ok(value)
}

/// A duration of a flag: `1h2m3.5s`, or a bare `0`. A negative one is as none.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(text) if !text.starts_with('+') => duration(text).map(|_| Duration::ZERO),
        _ => duration(text),
    }
    .ok_or_else(|| PARSE_ERROR.to_owned())
}

/// The same where the reason is told in full.
pub(super) fn parse_duration_verbose(text: &str) -> Result<Duration, String> {
    let tail = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    match duration(text) {
        Some(duration) => Ok(duration),
        None if !text.is_empty() && tail.is_empty() => {
            Err(format!("time: missing unit in duration {text:?}"))
        }
        None if tail.len() < text.len() && !tail.is_empty() => {
            let unit: String = tail.chars().take_while(|letter| !letter.is_ascii_digit()).collect();
            Err(match unit_nanos(&unit) {
                Some(_) => format!("time: invalid duration {text:?}"),
                None => format!("time: unknown unit {unit:?} in duration {text:?}"),
            })
        }
        None => Err(format!("time: invalid duration {text:?}")),
    }
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0u128;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        nanos = nanos.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = tail;
    }
    // Go's durations are 64-bit signed nanoseconds.
    i64::try_from(nanos).ok().map(|nanos| Duration::from_nanos(nanos.unsigned_abs()))
}

const fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit.as_bytes() {
        b"ns" => 1,
        b"us" | [0xc2, 0xb5, b's'] | [0xce, 0xbc, b's'] => 1_000,
        b"ms" => 1_000_000,
        b"s" => 1_000_000_000,
        b"m" => 60 * 1_000_000_000,
        b"h" => 3_600 * 1_000_000_000,
        _ => return None,
    })
}

fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut nanos = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()? };
    nanos = nanos.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        nanos += u128::from(digit.to_digit(10)?) * scale;
    }
    Some(nanos)
}

/// A duration as Go prints it: `1m0s`, `100ms`, `2h0m0s`, `0s`.
pub(crate) fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", decimal(nanos, unit));
    }
    let seconds = duration.as_secs();
    let mut text = String::new();
    if seconds >= 3_600 {
        let _ = write!(text, "{}h", seconds / 3_600);
    }
    if seconds >= 60 {
        let _ = write!(text, "{}m", seconds / 60 % 60);
    }
    let rest = u128::from(seconds % 60) * 1_000_000_000 + nanos % 1_000_000_000;
    let _ = write!(text, "{}s", decimal(rest, 1_000_000_000));
    text
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{:01$}", fraction, unit.to_string().len() - 1);
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_gos_syntax() {
        for (text, value) in [
            ("0", Ok(0)),
            ("42", Ok(42)),
            ("0x10", Ok(16)),
            ("0b11", Ok(3)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("1_000", Ok(1000)),
            ("0x_ff", Ok(255)),
            ("18446744073709551616", Err(OUT_OF_RANGE)),
            ("", Err(PARSE_ERROR)),
            ("-1", Err(PARSE_ERROR)),
            ("1__0", Err(PARSE_ERROR)),
            ("abc", Err(PARSE_ERROR)),
        ] {
            assert_eq!(parse_u64(text), value.map_err(str::to_owned), "{text}");
        }
        assert_eq!(parse_i64("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64("9223372036854775808"), Err(OUT_OF_RANGE.to_owned()));
        assert_eq!(
            parse_u32_verbose("x"),
            Err("strconv.ParseUint: parsing \"x\": invalid syntax".to_owned())
        );
    }

    #[test]
    fn durations_go_both_ways() {
        for (text, shown) in [
            ("1h2m3.5s", "1h2m3.5s"),
            ("100ms", "100ms"),
            ("0", "0s"),
            ("2h", "2h0m0s"),
            ("90s", "1m30s"),
            ("1.5us", "1.5µs"),
            (".5s", "500ms"),
            ("7ns", "7ns"),
        ] {
            assert_eq!(parse_duration(text).map(show_duration), Ok(shown.to_owned()), "{text}");
        }
        assert_eq!(parse_duration("-1s"), Ok(Duration::ZERO));
        for text in ["", "1", "s", "1x", "1..5s", "-", "-+1s", "--1s", "9999999999h"] {
            assert_eq!(parse_duration(text), Err(PARSE_ERROR.to_owned()), "{text}");
        }
        let told = |text| parse_duration_verbose(text).expect_err(text);
        assert_eq!(told("xx"), "time: invalid duration \"xx\"");
        assert_eq!(told("10"), "time: missing unit in duration \"10\"");
        assert_eq!(told("1y"), "time: unknown unit \"y\" in duration \"1y\"");
    }
}
