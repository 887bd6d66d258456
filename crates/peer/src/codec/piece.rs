//! Bytes that are waited for.

use bytes::Bytes;

use crate::limits;

/// Collects a known number of bytes from input that comes as it likes.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// `bytes.len() <= length`.
    length: usize,
    bytes: Vec<u8>,
}

impl Piece {
    /// Waits for `length` bytes.
    pub(super) fn of(length: usize) -> Self {
        Self { length, bytes: Vec::new() }
    }

    /// Takes from `input` what is missing, and the whole when nothing is missing any more.
    pub(super) fn fill(&mut self, input: &mut &[u8]) -> Option<Bytes> {
        let missing = self.length - self.bytes.len();
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.reserve(taken.len());
        self.bytes.extend_from_slice(taken);
        *input = rest;
        (self.bytes.len() == self.length).then(|| Bytes::from(std::mem::take(&mut self.bytes)))
    }

    /// Doubles the room, from the first piece to the length and never beyond it, so that an
    /// honest message ends in memory of its own size.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let wanted = needed.max(self.bytes.len() * 2).max(limits::PIECE_BYTES).min(self.length);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }
}

/// Collects one big-endian number.
#[derive(Debug, Default)]
pub(super) struct Number {
    filled: usize,
    bytes: [u8; 8],
}

impl Number {
    /// Takes from `input` what is missing, and the number when nothing is missing any more.
    pub(super) fn fill(&mut self, input: &mut &[u8]) -> Option<u64> {
        let (taken, rest) = input.split_at((8 - self.filled).min(input.len()));
        self.bytes[self.filled..self.filled + taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        *input = rest;
        (self.filled == 8).then(|| u64::from_be_bytes(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let mut piece = Piece::of(1 << 40);
        assert_eq!(piece.fill(&mut &[1_u8; 10][..]), None);
        assert!(piece.bytes.capacity() <= limits::PIECE_BYTES);
        assert_eq!(piece.fill(&mut &vec![1_u8; 100_000][..]), None);
        assert!(piece.bytes.capacity() <= 200_000);
    }

    #[test]
    fn what_is_whole_has_its_own_size() {
        let mut piece = Piece::of(100_000);
        for _ in 0..10 {
            assert_eq!(piece.fill(&mut &[7_u8; 9_999][..]), None);
        }
        let mut input = &[8_u8; 20][..];
        assert_eq!(piece.fill(&mut input).map(|bytes| bytes.len()), Some(100_000));
        assert_eq!(input.len(), 10);
        assert_eq!(Piece::of(0).fill(&mut &[][..]), Some(Bytes::new()));
    }
}
