//! Bytes of a connection, in any pieces: pings are counted alike. How to run these for longer, and
//! a failure again: see the crate `fuzz`.

use std::time::{Duration, Instant};

use fuzz::{Verdict, fuzz, mutate, pieces};

use super::pings::Pings;

#[test]
fn pings_are_counted_alike_in_any_pieces() {
    let now = Instant::now();
    fuzz("HTTP/2 frames", |u| {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut answers = Vec::new();
        for _ in 0..u.int_in_range(0..=12)? {
            let kind = *u.choose(&[0, 1, 3, 4, 6, 6, 6, 8])?;
            let (flags, stream) = (u.int_in_range(0..=1)?, u.int_in_range(0..=5)?);
            let length = u.int_in_range(0..=20)?;
            let to = if u.ratio(3, 4)? { &mut bytes } else { &mut answers };
            to.extend([0, 0, length, kind, flags, 0, 0, 0, stream]);
            to.extend(vec![0; usize::from(length)]);
        }
        if u.ratio(1, 3)? {
            mutate(u, &mut bytes)?;
        }
        let told = |received: &[&[u8]], sent: &[&[u8]]| {
            let mut pings = Pings::new(Duration::from_secs(1));
            let mut too_many = false;
            for piece in received {
                too_many |= pings.received(piece, || now);
            }
            for piece in sent {
                pings.sent(piece);
            }
            too_many |= pings.received(&[], || now);
            (too_many, pings.farewell(), format!("{pings:?}"))
        };
        let whole = told(&[&bytes], &[&answers]);
        let (received, sent) = (pieces(u, &bytes)?, pieces(u, &answers)?);
        assert_eq!(told(&received, &sent), whole, "in pieces");
        Ok(if whole.0 { Verdict::Refused } else { Verdict::Taken })
    });
}
