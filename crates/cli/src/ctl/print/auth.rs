//! The answers about users, roles and permissions, in every format that etcdctl has for them.

use prost::Message;
use proto::authpb::{Permission, permission::Type};
use proto::etcdserverpb as pb;

use super::fields::Fields;
use super::json::{Object, texts, with_header};
use super::{Format, Printer, print, unsupported};
use crate::ctl::range::prefix_end;
use crate::failure::Outcome;
use crate::go;

/// What a command about authentication has to say.
pub(crate) enum AuthAnswer {
    Status(pb::AuthStatusResponse),
    /// It is done: a line that says so, and an answer without anything but a header.
    Done {
        line: Vec<u8>,
        header: Option<pb::ResponseHeader>,
    },
    User {
        name: String,
        answer: pb::AuthUserGetResponse,
    },
    Users(pb::AuthUserListResponse),
    Role {
        name: String,
        answer: pb::AuthRoleGetResponse,
    },
    Roles(pb::AuthRoleListResponse),
}

impl AuthAnswer {
    /// What the server answers with a header alone.
    pub(crate) fn done(line: impl Into<Vec<u8>>, header: Option<pb::ResponseHeader>) -> AuthAnswer {
        AuthAnswer::Done { line: line.into(), header }
    }

    fn protobuf(&self) -> Vec<u8> {
        match self {
            AuthAnswer::Status(answer) => answer.encode_to_vec(),
            // All of these messages have one shape.
            AuthAnswer::Done { header, .. } => {
                pb::AuthUserAddResponse { header: *header }.encode_to_vec()
            }
            AuthAnswer::User { answer, .. } => answer.encode_to_vec(),
            AuthAnswer::Users(answer) => answer.encode_to_vec(),
            AuthAnswer::Role { answer, .. } => answer.encode_to_vec(),
            AuthAnswer::Roles(answer) => answer.encode_to_vec(),
        }
    }

    fn json(&self) -> String {
        let object = match self {
            AuthAnswer::Status(answer) => with_header(answer.header.as_ref())
                .when("enabled", answer.enabled)
                .nonzero("authRevision", answer.auth_revision),
            AuthAnswer::Done { header, .. } => with_header(header.as_ref()),
            AuthAnswer::User { answer, .. } => {
                with_header(answer.header.as_ref()).list("roles", texts(&answer.roles))
            }
            AuthAnswer::Users(answer) => {
                with_header(answer.header.as_ref()).list("users", texts(&answer.users))
            }
            AuthAnswer::Role { answer, .. } => {
                with_header(answer.header.as_ref()).list("perm", answer.perm.iter().map(permission))
            }
            AuthAnswer::Roles(answer) => {
                with_header(answer.header.as_ref()).list("roles", texts(&answer.roles))
            }
        };
        object.end() + "\n"
    }

    /// None: etcdctl has no such format for the answer.
    fn fields(&self, hex: bool) -> Option<String> {
        let mut fields = Fields::new(hex);
        match self {
            AuthAnswer::Status(_) | AuthAnswer::User { .. } | AuthAnswer::Users(_) => return None,
            AuthAnswer::Done { header, .. } => fields.header(header.as_ref()),
            AuthAnswer::Role { answer, .. } => {
                fields.header(answer.header.as_ref());
                for perm in &answer.perm {
                    // With two spaces, as etcdctl does.
                    fields.field("PermType", format_args!(" {}", type_name(perm)));
                    fields.quoted("Key", &perm.key);
                    fields.quoted("RangeEnd", &perm.range_end);
                }
            }
            AuthAnswer::Roles(answer) => {
                fields.header(answer.header.as_ref());
                let roles: String = answer
                    .roles
                    .iter()
                    .map(|role| format!(" {}", go::quote(role.as_bytes())))
                    .collect();
                fields.line(&format!("\"Roles\" :{roles}"));
            }
        }
        Some(fields.end())
    }

    fn simple(&self) -> Vec<u8> {
        let lines = |names: &[String]| {
            names.iter().map(|name| format!("{name}\n")).collect::<String>().into_bytes()
        };
        match self {
            AuthAnswer::Status(answer) => format!(
                "Authentication Status: {}\nAuthRevision: {}\n",
                answer.enabled, answer.auth_revision
            )
            .into_bytes(),
            AuthAnswer::Done { line, .. } => [line.as_slice(), b"\n"].concat(),
            AuthAnswer::User { name, answer } => {
                let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
                format!("User: {name}\nRoles:{roles}\n").into_bytes()
            }
            AuthAnswer::Users(answer) => lines(&answer.users),
            AuthAnswer::Roles(answer) => lines(&answer.roles),
            AuthAnswer::Role { name, answer } => role(name, &answer.perm),
        }
    }
}

