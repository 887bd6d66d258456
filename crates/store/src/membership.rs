//! The members of the cluster, its version, and the conf changes that alter them.
//!
//! *Invariants.*
//! 1. An id that was removed does not come back.
//! 2. A peer URL belongs to one member.
//! 3. A conf change that validation refuses changes nothing here and nothing in raft.
//!
//! *Contract.* `server/etcdserver/api/membership` and `applyConfChange` of
//! `server/etcdserver/server.go` of etcd v3.7.1.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base::MemberId;
use bytes::Bytes;
use proto::raftpb::{ConfChange, ConfChangeType};
use serde::{Deserialize, Deserializer};

use crate::backend::{Memtable, Tables};
use crate::error::{ConfChangeError, Damage};
use crate::schema::{self, ConfStateRow};
use crate::version::Version;

/// A member, as stored, as `GET /members` shows it and as conf changes carry it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Never changes.
    #[serde(deserialize_with = "read_id")]
    pub id: MemberId,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "or_default")]
    pub peer_urls: Vec<String>,
    /// It has no vote.
    #[serde(rename = "isLearner", default, deserialize_with = "or_default")]
    pub is_learner: bool,
    /// Empty until it has started.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Where clients reach it; empty until it has published them.
    #[serde(rename = "clientURLs", default, deserialize_with = "or_default")]
    pub client_urls: Vec<String>,
}

/// What the context of a conf change says beside the member.
#[derive(Debug, Default, Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default, deserialize_with = "or_default")]
    is_promote: bool,
}

fn read_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MemberId, D::Error> {
    u64::deserialize(deserializer).map(MemberId)
}

