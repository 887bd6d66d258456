//! `role`: named sets of permissions.
//!
//! *Invariants.* These commands have no time limit, as in etcdctl: they wait for a member.

use proto::authpb::{Permission, permission};
use proto::etcdserverpb as pb;

use super::client::{Client, RequestError};
use super::command::{Arg, Call, Command, Flag, Group, Values};
use super::failure::{self, Failure, Outcome};
use super::print::AuthAnswer;
use super::range::prefix_end;
use crate::go::text;

pub(crate) static ROLE: Command = Command {
    name: "role",
    short: "Role related commands. Use `etcdctl role --help` to see subcommands",
    long: "Role related commands",
    group: Group::Authentication,
    commands: &[&ADD, &DELETE, &GET, &GRANT_PERMISSION, &LIST, &REVOKE_PERMISSION],
    ..Command::EMPTY
};

static ADD: Command = Command {
    name: "add",
    usage: "<role name>",
    short: "Adds a new role",
    run: Some(|call| Box::pin(add(call))),
    ..Command::EMPTY
};

static DELETE: Command = Command {
    name: "delete",
    usage: "<role name>",
    short: "Deletes a role",
    run: Some(|call| Box::pin(delete(call))),
    ..Command::EMPTY
};

static GET: Command = Command {
    name: "get",
    usage: "<role name>",
    short: "Gets detailed information of a role",
    run: Some(|call| Box::pin(get(call))),
    ..Command::EMPTY
};

static LIST: Command = Command {
    name: "list",
    short: "Lists all roles",
    run: Some(|call| Box::pin(list(call))),
    ..Command::EMPTY
};

static GRANT_PERMISSION: Command = Command {
    name: "grant-permission",
    usage: "[options] <role name> <permission type> <key> [endkey]",
    short: "Grants a key to a role",
    flags: &[
        Flag::bool("prefix", "grant a prefix permission"),
        Flag::bool(
            "from-key",
            "grant a permission of keys that are greater than or equal to the given key using \
             byte compare",
        ),
    ],
    run: Some(|call| Box::pin(grant_permission(call))),
    ..Command::EMPTY
};

static REVOKE_PERMISSION: Command = Command {
    name: "revoke-permission",
    usage: "<role name> <key> [endkey]",
    short: "Revokes a key from a role",
    flags: &[
        Flag::bool("prefix", "revoke a prefix permission"),
        Flag::bool(
            "from-key",
            "revoke a permission of keys that are greater than or equal to the given key using \
             byte compare",
        ),
    ],
    run: Some(|call| Box::pin(revoke_permission(call))),
    ..Command::EMPTY
};

fn bad(reason: impl std::fmt::Display) -> Failure {
    Failure::new(failure::BAD_ARGS, reason)
}

/// The only argument, the role's name.
fn name(call: &Call, command: &str) -> Outcome<String> {
    let [name] = call.args.as_slice() else {
        return Err(bad(format_args!("role {command} command requires role name as its argument")));
    };
    text(name)
}

async fn connect(call: &mut Call) -> Outcome<Client> {
    Client::connect_unbounded(&call.settings()?).await
}

/// The range that a permission is about; `ends` is what follows the key.
fn range(values: &Values, key: &Arg, ends: &[Arg]) -> Outcome<(Arg, Arg)> {
    let (prefix, from_key) = (values.bool("prefix"), values.bool("from-key"));
    // Behind the empty key, which stands for the first, etcdctl does not look at an end.
    if prefix && from_key && (key.is_empty() || ends.is_empty()) {
        return Err(bad("--from-key and --prefix flags are mutually exclusive"));
    }
    if key.is_empty() {
        return Ok((vec![0], if prefix || from_key { vec![0] } else { vec![] }));
    }
    let flag = if prefix { "prefix" } else { "from-key" };
    let end = match ends.first() {
        Some(_) if prefix || from_key => {
            return Err(bad(format_args!("unexpected endkey argument with --{flag} flag")));
        }
        Some(end) => end.clone(),
        None if prefix => prefix_end(key),
        None if from_key => vec![0],
        None => vec![],
    };
    Ok((key.clone(), end))
}