impl Printer {
    /// Prints an answer about authentication.
    pub(crate) fn print_auth(&self, answer: &AuthAnswer) -> Outcome {
        print(&self.render_auth(answer)?)
    }

    /// The text of an answer about authentication.
    pub(crate) fn render_auth(&self, answer: &AuthAnswer) -> Outcome<Vec<u8>> {
        match self.format {
            Format::Simple => Ok(answer.simple()),
            Format::Json => Ok(answer.json().into_bytes()),
            Format::Protobuf => Ok(answer.protobuf()),
            Format::Fields => match answer.fields(self.hex) {
                Some(text) => Ok(text.into_bytes()),
                None => Err(unsupported("fields")),
            },
            Format::Table => Err(unsupported("table")),
        }
    }
}

fn permission(perm: &Permission) -> String {
    Object::new()
        .nonzero("permType", perm.perm_type)
        .some_bytes("key", &perm.key)
        .some_bytes("range_end", &perm.range_end)
        .end()
}

fn type_name(perm: &Permission) -> String {
    match Type::try_from(perm.perm_type) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => perm.perm_type.to_string(),
    }
}

/// What a role may read, and what it may write.
fn role(name: &str, perms: &[Permission]) -> Vec<u8> {
    let mut out = format!("Role {name}\n").into_bytes();
    for (heading, kind) in [("KV Read:\n", Type::Read), ("KV Write:\n", Type::Write)] {
        out.extend_from_slice(heading.as_bytes());
        if name == "root" && perms.is_empty() {
            out.extend_from_slice(b"\t[, <open ended>\n");
        }
        for perm in perms {
            if perm.perm_type == kind as i32 || perm.perm_type == Type::Readwrite as i32 {
                out.extend(range(&perm.key, &perm.range_end));
            }
        }
    }
    out
}

fn range(key: &[u8], end: &[u8]) -> Vec<u8> {
    let mut out = match end {
        b"" => return [b"\t", key, b"\n"].concat(),
        b"\0" => [b"\t[", key, b", <open ended>"].concat(),
        end => [b"\t[", key, b", ", end, b")"].concat(),
    };
    if !key.is_empty() && prefix_end(key) == end {
        out.extend([b" (prefix ", key, b")"].concat());
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn header() -> Option<pb::ResponseHeader> {
        Some(pb::ResponseHeader { cluster_id: 7, member_id: 8, revision: 9, raft_term: 2 })
    }

    fn seen(answer: &AuthAnswer, format: Format) -> String {
        let printer = Printer { format, hex: false, value_only: false };
        match printer.render_auth(answer) {
            Ok(out) => String::from_utf8_lossy(&out).into_owned(),
            Err(Failure { code, text }) => format!("{text}exit {code}\n"),
        }
    }

    #[test]
    fn permissions_are_shown_as_ranges() {
        let perm = |kind: Type, key: &'static str, end: &'static str| Permission {
            perm_type: kind.into(),
            key: key.into(),
            range_end: end.into(),
        };
        let perm = vec![
            perm(Type::Read, "foo", ""),
            perm(Type::Write, "a", "z"),
            perm(Type::Readwrite, "/p/", "/p0"),
            perm(Type::Readwrite, "b", "\0"),
        ];
        let answer = pb::AuthRoleGetResponse { header: header(), perm };
        let role = AuthAnswer::Role { name: "r".to_owned(), answer };
        assert_eq!(
            seen(&role, Format::Simple),
            "Role r\nKV Read:\n\tfoo\n\t[/p/, /p0) (prefix /p/)\n\t[b, <open ended>\n\
             KV Write:\n\t[a, z)\n\t[/p/, /p0) (prefix /p/)\n\t[b, <open ended>\n"
        );
        let fields = seen(&role, Format::Fields);
        assert!(
            fields.ends_with(
                "\"PermType\" :  READWRITE\n\"Key\" : \"b\"\n\"RangeEnd\" : \"\\x00\"\n"
            )
        );
        assert!(seen(&role, Format::Json).contains(
            "\"perm\":[{\"key\":\"Zm9v\"},{\"permType\":1,\"key\":\"YQ==\",\"range_end\":\"eg==\"},"
        ));
    }

    #[test]
    fn what_etcdctl_has_no_form_for_is_refused() {
        let status = AuthAnswer::Status(pb::AuthStatusResponse {
            header: header(),
            enabled: true,
            auth_revision: 3,
        });
        let refused = "Error: fields not supported as output format\nexit 4\n";
        assert_eq!(seen(&status, Format::Fields), refused);
        let done = AuthAnswer::done("Role r created", header());
        assert_eq!(
            seen(&done, Format::Table),
            "Error: table not supported as output format\nexit 4\n"
        );
        assert_eq!(seen(&done, Format::Simple), "Role r created\n");
    }
}
