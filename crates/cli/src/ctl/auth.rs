//! `auth`: whether the cluster asks who its clients are.

use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Group};
use super::failure::{self, Failure, Outcome};
use super::print::{AuthAnswer, print};

pub(crate) static AUTH: Command = Command {
    name: "auth",
    short: "Enable or disable authentication. Use `etcdctl auth --help` to see subcommands",
    long: "Enable or disable authentication",
    group: Group::Authentication,
    commands: &[&DISABLE, &ENABLE, &STATUS],
    ..Command::EMPTY
};

static ENABLE: Command = Command {
    name: "enable",
    short: "Enables authentication",
    run: Some(|call| Box::pin(enable(call))),
    ..Command::EMPTY
};

static DISABLE: Command = Command {
    name: "disable",
    short: "Disables authentication",
    run: Some(|call| Box::pin(disable(call))),
    ..Command::EMPTY
};

static STATUS: Command = Command {
    name: "status",
    short: "Returns authentication status",
    run: Some(|call| Box::pin(status(call))),
    ..Command::EMPTY
};

/// The role that may do everything, and the user who must have it.
const ROOT: &str = "root";
const ROOT_HAS_NO_ROLE: &str = "etcdserver: root user does not have root role";

async fn connect(call: &mut Call, name: &str) -> Outcome<Client> {
    if !call.args.is_empty() {
        let reason = format!("auth {name} command does not accept any arguments");
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    Client::connect(&call.settings()?).await
}

async fn enable(call: &mut Call) -> Outcome {
    let client = connect(call, "enable").await?;
    let enable = async || {
        let request = pb::AuthEnableRequest {};
        client.ask(&request, async |r| client.auth().auth_enable(r).await).await
    };
    match enable().await {
        Err(RequestError::Status(status)) if status.message() == ROOT_HAS_NO_ROLE => {
            let request = pb::AuthRoleAddRequest { name: ROOT.to_owned() };
            let added = client.ask(&request, async |r| client.auth().role_add(r).await).await;
            added.map_err(RequestError::fail)?;
            let request =
                pb::AuthUserGrantRoleRequest { user: ROOT.to_owned(), role: ROOT.to_owned() };
            let send = async |r| client.auth().user_grant_role(r).await;
            client.ask(&request, send).await.map_err(RequestError::fail)?;
            enable().await.map_err(RequestError::fail)?;
        }
        answer => drop(answer.map_err(RequestError::fail)?),
    }
    print(b"Authentication Enabled\n")
}

async fn disable(call: &mut Call) -> Outcome {
    let client = connect(call, "disable").await?;
    let request = pb::AuthDisableRequest {};
    let answer = client.ask(&request, async |r| client.auth().auth_disable(r).await).await;
    answer.map_err(RequestError::fail)?;
    print(b"Authentication Disabled\n")
}

async fn status(call: &mut Call) -> Outcome {
    let client = connect(call, "status").await?;
    let request = pb::AuthStatusRequest {};
    // etcd's client does not send this one again, though it only reads.
    let answer = client.ask(&request, async |r| client.auth().auth_status(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    call.printer().print_auth(&AuthAnswer::Status(answer))
}
