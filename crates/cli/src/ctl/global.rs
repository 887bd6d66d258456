//! The flags that every command takes, and the `ETCDCTL_*` variables that set them.
//!
//! *Invariants.* A flag given on the command line and set by the environment is refused, so that
//! neither silently wins.
//!
//! *Contract.* `etcdctl/ctlv3/ctl.go`, `command/global.go` and `pkg/flags/flag.go` of etcd
//! v3.7.1.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::command::{Call, Flag, Kind};
use super::failure::{self, Failure, Outcome};
use super::print::{Format, Printer};
use super::secure::Secure;
use super::{discover, password};
use crate::go;

/// The flags of the root, in the order of their names.
pub(crate) static FLAGS: [Flag; 21] = [
    Flag::text(
        "auth-jwt-token",
        "",
        "JWT token used for authentication (if this option is used, --user and --password should \
         not be set)",
    ),
    Flag::text(
        "cacert",
        "",
        "verify certificates of TLS-enabled secure servers using this CA bundle",
    ),
    Flag::text("cert", "", "identify secure client using this TLS certificate file"),
    Flag::new(
        "command-timeout",
        Kind::Duration,
        "5s",
        "timeout for short running command (excluding dial timeout)",
    ),
    Flag::bool("debug", "enable client-side debug logging"),
    Flag::new("dial-timeout", Kind::Duration, "2s", "dial timeout for client connections"),
    Flag::text(
        "discovery-srv",
        "",
        "domain name to query for SRV records describing cluster endpoints",
    )
    .short('d'),
    Flag::text("discovery-srv-name", "", "service name to query when using DNS discovery"),
    Flag::new("endpoints", Kind::Words, "127.0.0.1:2379", "gRPC endpoints"),
    Flag::bool("hex", "print byte strings as hex encoded strings"),
    Flag::new(
        "insecure-discovery",
        Kind::Bool,
        "true",
        "accept insecure SRV records describing cluster endpoints",
    ),
    Flag::bool(
        "insecure-skip-tls-verify",
        "skip server certificate verification (CAUTION: this option should be enabled only for \
         testing purposes)",
    ),
    Flag::new(
        "insecure-transport",
        Kind::Bool,
        "true",
        "disable transport security for client connections",
    ),
    Flag::new("keepalive-time", Kind::Duration, "2s", "keepalive time for client connections"),
    Flag::new(
        "keepalive-timeout",
        Kind::Duration,
        "6s",
        "keepalive timeout for client connections",
    ),
    Flag::text("key", "", "identify secure client using this TLS key file"),
    Flag::int(
        "max-recv-bytes",
        "client-side response receive limit in bytes (if 0, it defaults to \"math.MaxInt32\")",
    ),
    Flag::int(
        "max-request-bytes",
        "client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)",
    ),
    Flag::text(
        "password",
        "",
        "password for authentication (if this option is used, --user option shouldn't include \
         password)",
    ),
    Flag::text(
        "user",
        "",
        "username[:password] for authentication (prompt if password is not supplied)",
    ),
    Flag::text(
        "write-out",
        "simple",
        "set the output format (fields, json, protobuf, simple, table)",
    )
    .short('w')
    .one_of(&crate::output::FORMATS),
];

/// Variables that `watch` reads itself.
const WATCH_VARIABLES: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// What the client needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) dial_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    /// Only if they were given.
    pub(crate) send_bytes_max: Option<usize>,
    pub(crate) receive_bytes_max: Option<usize>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) secure: Secure,
}

/// Who asks.
#[derive(Clone)]
pub(crate) enum Credentials {
    Token(String),
    Password { user: String, password: String },
}

