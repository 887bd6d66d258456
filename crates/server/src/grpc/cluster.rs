//! Members. Changing them is not built yet: what would be refused anyway is refused as etcd does.

use base::MemberId;
use net::Url;
use node::requests::{Code, Rejected};
use proto::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberRemoveRequest, MemberUpdateRequest, ResponseHeader,
};

use super::reply::Reply;
use super::status::Status;
use crate::api::Api;

fn not_built() -> Status {
    Status::new(Code::Unimplemented, "changing members is not supported by this version of quorate")
}

fn members(api: &Api) -> Vec<Member> {
    let convert = |member: store::Member| Member {
        id: member.id.get(),
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    };
    api.store.members().into_iter().map(convert).collect()
}

pub(super) async fn list(api: &Api, request: &MemberListRequest) -> Result<Reply, Status> {
    if request.linearizable {
        api.read_index().await?;
    }
    // etcd tells no revision here.
    let header = Some(ResponseHeader { revision: 0, ..api.header() });
    Ok(Reply::of(&MemberListResponse { header, members: members(api) }))
}

pub(super) fn add(api: &Api, request: &MemberAddRequest) -> Result<Reply, Status> {
    let urls = &request.peer_ur_ls;
    if urls.is_empty() || urls.iter().any(|url| Url::parse(url).is_err()) {
        return Err(Rejected::MemberBadUrls.into());
    }
    let members = api.store.members();
    if members.iter().any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
        return Err(Rejected::PeerUrlExists.into());
    }
    Err(not_built())
}

pub(super) fn remove(api: &Api, request: &MemberRemoveRequest) -> Result<Reply, Status> {
    let member = find(api, request.id)?;
    let voters = api.store.members().into_iter().filter(|member| !member.is_learner).count();
    if api.options.strict_reconfig_check && !member.is_learner && voters == 1 {
        return Err(Rejected::MemberNotEnoughStarted.into());
    }
    Err(not_built())
}

pub(super) fn update(api: &Api, request: &MemberUpdateRequest) -> Result<Reply, Status> {
    find(api, request.id)?;
    let taken = |member: &store::Member| {
        member.id.get() != request.id
            && member.peer_urls.iter().any(|url| request.peer_ur_ls.contains(url))
    };
    if api.store.members().iter().any(taken) {
        return Err(Rejected::PeerUrlExists.into());
    }
    Err(not_built())
}

pub(super) fn promote(api: &Api, request: &MemberPromoteRequest) -> Result<Reply, Status> {
    let member = find(api, request.id)?;
    if !member.is_learner {
        return Err(Rejected::MemberNotLearner.into());
    }
    Err(not_built())
}

fn find(api: &Api, id: u64) -> Result<store::Member, Status> {
    api.store.member(MemberId(id)).ok_or_else(|| Rejected::MemberNotFound.into())
}
