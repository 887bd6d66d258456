//! What is told of a call after its end: a line when it was slow, spans when it is traced.

use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::encoding::decode_varint;

use super::call::Call;
use super::method::Method;
use super::reply::Reply;
use super::status::Status;
use super::wire::PREFIX;
use crate::trace::course::Course;
use crate::trace::slow;
use crate::trace::span::{Ended, Followed};

/// Field numbers of answers.
const HEADER: u64 = 1;
const REVISION: u64 = 3;
const KVS: u64 = 2;
/// Keys deleted, or whether a transaction took its branch of success.
const OUTCOME: u64 = 2;
const COUNT: u64 = 4;

/// What an answer says of itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Bytes of its header that say whose it is, and not at which revision.
    pub(super) identity: usize,
    /// Keys with their values.
    pub(super) rows: i64,
    outcome: i64,
    count: i64,
}

impl Counted {
    /// Looks at the fields of an answer; nothing for one that is read while it leaves.
    pub(super) fn of(reply: &Reply) -> Option<Self> {
        let mut counted = Self::default();
        match reply {
            Reply::Whole(bytes) => counted.look(bytes.get(PREFIX..)?)?,
            Reply::Pieces(pieces) => {
                // No field but a row's is longer than a piece, and rows are never split.
                for (number, piece) in pieces.iter().enumerate() {
                    counted.look(piece.get(if number == 0 { PREFIX } else { 0 }..)?)?;
                }
            }
            Reply::Long { .. } => return None,
        }
        Some(counted)
    }

    fn look(&mut self, mut rest: &[u8]) -> Option<()> {
        while rest.has_remaining() {
            let tag = decode_varint(&mut rest).ok()?;
            let value = decode_varint(&mut rest).ok()?;
            match (tag >> 3, tag & 7) {
                (field, 2) => {
                    let (body, after) = rest.split_at_checked(usize::try_from(value).ok()?)?;
                    rest = after;
                    self.identity += if field == HEADER { identity(body)? } else { 0 };
                    self.rows += i64::from(field == KVS);
                }
                (field, 0) => {
                    let value = i64::try_from(value).unwrap_or(i64::MAX);
                    match field {
                        COUNT => self.count = value,
                        OUTCOME => self.outcome = value,
                        _ => {}
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }
}

/// Bytes of the numbers in a header but for the revision.
fn identity(mut header: &[u8]) -> Option<usize> {
    let mut bytes = 0;
    while header.has_remaining() {
        let before = header.len();
        let tag = decode_varint(&mut header).ok()?;
        decode_varint(&mut header).ok()?;
        bytes += if tag >> 3 == REVISION { 0 } else { before - header.len() };
    }
    Some(bytes)
}

/// A unary request that has ended.
pub(super) struct Finished<'a> {
    pub(super) message: &'a Bytes,
    pub(super) answer: &'a Result<Reply, Status>,
    pub(super) took: Duration,
    pub(super) course: Course,
}

/// Tells of it, where somebody wants to know.
pub(super) fn tell(call: &Call, followed: Option<Box<Followed>>, finished: &Finished<'_>) {
    let Finished { message, answer, took, course } = *finished;
    if slow::is_due(&call.api, took) {
        let answer = answer.as_ref().ok().map(|reply| (Counted::of(reply), reply.len()));
        let counted = answer.and_then(|(counted, _)| counted);
        let told = |counted: Counted| match call.method {
            Method::DeleteRange => counted.outcome,
            _ => counted.count,
        };
        let request = slow::Request {
            path: call.method.info().path,
            remote: call.peer(),
            message: Some(message),
            answer: answer.map(|(counted, bytes)| (counted.map_or(-1, told), bytes)),
            succeeded: counted.is_some_and(|counted| counted.outcome != 0),
            took,
            course,
        };
        request.log(&call.api);
    }
    finish(followed, message, course, answer.as_ref().map(|_| ()));
}

/// Tells of a unary call that ends without an answer, because its client is gone or has no time
/// left.
pub(super) fn tell_abandoned(call: &Call, took: Duration) {
    if slow::is_due(&call.api, took) {
        let request = slow::Request {
            path: call.method.info().path,
            remote: call.peer(),
            message: None,
            answer: None,
            succeeded: false,
            took,
            course: Course::default(),
        };
        request.log(&call.api);
    }
}

/// Tells of a stream that has ended, where somebody wants to know. `message` is what was asked, if
/// that is one message.
pub(super) fn tell_stream(
    followed: Option<Box<Followed>>,
    message: &Bytes,
    ended: Result<(), &Status>,
) {
    finish(followed, message, Course::default(), ended);
}

fn finish(
    followed: Option<Box<Followed>>,
    message: &Bytes,
    course: Course,
    ended: Result<(), &Status>,
) {
    let Some(followed) = followed else { return };
    let (code, reason) = match ended {
        Ok(()) => (0, ""),
        Err(status) => (status.number(), &*status.message),
    };
    followed.finish(&Ended { message, course, code, reason });
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{DeleteRangeResponse, RangeResponse, ResponseHeader, TxnResponse};
    use proto::mvccpb::KeyValue;

    use super::*;

    #[test]
    fn an_answer_is_counted_by_its_fields() {
        let header = Some(ResponseHeader {
            cluster_id: u64::MAX >> 1,
            revision: 300,
            ..ResponseHeader::default()
        });
        let row = KeyValue { key: "k".into(), ..KeyValue::default() };
        let range = RangeResponse { header, kvs: vec![row; 3], more: true, count: 900 };
        let counted = Counted::of(&Reply::of(&range)).expect("fields");
        assert_eq!(counted, Counted { identity: 10, rows: 3, outcome: 0, count: 900 });
        let deleted = DeleteRangeResponse { header, deleted: 7, ..Default::default() };
        assert_eq!(Counted::of(&Reply::of(&deleted)).expect("fields").outcome, 7);
        let txn = TxnResponse { header, succeeded: true, responses: vec![] };
        assert_eq!(Counted::of(&Reply::of(&txn)).expect("fields").outcome, 1);
    }
}
