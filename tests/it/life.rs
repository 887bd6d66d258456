//! Starts, stops and refusals of the process.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;
use tempfile::tempdir;

use crate::process::{Server, run};

#[test]
fn what_was_written_is_there_after_any_end() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    assert_eq!(server.ctl(&["put", "a", "1"]), "OK\n");
    let ended = server.end(Signal::TERM);
    assert_eq!(ended.signal(), Some(15), "as a process that does not handle the signal");

    let server = Server::start(directory.path(), &[]);
    assert_eq!(server.ctl(&["get", "a"]), "a\n1\n");
    server.ctl(&["put", "a", "2"]);
    assert_eq!(server.end(Signal::KILL).signal(), Some(9));

    let server = Server::start(directory.path(), &[]);
    assert_eq!(server.ctl(&["get", "a", "--print-value-only"]), "2\n");
    assert_eq!(server.end(Signal::INT).signal(), Some(2));
}

#[test]
fn a_port_and_a_directory_belong_to_one() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let url = format!("http://{}", server.client);
    let other = tempdir().unwrap();
    let refused = run(&[
        &format!("--data-dir={}", other.path().join("o").display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
        "--listen-peer-urls=http://127.0.0.1:0",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    let line = format!("listen tcp {}: bind: address already in use", server.client);
    assert!(told.contains(&line), "{told}");

    let refused = run(&[
        "--name=m",
        &format!("--data-dir={}", directory.path().join("m.etcd").display()),
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:0",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("m.etcd/member/"), "the file that is locked is named: {told}");
    assert_eq!(server.ctl(&["put", "a", "1"]), "OK\n", "the first one goes on");
}

#[test]
fn command_lines_are_refused_with_etcds_codes() {
    for (arguments, code, told) in [
        (&["--nosuch"][..], 2, "flag provided but not defined: -nosuch\nUsage:"),
        (&["--snapshot-count=x"], 2, "invalid value \"x\" for flag -snapshot-count: parse error\n"),
        (&["stray"], 1, "\"error\":\"\\\"stray\\\" is not a valid flag\""),
        (&["--enable-v2"], 1, "the v2 API is not supported by this version of quorate"),
        (
            &["--initial-cluster=other=http://127.0.0.1:1"],
            1,
            "couldn't find local name \\\"default\\\" in the initial cluster configuration",
        ),
    ] {
        let directory = tempdir().unwrap();
        let data = format!("--data-dir={}", directory.path().join("d").display());
        let ports = [
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:0",
            data.as_str(),
        ];
        let output = run(&[&ports, arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(!directory.path().join("d/member").exists(), "nothing is made");
    }
}

#[test]
fn the_version_is_told_in_four_lines() {
    let output = run(&["--version"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let starts: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(starts, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    assert!(text.starts_with("etcd Version: 3.7.1\n"), "{text}");
}
