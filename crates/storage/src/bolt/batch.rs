//! Changes that become durable together.

use std::collections::BTreeMap;
use std::iter::Peekable;

use bytes::Bytes;

/// Rows to write and to delete, by bucket, sorted; of two changes to a key the last counts.
///
/// Keys that arrive in ascending order, as revisions do, cost no search.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    buckets: BTreeMap<Bytes, Rows>,
    len: usize,
    bytes: usize,
}

/// A key and its new value; without one it is deleted.
type Row = (Bytes, Option<Bytes>);

/// The changes to one bucket. A key is in `run` or in `odd`, never in both.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    /// Whether the bucket is created when missing.
    pub(super) create: bool,
    /// Ascending: every key that was greater than all before it.
    run: Vec<Row>,
    /// The others. Each is smaller than the last key of `run`.
    odd: BTreeMap<Bytes, Option<Bytes>>,
}

fn bytes_of(value: Option<&Bytes>) -> usize {
    value.map_or(0, Bytes::len)
}

impl Batch {
    /// Creates the bucket unless it exists.
    pub fn create_bucket(&mut self, bucket: &[u8]) {
        self.rows(bucket).create = true;
    }

    /// Writes a row.
    pub fn put(&mut self, bucket: &[u8], key: Bytes, value: Bytes) {
        self.set(bucket, key, Some(value));
    }

    /// Deletes a row, if there is one.
    pub fn delete(&mut self, bucket: &[u8], key: Bytes) {
        self.set(bucket, key, None);
    }

    fn rows(&mut self, bucket: &[u8]) -> &mut Rows {
        if !self.buckets.contains_key(bucket) {
            self.buckets.insert(Bytes::copy_from_slice(bucket), Rows::default());
        }
        match self.buckets.get_mut(bucket) {
            Some(rows) => rows,
            None => unreachable!("inserted above"),
        }
    }

    fn set(&mut self, bucket: &[u8], key: Bytes, value: Option<Bytes>) {
        let (key_bytes, value_bytes) = (key.len(), bytes_of(value.as_ref()));
        self.bytes += value_bytes;
        match self.rows(bucket).set(key, value) {
            Some(old) => self.bytes -= bytes_of(old.as_ref()),
            None => {
                self.len += 1;
                self.bytes += key_bytes;
            }
        }
    }

    /// Rows changed.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no row is changed. (Buckets may still be created.)
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all keys and values.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the batch does to a key: nothing, deletes it (`Some(None)`), or writes it.
    pub fn get(&self, bucket: &[u8], key: &[u8]) -> Option<Option<&Bytes>> {
        self.buckets.get(bucket)?.get(key)
    }

    /// The changes of a bucket in the order of their keys.
    pub fn rows_of(&self, bucket: &[u8]) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.buckets.get(bucket).into_iter().flat_map(Rows::iter)
    }

    /// Buckets in the order of their names.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (&Bytes, &Rows)> {
        self.buckets.iter()
    }
}

impl Rows {
    /// The value that was there before, in this batch.
    fn set(&mut self, key: Bytes, value: Option<Bytes>) -> Option<Option<Bytes>> {
        if self.run.last().is_none_or(|(last, _)| *last < key) {
            self.run.push((key, value));
            return None;
        }
        match self.run.binary_search_by(|(there, _)| there.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut self.run[at].1, value)),
            Err(_) => self.odd.insert(key, value),
        }
    }

    fn get(&self, key: &[u8]) -> Option<Option<&Bytes>> {
        match self.run.binary_search_by(|(there, _)| there[..].cmp(key)) {
            Ok(at) => Some(self.run[at].1.as_ref()),
            Err(_) => self.odd.get(key).map(Option::as_ref),
        }
    }

    /// Changes.
    pub(super) fn len(&self) -> usize {
        self.run.len() + self.odd.len()
    }

    /// All changes, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        Merge {
            run: self.run.iter().map(split).peekable(),
            odd: self.odd.iter().map(as_ref).peekable(),
        }
    }
}

fn split(row: &Row) -> (&Bytes, Option<&Bytes>) {
    (&row.0, row.1.as_ref())
}

fn as_ref<'a>(row: (&'a Bytes, &'a Option<Bytes>)) -> (&'a Bytes, Option<&'a Bytes>) {
    (row.0, row.1.as_ref())
}

/// Two ascending sequences without a key in common, as one.
struct Merge<R: Iterator, O: Iterator> {
    run: Peekable<R>,
    odd: Peekable<O>,
}

impl<'a, R, O> Iterator for Merge<R, O>
where
    R: Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>,
    O: Iterator<Item = (&'a Bytes, Option<&'a Bytes>)>,
{
    type Item = (&'a Bytes, Option<&'a Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        match (self.run.peek(), self.odd.peek()) {
            (Some(run), Some(odd)) if odd.0 < run.0 => self.odd.next(),
            (Some(_), _) => self.run.next(),
            (None, _) => self.odd.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_to_a_key_counts() {
        let mut batch = Batch::default();
        for (key, value) in
            [("b", "1"), ("d", "2"), ("a", "3"), ("c", "4"), ("d", "55"), ("a", "6")]
        {
            batch.put(b"x", key.into(), value.into());
        }
        batch.delete(b"x", "c".into());
        batch.delete(b"y", "z".into());
        let rows: Vec<_> = batch.rows_of(b"x").map(|(key, value)| (&key[..], value)).collect();
        let value = |text: &'static str| Bytes::from(text);
        assert_eq!(
            rows,
            [
                (&b"a"[..], Some(&value("6"))),
                (b"b", Some(&value("1"))),
                (b"c", None),
                (b"d", Some(&value("55"))),
            ]
        );
        assert_eq!((batch.len(), batch.bytes()), (5, 5 + 4));
        assert_eq!(batch.get(b"x", b"d"), Some(Some(&value("55"))));
        assert_eq!(batch.get(b"x", b"c"), Some(None));
        assert_eq!(batch.get(b"x", b"q"), None);
    }
}
