//! Reads the configuration file again, and says what is different.
//!
//! *Invariants.* A file whose values a start would refuse changes nothing. What a start looks at
//! beside them (certificates, ports, the log's outputs, the data directory) is not looked at here.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Config;
use super::keys;
use super::old::find_old;
use super::parse::{Notice, check};

/// Keys whose new values count at once.
const LIVE: [&str; 6] = [
    "auto-compaction-mode",
    "auto-compaction-retention",
    "log-level",
    "quota-backend-bytes",
    "warning-apply-duration",
    "warning-unary-request-duration",
];

/// One key, as it was and as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// What reading the file again has found.
#[derive(Debug)]
pub(crate) struct Reloaded {
    /// The configuration as the file has it now.
    pub(crate) config: Config,
    /// What counts at once.
    pub(crate) live: Vec<Change>,
    /// Keys whose new values count with the next start.
    pub(crate) at_restart: Vec<String>,
    /// What the file says in vain.
    pub(crate) notices: Vec<Notice>,
}

impl Config {
    /// Reads the configuration file again. The error is why a start would refuse what it says.
    pub(crate) fn reload(&self) -> Result<Reloaded, String> {
        let mut notices = Vec::new();
        let mut config = Self::from_file(&self.config_file, &mut notices)
            .and_then(|config| check(&config).map(|()| config))
            .map_err(|refusal| refusal.to_string())?;
        config.retention()?;
        let (mut live, mut at_restart) = (Vec::new(), Vec::new());
        let keys: BTreeSet<_> = self.file_values.keys().chain(config.file_values.keys()).collect();
        for key in keys {
            let (from, to) = (self.file_values.get(key), config.file_values.get(key));
            if effect(key, from) == effect(key, to) {
                continue;
            }
            if is_live(key) {
                live.push(Change { key: key.clone(), from: show(from), to: show(to) });
            } else {
                at_restart.push(key.clone());
            }
        }
        // Until then they are as they were, and are told again if they are changed again.
        for key in &at_restart {
            match self.file_values.get(key) {
                Some(value) => config.file_values.insert(key.clone(), value.clone()),
                None => config.file_values.remove(key),
            };
        }
        Ok(Reloaded { config, live, at_restart, notices })
    }

    /// Takes over what counts at once.
    pub(crate) fn adopt(&mut self, reloaded: &Self) {
        self.auto_compaction_mode.clone_from(&reloaded.auto_compaction_mode);
        self.auto_compaction_retention.clone_from(&reloaded.auto_compaction_retention);
        self.log_level.clone_from(&reloaded.log_level);
        self.quota_backend_bytes = reloaded.quota_backend_bytes;
        self.warning_apply_duration = reloaded.warning_apply_duration;
        self.warning_unary_request_duration = reloaded.warning_unary_request_duration;
        self.file_values.clone_from(&reloaded.file_values);
    }
}

/// Whether a key, or the one of today that a key of old stands for, counts at once.
fn is_live(key: &str) -> bool {
    let is_of_old =
        || find_old(key).is_some_and(|old| old.sets().is_some_and(|today| LIVE.contains(&today)));
    LIVE.contains(&key) || is_of_old()
}

/// What a key alone makes of the configuration: a value that is written out and is the default
/// changes nothing.
fn effect(key: &str, value: Option<&Value>) -> String {
    let mut config = Config::default();
    let values = value.map(|value| (key.to_owned(), value.clone())).into_iter().collect();
    if let (Some(_), Some(value)) = (find_old(key), value) {
        config.read_old(key, value);
    }
    // It passes over keys of old.
    match keys::apply(&values, &mut config) {
        Ok((texts, vain)) => format!("{config:?}{texts:?}{vain:?}"),
        Err(reason) => reason,
    }
}

fn show(value: Option<&Value>) -> String {
    match value {
        None => "default".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_differs_is_told_and_only_what_is_live_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        fs::write(&path, "name: a\nquota-backend-bytes: 100\nmax-wals: 5\n").unwrap();
        let path_text = path.to_str().unwrap();
        let mut running = Config::from_file(path_text, &mut Vec::new()).unwrap();

        fs::write(&path, "name: b\nquota-backend-bytes: 200\nlog-level: warn\npre-vote: true\n")
            .unwrap();
        let reloaded = running.reload().unwrap();
        let live: Vec<_> =
            reloaded.live.iter().map(|c| format!("{} {} {}", c.key, c.from, c.to)).collect();
        assert_eq!(live, ["log-level default warn", "quota-backend-bytes 100 200"]);
        assert_eq!(reloaded.at_restart, ["name"]);
        running.adopt(&reloaded.config);
        assert_eq!((running.quota(), running.name.as_str()), (Some(200), "a"));

        let again = running.reload().unwrap();
        assert_eq!((again.live, again.at_restart), (vec![], vec!["name".to_owned()]));

        for bad in
            ["heartbeat-interval: x", "auto-compaction-retention: xx", "a: [", "log-level: x"]
        {
            fs::write(&path, format!("quota-backend-bytes: 300\n{bad}\n")).unwrap();
            assert!(running.reload().is_err(), "{bad}");
        }
        assert_eq!(running.quota(), Some(200));
    }

    #[test]
    fn keys_of_old_are_told_as_those_of_today() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yml");
        fs::write(&path, "name: a\ndebug: false\n").unwrap();
        let mut running = Config::from_file(path.to_str().unwrap(), &mut Vec::new()).unwrap();
        let old = "name: a\ndebug: true\nexperimental-warning-apply-duration: 5000000\n\
                   experimental-max-learners: 3\nproxy-failure-wait: 5\n";
        fs::write(&path, old).unwrap();
        let reloaded = running.reload().unwrap();
        let live: Vec<_> =
            reloaded.live.iter().map(|c| format!("{} {} {}", c.key, c.from, c.to)).collect();
        let expected = ["debug false true", "experimental-warning-apply-duration default 5000000"];
        assert_eq!(live, expected);
        assert_eq!(reloaded.at_restart, ["experimental-max-learners"]);
        running.adopt(&reloaded.config);
        assert_eq!((running.log_level.as_str(), running.max_learners), ("debug", 1));
        assert_eq!(running.warning_apply_duration.as_millis(), 5);
        assert!(running.reload().unwrap().live.is_empty());
    }
}
