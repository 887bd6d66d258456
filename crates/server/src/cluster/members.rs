//! Changes of the members: checked here, put into the log, promotions at the leader.

use std::borrow::Cow;

use base::MemberId;
use net::Url;
use node::requests::Rejected;
use node::requests::membership::{self, Sight};
use proto::raftpb::ConfChange;
use store::Member;
use tokio::time::Instant;

use super::{RETRY_INTERVAL, client, leader_urls, wait_applied};
use crate::api::Api;
use crate::log;

type Changed = Result<Vec<Member>, Rejected>;

/// Asks one of the strict checks, if they are on.
fn check(api: &Api, ask: impl FnOnce(&Sight<'_>) -> Result<(), Rejected>) -> Result<(), Rejected> {
    if !api.options.strict_reconfig_check {
        return Ok(());
    }
    let members = api.store.members();
    let connected = |id| {
        let since = api.member.transport()?.active_since(id)?;
        Some(since.elapsed())
    };
    ask(&Sight { members: &members, own: api.member.id(), connected: &connected })
}

/// Tells of a refusal that follows from the state of the cluster.
fn told(
    api: &Api,
    what: &str,
    id: MemberId,
    refused: Result<(), Rejected>,
) -> Result<(), Rejected> {
    if let Err(error) = &refused {
        let msg = match error {
            Rejected::Unhealthy => format!(
                "rejecting member {what} request; local member has not been connected to enough \
                 peers, reconfigure breaks active quorum"
            ),
            _ => format!("rejecting member {what} request; not enough healthy members"),
        };
        log::warn(&msg)
            .text("local-member-id", &api.member.id())
            .text("requested-member-id", &id)
            .text("error", error)
            .emit();
    }
    refused
}

async fn propose(api: &Api, change: ConfChange) -> Changed {
    let kind = change.r#type().as_str_name().trim_start_matches("ConfChange");
    let (kind, id) = (kind.to_owned(), MemberId(change.node_id()));
    let changed = api.member.propose_conf_change(change).await;
    if changed.is_ok() {
        log::info("applied a configuration change through raft")
            .text("local-member-id", &api.member.id())
            .field("raft-conf-change", &format!("ConfChange{kind}"))
            .text("raft-conf-change-node-id", &id)
            .emit();
    }
    changed
}

/// Reads the addresses of a member, and sorts them.
fn parse_urls(urls: &[String]) -> Result<Vec<String>, Rejected> {
    let parsed: Result<Vec<_>, _> = urls.iter().map(|url| Url::parse(url)).collect();
    let parsed = parsed.map_err(|_| Rejected::MemberBadUrls)?;
    if parsed.is_empty() {
        return Err(Rejected::MemberBadUrls);
    }
    let mut texts: Vec<_> = parsed.iter().map(Url::to_string).collect();
    texts.sort();
    Ok(texts)
}

/// Adds a member; returns it and all.
pub(crate) async fn add(
    api: &Api,
    urls: &[String],
    is_learner: bool,
) -> Result<(Member, Vec<Member>), Rejected> {
    let peer_urls = parse_urls(urls)?;
    // The time keeps an id from coming back with the addresses of a member that was removed.
    let seconds = (api.clock.unix_ms() / 1_000).to_string();
    let id = worker::bootstrap::member_id(&peer_urls, &seconds);
    let member = Member { id, peer_urls, is_learner, ..Member::default() };
    let checked = check(api, |sight| membership::may_add(sight, is_learner));
    told(api, "add", id, checked)?;
    let members = propose(api, membership::add(&member)).await?;
    Ok((member, members))
}

/// Removes a member.
pub(crate) async fn remove(api: &Api, id: MemberId) -> Changed {
    told(api, "remove", id, check(api, |sight| membership::may_remove(sight, id)))?;
    propose(api, membership::remove(id)).await
}

/// Gives a member other addresses. Real etcd proposes even what is no address, and every member of
/// its kind that applies that dies; hence it is refused here.
pub(crate) async fn update(api: &Api, id: MemberId, urls: Vec<String>) -> Changed {
    parse_urls(&urls)?;
    propose(api, membership::update(id, urls)).await
}

/// Gives a learner a vote; the leader does, who alone knows how far it has come.
pub(crate) async fn promote(api: &Api, id: MemberId) -> Changed {
    match promote_here(api, id).await {
        Err(Rejected::NotLeader) => promote_there(api, id).await,
        Err(error) => {
            api.metrics.promotion_failed(told_to_members(&error).to_string());
            Err(error)
        }
        Ok(members) => {
            api.metrics.promotions.increment();
            Ok(members)
        }
    }
}

/// What members tell each other of a refused promotion, where clients get another text.
pub(crate) fn told_to_members(error: &Rejected) -> Cow<'static, str> {
    match error {
        Rejected::MemberNotFound => "membership: ID not found".into(),
        Rejected::MemberNotLearner => "membership: can only promote a learner member".into(),
        error => error.status().1,
    }
}

async fn promote_here(api: &Api, id: MemberId) -> Changed {
    wait_applied(api).await?;
    let progress = api.member.progress().await?.ok_or(Rejected::NotLeader)?;
    let leader = progress.of(progress.leader).unwrap_or_default();
    let ready = membership::is_learner_ready(leader, progress.of(id));
    if ready == Err(Rejected::LearnerNotReady) {
        log::error("rejecting promote learner: learner is not ready")
            .text("requested-member-id", &id)
            .field("learner-match", &progress.of(id).unwrap_or_default().get())
            .field("leader-match", &leader.get())
            .emit();
    }
    ready?;
    told(api, "promote", id, check(api, membership::may_promote))?;
    propose(api, membership::promote(id)).await
}

async fn promote_there(api: &Api, id: MemberId) -> Changed {
    let client = client(api)?;
    let until = Instant::now() + api.options.request_timeout;
    loop {
        for url in leader_urls(api, until).await? {
            use peer::client::PromoteError::{NotFound, NotLearner, NotReady, Other, Timeout};
            let within = until - Instant::now();
            match client.promote(&url, id, None, within).await {
                Ok(members) => return Ok(members.into_iter().map(from_peer).collect()),
                Err(NotFound) => return Err(Rejected::MemberNotFound),
                Err(NotLearner) => return Err(Rejected::MemberNotLearner),
                Err(NotReady) => return Err(Rejected::LearnerNotReady),
                Err(Timeout | Other(_)) => {}
            }
        }
        if Instant::now() >= until {
            return Err(Rejected::Timeout);
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

fn from_peer(member: peer::client::Member) -> Member {
    let peer::client::Member { id, peer_urls, is_learner, name, client_urls } = member;
    Member { id, peer_urls, is_learner, name, client_urls }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sorted_and_checked() {
        let parse = |urls: &[&str]| {
            let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
            parse_urls(&urls)
        };
        assert_eq!(parse(&["http://b:1", " http://a:1 "]).unwrap(), ["http://a:1", "http://b:1"]);
        for urls in [&[][..], &["zzz"], &["http://a"], &["http://a:1/x"], &["ftp://a:1"], &[""]] {
            assert_eq!(parse(urls), Err(Rejected::MemberBadUrls), "{urls:?}");
        }
    }
}
