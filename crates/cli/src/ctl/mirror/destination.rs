//! The flags that say how the destination is reached.

use crate::command::Call;
use crate::ctl::global::{Credentials, Settings};
use crate::ctl::password;
use crate::ctl::secure::Secure;
use crate::failure::{self, Failure, Outcome};

/// How the destination is reached.
pub(super) struct Destination {
    endpoint: String,
    credentials: Option<Credentials>,
    secure: Secure,
}

/// Reads the flags, and the files that they name.
pub(super) fn read(call: &Call, endpoint: String) -> Outcome<Destination> {
    let values = &call.values;
    let (user, password) = (values.text("dest-user"), values.text("dest-password"));
    let credentials = match (user.is_empty(), password.is_empty(), user.split_once(':')) {
        (true, ..) => None,
        (false, false, _) => Some((user, password.to_owned())),
        (false, true, Some((user, password))) => Some((user, password.to_owned())),
        (false, true, None) => Some((user, password::ask("Destination Password: ")?)),
    };
    let credentials = credentials
        .map(|(user, password)| Credentials::Password { user: user.to_owned(), password });
    let secure = Secure {
        cert: values.text("dest-cert").to_owned(),
        key: values.text("dest-key").to_owned(),
        cacert: values.text("dest-cacert").to_owned(),
        server_name: String::new(),
        insecure_transport: values.bool("dest-insecure-transport"),
        insecure_skip_tls_verify: false,
    };
    if secure.cert.is_empty() != secure.key.is_empty() {
        let (key, cert) = (&secure.key, &secure.cert);
        let reason = format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]");
        return Err(Failure::new(failure::BAD_ARGS, reason));
    }
    // Broken files are told before the source is asked for anything.
    secure.dialer(std::slice::from_ref(&endpoint))?;
    Ok(Destination { endpoint, credentials, secure })
}

impl Destination {
    /// The settings of the source, as far as they hold for the destination.
    pub(super) fn settings(self, source: &Settings) -> Settings {
        Settings {
            endpoints: vec![self.endpoint],
            credentials: self.credentials,
            secure: self.secure,
            ..source.clone()
        }
    }
}
