//! The flags that say how the destination is reached.
//!
//! *Absent.* TLS towards the destination, and asking for a password: they are refused with a line.

use crate::command::Call;
use crate::ctl::global::{Credentials, Settings};
use crate::failure::{self, Failure, Outcome};

/// How the destination is reached.
pub(super) struct Destination {
    credentials: Option<Credentials>,
}

/// Reads the flags.
pub(super) fn read(call: &Call) -> Outcome<Destination> {
    let bad_args = |reason: String| Err(Failure::new(failure::BAD_ARGS, reason));
    let values = &call.values;
    let (cert, key) = (values.text("dest-cert"), values.text("dest-key"));
    let (user, password) = (values.text("dest-user"), values.text("dest-password"));
    let credentials = match (user.is_empty(), password.is_empty(), user.split_once(':')) {
        (true, ..) => None,
        (false, false, _) => Some((user, password)),
        (false, true, Some(pair)) => Some(pair),
        (false, true, None) => {
            let reason = "no password: give --dest-user NAME:PASSWORD or --dest-password";
            return bad_args(reason.to_owned());
        }
    };
    if cert.is_empty() != key.is_empty() {
        let reason = format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]");
        return bad_args(reason);
    }
    let endpoint = call.args.first().map(|arg| String::from_utf8_lossy(arg)).unwrap_or_default();
    let tls = ["dest-cert", "dest-cacert"].into_iter().find(|name| !values.text(name).is_empty());
    if let Some(name) = tls {
        return bad_args(format!("--{name}: TLS is not supported yet"));
    }
    if !values.bool("dest-insecure-transport") {
        return bad_args("--dest-insecure-transport=false: TLS is not supported yet".to_owned());
    }
    if endpoint.starts_with("https://") || endpoint.starts_with("unixs:") {
        return bad_args(format!("endpoint {endpoint}: TLS is not supported yet"));
    }
    let credentials = credentials.map(|(user, password)| Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    });
    Ok(Destination { credentials })
}

impl Destination {
    /// The settings of the source, as far as they hold for the destination.
    pub(super) fn settings(self, source: &Settings, endpoint: String) -> Settings {
        let mut settings = source.clone();
        settings.endpoints = vec![endpoint];
        settings.credentials = self.credentials;
        settings
    }
}
