//! Members.

use base::MemberId;
use proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, ResponseHeader,
};

use super::reply::Reply;
use super::status::Status;
use crate::api::Api;
use crate::cluster::members;

/// etcd tells no revision here.
fn header(api: &Api) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: 0, ..api.header() })
}

fn show(member: store::Member) -> Member {
    Member {
        id: member.id.get(),
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

fn show_all(members: Vec<store::Member>) -> Vec<Member> {
    members.into_iter().map(show).collect()
}

pub(super) async fn list(api: &Api, request: &MemberListRequest) -> Result<Reply, Status> {
    if request.linearizable {
        api.read_index().await?;
    }
    let members = show_all(api.store.members());
    Ok(Reply::of(&MemberListResponse { header: header(api), members }))
}

pub(super) async fn add(api: &Api, request: MemberAddRequest) -> Result<Reply, Status> {
    let (member, members) = members::add(api, &request.peer_ur_ls, request.is_learner).await?;
    Ok(Reply::of(&MemberAddResponse {
        header: header(api),
        member: Some(show(member)),
        members: show_all(members),
    }))
}

pub(super) async fn remove(api: &Api, request: MemberRemoveRequest) -> Result<Reply, Status> {
    let members = show_all(members::remove(api, MemberId(request.id)).await?);
    Ok(Reply::of(&MemberRemoveResponse { header: header(api), members }))
}

pub(super) async fn update(api: &Api, request: MemberUpdateRequest) -> Result<Reply, Status> {
    let members = members::update(api, MemberId(request.id), request.peer_ur_ls).await?;
    let members = show_all(members);
    Ok(Reply::of(&MemberUpdateResponse { header: header(api), members }))
}

pub(super) async fn promote(api: &Api, request: MemberPromoteRequest) -> Result<Reply, Status> {
    let members = show_all(members::promote(api, MemberId(request.id)).await?);
    Ok(Reply::of(&MemberPromoteResponse { header: header(api), members }))
}
