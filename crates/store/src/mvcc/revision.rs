//! The name of a change: which write, and which change within it; and its form as a row key.
//!
//! ```text
//!  main (8 bytes, big-endian) '_' sub (8 bytes, big-endian) [ 't' when the change deletes ]
//! ```
//!
//! *Invariants.* The byte order of encoded keys is the order of [`RevKey`].
//!
//! *Contract.* `server/storage/mvcc/revision.go` of etcd v3.7.1.

use std::fmt;

use base::Revision;

/// Length of the encoded name of a put.
pub const PUT_LEN: usize = 17;
/// Length of the encoded name of a delete.
pub const TOMBSTONE_LEN: usize = 18;

const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';

/// The largest number in a name that is read: others can follow, and no store gets there.
const NUMBER_MAX: i64 = i64::MAX / 2;

/// Names one change: the revision of its transaction and its position within.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevKey {
    /// The transaction.
    pub main: Revision,
    /// The position of the change in its transaction, from 0.
    pub sub: i64,
}

/// A [`RevKey`] as it stands in the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; TOMBSTONE_LEN],
    len: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl RevKey {
    /// The change `sub` of the transaction `main`.
    pub const fn new(main: Revision, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The first name that the transaction `main` can hold.
    pub const fn first_of(main: Revision) -> Self {
        Self { main, sub: 0 }
    }

    /// The name after this one within the same transaction.
    pub const fn next(self) -> Self {
        Self { main: self.main, sub: self.sub + 1 }
    }

    /// The row key of a put (17 bytes) or a delete (18 bytes).
    pub fn encode(self, tombstone: bool) -> Encoded {
        let mut bytes = [0; TOMBSTONE_LEN];
        bytes[..8].copy_from_slice(&self.main.0.to_be_bytes());
        bytes[8] = SEPARATOR;
        bytes[9..PUT_LEN].copy_from_slice(&self.sub.to_be_bytes());
        bytes[PUT_LEN] = TOMBSTONE;
        Encoded { bytes, len: if tombstone { TOMBSTONE_LEN } else { PUT_LEN } }
    }

    /// Reads a row key: the name, and whether it is of a delete. `None` for other bytes, and for
    /// numbers that no change can have.
    pub fn decode(bytes: &[u8]) -> Option<(Self, bool)> {
        let tombstone = match bytes.len() {
            PUT_LEN => false,
            TOMBSTONE_LEN if bytes[PUT_LEN] == TOMBSTONE => true,
            _ => return None,
        };
        if bytes[8] != SEPARATOR {
            return None;
        }
        let main = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let sub = i64::from_be_bytes(bytes[9..PUT_LEN].try_into().ok()?);
        let is_possible = (0..=NUMBER_MAX).contains(&main) && (0..=NUMBER_MAX).contains(&sub);
        is_possible.then_some((Self { main: Revision(main), sub }, tombstone))
    }
}

impl fmt::Display for RevKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.main, self.sub)
    }
}

impl fmt::Debug for RevKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_are_read_back_and_ordered() {
        let names = [(1, 0), (1, 1), (1, 255), (1, 256), (2, 0), (NUMBER_MAX, NUMBER_MAX)];
        let mut last: Option<Encoded> = None;
        for (main, sub) in names {
            for tombstone in [false, true] {
                let name = RevKey::new(Revision(main), sub);
                let encoded = name.encode(tombstone);
                assert_eq!(RevKey::decode(encoded.as_ref()), Some((name, tombstone)));
                assert!(last.is_none_or(|last| last.as_ref() < encoded.as_ref()));
                last = Some(encoded);
            }
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = RevKey::new(Revision(7), 3).encode(true);
        let good = good.as_ref();
        assert_eq!(RevKey::decode(&good[..16]), None);
        assert_eq!(RevKey::decode(&[good, b"t"].concat()), None);
        let mut bad = good.to_vec();
        bad[17] = b'x';
        assert_eq!(RevKey::decode(&bad), None);
        bad[17] = b't';
        bad[8] = b'-';
        assert_eq!(RevKey::decode(&bad), None);
        for (main, sub) in [(-1, 0), (1, -1), (NUMBER_MAX + 1, 0), (1, i64::MAX)] {
            let impossible = RevKey::new(Revision(main), sub).encode(false);
            assert_eq!(RevKey::decode(impossible.as_ref()), None);
        }
    }
}
