//! What of the flags of TLS can be judged without a file.
//!
//! *Contract.* The end of `Config.Validate` in `server/embed/config.go` of etcd v3.7.1.

use net::tls::Version;

use super::Config;

impl Config {
    /// The reason why no connection could be secured, if there is one.
    pub(super) fn check_tls(&self) -> Result<(), String> {
        let version = |text| Version::parse(text).map_err(|error| error.to_string());
        let (min, max) = (version(&self.tls_min_version)?, version(&self.tls_max_version)?);
        if let (Some(least), Some(most)) = (min, max)
            && least > most
        {
            return Err(format!("min version ({least}) is greater than max version ({most})"));
        }
        if min == Some(Version::Tls13) && !self.cipher_suites.is_empty() {
            return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn versions_and_ciphers_that_cannot_be_are_refused_in_etcds_words() {
        let checked = |min: &str, max: &str, ciphers: &[&str]| {
            let config = Config {
                tls_min_version: min.to_owned(),
                tls_max_version: max.to_owned(),
                cipher_suites: ciphers.iter().map(|&name| name.to_owned()).collect(),
                ..Config::default()
            };
            config.check_tls().err()
        };
        for (min, max, ciphers, told) in [
            (
                "TLS1.1",
                "",
                &[][..],
                "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
            ),
            ("TLS1.3", "TLS1.2", &[], "min version (TLS1.3) is greater than max version (TLS1.2)"),
            (
                "TLS1.3",
                "",
                &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
                "cipher suites cannot be configured when only TLS1.3 is enabled",
            ),
        ] {
            assert_eq!(checked(min, max, ciphers).as_deref(), Some(told));
        }
        assert_eq!(checked("", "", &["FOO"]), None, "names are judged when they are used");
        assert_eq!(checked("TLS1.2", "TLS1.3", &[]), None);
    }
}
