//! Flags that etcd 3.7.1 no longer has, and that old unit files and configuration files carry.
//!
//! *Invariants.* 1. A flag of 3.4 to 3.6 whose function lives on under another name sets that one,
//! unless it was given itself. 2. What a flag asks for and is not built is refused on the command
//! line, where 3.7.1 refuses it, too. In the environment and in a file 3.7.1 passes over it: so do
//! we, with a line.
//!
//! *Contract.* `server/etcdmain/config.go` of etcd v3.4.23 and v3.6.16.

use super::Config;
use super::flags::{Effect, Flag, find};
use super::gates::set_feature_gates;
use super::value::{parse_bool, parse_u64};

/// An old flag, and what became of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Old {
    pub(super) name: &'static str,
    fate: Fate,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It is called so now.
    Renamed(&'static str),
    /// It is a feature gate now.
    Gate(&'static str),
    /// These values ask for nothing that is missing; others for what is named here.
    Missing { values: Values, harmless: &'static str, what: &'static str },
    /// It changes nothing here, because of this.
    Vain { values: Values, why: &'static str },
    /// `--debug`.
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Any,
    Bool,
    Number,
    OneOf(&'static [&'static str]),
}

/// What an old flag has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// It did what it asks for; to be told.
    Told(String),
    /// It asks for what is not built: the reason to refuse.
    Missing(String),
    /// Nothing to tell.
    Nothing,
}

const PROXY_TIMES: Fate =
    Fate::Vain { values: Values::Number, why: "it is about --proxy, which is not built" };

/// Old flags that are not `experimental-` with a name of today.
const OLD: &[Old] = &[
    old("discovery", missing(Values::Any, "", "discovery by the v2 API")),
    old(
        "discovery-proxy",
        Fate::Vain { values: Values::Any, why: "it is about --discovery, which is not built" },
    ),
    old("proxy", missing(Values::OneOf(&["off", "readonly", "on"]), "off", "the v2 proxy")),
    old("proxy-failure-wait", PROXY_TIMES),
    old("proxy-refresh-interval", PROXY_TIMES),
    old("proxy-dial-timeout", PROXY_TIMES),
    old("proxy-write-timeout", PROXY_TIMES),
    old("proxy-read-timeout", PROXY_TIMES),
    old("enable-v2", missing(Values::Bool, "false", "the v2 API")),
    old("experimental-enable-v2v3", missing(Values::Any, "", "the v2 API")),
    old("debug", Fate::Debug),
    old(
        "log-package-levels",
        Fate::Vain { values: Values::Any, why: "all packages have the level of --log-level" },
    ),
    old("log-output", Fate::Renamed("log-outputs")),
    old("experimental-snapshot-catch-up-entries", Fate::Renamed("snapshot-catchup-entries")),
    old("experimental-stop-grpc-service-on-defrag", Fate::Gate("StopGRPCServiceOnDefrag")),
    old("experimental-initial-corrupt-check", Fate::Gate("InitialCorruptCheck")),
    old("experimental-compact-hash-check-enabled", Fate::Gate("CompactHashCheck")),
    old(
        "experimental-txn-mode-write-with-shared-buffer",
        Fate::Gate("TxnModeWriteWithSharedBuffer"),
    ),
    old("experimental-enable-lease-checkpoint", Fate::Gate("LeaseCheckpoint")),
    old("experimental-enable-lease-checkpoint-persist", Fate::Gate("LeaseCheckpointPersist")),
    old("experimental-backend-bbolt-freelist-type", Fate::Renamed("backend-bbolt-freelist-type")),
    old(
        "experimental-bootstrap-defrag-threshold-megabytes",
        Fate::Renamed("bootstrap-defrag-threshold-megabytes"),
    ),
    old("experimental-compact-hash-check-time", Fate::Renamed("compact-hash-check-time")),
    old("experimental-compaction-batch-limit", Fate::Renamed("compaction-batch-limit")),
    old("experimental-compaction-sleep-interval", Fate::Renamed("compaction-sleep-interval")),
    old("experimental-corrupt-check-time", Fate::Renamed("corrupt-check-time")),
    old("experimental-distributed-tracing-address", Fate::Renamed("distributed-tracing-address")),
    old(
        "experimental-distributed-tracing-instance-id",
        Fate::Renamed("distributed-tracing-instance-id"),
    ),
    old(
        "experimental-distributed-tracing-sampling-rate",
        Fate::Renamed("distributed-tracing-sampling-rate"),
    ),
    old(
        "experimental-distributed-tracing-service-name",
        Fate::Renamed("distributed-tracing-service-name"),
    ),
    old("experimental-downgrade-check-time", Fate::Renamed("downgrade-check-time")),
    old("experimental-enable-distributed-tracing", Fate::Renamed("enable-distributed-tracing")),
    old("experimental-max-learners", Fate::Renamed("max-learners")),
    old("experimental-memory-mlock", Fate::Renamed("memory-mlock")),
    old(
        "experimental-peer-skip-client-san-verification",
        Fate::Renamed("peer-skip-client-san-verification"),
    ),
    old("experimental-snapshot-catchup-entries", Fate::Renamed("snapshot-catchup-entries")),
    old("experimental-warning-apply-duration", Fate::Renamed("warning-apply-duration")),
    old(
        "experimental-warning-unary-request-duration",
        Fate::Renamed("warning-unary-request-duration"),
    ),
    old(
        "experimental-watch-progress-notify-interval",
        Fate::Renamed("watch-progress-notify-interval"),
    ),
];

const fn old(name: &'static str, fate: Fate) -> Old {
    Old { name, fate }
}

const fn missing(values: Values, harmless: &'static str, what: &'static str) -> Fate {
    Fate::Missing { values, harmless, what }
}

