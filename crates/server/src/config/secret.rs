//! What of the command line and the environment logs must not show.

/// Shown instead of a value.
const HIDDEN: &str = "***";

/// What a name contains whose value is secret.
const MARKS: [&str; 3] = ["PASSWORD", "SECRET", "TOKEN"];

/// What is secret without such a name: a user may come with a password.
const SECRET: [&str; 1] = ["DISCOVERY_USER"];

/// What has such a name and is not secret.
const OPEN: [&str; 4] =
    ["INITIAL_CLUSTER_TOKEN", "AUTH_TOKEN", "AUTH_TOKEN_TTL", "DISCOVERY_TOKEN"];

/// The value of a flag or a variable, as it may be shown.
pub(super) fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    let name = name.trim_start_matches('-').replace('-', "_").to_uppercase();
    let name = name.strip_prefix("ETCD_").unwrap_or(&name);
    let is_secret = SECRET.contains(&name)
        || !OPEN.contains(&name) && MARKS.iter().any(|mark| name.contains(mark));
    if is_secret { HIDDEN } else { value }
}

/// The words of a command line, as they may be shown.
pub(crate) fn shown_words(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    // The flag without a value before this word.
    let mut before: Option<String> = None;
    for word in words {
        let told = match (before.take(), word.split_once('=')) {
            (Some(flag), _) if shown(&flag, "") == HIDDEN => HIDDEN.to_owned(),
            (_, Some((flag, value))) if flag.starts_with('-') => {
                format!("{flag}={}", shown(flag, value))
            }
            _ => {
                before = word.starts_with('-').then(|| word.clone());
                word
            }
        };
        all.push(told);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_and_names_of_clusters_are_not() {
        for (name, is_hidden) in [
            ("ETCD_DISCOVERY_PASSWORD", true),
            ("ETCD_DISCOVERY_USER", true),
            ("discovery-password", true),
            ("ETCD_ROOT_PASSWORD", true),
            ("ETCD_CLIENT_SECRET_KEY", true),
            ("ETCD_API_TOKEN", true),
            ("ETCD_INITIAL_CLUSTER_TOKEN", false),
            ("ETCD_AUTH_TOKEN", false),
            ("ETCD_AUTH_TOKEN_TTL", false),
            ("ETCD_DISCOVERY_TOKEN", false),
            ("ETCD_NAME", false),
        ] {
            assert_eq!(shown(name, "x") == HIDDEN, is_hidden, "{name}");
        }
    }

    #[test]
    fn the_command_line_is_shown_without_passwords() {
        let line = "etcd --name a --discovery-password p1 -discovery-user=root:p2 --data-dir=d \
                    --discovery-password=p=3 -discovery-user p4 --initial-cluster-token t --pre-vote";
        let words = shown_words(line.split_whitespace().map(str::to_owned));
        assert_eq!(
            words.join(" "),
            "etcd --name a --discovery-password *** -discovery-user=*** --data-dir=d \
             --discovery-password=*** -discovery-user *** --initial-cluster-token t --pre-vote"
        );
    }
}
