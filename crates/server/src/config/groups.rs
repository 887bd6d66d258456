//! Flags that belong together: TLS of one kind of port, the discovery service, tracing.

use std::time::Duration;

/// TLS of the client ports, or of the peer ports. Paths are empty when they were not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) cert_file: String,
    pub(crate) key_file: String,
    /// What is presented where this member is the client.
    pub(crate) client_cert_file: String,
    pub(crate) client_key_file: String,
    pub(crate) client_cert_auth: bool,
    pub(crate) trusted_ca_file: String,
    pub(crate) crl_file: String,
    pub(crate) allowed_cns: Vec<String>,
    pub(crate) allowed_hostnames: Vec<String>,
    pub(crate) auto_tls: bool,
    pub(crate) skip_client_san_verification: bool,
}

/// How etcd's v3 discovery service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discovery {
    pub(crate) token: String,
    pub(crate) endpoints: Vec<String>,
    pub(crate) dial_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keepalive_time: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) insecure_transport: bool,
    pub(crate) insecure_skip_tls_verify: bool,
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) cacert: String,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            token: String::new(),
            endpoints: Vec::new(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(6),
            insecure_transport: true,
            insecure_skip_tls_verify: false,
            cert: String::new(),
            key: String::new(),
            cacert: String::new(),
            user: String::new(),
            password: String::new(),
        }
    }
}

/// Traces by OTLP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tracing {
    pub(crate) enabled: bool,
    pub(crate) address: String,
    pub(crate) service_name: String,
    pub(crate) instance_id: String,
    /// Of a million requests.
    pub(crate) sampling_rate: i64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            enabled: false,
            address: "localhost:4317".to_owned(),
            service_name: "etcd".to_owned(),
            instance_id: String::new(),
            sampling_rate: 0,
        }
    }
}
