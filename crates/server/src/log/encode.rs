//! Fields as zap encodes them: compact in JSON lines, with spaces in console lines.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// The parts of a value that zap and `serde_json` write differently.
struct Zap {
    is_spaced: bool,
}

impl Zap {
    fn separate<W: ?Sized + io::Write>(&self, to: &mut W, is_first: bool) -> io::Result<()> {
        match (is_first, self.is_spaced) {
            (true, _) => Ok(()),
            (false, false) => to.write_all(b","),
            (false, true) => to.write_all(b", "),
        }
    }
}

impl Formatter for Zap {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.separate(to, is_first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        is_first: bool,
    ) -> io::Result<()> {
        self.separate(to, is_first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(if self.is_spaced { b": " } else { b":" })
    }

    fn write_char_escape<W: ?Sized + io::Write>(
        &mut self,
        to: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => to.write_all(b"\\\""),
            CharEscape::ReverseSolidus => to.write_all(b"\\\\"),
            CharEscape::Solidus => to.write_all(b"/"),
            CharEscape::LineFeed => to.write_all(b"\\n"),
            CharEscape::CarriageReturn => to.write_all(b"\\r"),
            CharEscape::Tab => to.write_all(b"\\t"),
            CharEscape::Backspace => to.write_all(b"\\u0008"),
            CharEscape::FormFeed => to.write_all(b"\\u000c"),
            CharEscape::AsciiControl(byte) => write!(to, "\\u{byte:04x}"),
        }
    }
}

/// Appends `value`. What cannot be encoded is `null`.
pub(super) fn put<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T, is_spaced: bool) {
    let begun = bytes.len();
    let mut serializer = Serializer::with_formatter(&mut *bytes, Zap { is_spaced });
    if value.serialize(&mut serializer).is_err() {
        bytes.truncate(begun);
        bytes.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T: Serialize>(value: &T, is_spaced: bool) -> String {
        let mut bytes = Vec::new();
        put(&mut bytes, value, is_spaced);
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn values_are_escaped_and_spaced_as_zap_does() {
        let value = serde_json::json!({"a": [1, "\u{8}\u{c}\u{1}\"\\/\n<é"], "b": null});
        assert_eq!(told(&value, false), r#"{"a":[1,"\u0008\u000c\u0001\"\\/\n<é"],"b":null}"#);
        assert_eq!(told(&value, true), r#"{"a": [1, "\u0008\u000c\u0001\"\\/\n<é"], "b": null}"#);
    }

    #[test]
    fn what_cannot_be_encoded_is_null() {
        let pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert_eq!(told(&pairs, false), "null");
    }
}
