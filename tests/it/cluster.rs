//! Several processes that are one store.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::tempdir;

use crate::process::{Server, run};

/// How long a cluster may take to find its leader, and to take a write.
const PATIENCE: Duration = Duration::from_secs(30);

/// A member's name, ports and directory, which outlive its process.
struct Place {
    name: String,
    client: u16,
    peer: u16,
    directory: PathBuf,
}

/// Places on ports that are free now.
fn places(root: &Path, count: usize) -> Vec<Place> {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let held: Vec<_> = (0..count).map(|_| (listen(), listen())).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let place = |(at, (client, peer)): (usize, &(TcpListener, TcpListener))| {
        let name = format!("m{at}");
        let directory = root.join(&name);
        Place { client: port(client), peer: port(peer), directory, name }
    };
    held.iter().enumerate().map(place).collect()
}

/// What `--initial-cluster` says of these.
fn initial(places: &[Place]) -> String {
    let each = |place: &Place| format!("{}=http://127.0.0.1:{}", place.name, place.peer);
    places.iter().map(each).collect::<Vec<_>>().join(",")
}

fn endpoints(places: &[Place]) -> String {
    let each = |place: &Place| format!("127.0.0.1:{}", place.client);
    places.iter().map(each).collect::<Vec<_>>().join(",")
}

