//! Which key of the destination a key of the source becomes.

use bytes::Bytes;

use crate::command::Arg;
use crate::ctl::range::every_key;

/// Replaces one prefix by another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    prefix: Arg,
    mapped: Arg,
}

impl Map {
    /// The map that the flags mean. Without a copy (a later `revision` to begin at), etcdctl takes
    /// the prefix off unless another is given.
    pub(super) fn new(prefix: &str, given: &str, to_root: bool, revision: i64) -> Map {
        let mapped = if given.is_empty() && !to_root && revision <= 1 { prefix } else { given };
        Map { prefix: prefix.into(), mapped: mapped.into() }
    }

    /// The key and the range end of what is mirrored.
    pub(super) fn source(&self) -> (Bytes, Bytes) {
        every_key(&self.prefix)
    }

    /// The key and the range end of what it becomes.
    pub(super) fn destination(&self) -> (Bytes, Bytes) {
        every_key(&self.mapped)
    }

    pub(super) fn apply(&self, key: &[u8]) -> Bytes {
        let rest = key.strip_prefix(self.prefix.as_slice()).unwrap_or(key);
        [self.mapped.as_slice(), rest].concat().into()
    }

    /// Whether every key in the range of the destination is the mirror's. Not so when a part of
    /// the source becomes the root of the destination, where other keys may live.
    pub(super) fn owns_destination(&self) -> bool {
        !self.mapped.is_empty() || self.prefix.is_empty()
    }

    /// Whether a change made in the destination's range may be one in the source's, too.
    pub(super) fn overlaps(&self) -> bool {
        self.prefix.starts_with(&self.mapped) || self.mapped.starts_with(&self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_from_prefix_to_prefix() {
        for (map, key, mapped, owns) in [
            (Map::new("", "", false, 0), "k", "k", true),
            (Map::new("a/", "", false, 0), "a/k", "a/k", true),
            (Map::new("a/", "b/", false, 0), "a/a/k", "b/a/k", true),
            (Map::new("", "b/", false, 0), "k", "b/k", true),
            (Map::new("a/", "", true, 0), "a/k", "k", false),
            (Map::new("", "", true, 0), "k", "k", true),
            // What etcdctl does.
            (Map::new("a/", "", false, 5), "a/k", "k", false),
            (Map::new("a/", "", false, 1), "a/k", "a/k", true),
            (Map::new("a/", "b/", false, 5), "a/k", "b/k", true),
        ] {
            assert_eq!(map.apply(key.as_bytes()), mapped, "{map:?}");
            assert_eq!(map.owns_destination(), owns, "{map:?}");
        }
    }

    #[test]
    fn ranges_overlap_where_one_prefix_begins_the_other() {
        assert!(Map::new("", "b", false, 0).overlaps());
        assert!(Map::new("a", "ab", false, 0).overlaps());
        assert!(Map::new("ab", "a", false, 0).overlaps());
        assert!(Map::new("a", "", false, 0).overlaps());
        assert!(!Map::new("a/", "b/", false, 0).overlaps());
    }
}
