//! The files in `deploy/`, the Procfile and docs/operations.md say only what the server knows.
//!
//! *Absent.* Running them: systemd, containers and Kubernetes are not there in a test.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::{Config, Outcome, Refusal, from_command_line};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).expect(path)
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).expect(path)
}

/// What the server makes of a command line. A flag that this version knows and has not built yet is
/// fine here; then there is no configuration to look at.
fn understood(arguments: &[String], environment: &[(String, String)]) -> Option<Box<Config>> {
    match from_command_line(arguments, environment) {
        Ok(Outcome::Serve(config, notices)) => {
            let unknown =
                notices.iter().find(|notice| !matches!(notice, super::Notice::Used { .. }));
            assert_eq!(unknown, None);
            Some(config)
        }
        Err((Refusal::Config(reason), _)) if reason.ends_with("this version of quorate") => None,
        other => panic!("{arguments:?} {environment:?}: {other:?}"),
    }
}

/// The lines of a unit or an environment file, `KEY=VALUE`; a key may come again.
fn pairs(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', ';', '[']));
    let pair = |line: &str| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
    lines.filter(|line| !line.trim().is_empty()).map(|line| pair(line).expect(line)).collect()
}

/// Words as a shell takes them, with single quotes alone.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (at, part) in line.split('\'').enumerate() {
        let is_quoted = at % 2 == 1;
        for (count, piece) in part.split(' ').enumerate() {
            match words.last_mut() {
                Some(last) if count == 0 || is_quoted => {
                    if is_quoted && count > 0 {
                        last.push(' ');
                    }
                    last.push_str(piece);
                }
                _ => words.push(piece.to_owned()),
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().expect("a list");
    list.iter().map(|word| word.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn the_unit_is_ready_by_notify_and_its_environment_is_understood() {
    let unit = pairs(&read("deploy/systemd/quorate.service"));
    let of = |name: &str| {
        let found: Vec<_> = unit.iter().filter(|(key, _)| key == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        found[0].1.clone()
    };
    assert_eq!(of("Type"), "notify");
    assert_eq!((of("User"), of("StateDirectoryMode")), ("etcd".to_owned(), "0700".to_owned()));
    let file = of("EnvironmentFile");
    assert!(file.ends_with("/quorate.env"), "{file}");
    let command = words(&of("ExecStart"));
    assert!(command[0].ends_with("/quorate"), "{command:?}");
    let text = read("deploy/systemd/quorate.env");
    let config = understood(&command[1..], &pairs(&text)).expect("nothing that is not built");
    assert_eq!(config.data_dir, format!("/var/lib/{}", of("StateDirectory")));
    // What is there to be switched on is understood, too.
    let all: Vec<_> = text.lines().map(|line| line.trim_start_matches("#ETCD_")).collect();
    let all: Vec<_> = all
        .into_iter()
        .zip(text.lines())
        .map(|(cut, line)| if cut == line { line.to_owned() } else { format!("ETCD_{cut}") })
        .collect();
    let all = pairs(&all.join("\n"));
    assert!(all.iter().any(|(name, _)| name == "ETCD_CERT_FILE"), "{all:?}");
    drop(understood(&[], &all));
}

#[test]
fn the_drop_in_puts_the_binary_of_the_unit_in_etcds_place() {
    let unit = pairs(&read("deploy/systemd/quorate.service"));
    let (_, command) = unit.iter().find(|(key, _)| key == "ExecStart").expect("a command");
    let drop_in = pairs(&read("deploy/systemd/etcd.service.d/quorate.conf"));
    let bound = format!("{command}:/usr/bin/etcd");
    assert_eq!(drop_in, [("BindReadOnlyPaths".to_owned(), bound)]);
}

#[test]
fn the_static_pod_asks_for_what_is_there() {
    let pod = yaml("deploy/kubernetes/etcd.yaml");
    let container = &pod["spec"]["containers"][0];
    let command = strings(&container["command"]);
    assert_eq!(command[0], "etcd");
    let flag = |name: &str| {
        let prefix = format!("--{name}=");
        let found = command.iter().find_map(|word| word.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("no --{name}")).to_owned()
    };
    drop(understood(&command[1..], &[]));
    let metrics = net::Url::parse(&flag("listen-metrics-urls")).expect("a URL");
    for (probe, path) in
        [("livenessProbe", "/livez"), ("readinessProbe", "/readyz"), ("startupProbe", "/readyz")]
    {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path);
        assert!(crate::http::is_probe(path), "{path} is served");
        assert_eq!(get["port"].to_string(), metrics.port());
        assert_eq!(get["host"], metrics.host());
        assert_eq!(get["scheme"], "HTTP");
    }
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let is_mounted = |path: &str| {
        mounts.iter().any(|mount| path.starts_with(mount["mountPath"].as_str().expect("a path")))
    };
    for name in ["data-dir", "cert-file", "peer-key-file", "trusted-ca-file"] {
        assert!(is_mounted(&flag(name)), "--{name}");
    }
}

#[test]
fn the_containers_are_one_cluster() {
    let compose = yaml("deploy/compose.yaml");
    let common = compose["x-environment"].as_object().expect("a map");
    let mut clusters = BTreeMap::new();
    for (service, settings) in compose["services"].as_object().expect("a map") {
        let own = settings["environment"].as_object().expect("a map");
        let all = common.iter().chain(own.iter().filter(|(name, _)| *name != "<<"));
        let environment: BTreeMap<_, _> = all
            .map(|(name, value)| (name.clone(), value.as_str().expect("a text").to_owned()))
            .collect();
        let environment: Vec<_> = environment.into_iter().collect();
        let config = understood(&[], &environment).expect("nothing that is not built");
        let cluster = super::InitialCluster::parse(&config.initial_cluster).expect("a cluster");
        let (_, urls) =
            cluster.members().find(|(name, _)| *name == config.name).expect("its own name");
        assert_eq!(urls, config.initial_advertise_peer_urls, "{service}");
        clusters.insert(config.name.clone(), cluster);
    }
    assert_eq!(clusters.len(), 3);
    assert!(clusters.values().all(|cluster| Some(cluster) == clusters.values().next()));
}

#[test]
fn the_image_runs_as_a_user_without_rights() {
    let file = read("deploy/Containerfile");
    let user = file.lines().find_map(|line| line.strip_prefix("USER ")).expect("a user");
    let (user, group) = user.split_once(':').expect("user and group");
    let number = |text: &str| text.parse::<u32>().expect("a number: no names need to be known");
    assert!(number(user) > 0 && number(group) > 0);
    assert!(file.contains(&format!("--chown={user}:{group} /own/ /")), "its volume is its own");
}

#[test]
fn the_members_of_the_procfile_are_one_cluster() {
    let mut members = 0;
    let text = read("Procfile");
    let lines = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
    for (name, command) in lines.filter_map(|line| line.split_once(": target/release/quorate ")) {
        let config = understood(&words(command), &[]).expect("nothing that is not built");
        assert_eq!(config.name, name);
        let cluster = super::InitialCluster::parse(&config.initial_cluster).expect("a cluster");
        cluster.check_founding(&config).expect("its own name and URLs");
        members += 1;
    }
    assert_eq!(members, 4, "three, and a learner to be switched on");
}

#[test]
fn the_page_for_operators_names_flags_that_there_are() {
    // Of the tools, of systemd's and of everybody.
    let others = [
        "cluster",
        "endpoints",
        "learner",
        "help",
        "flag",
        "bump-revision",
        "mark-compacted",
        "skip-hash-check",
        "output-dir",
        "dry-run",
    ];
    let text = read("docs/operations.md");
    let mut known = 0;
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        let rest = &text[at + 2..];
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        let name = &rest[..end.unwrap_or(rest.len())];
        if name.is_empty()
            || name.starts_with('-')
            || before == '-'
            || before.is_alphanumeric()
            || others.contains(&name)
        {
            continue;
        }
        assert!(super::flags::find(name).is_some(), "--{name} at {at}: {rest:.40}");
        known += 1;
    }
    assert!(known > 50, "{known} flags were found");
}
