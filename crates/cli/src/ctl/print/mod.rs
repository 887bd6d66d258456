//! Prints answers in the formats of `--write-out`.
//!
//! *Invariants.* What is printed is a function of the answer alone, so that every format has
//! golden tests that need no server.
//!
//! *Contract.* `etcdctl/ctlv3/command/printer*.go` of etcd v3.7.1.

mod auth;
mod fields;
mod json;
mod simple;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::time::Duration;

use prost::Message;
use proto::etcdserverpb as pb;
use proto::mvccpb;

use crate::failure::{self, Failure, Outcome};
use crate::go;
use crate::output::unsupported;
pub(crate) use crate::output::{Format, print};
pub(crate) use auth::AuthAnswer;

/// What a command has to say.
pub(crate) enum Answer {
    Del(pb::DeleteRangeResponse),
    Get(pb::RangeResponse),
    Put(pb::PutResponse),
    Txn(pb::TxnResponse),
    Watch(pb::WatchResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke {
        id: i64,
        answer: pb::LeaseRevokeResponse,
    },
    KeepAlive(pb::LeaseKeepAliveResponse),
    TimeToLive {
        answer: pb::LeaseTimeToLiveResponse,
        keys: bool,
    },
    Leases(pb::LeaseLeasesResponse),
    Members(pb::MemberListResponse),
    /// A member was added; the name and the addresses are those that were given.
    MemberAdded {
        answer: pb::MemberAddResponse,
        name: String,
        urls: String,
    },
    /// A member was changed in this way. All such answers have one shape.
    MemberChanged {
        id: u64,
        how: &'static str,
        answer: pb::MemberRemoveResponse,
    },
    /// The leadership went from one member to another.
    LeaderMoved {
        from: u64,
        to: u64,
    },
    /// A step of a downgrade succeeded.
    Downgrade {
        step: &'static str,
        answer: pb::DowngradeResponse,
    },
    Alarms(pb::AlarmResponse),
    Health(Vec<Health>),
    Status(Vec<(String, pb::StatusResponse)>),
    HashKv(Vec<(String, pb::HashKvResponse)>),
}

/// What `endpoint health` found out about one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) endpoint: String,
    pub(crate) took: Option<Duration>,
    /// Empty: healthy.
    pub(crate) error: String,
}

impl Health {
    fn took(&self) -> String {
        self.took.map(go::duration).unwrap_or_default()
    }
}

/// Prints in one format.
pub(crate) struct Printer {
    pub(crate) format: Format,
    /// Keys and values as hexadecimal, ids too where etcdctl does so.
    pub(crate) hex: bool,
    /// Simple format only: leave keys out.
    pub(crate) value_only: bool,
}

/// The text of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
}

impl Printer {
    /// Prints an answer.
    pub(crate) fn print(&self, answer: &Answer) -> Outcome {
        let text = self.render(answer)?;
        let _ = io::stderr().write_all(&text.err);
        print(&text.out)
    }

    /// The text of an answer.
    pub(crate) fn render(&self, answer: &Answer) -> Outcome<Text> {
        match self.format {
            Format::Simple => Ok(simple::render(answer, self.hex, self.value_only)),
            Format::Json => Ok(Text { out: json::render(answer, self.hex), err: Vec::new() }),
            Format::Fields if is_without_fields(answer) => Err(unsupported("fields")),
            Format::Fields => Ok(Text { out: fields::render(answer, self.hex), err: Vec::new() }),
            Format::Table => Ok(Text { out: table::render(answer)?, err: Vec::new() }),
            Format::Protobuf => Ok(Text { out: protobuf(answer)?, err: Vec::new() }),
        }
    }
}

/// What the fields format does not know.
fn is_without_fields(answer: &Answer) -> bool {
    use Answer::{Downgrade, LeaderMoved, MemberAdded, MemberChanged};
    matches!(
        answer,
        MemberAdded { .. } | MemberChanged { .. } | LeaderMoved { .. } | Downgrade { .. }
    )
}

/// The message itself. Of most lease messages the Go client keeps only the header as a message.
fn protobuf(answer: &Answer) -> Outcome<Vec<u8>> {
    let header = |header: &Option<pb::ResponseHeader>| header.as_ref().map(Message::encode_to_vec);
    Ok(match answer {
        Answer::Del(answer) => answer.encode_to_vec(),
        Answer::Get(answer) => answer.encode_to_vec(),
        Answer::Put(answer) => answer.encode_to_vec(),
        Answer::Txn(answer) => answer.encode_to_vec(),
        Answer::Watch(answer) => {
            // The watch id, the reason and fragments are the client's own affair.
            let pb::WatchResponse { header, events, compact_revision, canceled, created, .. } =
                answer.clone();
            pb::WatchResponse {
                header,
                events,
                compact_revision,
                canceled,
                created,
                ..Default::default()
            }
            .encode_to_vec()
        }
        Answer::Members(answer) => answer.encode_to_vec(),
        Answer::MemberAdded { answer, .. } => answer.encode_to_vec(),
        Answer::MemberChanged { answer, .. } => answer.encode_to_vec(),
        Answer::LeaderMoved { .. } => Vec::new(),
        Answer::Downgrade { answer, .. } => answer.encode_to_vec(),
        Answer::Alarms(answer) => answer.encode_to_vec(),
        Answer::Grant(answer) => header(&answer.header).unwrap_or_default(),
        Answer::KeepAlive(answer) => header(&answer.header).unwrap_or_default(),
        Answer::TimeToLive { answer, .. } => header(&answer.header).unwrap_or_default(),
        Answer::Leases(answer) => header(&answer.header).unwrap_or_default(),
        Answer::Revoke { .. } => {
            let reason = "marshal unsupported for type *clientv3.LeaseRevokeResponse";
            return Err(Failure::new(failure::BAD_FEATURE, reason));
        }
        Answer::Health(_) | Answer::Status(_) | Answer::HashKv(_) => {
            return Err(unsupported("protobuf"));
        }
    })
}

/// The name of an event's type.
pub(crate) fn event_type(event: &mvccpb::Event) -> &'static str {
    if event.r#type == mvccpb::event::EventType::Delete as i32 { "DELETE" } else { "PUT" }
}

/// The name of an alarm's type.
fn alarm_type(alarm: i32) -> String {
    match pb::AlarmType::try_from(alarm) {
        Ok(alarm) => alarm.as_str_name().to_owned(),
        Err(_) => alarm.to_string(),
    }
}
