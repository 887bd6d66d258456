//! What other members answer over HTTP, almost right. How to run these for longer, and a failure
//! again: see the crate `fuzz`.

use base::LeaseId;
use bytes::Bytes;
use fuzz::{Verdict, fuzz, int, mutate, mutate_text};
use prost::Message as _;
use proto::etcdserverpb::{LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader};
use proto::leasepb::LeaseInternalResponse;

use crate::client::{Member, Versions, json, read_hash, read_renewal, read_time_to_live};
use crate::local::parse_id;
use crate::probing;
use crate::version::Version;

const MEMBERS: &str = r#"[{"id":16011558987759319972,"peerURLs":["http://a:1","http://b:2"],"name":"m<é","clientURLs":null},{"id":2,"peerURLs":[],"isLearner":true}]"#;
const VERSION: &str =
    r#"{"etcdserver":"3.7.1-quorate","etcdcluster":"3.7.0","storage":"3.7.0","quorate":1}"#;
const HASH: &str =
    r#"{"header":{"revision":12},"hash":4025,"compact_revision":3,"hash_revision":9}"#;
const TIME: &str = "2026-09-21T16:13:20.123456789+02:00";

#[test]
fn bodies_are_refused_or_mean_something() {
    let header = Some(ResponseHeader { revision: 7, ..Default::default() });
    let renewal = LeaseKeepAliveResponse { header, id: 5, ttl: 60 }.encode_to_vec();
    let keys = vec![Bytes::from("key"); 3];
    let told = LeaseTimeToLiveResponse { header, id: 5, ttl: 9, granted_ttl: 60, keys };
    let lease = LeaseInternalResponse { lease_time_to_live_response: Some(told) }.encode_to_vec();
    fuzz("answers of members", |u| {
        let text = *u.choose(&[MEMBERS, VERSION, HASH])?;
        let text = mutate_text(u, text)?;
        let verdicts = [
            Verdict::of(&json::<Vec<Member>>(text.as_bytes())),
            Verdict::of(&json::<Versions>(text.as_bytes())),
            Verdict::of(&read_hash(text.as_bytes())),
        ];
        let mut renewal = renewal.clone();
        mutate(u, &mut renewal)?;
        drop(read_renewal(renewal.into(), LeaseId(5)));
        let mut lease = lease.clone();
        mutate(u, &mut lease)?;
        if let Ok(told) = read_time_to_live(lease.into(), LeaseId(5)) {
            assert_eq!(told.id, 5, "of the lease that was asked for");
        }
        let id = format!("{:x}", int(u)?);
        if let Some(number) = parse_id(&mutate_text(u, &id)?) {
            assert_eq!(parse_id(&format!("{number:x}")), Some(number));
        }
        let taken = verdicts.contains(&Verdict::Taken);
        Ok(if taken { Verdict::Taken } else { Verdict::Refused })
    });
}

#[test]
fn times_and_versions_are_refused_or_shown_again() {
    fuzz("times and versions", |u| {
        let text = mutate_text(u, TIME)?;
        let time = probing::parse_time(&text);
        if let Some(time) = time {
            assert_eq!(probing::parse_time(&probing::show_time(time)), Some(time), "{text}");
        }
        let text = mutate_text(u, "3.7.1-rc.1+git")?;
        if let Ok(version) = text.parse::<Version>() {
            assert_eq!(version.to_string().parse(), Ok(version), "{text}");
        }
        Ok(Verdict::of(&time.ok_or(())))
    });
}

/// What the numbers of a zone come to may be more than a number holds.
#[test]
fn a_zone_of_many_hours_is_refused() {
    for zone in ["+9223372036854775807:00", "-9223372036854775807:00", "+00:9223372036854775807"] {
        assert_eq!(probing::parse_time(&format!("2026-09-21T16:13:20{zone}")), None);
    }
}
