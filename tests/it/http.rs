//! Plain HTTP on the ports of a member.

use std::io::{Read, Write};
use std::net::TcpStream;

use tempfile::tempdir;

use crate::process::Server;

/// Status, headers in lower case, body.
fn ask(address: &str, method: &str, target: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn client_port() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--cors=http://ok.example:80"]);
    let get = |target: &str| {
        let (status, _, body) = ask(&server.client, "GET", target, "");
        (status, body)
    };
    for (target, status, body) in [
        (
            "/version",
            200,
            "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}",
        ),
        ("/health", 200, "{\"health\":\"true\",\"reason\":\"\"}"),
        ("/health?serializable=true", 200, "{\"health\":\"true\",\"reason\":\"\"}"),
        ("/livez", 200, "ok\n"),
        ("/livez?verbose", 200, "[+]serializable_read ok\nok\n"),
        ("/readyz", 200, "ok\n"),
        ("/readyz/data_corruption?verbose", 200, "[+]data_corruption ok\nok\n"),
        ("/readyz/nothing", 404, "404 page not found\n"),
        ("/v2/keys/a", 404, "404 page not found\n"),
        ("/v3/kv/range", 501, "{\"code\":12,\"message\":\"Method Not Allowed\"}"),
        ("/", 404, "404 page not found\n"),
    ] {
        assert_eq!(get(target), (status, body.to_owned()), "{target}");
    }
    let (status, head, body) = ask(&server.client, "POST", "/health", "");
    assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"));
    assert!(head.contains("allow: get"), "{head}");
    let (status, head, _) =
        ask(&server.client, "OPTIONS", "/anything", "Origin: http://ok.example:80\r\n");
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: http://ok.example:80"), "{head}");
    let (_, head, _) = ask(&server.client, "GET", "/health", "Origin: http://evil.example\r\n");
    assert!(!head.contains("access-control"), "{head}");
}

#[test]
fn alarms_and_metrics() {
    let directory = tempdir().unwrap();
    // The database takes this much from the start.
    let server = Server::start(directory.path(), &["--quota-backend-bytes=1000"]);
    let metrics = || ask(&server.client, "GET", "/metrics", "").2;
    let before = metrics();
    for line in [
        "etcd_server_has_leader 1\n",
        "etcd_server_is_leader 1\n",
        "etcd_server_version{server_version=\"3.7.1\"} 1\n",
        "etcd_cluster_version{cluster_version=\"3.7\"} 1\n",
        "etcd_server_quota_backend_bytes 1000\n",
        "etcd_mvcc_put_total 0\n",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0\n",
    ] {
        assert!(before.contains(line), "{line}{before}");
    }
    let refused = crate::process::run(&["ctl", "--endpoints", &server.client, "put", "a", "1"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("etcdserver: mvcc: database space exceeded"), "{told}");
    let (status, _, body) = ask(&server.client, "GET", "/health", "");
    assert_eq!(
        (status, body.as_str()),
        (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n")
    );
    let (status, _, _) = ask(&server.client, "GET", "/health?exclude=NOSPACE", "");
    assert_eq!(status, 200);
    let (status, _, _) = ask(&server.client, "GET", "/readyz", "");
    assert_eq!(status, 200, "a full database is no reason to stop asking");
    let after = metrics();
    assert!(after.contains("etcd_server_health_failures 1\n"), "{after}");
    assert!(after.contains("grpc_code=\"ResourceExhausted\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n"), "{after}");
}

#[test]
fn other_ports() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--host-whitelist=127.0.0.1"]);
    let (status, head, body) = ask(&server.peer, "GET", "/members", "");
    assert_eq!(status, 200);
    assert!(head.contains("x-etcd-cluster-id: "), "{head}");
    assert!(body.starts_with("[{\"id\":") && body.ends_with("}]\n"), "{body}");
    assert!(body.contains("\"name\":\"m\",\"clientURLs\":[\"http://127.0.0.1:2379\"]"), "{body}");
    let (_, _, body) = ask(&server.peer, "GET", "/raft/probing", "");
    assert!(body.starts_with("{\"OK\":true,\"Now\":\""), "{body}");
    assert_eq!(ask(&server.peer, "GET", "/health", "").0, 404);

    let mut stream = TcpStream::connect(&server.client).unwrap();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}