impl Call {
    /// Takes the environment in, checks the global flags and says what the client is to do.
    pub(crate) fn settings(&mut self) -> Outcome<Settings> {
        self.take_environment()?;
        if self.values.bool("debug") {
            let mut stderr = std::io::stderr().lock();
            for (variable, value) in self.shown() {
                let _ = writeln!(stderr, "{variable}={}", without_secret(&variable, &value));
            }
        }
        let endpoints = self.endpoints()?;
        let secure = self.secure()?;
        let credentials = self.credentials()?;
        let values = &self.values;
        if Format::parse(values.text("write-out")).is_none() {
            return Err(Failure::new(failure::BAD_FEATURE, "unsupported output format"));
        }
        let limit = |name| usize::try_from(values.int(name)).ok().filter(|given| *given > 0);
        Ok(Settings {
            endpoints,
            dial_timeout: values.duration("dial-timeout"),
            command_timeout: values.duration("command-timeout"),
            keepalive_time: values.duration("keepalive-time"),
            keepalive_timeout: values.duration("keepalive-timeout"),
            send_bytes_max: limit("max-request-bytes"),
            receive_bytes_max: limit("max-recv-bytes"),
            credentials,
            secure,
        })
    }

    fn is_watch(&self) -> bool {
        self.command.name == "watch"
    }

    /// Every inherited flag as its variable, with its value.
    fn shown(&self) -> Vec<(String, String)> {
        let show = |flag: &&Flag| (variable(flag.name), self.values.show(flag.name));
        let mut shown: Vec<_> = self.inherited.iter().map(show).collect();
        if self.is_watch() {
            shown.extend(WATCH_VARIABLES.map(|name| (name.to_owned(), String::new())));
        }
        shown.sort();
        shown
    }

    /// The endpoints of the SRV records, or those that were given.
    fn endpoints(&self) -> Outcome<Vec<String>> {
        let values = &self.values;
        let domain = values.text("discovery-srv");
        let mut found = Vec::new();
        if !domain.is_empty() {
            found = discover::endpoints(domain, values.text("discovery-srv-name"))?;
        }
        if !values.bool("insecure-discovery") {
            found.retain(|endpoint| {
                let is_secure = !endpoint.starts_with("http://");
                if !is_secure {
                    let endpoint = go::quote(endpoint.as_bytes());
                    let line = format!("ignoring discovered insecure endpoint {endpoint}\n");
                    let _ = std::io::stderr().write_all(line.as_bytes());
                }
                is_secure
            });
        }
        if found.is_empty() {
            found = values.words("endpoints").iter().map(|e| e.trim().to_owned()).collect();
        }
        Ok(found)
    }

    fn secure(&self) -> Outcome<Secure> {
        let values = &self.values;
        for name in ["cert", "key", "cacert"] {
            if values.changed(name) && values.text(name).is_empty() {
                let reason = format!("empty string is passed to --{name} option");
                return Err(Failure::new(failure::BAD_ARGS, reason));
            }
        }
        // Records that must be trusted name servers of their domain.
        let is_loose = values.bool("insecure-discovery");
        let server_name = if is_loose { "" } else { values.text("discovery-srv") };
        Ok(Secure {
            cert: values.text("cert").to_owned(),
            key: values.text("key").to_owned(),
            cacert: values.text("cacert").to_owned(),
            server_name: server_name.to_owned(),
            insecure_transport: values.bool("insecure-transport"),
            insecure_skip_tls_verify: values.bool("insecure-skip-tls-verify"),
        })
    }

    /// How the answer is to be printed.
    pub(crate) fn printer(&self) -> Printer {
        let format = Format::parse(self.values.text("write-out")).unwrap_or(Format::Simple);
        Printer { format, hex: self.values.bool("hex"), value_only: false }
    }

