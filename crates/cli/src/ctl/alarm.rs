//! `alarm`: lists and disarms alarms.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::print::Answer;

pub(crate) static ALARM: Command = Command {
    name: "alarm",
    short: "Alarm related commands. Use `etcdctl alarm --help` to see subcommands",
    long: "Alarm related commands",
    group: Group::Maintenance,
    commands: &[&DISARM, &LIST],
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "Lists all alarms",
    run: Some(|call| Box::pin(run_list(call))),
    ..Command::EMPTY
};

static DISARM: Command = Command {
    name: "disarm",
    short: "Disarms all alarms",
    run: Some(|call| Box::pin(run_disarm(call))),
    ..Command::EMPTY
};

async fn run_list(call: &mut Call) -> Outcome {
    let client = connect(call, "list").await?;
    let answer = list(&client).await.map_err(RequestError::fail)?;
    call.printer().print(&Answer::Alarms(answer))
}

async fn run_disarm(call: &mut Call) -> Outcome {
    let client = connect(call, "disarm").await?;
    let answer = disarm(&client).await.map_err(RequestError::fail)?;
    call.printer().print(&Answer::Alarms(answer))
}

async fn connect(call: &mut Call, name: &str) -> Outcome<Client> {
    if !call.args.is_empty() {
        let reason = format!("alarm {name} command accepts no arguments");
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    let settings = call.settings()?;
    Client::connect(&settings).await
}

/// All alarms.
pub(crate) async fn list(client: &Client) -> Result<pb::AlarmResponse, RequestError> {
    let request = pb::AlarmRequest { action: AlarmAction::Get as i32, ..Default::default() };
    client.ask_repeatable(&request, async |r| client.maintenance().alarm(r).await).await
}

/// Disarms every alarm that is raised now. The answer has no header, since it stands for many.
async fn disarm(client: &Client) -> Result<pb::AlarmResponse, RequestError> {
    let mut disarmed = pb::AlarmResponse::default();
    for pb::AlarmMember { member_id, alarm } in list(client).await?.alarms {
        let action = AlarmAction::Deactivate as i32;
        let request = pb::AlarmRequest { action, member_id, alarm };
        let answer = client.ask(&request, async |r| client.maintenance().alarm(r).await).await?;
        disarmed.alarms.extend(answer.alarms);
    }
    Ok(disarmed)
}