/// Go writes `null` for a list that was never made.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Member {
    /// JSON, byte for byte as etcd writes it.
    pub fn to_json(&self) -> String {
        let mut json = format!(r#"{{"id":{},"peerURLs":"#, self.id.0);
        write_list(&mut json, &self.peer_urls);
        if self.is_learner {
            json.push_str(r#","isLearner":true"#);
        }
        if !self.name.is_empty() {
            json.push_str(r#","name":"#);
            write_text(&mut json, &self.name);
        }
        if !self.client_urls.is_empty() {
            json.push_str(r#","clientURLs":"#);
            write_list(&mut json, &self.client_urls);
        }
        json.push('}');
        json
    }

    /// Reads etcd's JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Whether it has ever started.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

fn write_list(json: &mut String, list: &[String]) {
    if list.is_empty() {
        json.push_str("null");
        return;
    }
    for (at, text) in list.iter().enumerate() {
        json.push(if at == 0 { '[' } else { ',' });
        write_text(json, text);
    }
    json.push(']');
}

/// A string as Go's `encoding/json` writes it: what could end a script in HTML is escaped.
fn write_text(json: &mut String, text: &str) {
    json.push('"');
    for char in text.chars() {
        match char {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\u{8}' => json.push_str("\\b"),
            '\u{c}' => json.push_str("\\f"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(char));
            }
            _ => json.push(char),
        }
    }
    json.push('"');
}

/// The downgrade under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Downgrade {
    /// The version to go down to; empty when none is under way.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// One is under way.
    #[serde(default)]
    pub enabled: bool,
}

/// Who belongs to the cluster, and which version it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    version: Option<Version>,
    downgrade: Option<Downgrade>,
}

/// What an attribute or conf change entry holds cannot be applied by anyone: stop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Impossible(pub(crate) String);

impl Membership {
    /// Reads the buckets.
    pub(crate) fn load(tables: &Tables) -> Result<Self, Damage> {
        let mut membership = Self::default();
        for (key, row) in tables.plain_rows(schema::MEMBERS)? {
            let id = read_key(schema::MEMBERS, &key)?;
            let member = Member::from_json(&row)
                .map_err(|error| Damage::row(schema::MEMBERS, &key, error.to_string()))?;
            membership.members.insert(id, member);
        }
        for key in tables.plain_rows(schema::MEMBERS_REMOVED)?.into_keys() {
            membership.removed.insert(read_key(schema::MEMBERS_REMOVED, &key)?);
        }
        membership.version = read_version(tables, schema::CLUSTER, schema::CLUSTER_VERSION)?;
        if let Some(row) = tables.plain(schema::CLUSTER, schema::DOWNGRADE)? {
            let downgrade = serde_json::from_slice(&row).map_err(|error| {
                Damage::row(schema::CLUSTER, schema::DOWNGRADE, error.to_string())
            })?;
            membership.downgrade = Some(downgrade);
        }
        Ok(membership)
    }

    /// All members, by id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The ids that must not come back.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// Whether an id must not come back.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The lowest version of all members, once they have agreed on it.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// The downgrade under way; not enabled when there was never one.
    pub fn downgrade(&self) -> Downgrade {
        self.downgrade.clone().unwrap_or_default()
    }

    /// Voters and learners.
    pub fn conf_state(&self) -> ConfStateRow {
        let ids = |learner: bool| {
            let members = self.members.values().filter(move |member| member.is_learner == learner);
            members.map(|member| member.id.0).collect()
        };
        ConfStateRow { voters: ids(false), learners: ids(true), auto_leave: false }
    }

    pub(crate) fn set_version(&mut self, version: Version, table: &Memtable) {
        let row = Bytes::from(version.to_string());
        table.put(schema::CLUSTER, schema::name(schema::CLUSTER_VERSION), row);
        self.version = Some(version);
    }

    pub(crate) fn set_downgrade(&mut self, downgrade: Downgrade, table: &Memtable) {
        let mut row = String::from(r#"{"target-version":"#);
        write_text(&mut row, &downgrade.target_version);
        let _ = write!(row, r#","enabled":{}}}"#, downgrade.enabled);
        table.put(schema::CLUSTER, schema::name(schema::DOWNGRADE), Bytes::from(row));
        self.downgrade = Some(downgrade);
    }

    pub(crate) fn set_attributes(
        &mut self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        table: &Memtable,
    ) -> Result<(), Impossible> {
        match self.members.get_mut(&id) {
            Some(member) => {
                member.name = name;
                member.client_urls = client_urls;
                save(member, table);
                Ok(())
            }
            None if self.removed.contains(&id) => Ok(()),
            None => Err(Impossible(format!("attributes of member {id}, which is unknown"))),
        }
    }

    /// Validates a conf change and carries it out.
    pub(crate) fn change(
        &mut self,
        change: &ConfChange,
        learners_max: usize,
        table: &Memtable,
    ) -> Result<Result<(), ConfChangeError>, Impossible> {
        let id = MemberId(change.node_id());
        // An absent type is the first of the enumeration; an unknown one is not.
        let number = change.r#type.unwrap_or_default();
        let Ok(kind) = ConfChangeType::try_from(number) else {
            return Err(Impossible(format!("conf change of unknown type {number}")));
        };
        if self.removed.contains(&id) {
            return Ok(Err(ConfChangeError::IdRemoved));
        }
        match kind {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let context: Context = read_context(change)?;
                let learner = kind == ConfChangeType::ConfChangeAddLearnerNode;
                if let Err(error) = self.check_add(id, &context, learner, learners_max) {
                    return Ok(Err(error));
                }
                same_id(id, context.member.id)?;
                if context.is_promote {
                    if let Some(member) = self.members.get_mut(&id) {
                        member.is_learner = false;
                        save(member, table);
                    }
                } else {
                    save(&context.member, table);
                    self.members.insert(id, context.member);
                }
            }
            ConfChangeType::ConfChangeRemoveNode => {
                if !self.members.contains_key(&id) {
                    return Ok(Err(ConfChangeError::IdNotFound));
                }
                // Of this, every etcd dies; it is proposed only where the strict check is off, or
                // when two removals cross.
                if self.members.values().all(|member| member.is_learner || member.id == id) {
                    return Ok(Err(ConfChangeError::LastVoter));
                }
                self.members.remove(&id);
                self.removed.insert(id);
                table.delete(schema::MEMBERS, schema::member(id));
                let row = schema::name(schema::REMOVED);
                table.put(schema::MEMBERS_REMOVED, schema::member(id), row);
            }
            ConfChangeType::ConfChangeUpdateNode => {
                if !self.members.contains_key(&id) {
                    return Ok(Err(ConfChangeError::IdNotFound));
                }
                let update: Member = read_context(change)?;
                if self.has_url_of(&update.peer_urls, Some(id)) {
                    return Ok(Err(ConfChangeError::PeerUrlExists));
                }
                same_id(id, update.id)?;
                if let Some(member) = self.members.get_mut(&id) {
                    member.peer_urls = update.peer_urls;
                    save(member, table);
                }
            }
        }
        Ok(Ok(()))
    }

    fn check_add(
        &self,
        id: MemberId,
        context: &Context,
        learner: bool,
        learners_max: usize,
    ) -> Result<(), ConfChangeError> {
        let member = self.members.get(&id);
        if context.is_promote {
            let member = member.ok_or(ConfChangeError::IdNotFound)?;
            return if member.is_learner { Ok(()) } else { Err(ConfChangeError::NotLearner) };
        }
        if member.is_some() {
            return Err(ConfChangeError::IdExists);
        }
        if self.has_url_of(&context.member.peer_urls, None) {
            return Err(ConfChangeError::PeerUrlExists);
        }
        let learners = self.members.values().filter(|member| member.is_learner).count();
        if learner && context.member.is_learner && learners + 1 > learners_max {
            return Err(ConfChangeError::TooManyLearners);
        }
        Ok(())
    }

    fn has_url_of(&self, urls: &[String], except: Option<MemberId>) -> bool {
        let others = self.members.values().filter(|member| Some(member.id) != except);
        others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url))
    }
}

fn save(member: &Member, table: &Memtable) {
    table.put(schema::MEMBERS, schema::member(member.id), Bytes::from(member.to_json()));
}

fn read_context<T: for<'de> Deserialize<'de>>(change: &ConfChange) -> Result<T, Impossible> {
    serde_json::from_slice(change.context())
        .map_err(|error| Impossible(format!("context of a conf change: {error}")))
}

