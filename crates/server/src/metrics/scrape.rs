//! Answers scrapers, without waiting for them.
//!
//! *Invariants.* 1. A text was begun after the question that it answers. 2. However many ask, at
//! most one is being made, beside the lanes; whoever asked before it began gets the same one. So a
//! crowd of scrapers costs the writers beside it next to nothing (measured: with 5000 questions at
//! once the p99 of writes was 1.5 s when each had its own). 3. However many hang, [`TEXTS_MAX`]
//! texts are held: a new one takes the place of the oldest, whose readers' connections end then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Counter, families};
use crate::api::Api;

/// Texts that are being read.
const TEXTS_MAX: usize = 16;

/// Bytes that a connection takes at once; the rest waits here and not there.
const PIECE_BYTES: usize = 32 * 1024;

/// A text that several may read; empty when it was taken away.
type Shared = Mutex<Bytes>;

/// The texts that are being read, the oldest first.
type Reading = Mutex<VecDeque<Weak<Shared>>>;

/// What one scraper has still to read of a text.
#[derive(Debug)]
pub(crate) struct Text {
    shared: Arc<Shared>,
    at: usize,
    length: usize,
}

impl Text {
    /// The next piece; `None` at the end, or when the text was taken away.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let text = self.shared.lock();
        let end = text.len().min(self.at + PIECE_BYTES);
        let piece = (self.at < end).then(|| text.slice(self.at..end));
        self.at = end.max(self.at);
        piece
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.length - self.at
    }
}

/// All texts that are being read, and how many were begun and given.
#[derive(Debug, Default)]
pub(super) struct Scrapes {
    begun: AtomicU64,
    /// The number of the newest text, and that text. It is held while one is made, by the thread
    /// that makes it: who asked for it may have given up.
    newest: Arc<tokio::sync::Mutex<(u64, Arc<Shared>)>>,
    read: Arc<Reading>,
    pub(super) answered: Counter,
    /// Questions without an answer, because the process stops.
    pub(super) refused: Counter,
    open: Arc<()>,
}

impl Scrapes {
    /// How many answers are being made.
    pub(super) fn open(&self) -> usize {
        Arc::strong_count(&self.open) - 1
    }

    /// A text that was begun after this call. `None` while the process stops.
    async fn text(&self, render: impl FnOnce() -> String + Send + 'static) -> Option<Text> {
        let _asking = Arc::clone(&self.open);
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut newest = Arc::clone(&self.newest).lock_owned().await;
        let shared = if newest.0 <= begun_before {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            let read = Arc::clone(&self.read);
            let work = move || {
                let shared = keep(&read, render());
                *newest = (number, Arc::clone(&shared));
                shared
            };
            let made = tokio::task::spawn_blocking(work).await;
            made.inspect_err(|_| self.refused.increment()).ok()?
        } else {
            Arc::clone(&newest.1)
        };
        self.answered.increment();
        let length = shared.lock().len();
        Some(Text { shared, at: 0, length })
    }
}

/// Keeps a text for its readers; when there are too many, the oldest is taken away.
fn keep(read: &Reading, text: String) -> Arc<Shared> {
    let shared = Arc::new(Mutex::new(text.into()));
    let mut read = read.lock();
    read.retain(|text| text.strong_count() > 0);
    while read.len() >= TEXTS_MAX {
        if let Some(oldest) = read.pop_front().and_then(|text| text.upgrade()) {
            *oldest.lock() = Bytes::new();
        }
    }
    read.push_back(Arc::downgrade(&shared));
    shared
}

/// The text of `/metrics`; `None` while the process stops.
pub(crate) async fn answer(api: &Arc<Api>) -> Option<Text> {
    let shown = Arc::clone(api);
    api.metrics.scrapes.text(move || families::render(&shown)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &mut Text) -> Vec<usize> {
        std::iter::from_fn(|| text.next()).map(|piece| piece.len()).collect()
    }

    #[tokio::test]
    async fn a_text_leaves_in_pieces() {
        let scrapes = Scrapes::default();
        let mut text = scrapes.text(|| "x".repeat(2 * PIECE_BYTES + 1)).await.unwrap();
        assert_eq!(text.left(), 2 * PIECE_BYTES + 1);
        assert_eq!(read(&mut text), [PIECE_BYTES, PIECE_BYTES, 1]);
        assert_eq!(text.left(), 0);
    }

    #[tokio::test]
    async fn scrapers_that_hang_hold_a_bounded_number_of_texts() {
        let scrapes = Scrapes::default();
        let mut texts = Vec::new();
        for _ in 0..3 * TEXTS_MAX {
            texts.push(scrapes.text(|| "text".to_owned()).await.unwrap());
        }
        let kept = texts.iter_mut().map(read).filter(|pieces| !pieces.is_empty()).count();
        assert_eq!(kept, TEXTS_MAX);
    }

    #[tokio::test]
    async fn scrapers_that_give_up_do_not_make_texts_at_once() {
        let (scrapes, made) = (Scrapes::default(), Arc::new(AtomicU64::new(0)));
        let (open, closed) = std::sync::mpsc::channel::<()>();
        let render = {
            let made = Arc::clone(&made);
            move || {
                made.fetch_add(1, Ordering::SeqCst);
                // Until the test lets it go on.
                let _closed = closed.recv();
                String::new()
            }
        };
        let mut first = Box::pin(scrapes.text(render));
        while made.load(Ordering::SeqCst) == 0 {
            assert!(poll_once(first.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        drop(first);
        let mut second = Box::pin(scrapes.text(|| "text".to_owned()));
        assert!(poll_once(second.as_mut()).is_pending());
        assert_eq!(scrapes.begun.load(Ordering::SeqCst), 1, "the first one is still being made");
        drop(open);
        assert_eq!(second.await.map(|text| text.left()), Some(4));
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
        future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[tokio::test]
    async fn a_crowd_shares_texts_and_nobody_gets_one_from_before_his_question() {
        let (scrapes, made) = (Arc::new(Scrapes::default()), Arc::new(AtomicU64::new(0)));
        let mut crowd = Vec::new();
        for _ in 0..100 {
            let (scrapes, made) = (Arc::clone(&scrapes), Arc::clone(&made));
            crowd.push(tokio::spawn(async move {
                let before = made.load(Ordering::SeqCst);
                let render = move || {
                    let number = made.fetch_add(1, Ordering::SeqCst) + 1;
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    number.to_string()
                };
                let text = scrapes.text(render).await.and_then(|mut text| text.next()).unwrap();
                let number: u64 = String::from_utf8_lossy(&text).parse().unwrap();
                assert!(number > before, "{number} was begun before the question");
            }));
        }
        for one in crowd {
            one.await.unwrap();
        }
        let made = made.load(Ordering::SeqCst);
        assert!((1..=2).contains(&made), "{made} texts for a crowd that asked at once");
    }
}
