//! Answers scrapers, without waiting for them.
//!
//! *Invariants.* However many scrapers hang, `SCRAPES_MAX` texts are held at most: a new scrape
//! takes the text of the oldest one that is still being read, whose connection ends then.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Counter, families};
use crate::api::Api;

/// Answers that may be on their way at once.
const SCRAPES_MAX: usize = 16;

/// Bytes that a connection takes at once; the rest of a text waits here and not there.
const PIECE_BYTES: usize = 32 * 1024;

/// A text on its way.
#[derive(Debug)]
pub(crate) struct Text(Mutex<Bytes>);

impl Text {
    /// The next piece; `None` at the end, or when the text was taken away.
    pub(crate) fn next(&self) -> Option<Bytes> {
        let mut rest = self.0.lock();
        let length = rest.len().min(PIECE_BYTES);
        (length > 0).then(|| rest.split_to(length))
    }

    fn discard(&self) {
        *self.0.lock() = Bytes::new();
    }
}

/// All texts on their way, the oldest first.
#[derive(Debug)]
pub(super) struct Scrapes {
    open: Mutex<VecDeque<Weak<Text>>>,
    pub(super) answered: Counter,
    /// Texts are made one after the other: a thousand scrapers at once take memory for one.
    turn: Semaphore,
}

impl Default for Scrapes {
    fn default() -> Self {
        let (open, answered) = (Mutex::default(), Counter::default());
        Self { open, answered, turn: Semaphore::new(1) }
    }
}

impl Scrapes {
    /// How many are on their way.
    pub(super) fn open(&self) -> usize {
        let mut open = self.open.lock();
        open.retain(|text| text.strong_count() > 0);
        open.len()
    }

    fn add(&self, text: String) -> Arc<Text> {
        let text = Arc::new(Text(Mutex::new(text.into())));
        let mut open = self.open.lock();
        open.retain(|text| text.strong_count() > 0);
        while open.len() >= SCRAPES_MAX {
            if let Some(oldest) = open.pop_front().and_then(|text| text.upgrade()) {
                oldest.discard();
            }
        }
        open.push_back(Arc::downgrade(&text));
        self.answered.increment();
        text
    }
}

/// The text of `/metrics`, and its length. It is made on the pool, so that no connection waits
/// for it; `None` while the process stops.
pub(crate) async fn answer(api: &Arc<Api>) -> Option<(Arc<Text>, usize)> {
    let scrapes = &api.metrics.scrapes;
    let _turn = scrapes.turn.acquire().await.ok()?;
    let shown = Arc::clone(api);
    let text = tokio::task::spawn_blocking(move || families::render(&shown)).await.ok()?;
    let length = text.len();
    Some((scrapes.add(text), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_leaves_in_pieces() {
        let text = Scrapes::default().add("x".repeat(2 * PIECE_BYTES + 1));
        let pieces: Vec<_> = std::iter::from_fn(|| text.next()).map(|piece| piece.len()).collect();
        assert_eq!(pieces, [PIECE_BYTES, PIECE_BYTES, 1]);
    }

    #[test]
    fn scrapers_that_hang_hold_a_bounded_number_of_texts() {
        let scrapes = Scrapes::default();
        let texts: Vec<_> = (0..3 * SCRAPES_MAX).map(|_| scrapes.add("text".into())).collect();
        assert_eq!(scrapes.open(), SCRAPES_MAX);
        let kept = texts.iter().filter(|text| text.next().is_some()).count();
        assert_eq!(kept, SCRAPES_MAX);
        drop(texts);
        assert_eq!(scrapes.open(), 0);
        assert!(scrapes.add("text".into()).next().is_some());
    }
}
