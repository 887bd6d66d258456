//! `downgrade`: takes the version of the cluster down.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::downgrade_request::DowngradeAction;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::print::Answer;

pub(crate) static DOWNGRADE: Command = Command {
    name: "downgrade",
    usage: "<TARGET_VERSION>",
    short: "Downgrade related commands. Use `etcdctl downgrade --help` to see subcommands",
    long: "Downgrade related commands",
    group: Group::Maintenance,
    commands: &[&CANCEL, &ENABLE, &VALIDATE],
    ..Command::EMPTY
};

static VALIDATE: Command = Command {
    name: "validate",
    usage: "<TARGET_VERSION>",
    short: "Validate downgrade capability before starting downgrade",
    run: Some(|call| Box::pin(validate(call))),
    ..Command::EMPTY
};

static ENABLE: Command = Command {
    name: "enable",
    usage: "<TARGET_VERSION>",
    short: "Start a downgrade action to cluster",
    run: Some(|call| Box::pin(enable(call))),
    ..Command::EMPTY
};

static CANCEL: Command = Command {
    name: "cancel",
    short: "Cancel the ongoing downgrade action to cluster",
    run: Some(|call| Box::pin(cancel(call))),
    ..Command::EMPTY
};

async fn validate(call: &mut Call) -> Outcome {
    let version = target(call)?;
    ask(call, DowngradeAction::Validate, "validate", version).await
}

async fn enable(call: &mut Call) -> Outcome {
    let version = target(call)?;
    ask(call, DowngradeAction::Enable, "enable", version).await
}

async fn cancel(call: &mut Call) -> Outcome {
    ask(call, DowngradeAction::Cancel, "cancel", String::new()).await
}

/// The only argument: the version to go to.
fn target(call: &Call) -> Outcome<String> {
    let reason = match call.args.as_slice() {
        [] => "TARGET_VERSION not provided",
        [version] if version.is_empty() => "target version not provided",
        [version] => return Ok(String::from_utf8_lossy(version).into_owned()),
        _ => "too many arguments",
    };
    Err(Failure::new(failure::BAD_ARGS, reason))
}

async fn ask(
    call: &mut Call,
    action: DowngradeAction,
    step: &'static str,
    version: String,
) -> Outcome {
    let request = pb::DowngradeRequest { action: action.into(), version };
    let settings = call.settings()?;
    let client = Client::connect(&settings).await?;
    let answer = client.ask(&request, async |r| client.maintenance().downgrade(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    call.printer().print(&Answer::Downgrade { step, answer })
}
