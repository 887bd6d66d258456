//! Reads the frames of one segment, and judges the place where they end.
//!
//! A log may end in three ways: cleanly (zeros to the end of the file), torn by a power loss or a
//! kill (the sectors of the last, never synced writes came to the disk in part), or damaged. A
//! torn end is cut off, damage is refused, so the difference decides over data:
//!
//! * A disk writes whole sectors, and a segment is zero before it is written. So where a write is
//!   torn, the rest of at least one sector is zero from the broken record on, or the file ends.
//! * A record that is whole again after one bit is put back was whole: that is rot. etcd takes
//!   some of these for a torn end and drops what follows, acknowledged or not.
//!
//! *Invariants.* What is held in memory is a chunk, or one record whose head agrees with its
//! length: neither the space reserved at the end of a log nor a length that means nothing is read
//! at once. Where the file system knows that nothing was written, it is not read at all.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use base::mutant::{Mutant, is_on};

use super::record::{
    self, HEADER_BYTES_MAX, HEADER_READ_MAX, Head, Kind, LENGTH_BYTES, Malformed, Record,
};
use super::segment::Segment;
use crate::disk::File;

/// The unit in which a disk writes.
const SECTOR: u64 = 512;

/// Bytes read at once, if a record needs no more.
const CHUNK_BYTES: u64 = 256 * 1024;

/// Written stretches of unused space that are told apart.
const STRETCHES_MAX: usize = 64;

/// What unused space is compared with.
static ZEROS: [u8; 4096] = [0; 4096];

/// The CRC-32C polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A cursor over the frames of a segment.
pub(super) struct Reader {
    file: Arc<dyn File>,
    len: u64,
    /// Where the next frame begins: a multiple of 8, `<= len`.
    position: u64,
    /// Bytes of the file from `buffer_start`.
    buffer: Vec<u8>,
    buffer_start: u64,
}

/// What stands at a position.
pub(super) enum Frame<'a> {
    /// A record that is whole.
    Record {
        /// Where its frame begins.
        offset: u64,
        /// Its content.
        record: Record<'a>,
    },
    /// A length of zero, or the end of the file.
    End,
    /// Something else.
    Broken(&'static str),
}

