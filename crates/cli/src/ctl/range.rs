//! Ranges of keys as the commands' flags name them.

use bytes::Bytes;

use super::command::Arg;

/// The end of the range of all keys with a prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Arg {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Nothing lies behind such a prefix.
    vec![0]
}

/// The key and the range end that `--prefix` and `--from-key` make of a key.
pub(crate) fn widen(key: Arg, prefix: bool, from_key: bool) -> (Arg, Arg) {
    match (prefix, from_key) {
        (true, false) if !key.is_empty() => {
            let end = prefix_end(&key);
            (key, end)
        }
        (false, false) => (key, Vec::new()),
        // The empty prefix is every key, and no key is empty.
        _ => (if key.is_empty() { vec![0] } else { key }, vec![0]),
    }
}

/// The range of all keys with a prefix, as requests name it.
pub(crate) fn every_key(prefix: &[u8]) -> (Bytes, Bytes) {
    let (key, range_end) = widen(prefix.to_vec(), true, false);
    (key.into(), range_end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_the_next_key_begins() {
        assert_eq!(prefix_end(b"foo"), b"fop");
        assert_eq!(prefix_end(b"a\xff\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        assert_eq!(widen(b"".to_vec(), true, false), (vec![0], vec![0]));
        assert_eq!(widen(b"k".to_vec(), false, true), (b"k".to_vec(), vec![0]));
        assert_eq!(widen(b"k".to_vec(), false, false), (b"k".to_vec(), vec![]));
    }
}