fn same_id(entry: MemberId, context: MemberId) -> Result<(), Impossible> {
    if entry == context {
        return Ok(());
    }
    Err(Impossible(format!("conf change of member {entry} with the context of {context}")))
}

fn read_key(bucket: &[u8], key: &[u8]) -> Result<MemberId, Damage> {
    schema::read_member(key).ok_or_else(|| Damage::row(bucket, key, "not a member id"))
}

/// Reads a row that holds a version.
pub(crate) fn read_version(
    tables: &Tables,
    bucket: &'static [u8],
    name: &'static [u8],
) -> Result<Option<Version>, Damage> {
    let Some(row) = tables.plain(bucket, name)? else { return Ok(None) };
    let version = std::str::from_utf8(&row).ok().and_then(Version::parse);
    version.map(Some).ok_or_else(|| Damage::row(bucket, name, "not a version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ConfChangeType, id: u64, context: &str) -> ConfChange {
        ConfChange {
            id: Some(1),
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(Bytes::copy_from_slice(context.as_bytes())),
        }
    }

    #[test]
    fn member_json_is_etcds() {
        let member = Member {
            id: MemberId(16_011_558_987_759_319_972),
            peer_urls: vec!["http://127.0.0.1:34880?a&b".into()],
            is_learner: true,
            name: "m<1>".into(),
            client_urls: vec!["http://a".into(), "http://b".into()],
        };
        let json = "{\"id\":16011558987759319972,\"peerURLs\":[\"http://127.0.0.1:34880?a\\u0026b\"],\
                    \"isLearner\":true,\"name\":\"m\\u003c1\\u003e\",\
                    \"clientURLs\":[\"http://a\",\"http://b\"]}";
        assert_eq!(member.to_json(), json);
        assert_eq!(Member::from_json(json.as_bytes()).expect("its own form"), member);
        let bare = Member::from_json(br#"{"id":7,"peerURLs":null}"#).expect("etcd writes null");
        assert_eq!(bare.to_json(), r#"{"id":7,"peerURLs":null}"#);
    }

    #[test]
    fn conf_changes_are_validated_as_etcd_does() {
        use ConfChangeType::*;
        let table = Memtable::default();
        let mut cluster = Membership::default();
        let mut apply =
            |kind, id, context: &str| cluster.change(&change(kind, id, context), 1, &table);
        let add = ConfChangeAddNode;
        assert_eq!(apply(add, 1, r#"{"id":1,"peerURLs":["a"],"name":"one"}"#), Ok(Ok(())));
        assert_eq!(
            apply(add, 1, r#"{"id":1,"peerURLs":["b"]}"#),
            Ok(Err(ConfChangeError::IdExists))
        );
        assert_eq!(
            apply(add, 2, r#"{"id":2,"peerURLs":["b","a"]}"#),
            Ok(Err(ConfChangeError::PeerUrlExists))
        );
        let learner = ConfChangeAddLearnerNode;
        assert_eq!(apply(learner, 2, r#"{"id":2,"peerURLs":["b"],"isLearner":true}"#), Ok(Ok(())));
        assert_eq!(
            apply(learner, 3, r#"{"id":3,"peerURLs":["c"],"isLearner":true}"#),
            Ok(Err(ConfChangeError::TooManyLearners))
        );
        let promote = r#"{"id":2,"peerURLs":null,"isPromote":true}"#;
        assert_eq!(apply(add, 2, promote), Ok(Ok(())));
        assert_eq!(apply(add, 2, promote), Ok(Err(ConfChangeError::NotLearner)));
        assert_eq!(
            apply(add, 9, r#"{"id":9,"isPromote":true}"#),
            Ok(Err(ConfChangeError::IdNotFound))
        );
        let update = ConfChangeUpdateNode;
        assert_eq!(
            apply(update, 2, r#"{"id":2,"peerURLs":["a"]}"#),
            Ok(Err(ConfChangeError::PeerUrlExists))
        );
        assert_eq!(apply(update, 2, r#"{"id":2,"peerURLs":["b","d"]}"#), Ok(Ok(())));
        assert_eq!(apply(ConfChangeRemoveNode, 2, ""), Ok(Ok(())));
        assert_eq!(
            apply(add, 2, r#"{"id":2,"peerURLs":["e"]}"#),
            Ok(Err(ConfChangeError::IdRemoved))
        );
        assert_eq!(apply(ConfChangeRemoveNode, 8, ""), Ok(Err(ConfChangeError::IdNotFound)));
        assert!(apply(add, 4, "{").is_err());
        assert!(apply(add, 4, r#"{"id":5,"peerURLs":["x"]}"#).is_err());
        assert_eq!(apply(ConfChangeRemoveNode, 1, ""), Ok(Err(ConfChangeError::LastVoter)));
        assert_eq!(cluster.conf_state().voters, [1]);
        let unknown = ConfChange { r#type: Some(77), ..ConfChange::default() };
        assert!(cluster.change(&unknown, 1, &table).is_err());
    }
}