async fn add(call: &mut Call) -> Outcome {
    let name = name(call, "add")?;
    let client = connect(call).await?;
    let request = pb::AuthRoleAddRequest { name };
    let answer = client.ask(&request, async |r| client.auth().role_add(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("Role {} created", request.name);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn delete(call: &mut Call) -> Outcome {
    let role = name(call, "delete")?;
    let client = connect(call).await?;
    let request = pb::AuthRoleDeleteRequest { role };
    let answer = client.ask(&request, async |r| client.auth().role_delete(r).await).await;
    let header = answer.map_err(RequestError::fail)?.header;
    let line = format!("Role {} deleted", request.role);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn get(call: &mut Call) -> Outcome {
    let role = name(call, "get")?;
    let client = connect(call).await?;
    let request = pb::AuthRoleGetRequest { role };
    let answer = client.ask_repeatable(&request, async |r| client.auth().role_get(r).await).await;
    let answer = answer.map_err(RequestError::fail)?;
    call.printer().print_auth(&AuthAnswer::Role { name: request.role, answer })
}

async fn list(call: &mut Call) -> Outcome {
    if !call.args.is_empty() {
        return Err(bad("role list command requires no arguments"));
    }
    let client = connect(call).await?;
    let request = pb::AuthRoleListRequest {};
    let answer = client.ask_repeatable(&request, async |r| client.auth().role_list(r).await).await;
    call.printer().print_auth(&AuthAnswer::Roles(answer.map_err(RequestError::fail)?))
}

async fn grant_permission(call: &mut Call) -> Outcome {
    let [role, kind, key, ends @ ..] = call.args.as_slice() else {
        return Err(bad("role grant command requires role name, permission type, and key \
                        [endkey] as its argument"));
    };
    let kind = String::from_utf8_lossy(kind);
    let perm_type = permission::Type::from_str_name(&kind.to_uppercase())
        .ok_or_else(|| bad(format_args!("invalid permission type: {kind}")))?;
    let (key, end) = range(&call.values, key, ends)?;
    let name = text(role)?;
    let client = connect(call).await?;
    let perm = Permission { perm_type: perm_type.into(), key: key.into(), range_end: end.into() };
    let request = pb::AuthRoleGrantPermissionRequest { name, perm: Some(perm) };
    let send = async |r| client.auth().role_grant_permission(r).await;
    let header = client.ask(&request, send).await.map_err(RequestError::fail)?.header;
    let line = format!("Role {} updated", request.name);
    call.printer().print_auth(&AuthAnswer::done(line, header))
}

async fn revoke_permission(call: &mut Call) -> Outcome {
    let [role, key, ends @ ..] = call.args.as_slice() else {
        return Err(bad("role revoke-permission command requires role name and key [endkey] as \
                        its argument"));
    };
    let shown = key.clone();
    let (key, end) = range(&call.values, key, ends)?;
    let role = text(role)?;
    let client = connect(call).await?;
    let request =
        pb::AuthRoleRevokePermissionRequest { role, key: key.into(), range_end: end.into() };
    let send = async |r| client.auth().role_revoke_permission(r).await;
    let header = client.ask(&request, send).await.map_err(RequestError::fail)?.header;
    call.printer()
        .print_auth(&AuthAnswer::done(revoked(&request.role, &shown, &request.range_end), header))
}

/// What was taken from a role. Keys need not be text.
fn revoked(role: &str, key: &[u8], end: &[u8]) -> Arg {
    let (what, end) = match end {
        b"" => (&b"key "[..], Vec::new()),
        b"\0" => (&b"range ["[..], b", <open ended>".to_vec()),
        end => (&b"range ["[..], [b", ", end, b")"].concat()),
    };
    [b"Permission of ", what, key, &end, b" is revoked from role ", role.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::parse_flags;

    #[test]
    fn ranges_are_what_the_flags_and_the_end_say() {
        let flags: Vec<&'static Flag> = GRANT_PERMISSION.flags.iter().collect();
        let both = "--from-key and --prefix flags are mutually exclusive";
        for (line, expected) in [
            (&["k"][..], Ok(("k", ""))),
            (&["k", "z"], Ok(("k", "z"))),
            (&["k", "z", "more"], Ok(("k", "z"))),
            (&["k", "--prefix"], Ok(("k", "l"))),
            (&["k", "--from-key"], Ok(("k", "\0"))),
            (&["", "z"], Ok(("\0", ""))),
            (&["", "--prefix"], Ok(("\0", "\0"))),
            (&["", "z", "--from-key"], Ok(("\0", "\0"))),
            (&["k", "--prefix", "--from-key"], Err(both)),
            (&["", "z", "--prefix", "--from-key"], Err(both)),
            (
                &["k", "z", "--prefix", "--from-key"],
                Err("unexpected endkey argument with --prefix flag"),
            ),
            (&["k", "z", "--from-key"], Err("unexpected endkey argument with --from-key flag")),
        ] {
            let args = line.iter().map(|word| word.as_bytes().to_vec()).collect();
            let (values, args) = parse_flags(&flags, args).unwrap();
            let found = range(&values, &args[0], &args[1..]);
            let expected = expected
                .map(|(key, end)| (key.as_bytes().to_vec(), end.as_bytes().to_vec()))
                .map_err(bad);
            assert_eq!(found, expected, "{line:?}");
        }
    }

    #[test]
    fn a_revoked_permission_is_told_with_its_range() {
        for (end, text) in [
            (&b""[..], "Permission of key k is revoked from role r"),
            (b"z", "Permission of range [k, z) is revoked from role r"),
            (b"\0", "Permission of range [k, <open ended> is revoked from role r"),
        ] {
            assert_eq!(revoked("r", b"k", end), text.as_bytes());
        }
    }
}