/// The old flag of this name.
pub(super) fn find_old(name: &str) -> Option<&'static Old> {
    OLD.iter().find(|old| old.name == name)
}

/// Every old flag.
pub(super) fn all() -> &'static [Old] {
    OLD
}

impl Values {
    fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Any => Ok(()),
            Self::Bool => parse_bool(value).map(drop),
            Self::Number => parse_u64(value).map(drop),
            Self::OneOf(values) if values.contains(&value) => Ok(()),
            Self::OneOf(_) => Err("invalid value".to_owned()),
        }
    }
}

impl Old {
    /// The flag of today that it sets.
    pub(super) fn today(&self) -> Option<&'static Flag> {
        match self.fate {
            Fate::Renamed(name) => find(name),
            _ => None,
        }
    }

    /// The name of what it sets today.
    pub(super) fn sets(&self) -> Option<&'static str> {
        match self.fate {
            Fate::Renamed(name) => Some(name),
            Fate::Debug => Some("log-level"),
            Fate::Gate(_) | Fate::Missing { .. } | Fate::Vain { .. } => None,
        }
    }

    /// Whether the flag needs no value.
    pub(super) fn is_switch(&self) -> bool {
        match self.fate {
            Fate::Renamed(_) => self.today().is_some_and(Flag::is_switch),
            Fate::Gate(_) | Fate::Debug => true,
            Fate::Missing { values, .. } | Fate::Vain { values, .. } => values == Values::Bool,
        }
    }

    /// Its name in the environment.
    pub(super) fn variable(&self) -> String {
        super::flags::variable(self.name)
    }

    /// Does what the flag asks for. The error is the reason after `invalid value …`.
    pub(super) fn set(&self, config: &mut Config, value: &str) -> Result<Done, String> {
        let name = self.name;
        match self.fate {
            Fate::Renamed(today) => {
                self.set_today(config, value)?;
                Ok(Done::Told(deprecated(name, &format!("--{today}"))))
            }
            Fate::Gate(gate) => {
                let on = parse_bool(value)?;
                if !config.feature_gates.contains_key(gate) {
                    set_feature_gates(config, &format!("{gate}={on}"))?;
                }
                Ok(Done::Told(deprecated(name, &format!("--feature-gates={gate}={on}"))))
            }
            Fate::Missing { values, harmless, what } => {
                values.check(value)?;
                let is_harmless = match values {
                    Values::Bool => !parse_bool(value)?,
                    _ => value == harmless,
                };
                if is_harmless {
                    return Ok(Done::Told(format!(
                        "--{name} was removed in etcd 3.7: without effect"
                    )));
                }
                Ok(Done::Missing(format!(
                    "--{name}={value}: {what} is not supported by this version of quorate"
                )))
            }
            Fate::Vain { values, why } => {
                values.check(value)?;
                Ok(Done::Told(format!("--{name} is without effect: {why}")))
            }
            Fate::Debug if parse_bool(value)? => {
                if !config.given.contains("log-level") {
                    config.log_level = "debug".to_owned();
                }
                Ok(Done::Told("--debug was removed in etcd 3.5: use --log-level=debug".to_owned()))
            }
            Fate::Debug => Ok(Done::Nothing),
        }
    }

    fn set_today(&self, config: &mut Config, value: &str) -> Result<(), String> {
        let Some(flag) = self.today() else { return Ok(()) };
        let mut spare = config.clone();
        // The name of today wins, wherever it stands; the value must be one all the same.
        let target = if config.given.contains(flag.name) { &mut spare } else { config };
        match flag.effect {
            Effect::Value(set) => set(target, value),
            Effect::Switch(set) => {
                set(target, parse_bool(value)?);
                Ok(())
            }
            Effect::Ignored | Effect::Version => Ok(()),
        }
    }
}

fn deprecated(name: &str, today: &str) -> String {
    format!(
        "--{name} is deprecated in v3.6 and will be decommissioned in v3.7. Use '{today}' instead."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_old_name_leads_to_a_flag_of_today() {
        for old in OLD {
            if let Fate::Renamed(today) = old.fate {
                assert!(old.today().is_some(), "{today}");
            }
            assert!(find(old.name).is_none(), "{} is a flag of today", old.name);
        }
    }

    #[test]
    fn todays_name_wins() {
        let mut config = Config::default();
        config.given.insert("max-learners");
        config.max_learners = 3;
        let old = find_old("experimental-max-learners").expect("known");
        assert!(matches!(old.set(&mut config, "7"), Ok(Done::Told(_))));
        assert_eq!(config.max_learners, 3);
        assert_eq!(old.set(&mut config, "x"), Err("parse error".to_owned()));
    }

    #[test]
    fn what_is_missing_is_said_and_its_defaults_pass() {
        let mut config = Config::default();
        let set = |config: &mut Config, name: &str, value: &str| {
            find_old(name).expect("known").set(config, value)
        };
        for (name, harmless, asking) in [
            ("enable-v2", "false", "true"),
            ("proxy", "off", "readonly"),
            ("discovery", "", "https://discovery.etcd.io/a"),
            ("experimental-enable-v2v3", "", "/v2"),
        ] {
            assert!(matches!(set(&mut config, name, harmless), Ok(Done::Told(_))), "{name}");
            let Ok(Done::Missing(told)) = set(&mut config, name, asking) else {
                panic!("{name}={asking} must be refused");
            };
            assert!(told.starts_with(&format!("--{name}={asking}: ")), "{told}");
        }
        assert_eq!(set(&mut config, "proxy", "maybe"), Err("invalid value".to_owned()));
        assert!(set(&mut config, "debug", "true").is_ok());
        assert_eq!(config.log_level, "debug");
    }
}
