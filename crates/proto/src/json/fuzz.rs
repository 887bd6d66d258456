//! JSON and wire forms, almost right. How to run these for longer, and a failure again: see the
//! crate `fuzz`.

use fuzz::{Verdict, fuzz, mutate, mutate_text, pieces};

use super::{Form, METHODS, Malformed, Message, Values, Writer, decode};

const SAMPLES: [&str; 8] = [
    r#"{"key":"YQ==","rangeEnd":"Yg","limit":"5","sort_order":"DESCEND","keys_only":true}"#,
    r#" {"compare":[{"key":"YQ==","target":2,"version":"0"}],"success":[{"request_put":{"key":"a"}},
        {"request_txn":{"failure":[{"request_range":{"limit":-1.5e1}}]}}]} "#,
    r#"{"create_request":{"key":"AA==","filters":["NOPUT",1],"watch_id":"-7"}}{"cancel_request":{}}"#,
    r#"{"name":"\ud83d\ude00\n","password":"\u00e4","options":{"no_password":true}}"#,
    r#"{"ID":18446744073709551615,"peerURLs":["http://a:1","b"],"isLearner":false}"#,
    r#"{"leader":{"name":"ZQ==","key":"ZS8x","rev":"1","lease":21},"value":null}"#,
    r#"{"action":"ENABLE","version":"3.6","unknown":{"a":[1,{"b":[]}]}}"#,
    r#"{"header":{"cluster_id":"1"},"kvs":[{"key":"a===","lease":"9e0"},{}],"more":true}"#,
];

/// Every value of a text up to the first that is wrong, and how it ended.
fn values(text: &[&[u8]]) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut values, mut found) = (Values::new(), Vec::new());
    for piece in text {
        values.push(piece);
        loop {
            match values.next_value() {
                Ok(Some(value)) => found.push(value.to_vec()),
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    match values.end() {
        Ok(last) => found.extend(last.map(|value| value.to_vec())),
        Err(error) => return (found, Some(error.to_string())),
    }
    (found, None)
}

fn write(message: &'static Message, bytes: &[&[u8]]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::new();
    let mut writer = Writer::new(message, Form::Html, &mut out);
    for piece in bytes {
        writer.push(piece, &mut out)?;
    }
    writer.end(&mut out)?;
    Ok(out)
}

#[test]
fn requests_are_refused_or_read_and_what_is_read_is_written_again() {
    fuzz("JSON requests", |u| {
        let sample = u.choose(&SAMPLES)?;
        let text = mutate_text(u, sample)?;
        let cut = pieces(u, text.as_bytes())?;
        let (found, end) = values(&cut);
        assert_eq!((&found, &end), (&values(&[text.as_bytes()]).0, &values(&[text.as_bytes()]).1));
        let message = u.choose(METHODS)?.request;
        let Some(value) = found.first() else { return Ok(Verdict::Refused) };
        let decoded = decode(message, value);
        if let Ok(bytes) = &decoded {
            let json = write(message, &[bytes]).expect("a message");
            // Written again it has every field that is not the zero it would be without.
            let again = decode(message, &json).expect("what was written");
            assert_eq!(write(message, &[&again]).as_ref(), Ok(&json));
            check_one_value(&json);
        }
        Ok(Verdict::of(&decoded))
    });
}

/// What is written is one JSON value.
fn check_one_value(json: &[u8]) {
    let (found, end) = values(&[json]);
    assert_eq!((found.len(), end), (1, None));
}

#[test]
fn answers_are_refused_or_written_alike_in_any_pieces() {
    let samples: Vec<_> = METHODS
        .iter()
        .flat_map(|method| {
            let read = |text: &&str| decode(method.response, text.as_bytes()).ok();
            SAMPLES.iter().filter_map(read).map(|bytes| (method.response, bytes))
        })
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    assert!(samples.len() > 10);
    fuzz("JSON answers", |u| {
        let (message, sample) = u.choose(&samples)?;
        let mut bytes = sample.repeat(u.int_in_range(1..=4)?);
        mutate(u, &mut bytes)?;
        let whole = write(message, &[&bytes]);
        let cut = pieces(u, &bytes)?;
        assert_eq!(write(message, &cut), whole);
        if let Ok(json) = &whole {
            check_one_value(json);
        }
        Ok(Verdict::of(&whole))
    });
}
