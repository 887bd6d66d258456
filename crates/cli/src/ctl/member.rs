//! `member`: who belongs to the cluster, and who shall.

use net::Url;
use net::url::UrlError;
use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group};
use super::failure::{self, Failure, Outcome};
use super::get::is_serializable;
use super::print::Answer;
use crate::go;

pub(crate) static MEMBER: Command = Command {
    name: "member",
    short: "Membership related commands. Use `etcdctl member --help` to see subcommands",
    long: "Membership related commands",
    group: Group::Maintenance,
    commands: &[&ADD, &LIST, &PROMOTE, &REMOVE, &UPDATE],
    ..Command::EMPTY
};

static ADD: Command = Command {
    name: "add",
    usage: "<memberName> [options]",
    short: "Adds a member into the cluster",
    flags: &[
        Flag::text("peer-urls", "", "comma separated peer URLs for the new member."),
        Flag::bool("learner", "indicates if the new member is raft learner"),
    ],
    run: Some(|call| Box::pin(add(call))),
    ..Command::EMPTY
};

static REMOVE: Command = Command {
    name: "remove",
    usage: "<memberID>",
    short: "Removes a member from the cluster",
    run: Some(|call| Box::pin(remove(call))),
    ..Command::EMPTY
};

static UPDATE: Command = Command {
    name: "update",
    usage: "<memberID> [options]",
    short: "Updates a member in the cluster",
    flags: &[Flag::text("peer-urls", "", "comma separated peer URLs for the updated member.")],
    run: Some(|call| Box::pin(update(call))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "Lists all members in the cluster",
    long: "When --write-out is set to simple, this command prints out comma-separated member \
           lists for each endpoint.\n\
           The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.\n",
    flags: &[Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)")],
    run: Some(|call| Box::pin(list(call))),
    ..Command::EMPTY
};

static PROMOTE: Command = Command {
    name: "promote",
    usage: "<memberID>",
    short: "Promotes a non-voting member in the cluster",
    long: "Promotes a non-voting learner member to a voting one in the cluster.\n",
    run: Some(|call| Box::pin(promote(call))),
    ..Command::EMPTY
};

fn bad(reason: impl std::fmt::Display) -> Failure {
    Failure::new(failure::BAD_ARGS, reason)
}

/// The only argument, a member's id in hexadecimal.
fn member_id(call: &Call) -> Outcome<u64> {
    let [id] = call.args.as_slice() else { return Err(bad("member ID is not provided")) };
    go::parse_hex(&String::from_utf8_lossy(id))
        .map_err(|error| bad(format!("bad member ID arg ({error}), expecting ID in Hex")))
}

/// The addresses that were given.
fn peer_urls(call: &Call) -> Outcome<Vec<String>> {
    let urls = call.values.text("peer-urls");
    if urls.is_empty() {
        return Err(bad("member peer urls not provided"));
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

/// The Go client looks at addresses before it sends them.
fn check(urls: &[String]) -> Outcome {
    let checked: Result<Vec<_>, UrlError> = urls.iter().map(|url| Url::parse(url)).collect();
    checked.map(drop).map_err(|error| Failure::new(failure::ERROR, error))
}

async fn connect(call: &mut Call) -> Outcome<Client> {
    Client::connect(&call.settings()?).await
}

async fn add(call: &mut Call) -> Outcome {
    let name = match call.args.as_slice() {
        [] => return Err(bad("member name not provided")),
        [name] => String::from_utf8_lossy(name).into_owned(),
        more => {
            let mut reason = "too many arguments".to_owned();
            for word in more.iter().map(|word| String::from_utf8_lossy(word)) {
                if word.to_lowercase().starts_with("http") {
                    reason.push_str(&format!(", did you mean --peer-urls={word}"));
                }
            }
            return Err(bad(reason));
        }
    };
    let peer_ur_ls = peer_urls(call)?;
    let urls = call.values.text("peer-urls").to_owned();
    check(&peer_ur_ls)?;
    let client = connect(call).await?;
    let request = pb::MemberAddRequest { peer_ur_ls, is_learner: call.values.bool("learner") };
    let answer = client.ask(&request, async |r| client.cluster().member_add(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    call.printer().print(&Answer::MemberAdded { answer, name, urls })
}

async fn remove(call: &mut Call) -> Outcome {
    let id = member_id(call)?;
    let client = connect(call).await?;
    let request = pb::MemberRemoveRequest { id };
    let answer = client.ask(&request, async |r| client.cluster().member_remove(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    call.printer().print(&Answer::MemberChanged { id, how: "removed from", answer })
}

async fn update(call: &mut Call) -> Outcome {
    let id = member_id(call)?;
    let peer_ur_ls = peer_urls(call)?;
    check(&peer_ur_ls)?;
    let client = connect(call).await?;
    let request = pb::MemberUpdateRequest { id, peer_ur_ls };
    let answer = client.ask(&request, async |r| client.cluster().member_update(r).await).await;
    let pb::MemberUpdateResponse { header, members } = answer.map_err(RequestError::fail)?;
    let answer = pb::MemberRemoveResponse { header, members };
    call.printer().print(&Answer::MemberChanged { id, how: "updated in", answer })
}

async fn promote(call: &mut Call) -> Outcome {
    let id = member_id(call)?;
    let client = connect(call).await?;
    let request = pb::MemberPromoteRequest { id };
    let answer = client.ask(&request, async |r| client.cluster().member_promote(r).await).await;
    let pb::MemberPromoteResponse { header, members } = answer.map_err(RequestError::fail)?;
    let answer = pb::MemberRemoveResponse { header, members };
    call.printer().print(&Answer::MemberChanged { id, how: "promoted in", answer })
}

async fn list(call: &mut Call) -> Outcome {
    // etcdctl shows the value of `get`'s flag of that name here.
    let linearizable = !is_serializable(&call.values, "l")?;
    let request = pb::MemberListRequest { linearizable };
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer =
        client.ask_repeatable(&request, async |r| client.cluster().member_list(r).await).await;
    call.printer().print(&Answer::Members(answer.map_err(RequestError::fail)?))
}