    /// Sets flags that are not given from the environment.
    pub(super) fn take_environment(&mut self) -> Outcome {
        let mut used = Vec::new();
        for flag in &self.inherited {
            let variable = variable(flag.name);
            if self.values.changed(flag.name) {
                continue;
            }
            if let Ok(value) = std::env::var(&variable)
                && !value.is_empty()
            {
                // As etcdctl does, a value that does not parse leaves the default.
                let _ = self.values.set(flag.name, &value);
                used.push(variable);
            }
        }
        let shadowed: Vec<String> = self
            .inherited
            .iter()
            .filter(|flag| self.values.changed(flag.name))
            .map(|flag| variable(flag.name))
            .filter(|variable| !used.contains(variable))
            .collect();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let is_watched = self.is_watch() && WATCH_VARIABLES.contains(&&*name);
            if used.iter().any(|used| *used == name) || is_watched {
                continue;
            }
            if shadowed.iter().any(|shadowed| *shadowed == name) {
                let text = log_line(
                    "fatal",
                    "conflicting environment variable is shadowed by corresponding command-line \
                     flag (either unset environment variable or disable flag))",
                    &[("environment-variable", &name)],
                );
                return Err(Failure { code: failure::ERROR, text });
            }
            if name.starts_with("ETCDCTL_") {
                let value = value.to_string_lossy();
                let setting = format!("{name}={}", without_secret(&name, &value));
                let text = log_line(
                    "warn",
                    "unrecognized environment variable",
                    &[("environment-variable", &setting)],
                );
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
        Ok(())
    }

    fn credentials(&self) -> Outcome<Option<Credentials>> {
        let token = self.values.text("auth-jwt-token");
        let (user, password) = (self.values.text("user"), self.values.text("password"));
        if !token.is_empty() {
            return Ok(Some(Credentials::Token(token.to_owned())));
        }
        if user.is_empty() {
            return Ok(None);
        }
        let (user, password) = match (password.is_empty(), user.split_once(':')) {
            (false, _) => (user, password),
            (true, Some(pair)) => pair,
            (true, None) => (user, &*password::ask("Password: ")?),
        };
        Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// `dial-timeout` becomes `ETCDCTL_DIAL_TIMEOUT`.
fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// Shown instead of a secret.
const HIDDEN: &str = "***";
/// What a variable's name contains whose value is secret.
const SECRETS: [&str; 3] = ["PASSWORD", "SECRET", "TOKEN"];

/// The value of a variable, as others may see it. A user may come with a password.
fn without_secret(variable: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    if SECRETS.iter().any(|mark| variable.contains(mark)) {
        return HIDDEN.to_owned();
    }
    match value.split_once(':') {
        Some((user, _)) if variable.ends_with("USER") => format!("{user}:{HIDDEN}"),
        _ => value.to_owned(),
    }
}

/// A log line as etcd's tools write it to stderr.
#[track_caller]
pub(crate) fn log_line(level: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = std::panic::Location::caller();
    let file = at.file().rsplit('/').take(2).collect::<Vec<_>>();
    let file = file.into_iter().rev().collect::<Vec<_>>().join("/");
    let caller = format!("{file}:{}", at.line());
    let time = go::timestamp(now);
    let mut out = String::from("{");
    let head = [("level", level), ("ts", time.as_str()), ("caller", &caller), ("msg", message)];
    for (index, (name, value)) in head.iter().chain(fields).enumerate() {
        if index > 0 {
            out.push(',');
        }
        go::json_string(&mut out, name);
        out.push(':');
        go::json_string(&mut out, value);
    }
    out.push_str("}\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (variable, value, shown) in [
            ("ETCDCTL_PASSWORD", "pw", "***"),
            ("ETCDCTL_PASSWORD", "", ""),
            ("ETCDCTL_DEST_PASSWORD", "pw", "***"),
            ("ETCDCTL_AUTH_JWT_TOKEN", "ey.J", "***"),
            ("ETCDCTL_USER", "root:p:w", "root:***"),
            ("ETCDCTL_DEST_USER", "root:pw", "root:***"),
            ("ETCDCTL_USER", "root", "root"),
            ("ETCDCTL_ENDPOINTS", "[http://a:1]", "[http://a:1]"),
        ] {
            assert_eq!(without_secret(variable, value), shown, "{variable}={value}");
        }
    }
}
