//! `member list`: who belongs to the cluster.

use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group};
use super::failure::Outcome;
use super::get::is_serializable;
use super::print::Answer;

pub(crate) static MEMBER: Command = Command {
    name: "member",
    short: "Membership related commands. Use `etcdctl member --help` to see subcommands",
    long: "Membership related commands",
    group: Group::Maintenance,
    commands: &[&LIST],
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "Lists all members in the cluster",
    long: "When --write-out is set to simple, this command prints out comma-separated member \
           lists for each endpoint.\n\
           The items in the lists are ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.\n",
    flags: &[Flag::text("consistency", "l", "Linearizable(l) or Serializable(s)")],
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    // etcdctl shows the value of `get`'s flag of that name here.
    let linearizable = !is_serializable(&call.values, "l")?;
    let request = pb::MemberListRequest { linearizable };
    let settings = call.settings()?;
    let answer = match Client::connect(&settings).await? {
        Ok(client) => client.read(&request, async |r| client.cluster().member_list(r).await).await,
        Err(error) => Err(error),
    };
    call.printer().print(&Answer::Members(answer.map_err(RequestError::fail)?))
}