/// How a segment ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing but zeros after the last record.
    Clean,
    /// A write that came to the disk in part.
    Torn(&'static str),
    /// Anything else.
    Damaged(&'static str),
}

/// What a length field says.
enum Sizes {
    /// Zero, or nothing more in the file.
    End,
    /// A record and its padding, both within the file.
    Frame { record: u64, padding: u64 },
    /// More than the file has: a file cut short.
    Short(&'static str),
    /// What etcd never writes.
    Malformed(&'static str),
}

impl Reader {
    pub(super) fn new(segment: &Segment) -> io::Result<Self> {
        Ok(Self {
            file: Arc::clone(&segment.file),
            len: segment.file.len()?,
            position: 0,
            buffer: Vec::new(),
            buffer_start: 0,
        })
    }

    /// Where the frame begins that the next call reads.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Reads one frame that continues the chain at `crc`; `None` before the first record of a
    /// log, which is a checksum that starts the chain. The position moves past whole records only.
    pub(super) fn next(&mut self, crc: Option<u32>) -> io::Result<Frame<'_>> {
        let offset = self.position;
        let (record, padding) = match self.sizes(offset)? {
            Sizes::End => return Ok(Frame::End),
            Sizes::Frame { record, padding } => (record, padding),
            Sizes::Short(what) | Sizes::Malformed(what) => return Ok(Frame::Broken(what)),
        };
        let start = offset + LENGTH_BYTES;
        if let Err(what) = self.head(start, record)? {
            return Ok(Frame::Broken(what));
        }
        let range = self.fill(start, record)?;
        match whole(&self.buffer[range], crc) {
            Err(what) => Ok(Frame::Broken(what)),
            Ok(parsed) => {
                self.position = offset + LENGTH_BYTES + record + padding;
                Ok(Frame::Record { offset, record: parsed })
            }
        }
    }

    /// What the length field at `offset` says.
    fn sizes(&mut self, offset: u64) -> io::Result<Sizes> {
        let left = self.len - offset;
        if left < LENGTH_BYTES {
            let zero = self.is_zero(offset, self.len)?;
            return Ok(if zero { Sizes::End } else { Sizes::Short("the file ends in a length") });
        }
        let field = self.length_field(offset)?;
        Ok(match record::split_length(field) {
            _ if field == 0 => Sizes::End,
            Ok((record, padding)) if record + padding <= left - LENGTH_BYTES => {
                Sizes::Frame { record, padding }
            }
            Ok(_) => Sizes::Short("a record is longer than the rest of the file"),
            Err(what) => Sizes::Malformed(what),
        })
    }

    /// The head of the record of `len` bytes at `start`.
    fn head(&mut self, start: u64, len: u64) -> io::Result<Result<Head, Malformed>> {
        let first = self.bytes(start, len.min(HEADER_READ_MAX as u64))?;
        Ok(record::parse_head(first, len))
    }

    /// Bytes of the file; the caller has checked that they are there.
    fn bytes(&mut self, offset: u64, count: u64) -> io::Result<&[u8]> {
        let range = self.fill(offset, count)?;
        Ok(&self.buffer[range])
    }

    /// Makes sure that the buffer holds these bytes, and says where.
    fn fill(&mut self, offset: u64, count: u64) -> io::Result<Range<usize>> {
        let end = self.buffer_start + self.buffer.len() as u64;
        if offset < self.buffer_start || offset + count > end {
            let wanted = count.max(CHUNK_BYTES.min(self.len - offset));
            self.buffer.resize(usize::try_from(wanted).unwrap_or(usize::MAX), 0);
            self.buffer_start = offset;
            self.file.read_exact_at(&mut self.buffer, offset)?;
        }
        let start = (offset - self.buffer_start) as usize;
        Ok(start..start + count as usize)
    }

    /// Judges the end of the last segment, where [`Self::next`] has met no whole record: `broken`
    /// is what it said, `crc` the chain before.
    pub(super) fn judge(&mut self, broken: Option<&'static str>, crc: u32) -> io::Result<Ending> {
        let offset = self.position;
        if self.length_bit_explains(crc)? {
            return Ok(Ending::Damaged("one bit of a length is wrong"));
        }
        match self.sizes(offset)? {
            Sizes::End => self.judge_zero(offset),
            Sizes::Malformed(what) => Ok(Ending::Damaged(what)),
            Sizes::Short(what) => Ok(Ending::Torn(what)),
            Sizes::Frame { record, .. } => {
                self.judge_record(offset, record, crc, broken.unwrap_or("not a record"))
            }
        }
    }

    /// A length of zero is the end; what follows it can only be sectors of writes whose first
    /// sector was lost.
    fn judge_zero(&mut self, offset: u64) -> io::Result<Ending> {
        if self.is_zero(offset, self.len)? {
            return Ok(Ending::Clean);
        }
        let sector_end = self.sector_end(offset);
        Ok(if self.is_zero(offset, sector_end)? {
            Ending::Torn("a record is missing before others")
        } else {
            Ending::Damaged("a length of zero with data after it")
        })
    }

    /// A broken record with a sound length.
    fn judge_record(
        &mut self,
        offset: u64,
        record: u64,
        crc: u32,
        broken: &'static str,
    ) -> io::Result<Ending> {
        if self.record_bit_explains(record, crc)? {
            return Ok(Ending::Damaged("one bit of a record is wrong"));
        }
        let end = offset + LENGTH_BYTES + record;
        let mut sector = self.sector_end(offset);
        while sector < end {
            let next = self.sector_end(sector);
            if self.is_zero(sector, next)? {
                return Ok(Ending::Torn(broken));
            }
            sector = next;
        }
        Ok(Ending::Damaged(broken))
    }

    /// Whether nothing but zeros follows the position.
    pub(super) fn rest_is_zero(&mut self) -> io::Result<bool> {
        self.is_zero(self.position, self.len)
    }

    fn length_field(&mut self, offset: u64) -> io::Result<u64> {
        let mut field = [0; 8];
        field.copy_from_slice(self.bytes(offset, LENGTH_BYTES)?);
        Ok(u64::from_le_bytes(field))
    }

    /// The end of the sector that holds `offset`, or of the file.
    fn sector_end(&self, offset: u64) -> u64 {
        ((offset / SECTOR + 1) * SECTOR).min(self.len)
    }

    /// Whether the file is zero from `start` to `end`.
    fn is_zero(&mut self, start: u64, end: u64) -> io::Result<bool> {
        for written in self.written(start, end)? {
            let mut at = written.start;
            while at < written.end {
                let count = (written.end - at).min(CHUNK_BYTES);
                let zero = |block: &[u8]| block == &ZEROS[..block.len()];
                if !self.bytes(at, count)?.chunks(ZEROS.len()).all(zero) {
                    return Ok(false);
                }
                at += count;
            }
        }
        Ok(true)
    }

    /// What of `start..end` may have been written. All of it is looked up before any of it is read:
    /// what a read brings into the page cache, more than it asks for, counts as written.
    fn written(&self, start: u64, end: u64) -> io::Result<Vec<Range<u64>>> {
        let (mut stretches, mut at) = (Vec::new(), start);
        while end - at > CHUNK_BYTES && stretches.len() < STRETCHES_MAX {
            let hole = self.file.unwritten(at)?;
            let (from, to) = (hole.start.clamp(at, end), hole.end.clamp(at, end));
            if from == to {
                break;
            }
            stretches.push(at..from);
            at = to;
        }
        stretches.push(at..end);
        Ok(stretches)
    }

    /// Whether the frame at the position is whole with another bit of its length changed.
    fn length_bit_explains(&mut self, crc: u32) -> io::Result<bool> {
        let offset = self.position;
        let left = self.len - offset;
        if left < LENGTH_BYTES {
            return Ok(false);
        }
        let field = self.length_field(offset)?;
        for bit in 0..64 {
            let Ok((record, padding)) = record::split_length(field ^ (1 << bit)) else { continue };
            let start = offset + LENGTH_BYTES;
            if record + padding <= left - LENGTH_BYTES
                && self.head(start, record)?.is_ok()
                && whole(self.bytes(start, record)?, Some(crc)).is_ok()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the record at the position is whole with another bit of it changed. A bit in a
    /// sector that is all zero does not count: there a lost write explains as much.
    fn record_bit_explains(&mut self, record_bytes: u64, crc: u32) -> io::Result<bool> {
        let start = self.position + LENGTH_BYTES;
        let head_bytes = record_bytes.min(HEADER_READ_MAX as u64);
        let mut head = self.bytes(start, head_bytes)?.to_vec();
        let mut found = None;
        for bit in 0..head.len().min(HEADER_BYTES_MAX) * 8 {
            head[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = record::parse_head(&head, record_bytes)
                && self.chained(start, record_bytes, parsed, crc)? == parsed.crc
            {
                found = Some(bit / 8);
            }
            head[bit / 8] ^= 1 << (bit % 8);
        }
        if found.is_none()
            && let Ok(parsed) = record::parse_head(&head, record_bytes)
        {
            let difference = self.chained(start, record_bytes, parsed, crc)? ^ parsed.crc;
            let data_bytes = record_bytes as usize - parsed.data_at;
            found = wrong_byte(data_bytes, difference).map(|at| parsed.data_at + at);
        }
        let Some(at) = found else { return Ok(false) };
        let at = start + at as u64;
        let sector = (at / SECTOR * SECTOR).max(self.position);
        let end = self.sector_end(at);
        Ok(!self.is_zero(sector, end)?)
    }

    /// The checksum after the record of `len` bytes at `start`, given the one before it.
    fn chained(&mut self, start: u64, len: u64, head: Head, before: u32) -> io::Result<u32> {
        let data = &self.bytes(start, len)?[head.data_at..];
        Ok(crc32c::crc32c_append(before, data))
    }
}

/// The record that `bytes` are, if it continues the chain.
fn whole(bytes: &[u8], crc: Option<u32>) -> Result<Record<'_>, &'static str> {
    let record = record::parse(bytes)?;
    match crc {
        _ if is_on(Mutant::SkipChecksum) => Ok(record),
        None if record.kind != Kind::Crc => Err("a log does not begin with a checksum"),
        Some(before) if record.chained(before) != record.crc => {
            Err("the checksum of a record does not match")
        }
        _ => Ok(record),
    }
}

/// The byte of `len` bytes of data in which one flipped bit changes the checksum by `difference`.
///
/// A checksum is linear: a bit contributes the same difference whatever the other bits are, and
/// the contribution of the bit before is one step of the shift register further.
fn wrong_byte(len: usize, difference: u32) -> Option<usize> {
    let mut contribution = POLYNOMIAL;
    for byte in (0..len).rev() {
        for _ in 0..8 {
            if contribution == difference {
                return Some(byte);
            }
            let carry = contribution & 1;
            contribution = (contribution >> 1) ^ if carry == 1 { POLYNOMIAL } else { 0 };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_tells_where_a_bit_is_wrong() {
        arbtest::arbtest(|u| {
            let mut data: Vec<u8> = u.arbitrary()?;
            if data.is_empty() {
                return Ok(());
            }
            let before: u32 = u.arbitrary()?;
            let right = crc32c::crc32c_append(before, &data);
            let at = u.choose_index(data.len())?;
            data[at] ^= 1 << u.int_in_range(0..=7)?;
            let wrong = crc32c::crc32c_append(before, &data);
            assert_eq!(wrong_byte(data.len(), right ^ wrong), Some(at));
            Ok(())
        });
    }
}
