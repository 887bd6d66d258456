//! Decodes messages of others in bounded stack.
//!
//! prost's own limit is off (see [`crate::check_nesting`]), and prost recurses twice: into fields
//! that are messages, and into groups, which it skips wherever a field stands, whether it is known
//! or not. A request or a file of nothing but `{`, a group that is opened, would end the process.
//! So [`decode`] first walks over the bytes without stack, with as much knowledge of the message
//! as is needed to tell a message inside from a value.
//!
//! *Invariants.* The walk goes wherever the decoder goes, and further where that gives up. What
//! is refused is what nests deeper than [`LEVELS_MAX`] or [`GROUPS_MAX`]; no program writes that.

use bytes::Buf;
use prost::Message;
use prost::encoding::decode_varint;
use thiserror::Error;

use crate::DepthError;
use crate::next_field;

/// Messages inside each other. A transaction inside another is two.
pub const LEVELS_MAX: usize = 1_100;

/// Groups inside each other; no message of etcd has any.
pub const GROUPS_MAX: usize = 100;

const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;

/// Which fields of a message are messages.
#[derive(Debug)]
pub struct Shape {
    nested: &'static [(u64, &'static Shape)],
}

/// A message that others send or leave on disk.
pub trait Shaped: Message + Default {
    /// Its shape.
    const SHAPE: &'static Shape;
}

/// Bytes are not the message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Decoding them would take too much stack.
    #[error(transparent)]
    Depth(#[from] DepthError),
    /// They are malformed.
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
}

/// Decodes a message, in bounded stack whatever the bytes are.
pub fn decode<M: Shaped>(encoded: impl Buf + AsRef<[u8]>) -> Result<M, DecodeError> {
    check_depth::<M>(encoded.as_ref())?;
    Ok(M::decode(encoded)?)
}

/// Fails when decoding these bytes as an `M` would take too much stack. Malformed bytes are the
/// decoder's to report.
pub fn check_depth<M: Shaped>(encoded: &[u8]) -> Result<(), DepthError> {
    let mut open = vec![(encoded, M::SHAPE)];
    while let Some((rest, Shape { nested })) = open.last_mut() {
        let mut ahead = *rest;
        if let Ok(tag) = decode_varint(&mut ahead)
            && tag & 7 == START_GROUP
        {
            *rest = ahead;
            if !skip_group(tag >> 3, rest)? {
                open.pop();
            }
            continue;
        }
        let Some((number, body)) = next_field(rest) else {
            open.pop();
            continue;
        };
        let shape = nested.iter().find(|(known, _)| *known == number).map(|(_, shape)| *shape);
        if let (Some(shape), Some(body)) = (shape, body) {
            if open.len() == LEVELS_MAX {
                return Err(DepthError { max: LEVELS_MAX });
            }
            open.push((body, shape));
        }
    }
    Ok(())
}

/// Passes over a group that has been opened, and those in it; false when it is malformed.
fn skip_group(number: u64, rest: &mut &[u8]) -> Result<bool, DepthError> {
    let mut open = vec![number];
    while let Some(number) = open.last() {
        let mut ahead = *rest;
        let Ok(tag) = decode_varint(&mut ahead) else { return Ok(false) };
        match tag & 7 {
            START_GROUP if open.len() == GROUPS_MAX => {
                return Err(DepthError { max: GROUPS_MAX });
            }
            START_GROUP => open.push(tag >> 3),
            END_GROUP if tag >> 3 == *number => drop(open.pop()),
            END_GROUP => return Ok(false),
            _ => {
                if next_field(rest).is_none() {
                    return Ok(false);
                }
                continue;
            }
        }
        *rest = ahead;
    }
    Ok(true)
}

static FLAT: Shape = Shape { nested: &[] };

macro_rules! shapes {
    ($($static:ident $package:ident::$message:ident: $($number:literal $inner:ident)*;)*) => {
        $(
            static $static: Shape = Shape { nested: &[$(($number, &$inner)),*] };

            impl Shaped for crate::$package::$message {
                const SHAPE: &'static Shape = &$static;
            }
        )*

        #[cfg(test)]
        const SHAPED: &[(&str, &str, &Shape)] =
            &[$((stringify!($package), stringify!($message), &$static)),*];
    };
}

macro_rules! flat {
    ($($package:ident: $($message:ident)*;)*) => {
        $($(impl Shaped for crate::$package::$message {
            const SHAPE: &'static Shape = &FLAT;
        })*)*

        #[cfg(test)]
        const FLAT_ONES: &[(&str, &str)] =
            &[$($((stringify!($package), stringify!($message))),*),*];
    };
}

