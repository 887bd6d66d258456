//! `move-leader`: hands the leadership to a member.

use proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::print::Answer;
use crate::go;

pub(crate) static MOVE_LEADER: Command = Command {
    name: "move-leader",
    usage: "<transferee-member-id>",
    short: "Transfers leadership to another etcd cluster member.",
    group: Group::Maintenance,
    run: Some(|call| Box::pin(run(call))),
    ..Command::EMPTY
};

async fn run(call: &mut Call) -> Outcome {
    let bad = |reason: String| Failure::new(failure::BAD_ARGS, reason);
    let [target] = call.args.as_slice() else {
        return Err(bad("move-leader command needs 1 argument".to_owned()));
    };
    let to = go::parse_hex(&String::from_utf8_lossy(target)).map_err(bad)?;
    let settings = call.settings()?;
    let deadline = Instant::now() + settings.command_timeout;
    // Only the leader can; whoever is asked says whether it is.
    for endpoint in &settings.endpoints {
        let one = std::slice::from_ref(endpoint);
        let client = Client::connect_to(&settings, one, Some(deadline)).await?;
        let request = pb::StatusRequest {};
        let status =
            client.ask_repeatable(&request, async |r| client.maintenance().status(r).await).await;
        let status = status.map_err(RequestError::fail)?;
        let from = status.leader;
        if status.header.is_none_or(|header| header.member_id != from) {
            continue;
        }
        let request = pb::MoveLeaderRequest { target_id: to };
        let moved = client.ask(&request, async |r| client.maintenance().move_leader(r).await).await;
        moved.map_err(RequestError::fail)?;
        return call.printer().print(&Answer::LeaderMoved { from, to });
    }
    let endpoints = settings.endpoints.join(" ");
    Err(bad(format!("no leader endpoint given at [{endpoints}]")))
}