impl Place {
    fn begin(&self, initial: &str, state: &str, more: &[&str]) -> Server {
        let client = format!("http://127.0.0.1:{}", self.client);
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let flags = [
            format!("--name={}", self.name),
            format!("--data-dir={}", self.directory.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            "--initial-cluster-token=it".to_owned(),
        ];
        let flags: Vec<&str> =
            flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Server::begin(&flags)
    }
}

/// Starts founding members and waits until all of them serve.
fn found(places: &[Place]) -> Vec<Server> {
    let initial = initial(places);
    let mut servers: Vec<_> =
        places.iter().map(|place| place.begin(&initial, "new", &[])).collect();
    servers.iter_mut().for_each(Server::serving);
    servers
}

/// Runs a command of the tool until it succeeds: a cluster may be without a leader for a moment.
fn ctl(endpoints: &str, words: &[&str]) -> String {
    let until = Instant::now() + PATIENCE;
    let flag = format!("--endpoints={endpoints}");
    loop {
        let output = run(&[&["ctl", &flag, "--command-timeout=1s"], words].concat());
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(Instant::now() < until, "{words:?}: {output:?}");
    }
}

/// Where the leader among these is, as each of them tells.
fn leader(places: &[Place]) -> usize {
    let until = Instant::now() + PATIENCE;
    loop {
        let text = ctl(&endpoints(places), &["endpoint", "status", "-w", "json"]);
        let statuses: Value = serde_json::from_str(&text).unwrap();
        let leads = |status: &Value| {
            let status = &status["Status"];
            status["leader"] == status["header"]["member_id"]
        };
        let found =
            statuses.as_array().unwrap().iter().find(|status| leads(status)).map(|leader| {
                let endpoint = leader["Endpoint"].as_str().unwrap();
                places.iter().position(|place| endpoint.ends_with(&format!(":{}", place.client)))
            });
        if let Some(Some(at)) = found {
            return at;
        }
        assert!(Instant::now() < until, "nobody leads: {text}");
    }
}

/// The hash of everything, from each of these.
fn hashes(places: &[Place]) -> Vec<String> {
    let text = ctl(&endpoints(places), &["endpoint", "hashkv"]);
    text.lines().map(|line| line.split_once(", ").unwrap().1.to_owned()).collect()
}

#[test]
fn three_members_are_one_store_and_outlive_their_leader() {
    let root = tempdir().unwrap();
    let places = places(root.path(), 3);
    let mut servers: Vec<Option<Server>> = found(&places).into_iter().map(Some).collect();
    for (at, place) in places.iter().enumerate() {
        let key = format!("k{at}");
        let one = std::slice::from_ref(place);
        assert_eq!(ctl(&endpoints(one), &["put", &key, "1"]), "OK\n");
        let next = std::slice::from_ref(&places[(at + 1) % 3]);
        assert_eq!(ctl(&endpoints(next), &["get", &key]), format!("{key}\n1\n"), "at once");
    }

    let first = leader(&places);
    let killed = servers[first].take().unwrap().end(Signal::KILL);
    assert_eq!(killed.signal(), Some(9));
    let (others, all) = (&endpoints(&places), &places);
    ctl(others, &["put", "k0", "2"]);
    servers[first] = Some(places[first].begin(&initial(all), "new", &[]));
    servers[first].as_mut().unwrap().serving();
    let one = endpoints(std::slice::from_ref(&places[first]));
    assert_eq!(ctl(&one, &["get", "k0", "--print-value-only"]), "2\n");
    let told = hashes(&places);
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");

    let second = leader(&places);
    let ended = servers[second].take().unwrap().end(Signal::TERM);
    assert_eq!(ended.signal(), Some(15));
    ctl(others, &["put", "k0", "3"]);
}

#[test]
fn a_member_joins_and_is_removed() {
    let root = tempdir().unwrap();
    let places = places(root.path(), 2);
    let first = found(&places[..1]);
    let one = endpoints(&places[..1]);
    ctl(&one, &["put", "a", "1"]);

    let unknown = places[1].begin(&initial(&places), "existing", &[]);
    let told = unknown.line("discovery failed");
    let reason = told["error"].as_str().unwrap();
    assert!(reason.starts_with("error validating peerURLs {ClusterID:"), "{reason}");
    assert!(reason.ends_with(": member count is unequal"), "{reason}");
    assert_eq!(unknown.ended().code(), Some(1));

    let peer = format!("--peer-urls=http://127.0.0.1:{}", places[1].peer);
    ctl(&one, &["member", "add", "m1", &peer]);
    let mut second = places[1].begin(&initial(&places), "existing", &[]);
    second.serving();
    let two = endpoints(&places[1..]);
    assert_eq!(ctl(&two, &["get", "a"]), "a\n1\n");
    let listed = ctl(&two, &["member", "list"]);
    assert_eq!(listed.lines().filter(|line| line.contains(", started, ")).count(), 2, "{listed}");
    let line = listed.lines().find(|line| line.contains(", m1, ")).unwrap();
    let id = line.split(',').next().unwrap().to_owned();

    ctl(&one, &["member", "remove", &id]);
    let told = second.line("server error");
    let reason = "the member has been permanently removed from the cluster";
    assert_eq!(told["error"].as_str(), Some(reason));
    second.line("data-dir used by this member must be removed");
    assert_eq!(second.ended().code(), Some(0));
    ctl(&one, &["put", "a", "2"]);
    drop(first);
}

#[test]
fn one_of_two_goes_on_alone_when_it_is_forced_to() {
    let root = tempdir().unwrap();
    let places = places(root.path(), 2);
    let servers = found(&places);
    let one = endpoints(&places[..1]);
    ctl(&one, &["put", "a", "1"]);
    // The first one ends in order: what it acknowledged is in its database. The other one is gone.
    let mut servers = servers.into_iter();
    let (first, second) = (servers.next().unwrap(), servers.next().unwrap());
    second.end(Signal::KILL);
    first.end(Signal::TERM);
    let mut alone = places[0].begin(&initial(&places), "new", &["--force-new-cluster"]);
    alone.line("forcing restart member");
    alone.serving();
    assert_eq!(ctl(&one, &["get", "a"]), "a\n1\n");
    ctl(&one, &["put", "a", "2"]);
    let listed = ctl(&one, &["member", "list"]);
    assert_eq!(listed.lines().count(), 1, "{listed}");
    alone.end(Signal::KILL);
    let mut again = places[0].begin(&initial(&places), "new", &[]);
    again.serving();
    assert_eq!(ctl(&one, &["get", "a", "--print-value-only"]), "2\n");
}