flat! {
    etcdserverpb:
        AlarmMember AlarmRequest AuthDisableRequest AuthStatusRequest AuthenticateRequest
        CompactionRequest DefragmentRequest DeleteRangeRequest DowngradeRequest HashKvRequest
        HashRequest LeaseGrantRequest LeaseKeepAliveRequest LeaseLeasesRequest LeaseRevokeRequest
        LeaseTimeToLiveRequest MemberAddRequest MemberListRequest MemberPromoteRequest
        MemberRemoveRequest MemberUpdateRequest Metadata MoveLeaderRequest PutRequest RangeRequest
        Request SnapshotRequest StatusRequest;
    health: HealthCheckRequest HealthListRequest;
    leasepb: Lease;
    mvccpb: KeyValue;
    raftpb: ConfChange ConfState HardState;
    snappb: Snapshot;
    v3electionpb: CampaignRequest LeaderKey LeaderRequest;
    v3lockpb: LockRequest UnlockRequest;
}

shapes! {
    INTERNAL etcdserverpb::InternalRaftRequest:
        3 FLAT 4 FLAT 5 FLAT 6 TXN 7 FLAT 8 FLAT 9 FLAT 10 FLAT 11 CHECKPOINTS 100 FLAT 1000 FLAT
        1011 FLAT 1012 FLAT 1013 FLAT 1100 USER_ADD 1101 FLAT 1102 FLAT 1103 FLAT 1104 FLAT
        1105 FLAT 1106 FLAT 1107 FLAT 1200 FLAT 1201 FLAT 1202 FLAT 1203 PERMISSION 1204 FLAT
        1300 FLAT 1301 ATTRIBUTES 1302 FLAT 9900 FLAT;
    TXN etcdserverpb::TxnRequest: 1 FLAT 2 OP 3 OP;
    OP etcdserverpb::RequestOp: 1 FLAT 2 FLAT 3 FLAT 4 TXN;
    WATCH etcdserverpb::WatchRequest: 1 FLAT 2 FLAT 3 FLAT;
    CHECKPOINTS etcdserverpb::LeaseCheckpointRequest: 1 FLAT;
    USER_ADD etcdserverpb::AuthUserAddRequest: 3 FLAT;
    PERMISSION etcdserverpb::AuthRoleGrantPermissionRequest: 2 FLAT;
    ATTRIBUTES membershippb::ClusterMemberAttrSetRequest: 2 FLAT;
    LEASE leasepb::LeaseInternalRequest: 1 FLAT;
    RECORD walpb::Snapshot: 3 FLAT;
    SNAPSHOT raftpb::Snapshot: 2 SNAPSHOT_METADATA;
    SNAPSHOT_METADATA raftpb::SnapshotMetadata: 1 FLAT;
    PROCLAIM v3electionpb::ProclaimRequest: 1 FLAT;
    RESIGN v3electionpb::ResignRequest: 1 FLAT;
    EVENT mvccpb::Event: 2 FLAT 3 FLAT;
    CHANGE raftpb::ConfChangeV2: 2 FLAT;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::encoding::encode_varint;

    use super::*;
    use crate::etcdserverpb::{InternalRaftRequest, PutRequest, TxnRequest, WatchRequest};
    use crate::raftpb;

    const SOURCES: [(&str, &str); 11] = [
        ("etcdserverpb", include_str!("generated/etcdserverpb.rs")),
        ("health", include_str!("generated/grpc.health.v1.rs")),
        ("leasepb", include_str!("generated/leasepb.rs")),
        ("membershippb", include_str!("generated/membershippb.rs")),
        ("mvccpb", include_str!("generated/mvccpb.rs")),
        ("raftpb", include_str!("generated/raftpb.rs")),
        ("snappb", include_str!("generated/snappb.rs")),
        ("walpb", include_str!("generated/walpb.rs")),
        ("authpb", include_str!("generated/authpb.rs")),
        ("v3electionpb", include_str!("generated/v3electionpb.rs")),
        ("v3lockpb", include_str!("generated/v3lockpb.rs")),
    ];

    /// The fields that are messages, and their types, as the generated code has them.
    fn nested_in(package: &str, message: &str) -> Vec<(u64, String)> {
        let (_, source) = SOURCES.iter().find(|(name, _)| *name == package).expect(package);
        if source.contains(&format!("pub struct {message} {{}}")) {
            return Vec::new();
        }
        let head = format!("pub struct {message} {{\n");
        let body = source.split_once(&head).expect(message).1;
        let body = body.split("\n}").next().unwrap_or_default();
        let oneof = body.split_once("oneof = \"").and_then(|(_, rest)| rest.split('"').next());
        // The variants of a oneof stand in a module of their own.
        let variants = oneof.and_then(|path| {
            let (module, name) = path.split_once("::")?;
            let module = source.split_once(&format!("pub mod {module} {{"))?.1;
            module.split_once(&format!("pub enum {name} {{"))?.1.split("\n    }").next()
        });
        let mut found = Vec::new();
        for part in [Some(body), variants].into_iter().flatten() {
            for field in part.split("#[prost(message").skip(1) {
                let tag = field.split_once("tag = \"").expect("a tag").1;
                let number = tag.split('"').next().expect("a number").parse().expect("a number");
                let kind = field.split_once('\n').expect("its type").1;
                let kind = kind.split("#[").next().unwrap_or_default();
                let words = kind.split(|c: char| !c.is_alphanumeric() && c != '_');
                let known = ["Option", "Vec"];
                let mut named = words.filter(|word| word.starts_with(char::is_uppercase));
                // A variant comes before its type.
                let kind = named.rfind(|word| !known.contains(word));
                found.push((number, kind.expect("a type").to_owned()));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn shapes_are_those_of_the_generated_code() {
        let shape_of = |name: &str| SHAPED.iter().find(|(_, known, _)| *known == name);
        for (package, message) in FLAT_ONES {
            assert_eq!(nested_in(package, message), [], "{message}");
        }
        for (package, message, shape) in SHAPED {
            let expected = nested_in(package, message);
            assert!(!expected.is_empty());
            let mut fields: Vec<_> = shape.nested.iter().collect();
            fields.sort_by_key(|(number, _)| *number);
            assert_eq!(fields.len(), expected.len(), "{message}");
            for ((number, inner), (expected, kind)) in fields.into_iter().zip(expected) {
                assert_eq!(*number, expected, "{message}");
                match shape_of(&kind) {
                    Some((_, _, shape)) => {
                        assert!(std::ptr::eq(*inner, *shape), "{message} {kind}")
                    }
                    None => assert!(inner.nested.is_empty(), "{message} {kind}"),
                }
            }
        }
        let names: BTreeSet<_> = SHAPED.iter().map(|(package, name, _)| (package, name)).collect();
        assert_eq!(names.len(), SHAPED.len());
    }

    #[test]
    fn fields_that_are_not_listed_are_flat() {
        // What is taken for flat must be: every message inside those above.
        for (package, message) in [
            ("etcdserverpb", "Compare"),
            ("etcdserverpb", "LeaseCheckpoint"),
            ("etcdserverpb", "RequestHeader"),
            ("etcdserverpb", "InternalAuthenticateRequest"),
            ("etcdserverpb", "AuthUserChangePasswordRequest"),
            ("etcdserverpb", "WatchCreateRequest"),
            ("membershippb", "Attributes"),
            ("membershippb", "DowngradeInfoSetRequest"),
            ("authpb", "Permission"),
            ("authpb", "UserAddOptions"),
            ("raftpb", "ConfChangeSingle"),
        ] {
            assert_eq!(nested_in(package, message), [], "{message}");
        }
    }

    fn inside(field: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_varint(field << 3 | 2, &mut bytes);
        encode_varint(body.len() as u64, &mut bytes);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn groups_take_no_stack_wherever_they_stand() {
        let groups = vec![b'{'; 1 << 20];
        let refused = |depth: Result<(), DepthError>| depth == Err(DepthError { max: GROUPS_MAX });
        assert!(refused(check_depth::<PutRequest>(&groups)));
        assert!(refused(check_depth::<PutRequest>(&[&[0x0a, 1, b'k'][..], &groups].concat())));
        let put_op = inside(2, &inside(2, &groups));
        assert!(refused(check_depth::<TxnRequest>(&put_op)));
        let nested = inside(3, &inside(4, &inside(1, &groups)));
        assert!(refused(check_depth::<TxnRequest>(&nested)));
        assert!(refused(check_depth::<WatchRequest>(&inside(1, &groups))));
        assert!(refused(check_depth::<InternalRaftRequest>(&inside(6, &put_op))));
        assert!(refused(check_depth::<raftpb::Snapshot>(&inside(2, &inside(1, &groups)))));
        // A message that is malformed does not hide what comes after it.
        let hidden = [&inside(2, &[0xff])[..], &put_op].concat();
        assert!(refused(check_depth::<TxnRequest>(&hidden)));
        // The value of a put may be anything, and an honest group is passed over.
        let put = [inside(2, &groups), vec![0x7b, 0x08, 1, 0x7c], inside(1, b"k")].concat();
        let put: PutRequest = decode(&put[..]).expect("a put");
        assert_eq!((put.key.len(), put.value.len()), (1, 1 << 20));
    }

    #[test]
    fn the_bounds_are_exact() {
        let groups = |count: usize| [vec![b'{'; count], vec![b'|'; count]].concat();
        assert_eq!(decode(&groups(GROUPS_MAX)[..]), Ok(PutRequest::default()));
        let refused = DecodeError::Depth(DepthError { max: GROUPS_MAX });
        assert_eq!(decode::<PutRequest>(&groups(GROUPS_MAX + 1)[..]), Err(refused));
        // Transactions at odd levels, operations at even ones.
        let levels = |count: usize| {
            (1..count)
                .rev()
                .fold(Vec::new(), |inner, level| inside(if level % 2 == 1 { 2 } else { 4 }, &inner))
        };
        assert!(decode::<TxnRequest>(&levels(LEVELS_MAX)[..]).is_ok());
        let refused = Err(DepthError { max: LEVELS_MAX });
        assert_eq!(check_depth::<TxnRequest>(&levels(LEVELS_MAX + 1)), refused);
    }
}
