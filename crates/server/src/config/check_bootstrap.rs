//! Refuses ways to find the other members that contradict each other, in etcd's words.
//!
//! *Contract.* `Config.Validate` in `server/embed/config.go` of etcd v3.7.1.

use super::Config;

impl Config {
    /// Whoever finds the others by a service does not name them: the default is not meant.
    pub(super) fn drop_default_cluster(&mut self) {
        let finds = !self.discovery_srv.is_empty()
            || !self.discovery_srv_name.is_empty()
            || !self.discovery.endpoints.is_empty();
        if finds && !self.given.contains("initial-cluster") {
            self.initial_cluster.clear();
        }
    }

    /// Whether etcd's v3 discovery service says who the members are.
    pub(crate) fn discovers(&self) -> bool {
        !self.discovery.endpoints.is_empty()
    }

    /// At most one way, and that one complete.
    pub(super) fn check_bootstrap(&self) -> Result<(), String> {
        if let Some(state) = &self.unknown_state {
            return Err(format!("unexpected clusterState {state:?}"));
        }
        let ways =
            [!self.initial_cluster.is_empty(), !self.discovery_srv.is_empty(), self.discovers()];
        if ways.into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err("multiple discovery or bootstrap flags are set. Choose one of \
                        \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\""
                .to_owned());
        }
        let discovery = &self.discovery;
        if discovery.token.is_empty() == self.discovers() {
            return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
        }
        if discovery.endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
            return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, from_command_line};

    fn refusal(words: &str) -> String {
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        match from_command_line(&words, &[]) {
            Err((refusal, _)) => refusal.to_string(),
            Ok(_) => String::new(),
        }
    }

    #[test]
    fn ways_to_find_members_exclude_each_other() {
        let multiple = "multiple discovery or bootstrap flags are set. Choose one of \
                        \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";
        let both = "both --discovery-token and --discovery-endpoints must be set";
        for (words, told) in [
            ("--initial-cluster=a=http://127.0.0.1:1 --discovery-srv=x.org", multiple.to_owned()),
            (
                "--discovery-srv=x.org --discovery-endpoints=127.0.0.1:1 --discovery-token=t",
                multiple.to_owned(),
            ),
            (
                "--initial-cluster=a=http://127.0.0.1:1 --discovery-endpoints=127.0.0.1:1",
                multiple.to_owned(),
            ),
            ("--discovery-endpoints=127.0.0.1:1", both.to_owned()),
            ("--discovery-token=t", both.to_owned()),
            ("--discovery-endpoints=", both.to_owned()),
            (
                "--discovery-endpoints=a,,b --discovery-token=t",
                "--discovery-endpoints must not contain empty endpoints".to_owned(),
            ),
            ("--discovery-endpoints=https://a:1 --discovery-token=t", String::new()),
            ("--discovery-endpoints=127.0.0.1:1 --discovery-token=t", String::new()),
            ("--discovery-srv=x.org --discovery-srv-name=n", String::new()),
        ] {
            assert_eq!(refusal(words), told, "{words}");
        }
    }

    #[test]
    fn the_default_cluster_is_not_meant_beside_a_service() {
        for words in ["--discovery-srv=x.org", "--discovery-srv-name=n"] {
            let Ok(Outcome::Serve(mut config, _)) = from_command_line(&[words.to_owned()], &[])
            else {
                panic!("{words} is refused");
            };
            config.name = "a".to_owned();
            config.derive();
            assert_eq!(config.initial_cluster, "", "{words}");
        }
    }
}
