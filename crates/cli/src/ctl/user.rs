//! `user`: who may ask, by which password, in which roles.
//!
//! *Invariants.* These commands have no time limit, as in etcdctl: they wait for a member.

use proto::authpb::UserAddOptions;
use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Call, Command, Flag, Group, Kind};
use super::failure::{self, Failure, Outcome};
use super::print::{AuthAnswer, print};
use super::secret;
use crate::go;

pub(crate) static USER: Command = Command {
    name: "user",
    short: "User related commands. Use `etcdctl user --help` to see subcommands",
    long: "User related commands",
    group: Group::Authentication,
    commands: &[&ADD, &DELETE, &GET, &GRANT_ROLE, &LIST, &PASSWD, &REVOKE_ROLE],
    ..Command::EMPTY
};

static ADD: Command = Command {
    name: "add",
    usage: "<user name or user:password> [options]",
    short: "Adds a new user",
    flags: &[
        Flag::new(
            "interactive",
            Kind::Bool,
            "true",
            "Read password from stdin instead of interactive terminal",
        ),
        Flag::text("new-user-password", "", "Supply password from the command line flag"),
        Flag::bool("no-password", "Create a user without password (CN based auth only)"),
    ],
    run: Some(|call| Box::pin(add(call))),
    ..Command::EMPTY
};

static DELETE: Command = Command {
    name: "delete",
    usage: "<user name>",
    short: "Deletes a user",
    run: Some(|call| Box::pin(delete(call))),
    ..Command::EMPTY
};

static GET: Command = Command {
    name: "get",
    usage: "<user name> [options]",
    short: "Gets detailed information of a user",
    flags: &[Flag::bool("detail", "Show permissions of roles granted to the user")],
    run: Some(|call| Box::pin(get(call))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "Lists all users",
    run: Some(|call| Box::pin(list(call))),
    ..Command::EMPTY
};

static PASSWD: Command = Command {
    name: "passwd",
    usage: "<user name> [options]",
    short: "Changes password of user",
    flags: &[Flag::new(
        "interactive",
        Kind::Bool,
        "true",
        "If true, read password from stdin instead of interactive terminal",
    )],
    run: Some(|call| Box::pin(passwd(call))),
    ..Command::EMPTY
};

static GRANT_ROLE: Command = Command {
    name: "grant-role",
    usage: "<user name> <role name>",
    short: "Grants a role to a user",
    run: Some(|call| Box::pin(grant_role(call))),
    ..Command::EMPTY
};

static REVOKE_ROLE: Command = Command {
    name: "revoke-role",
    usage: "<user name> <role name>",
    short: "Revokes a role from a user",
    run: Some(|call| Box::pin(revoke_role(call))),
    ..Command::EMPTY
};

fn bad(reason: &str) -> Failure {
    Failure::new(failure::BAD_ARGS, reason)
}

/// The only argument, the user's name.
fn name(call: &Call, command: &str) -> Outcome<String> {
    let [name] = call.args.as_slice() else {
        let reason = format!("user {command} command requires user name as its argument");
        return Err(bad(&reason));
    };
    go::text(name)
}

/// The user's name and the role's.
fn pair(call: &Call, reason: &str) -> Outcome<(String, String)> {
    let [user, role] = call.args.as_slice() else { return Err(bad(reason)) };
    Ok((go::text(user)?, go::text(role)?))
}

async fn connect(call: &mut Call) -> Outcome<Client> {
    Client::connect_unbounded(&call.settings()?).await
}

/// The password that `--interactive` says where to find.
fn new_password(call: &Call, user: &str) -> Outcome<String> {
    if call.values.bool("interactive") { secret::ask(user) } else { secret::word() }
}

/// What to add: the flags win over a password behind the name.
fn new_user(call: &Call) -> Outcome<pb::AuthUserAddRequest> {
    let name = name(call, "add")?;
    let given = call.values.text("new-user-password");
    let no_password = call.values.bool("no-password");
    let (name, password) = if no_password {
        (name, String::new())
    } else if !given.is_empty() {
        (name, given.to_owned())
    } else if let Some((name, password)) = name.split_once(':') {
        if name.is_empty() {
            return Err(bad("empty user name is not allowed"));
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = new_password(call, &name)?;
        (name, password)
    };
    let options = Some(UserAddOptions { no_password });
    Ok(pb::AuthUserAddRequest { name, password, options, ..Default::default() })
}

async fn add(call: &mut Call) -> Outcome {
    let request = new_user(call)?;
    let client = connect(call).await?;
    let answer = client.ask(&request, async |r| client.auth().user_add(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("User {} created", request.name);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn delete(call: &mut Call) -> Outcome {
    let name = name(call, "delete")?;
    let client = connect(call).await?;
    let request = pb::AuthUserDeleteRequest { name };
    let answer = client.ask(&request, async |r| client.auth().user_delete(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("User {} deleted", request.name);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn get(call: &mut Call) -> Outcome {
    let name = name(call, "get")?;
    let client = connect(call).await?;
    let request = pb::AuthUserGetRequest { name };
    let answer = client.ask_repeatable(&request, async |r| client.auth().user_get(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    let name = request.name;
    if !call.values.bool("detail") {
        return call.printer().print_auth(&AuthAnswer::User { name, answer });
    }
    // The roles are told in the format asked for, and what stands between them always so.
    print(format!("User: {name}\n").as_bytes())?;
    for name in answer.roles {
        print(b"\n")?;
        let request = pb::AuthRoleGetRequest { role: name };
        let answer =
            client.ask_repeatable(&request, async |r| client.auth().role_get(r).await).await;
        let answer = answer.map_err(RequestError::fail)?;
        call.printer().print_auth(&AuthAnswer::Role { name: request.role, answer })?;
    }
    Ok(())
}

async fn list(call: &mut Call) -> Outcome {
    if !call.args.is_empty() {
        return Err(bad("user list command requires no arguments"));
    }
    let client = connect(call).await?;
    let request = pb::AuthUserListRequest {};
    let answer = client.ask_repeatable(&request, async |r| client.auth().user_list(r).await).await;
    call.printer().print_auth(&AuthAnswer::Users(answer.map_err(RequestError::fail)?))
}

async fn passwd(call: &mut Call) -> Outcome {
    let name = name(call, "passwd")?;
    let password = new_password(call, &name)?;
    let client = connect(call).await?;
    let request = pb::AuthUserChangePasswordRequest { name, password, ..Default::default() };
    let answer = client.ask(&request, async |r| client.auth().user_change_password(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    call.printer().print_auth(&AuthAnswer::done("Password updated", header))
}

async fn grant_role(call: &mut Call) -> Outcome {
    let reason = "user grant command requires user name and role name as its argument";
    let (user, role) = pair(call, reason)?;
    let client = connect(call).await?;
    let request = pb::AuthUserGrantRoleRequest { user, role };
    let answer = client.ask(&request, async |r| client.auth().user_grant_role(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("Role {} is granted to user {}", request.role, request.user);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn revoke_role(call: &mut Call) -> Outcome {
    let reason = "user revoke-role requires user name and role name as its argument";
    let (name, role) = pair(call, reason)?;
    let client = connect(call).await?;
    let request = pb::AuthUserRevokeRoleRequest { name, role };
    let answer = client.ask(&request, async |r| client.auth().user_revoke_role(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("Role {} is revoked from user {}", request.role, request.name);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}
