//! The flags that every command takes, and the `ETCDCTL_*` variables that set them.
//!
//! *Invariants.* A flag given on the command line and set by the environment is refused, so that
//! neither silently wins.
//!
//! *Absent.* TLS, DNS discovery and asking for a password: they are refused with a line.
//!
//! *Contract.* `etcdctl/ctlv3/ctl.go`, `command/global.go` and `pkg/flags/flag.go` of etcd
//! v3.7.1.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use super::command::{Call, Flag, Kind};
use super::failure::{self, Failure, Outcome};
use super::print::{Format, Printer};
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

/// A message longer than this is not sent, unless `--max-request-bytes` says otherwise.
const SEND_BYTES_MAX: usize = 2 << 20;
/// A message longer than this is not taken, unless `--max-recv-bytes` says otherwise.
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;

/// What the client needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) endpoints: Vec<String>,
    pub(crate) dial_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) send_bytes_max: usize,
    pub(crate) receive_bytes_max: usize,
    pub(crate) credentials: Option<Credentials>,
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
            for flag in &self.inherited {
                let _ = writeln!(stderr, "{}={}", variable(flag.name), self.values.show(flag.name));
            }
        }
        if Format::parse(self.values.text("write-out")).is_none() {
            return Err(Failure::new(failure::BAD_FEATURE, "unsupported output format"));
        }
        let values = &self.values;
        self.refuse_what_is_absent()?;
        let limit = |name, default| match usize::try_from(values.int(name)) {
            Ok(given) if given > 0 => given,
            _ => default,
        };
        Ok(Settings {
            endpoints: values.words("endpoints").iter().map(|e| e.trim().to_owned()).collect(),
            dial_timeout: values.duration("dial-timeout"),
            command_timeout: values.duration("command-timeout"),
            keepalive_time: values.duration("keepalive-time"),
            keepalive_timeout: values.duration("keepalive-timeout"),
            send_bytes_max: limit("max-request-bytes", SEND_BYTES_MAX),
            receive_bytes_max: limit("max-recv-bytes", RECEIVE_BYTES_MAX),
            credentials: self.credentials()?,
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
            if used.iter().any(|used| *used == name) || is_watch_variable(&name) {
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
                let setting = format!("{name}={}", value.to_string_lossy());
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

    fn refuse_what_is_absent(&self) -> Outcome {
        let values = &self.values;
        for name in ["cert", "key", "cacert"] {
            if values.changed(name) && values.text(name).is_empty() {
                let reason = format!("empty string is passed to --{name} option");
                return Err(Failure::new(failure::BAD_ARGS, reason));
            }
        }
        let tls = ["cert", "key", "cacert"].into_iter().find(|name| !values.text(name).is_empty());
        let secure = values.words("endpoints").iter().find(|endpoint| {
            let endpoint = endpoint.trim();
            endpoint.starts_with("https://") || endpoint.starts_with("unixs:")
        });
        let absent = match (tls, secure) {
            (Some(name), _) => format!("--{name}: TLS is not supported yet"),
            (None, Some(endpoint)) => format!("endpoint {endpoint}: TLS is not supported yet"),
            (None, None) if !values.bool("insecure-transport") => {
                "--insecure-transport=false: TLS is not supported yet".to_owned()
            }
            (None, None) if values.bool("insecure-skip-tls-verify") => {
                "--insecure-skip-tls-verify: TLS is not supported yet".to_owned()
            }
            (None, None) if !values.text("discovery-srv").is_empty() => {
                "--discovery-srv: DNS discovery is not supported yet".to_owned()
            }
            (None, None) => return Ok(()),
        };
        Err(Failure::new(failure::BAD_ARGS, absent))
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
            (true, None) => {
                let reason = "no password: give --user NAME:PASSWORD or --password";
                return Err(Failure::new(failure::BAD_ARGS, reason));
            }
        };
        Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// `dial-timeout` becomes `ETCDCTL_DIAL_TIMEOUT`.
fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// What `watch` reads itself.
fn is_watch_variable(name: &str) -> bool {
    name == "ETCDCTL_WATCH_KEY" || name == "ETCDCTL_WATCH_RANGE_END"
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
