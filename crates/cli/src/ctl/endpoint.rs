//! `endpoint`: health, status and hash of the members behind the endpoints.

use std::io::Write as _;
use std::rc::Rc;

use proto::etcdserverpb as pb;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::alarm;
use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group};
use super::failure::{self, Failure, Outcome};
use super::global::Settings;
use super::print::{Answer, Health};

pub(crate) static ENDPOINT: Command = Command {
    name: "endpoint",
    short: "Endpoint related commands. Use `etcdctl endpoint --help` to see subcommands",
    long: "Endpoint related commands",
    group: Group::Maintenance,
    inherited: &[Flag::bool("cluster", "use all endpoints from the cluster member list")],
    commands: &[&HEALTH, &STATUS, &HASHKV],
    ..Command::EMPTY
};

static HEALTH: Command = Command {
    name: "health",
    short: "Checks the healthiness of endpoints specified in `--endpoints` flag",
    run: Some(|call| Box::pin(health(call))),
    ..Command::EMPTY
};

static STATUS: Command = Command {
    name: "status",
    short: "Prints out the status of endpoints specified in `--endpoints` flag",
    long: "When --write-out is set to simple, this command prints out comma-separated status \
           lists for each endpoint.\n\
           The items in the lists are endpoint, ID, version, db size, is leader, is learner, raft \
           term, raft index, raft applied index, errors.\n",
    run: Some(|call| Box::pin(status(call))),
    ..Command::EMPTY
};

static HASHKV: Command = Command {
    name: "hashkv",
    short: "Prints the KV history hash for each endpoint in --endpoints",
    flags: &[Flag::int("rev", "maximum revision to hash (default: latest revision)")],
    run: Some(|call| Box::pin(hash_kv(call))),
    ..Command::EMPTY
};

async fn health(call: &mut Call) -> Outcome {
    let settings = Rc::new(call.settings()?);
    let mut tasks = JoinSet::new();
    for endpoint in endpoints(call, &settings).await? {
        tasks.spawn_local(check(settings.clone(), endpoint));
    }
    // In the order in which the answers come.
    let mut list = Vec::new();
    while let Some(result) = tasks.join_next().await {
        list.push(result.map_err(|error| Failure::new(failure::ERROR, error))??);
    }
    let unhealthy = list.iter().any(|health| !health.error.is_empty());
    call.printer().print(&Answer::Health(list))?;
    if unhealthy { Err(Failure::new(failure::ERROR, "unhealthy cluster")) } else { Ok(()) }
}

/// A member is healthy if it serves a linearizable read and has no alarm.
async fn check(settings: Rc<Settings>, endpoint: String) -> Outcome<Health> {
    let client = match connect(&settings, &endpoint).await {
        Ok(client) => client.map_err(RequestError::fail),
        // Only wrong flags end the command.
        Err(failure) if failure.code == failure::BAD_ARGS => return Err(failure),
        Err(failure) => Err(failure),
    };
    let client = match client {
        Ok(client) => client,
        Err(failure) => {
            let error = failure.reason().to_owned();
            return Ok(Health { endpoint, took: None, error });
        }
    };
    let start = Instant::now();
    let request = pb::RangeRequest { key: "health".into(), ..Default::default() };
    let answer = client.ask_repeatable(&request, async |r| client.kv().range(r).await).await;
    let took = Some(start.elapsed());
    let error = match answer {
        // Who must not read has been told so by consensus.
        Err(RequestError::Status(status)) if status.message() == PERMISSION_DENIED => None,
        Err(error) => Some(error.to_string()),
        Ok(_) => None,
    };
    let error = match error {
        Some(error) => error,
        None => match alarm::list(&client).await {
            Ok(answer) if answer.alarms.is_empty() => String::new(),
            Ok(answer) => {
                let names = answer.alarms.iter().map(|alarm| alarm_name(alarm.alarm));
                format!("Active Alarm(s): {}", names.collect::<String>())
            }
            Err(_) => "Unable to fetch the alarm list".to_owned(),
        },
    };
    Ok(Health { endpoint, took, error })
}

const PERMISSION_DENIED: &str = "etcdserver: permission denied";

fn alarm_name(alarm: i32) -> &'static str {
    match pb::AlarmType::try_from(alarm) {
        Ok(pb::AlarmType::Nospace) => "NOSPACE ",
        Ok(pb::AlarmType::Corrupt) => "CORRUPT ",
        _ => "UNKNOWN ",
    }
}

async fn status(call: &mut Call) -> Outcome {
    let settings = call.settings()?;
    let mut list = Vec::new();
    let mut failed = false;
    for endpoint in endpoints(call, &settings).await? {
        let answer = match connect(&settings, &endpoint).await? {
            Ok(client) => {
                let request = pb::StatusRequest::default();
                client
                    .ask_repeatable(&request, async |r| client.maintenance().status(r).await)
                    .await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => list.push((endpoint, answer)),
            Err(error) => {
                complain("status", &endpoint, &error);
                failed = true;
            }
        }
    }
    call.printer().print(&Answer::Status(list))?;
    if failed { Err(Failure::silent(failure::ERROR)) } else { Ok(()) }
}

async fn hash_kv(call: &mut Call) -> Outcome {
    let settings = call.settings()?;
    let request = pb::HashKvRequest { revision: call.values.int("rev") };
    let mut list = Vec::new();
    let mut last = None;
    for endpoint in endpoints(call, &settings).await? {
        let answer = match connect(&settings, &endpoint).await? {
            Ok(client) => {
                client
                    .ask_repeatable(&request, async |r| client.maintenance().hash_kv(r).await)
                    .await
            }
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => list.push((endpoint, answer)),
            Err(error) => {
                complain("hash", &endpoint, &error);
                last = Some(error);
            }
        }
    }
    call.printer().print(&Answer::HashKv(list))?;
    last.map_or(Ok(()), |error| Err(error.fail()))
}

fn complain(what: &str, endpoint: &str, error: &RequestError) {
    let line = format!("Failed to get the {what} of endpoint {endpoint} ({error})\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Connects to one endpoint, for as long as a command may take. That the member does not answer
/// is an error of this endpoint alone; a user whom it refuses ends the command.
pub(super) async fn connect(
    settings: &Settings,
    endpoint: &str,
) -> Outcome<Result<Client, RequestError>> {
    let deadline = Instant::now() + settings.command_timeout;
    let client = Client::begin(settings, &[endpoint.to_owned()], Some(deadline))?;
    match client.log_in().await {
        Ok(()) => Ok(Ok(client)),
        Err(error) if error.is_unavailable() => Ok(Err(error)),
        Err(error) => Err(Failure::new(failure::BAD_CONNECTION, error)),
    }
}

/// The endpoints to ask: as given, or all that the cluster's members advertise.
pub(super) async fn endpoints(call: &Call, settings: &Settings) -> Outcome<Vec<String>> {
    if !call.values.bool("cluster") {
        return Ok(call.values.words("endpoints").to_vec());
    }
    let request = pb::MemberListRequest { linearizable: true };
    let client = Client::connect(settings)
        .await
        .map_err(|failure| Failure { code: failure::ERROR, ..failure })?;
    let answer =
        client.ask_repeatable(&request, async |r| client.cluster().member_list(r).await).await;
    let answer = answer.map_err(|error| {
        let reason = format!("failed to fetch endpoints from etcd cluster member list: {error}");
        Failure::new(failure::ERROR, reason)
    })?;
    Ok(answer.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}
