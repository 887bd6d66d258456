//! The parser against what real etcd prints.

use node::requests::compactor::Retention;

use super::*;

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn read(
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> Result<(Config, Vec<Notice>), Refusal> {
    let environment: Vec<_> =
        environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    match from_command_line(&owned(arguments), &environment) {
        Ok(Outcome::Serve(config, notices)) => Ok((*config, notices)),
        Ok(other) => panic!("{arguments:?}: {other:?}"),
        Err((refusal, _)) => Err(refusal),
    }
}

fn config(arguments: &[&str]) -> Config {
    read(arguments, &[]).expect("valid").0
}

#[test]
fn flags_that_cannot_be_read_are_told_in_gos_words() {
    for (arguments, told) in [
        (&["--nosuch"][..], "flag provided but not defined: -nosuch"),
        (&["-nosuch=1"], "flag provided but not defined: -nosuch"),
        (
            &["--heartbeat-interval=abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ),
        (
            &["--heartbeat-interval=-1"],
            "invalid value \"-1\" for flag -heartbeat-interval: parse error",
        ),
        (
            &["--quota-backend-bytes=99999999999999999999"],
            "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
        ),
        (
            &["--initial-cluster-state=foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (
            &["--listen-client-urls=ftp://a:1"],
            "invalid value \"ftp://a:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://a:1",
        ),
        (
            &["--max-concurrent-streams=x"],
            "invalid value \"x\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--log-level=foo"], "unrecognized level: \"foo\" (--log-level)"),
        (&["---x"], "bad flag syntax: ---x"),
        (&["-=3"], "bad flag syntax: -=3"),
        (
            &["--v2-deprecation=not-yet"],
            "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"",
        ),
        (
            &["--feature-gates=Foo=true"],
            "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
        ),
    ] {
        assert_eq!(read(arguments, &[]).err(), Some(Refusal::Syntax(told.to_owned())));
    }
}

#[test]
fn configurations_that_cannot_be_are_told_in_etcds_words() {
    for (arguments, told) in [
        (&["foo"][..], "\"foo\" is not a valid flag"),
        (&["--pre-vote", "false"], "\"false\" is not a valid flag"),
        (
            &["--listen-client-urls=http://foo.com:1", "--advertise-client-urls=http://a:1"],
            "expected IP in URL for binding (http://foo.com:1)",
        ),
        (&["--listen-client-urls=http://127.0.0.1:1"], ADVERTISE_MISSING),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--advertise-client-urls=http://:1"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (&["--logger=foo"], "unknown logger option \"foo\""),
        (&["--log-format=foo"], "unknown log format: foo, supported values json, console"),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (
            &["--discovery-srv=a.b", "--initial-cluster=default=http://localhost:2380"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (&["--discovery-token=a"], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"],
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (
            &["--enable-log-rotation", "--log-outputs=a,b"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &[
                "--enable-log-rotation",
                "--log-outputs=a",
                "--log-rotation-config-json={\"maxsize\":\"a\"}",
            ],
            "invalid log rotation config: json: cannot unmarshal string into Go struct field logRotationConfig.Logger.maxsize of type int",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (&["--log-outputs=a,default"], "multi logoutput for \"default\" is not supported yet"),
        (&["--compact-hash-check-time=0"], "--compact-hash-check-time must be >0 (set to 0s)"),
    ] {
        assert_eq!(read(arguments, &[]).err(), Some(Refusal::Config(told.to_owned())));
    }
}

#[test]
fn what_is_not_built_is_refused_by_name_and_defaults_are_not() {
    let refused = |arguments: &[&str]| read(arguments, &[]).err().map(|told| told.to_string());
    for (argument, what) in [
        ("--auth-token=jwt,pub-key=a", "--auth-token=jwt,pub-key=a"),
        ("--enable-v2", "--enable-v2=true: the v2 API"),
        ("--proxy=readonly", "--proxy=readonly: the v2 proxy"),
        ("--discovery=http://a/b", "--discovery=http://a/b: discovery by the v2 API"),
    ] {
        let told = format!("{what} is not supported by this version of quorate");
        assert_eq!(refused(&[argument]), Some(told));
    }
    for argument in [
        "--cert-file=",
        "--logger=zap",
        "--log-outputs=stderr",
        "--enable-grpc-gateway=false",
        "--auth-token=simple",
        "--auto-tls=false",
        "--metrics=basic",
        "--feature-gates=FastLeaseKeepAlive=true",
        "--feature-gates=LeaseCheckpoint=true",
        "--feature-gates=AllAlpha=true,AllBeta=false",
        "--force-new-cluster",
        "--max-snapshots=3",
        "--max-learners=-1",
        "--backend-bbolt-freelist-type=array",
        "--v=2",
        "--enable-v2=false",
        "--proxy=off",
        "--proxy-read-timeout=0",
        "--log-package-levels=etcdserver=WARNING",
        "--debug",
    ] {
        assert_eq!(refused(&[argument]), None, "{argument}");
    }
}

#[test]
fn old_names_lead_to_the_flags_of_today() {
    let (config, notices) = read(
        &["--experimental-corrupt-check-time=3s", "--experimental-initial-corrupt-check"],
        &[("ETCD_EXPERIMENTAL_MAX_LEARNERS", "4"), ("ETCD_ENABLE_V2", "true")],
    )
    .expect("valid");
    assert_eq!(config.corrupt_check_time, Duration::from_secs(3));
    assert!(config.gate("InitialCorruptCheck"));
    assert_eq!(config.max_learners, 4);
    let lines: Vec<_> = notices
        .iter()
        .map(|notice| match notice {
            Notice::Warning(line) => line.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        lines,
        [
            "--experimental-corrupt-check-time is deprecated in v3.6 and will be decommissioned in \
             v3.7. Use '--corrupt-check-time' instead.",
            "--experimental-initial-corrupt-check is deprecated in v3.6 and will be decommissioned \
             in v3.7. Use '--feature-gates=InitialCorruptCheck=true' instead.",
            "ETCD_ENABLE_V2 is passed over, as by etcd 3.7: --enable-v2=true: the v2 API is not \
             supported by this version of quorate",
            "ETCD_EXPERIMENTAL_MAX_LEARNERS=4: --experimental-max-learners is deprecated in v3.6 \
             and will be decommissioned in v3.7. Use '--max-learners' instead.",
        ]
    );
    let unknown = read(&["--experimental-name=a"], &[]).expect_err("there was none");
    assert_eq!(unknown.to_string(), "flag provided but not defined: -experimental-name");
}

#[test]
fn a_file_counts_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etcd.yml");
    std::fs::write(&path, "name: from-file\n").unwrap();
    let path = path.to_str().unwrap().to_owned();
    let flag = format!("--config-file={path}");
    let (config, notices) = read(
        &[&flag, "--name=flag", "--heartbeat-interval=0", "--max-learners=3"],
        &[("ETCD_NAME", "variable"), ("ETCD_NONSENSE", "1")],
    )
    .expect("nothing but the file counts");
    assert_eq!((config.name.as_str(), config.max_learners), ("from-file", 1));
    assert_eq!(notices, [Notice::Loaded { path: path.clone() }]);
    let (config, _) = read(&["--name=flag"], &[("ETCD_CONFIG_FILE", &path)]).expect("valid");
    assert_eq!(config.name, "from-file");
    let told = read(&["--config-file=/nope"], &[]).expect_err("there is none");
    assert_eq!(told, Refusal::Config("open /nope: no such file or directory".to_owned()));
    assert!(matches!(read(&[&flag, "--nosuch"], &[]), Err(Refusal::Syntax(_))));
}

#[test]
fn short_timeouts_between_members_are_raised() {
    let (config, notices) = read(&["--raft-read-timeout=1s"], &[]).expect("valid");
    assert_eq!(config.raft_read_timeout, Duration::from_secs(5));
    let told = "raft-read-timeout increased to minimum value: 5s".to_owned();
    assert_eq!(notices, [Notice::Info(told)]);
}

#[test]
fn values_arrive() {
    let given = config(&[
        "-name",
        "m1",
        "--quota-backend-bytes=0x10",
        "--pre-vote=false",
        "--unsafe-no-fsync",
        "--listen-client-urls",
        "http://127.0.0.1:2,http://127.0.0.1:1",
        "--advertise-client-urls=http://127.0.0.1:1",
        "--backend-batch-interval=1m0.5s",
    ]);
    assert_eq!(given.name, "m1");
    assert_eq!(given.quota(), Some(16));
    assert!(!given.pre_vote && given.unsafe_no_fsync);
    assert_eq!(given.listen_client_urls[0].port(), "1");
    assert_eq!(given.backend_batch_interval, Duration::from_millis(60_500));
    assert_eq!(config(&["--quota-backend-bytes=-1"]).quota(), None);
    assert_eq!(config(&[]).quota(), Some(2 << 30));
    assert_eq!(config(&[]).receive_bytes_max(), 2_097_152);
}

#[test]
fn the_name_decides_cluster_and_directory() {
    let mut named = config(&["--name=abc", "--initial-advertise-peer-urls=http://a:1,http://b:1"]);
    assert!(named.derive().data_dir);
    assert_eq!(named.initial_cluster, "abc=http://a:1,abc=http://b:1");
    assert_eq!(named.data_dir, "abc.etcd");
    let mut unnamed = config(&[]);
    assert!(unnamed.derive().data_dir);
    assert_eq!(unnamed.data_dir, "default.etcd");
}

#[test]
fn the_environment_is_read_and_told() {
    let (config, notices) = read(
        &["--name=m1"],
        &[
            ("ETCD_SNAPSHOT_COUNT", "7"),
            ("ETCD_FOO", "1"),
            ("ETCDCTL_API", "3"),
            ("ETCD_DATA_DIR", ""),
        ],
    )
    .expect("valid");
    assert_eq!(config.snapshot_count, 7);
    assert!(config.data_dir.is_empty());
    assert_eq!(
        notices,
        [
            Notice::Used { name: "ETCD_SNAPSHOT_COUNT".to_owned(), value: "7".to_owned() },
            Notice::Unrecognized("ETCD_FOO=1".to_owned()),
            // An empty value is unset, but etcd complains of it all the same.
            Notice::Unrecognized("ETCD_DATA_DIR=".to_owned()),
        ]
    );
    assert_eq!(
        read(&["--name=m1"], &[("ETCD_NAME", "m2")]).err(),
        Some(Refusal::Shadowed("ETCD_NAME".to_owned()))
    );
    assert_eq!(
        read(&[], &[("ETCD_SNAPSHOT_COUNT", "abc")]).err(),
        Some(Refusal::Config(
            "invalid value \"abc\" for ETCD_SNAPSHOT_COUNT: parse error".to_owned()
        ))
    );
}

#[test]
fn help_and_version_win() {
    let outcome = |arguments: &[&str]| from_command_line(&owned(arguments), &[]);
    assert!(matches!(outcome(&["--name=a", "-h"]), Ok(Outcome::Help)));
    assert!(matches!(outcome(&["--version"]), Ok(Outcome::Version)));
    assert!(flag_listing().contains("  --data-dir '${name}.etcd'\n"));
}

#[test]
fn retention_depends_on_the_mode() {
    let retention = |mode: &str, text: &str| {
        config(&[
            &format!("--auto-compaction-mode={mode}"),
            &format!("--auto-compaction-retention={text}"),
        ])
        .retention()
    };
    assert_eq!(retention("periodic", "0"), Ok(None));
    assert_eq!(retention("periodic", "2"), Ok(Some(Retention::Period(Duration::from_secs(7_200)))));
    assert_eq!(retention("periodic", "90s"), Ok(Some(Retention::Period(Duration::from_secs(90)))));
    assert_eq!(retention("revision", "1000"), Ok(Some(Retention::Revisions(1000))));
    assert_eq!(
        retention("periodic", "xx"),
        Err("error parsing CompactionRetention: time: invalid duration \"xx\"".to_owned())
    );
}

#[test]
fn the_initial_cluster_must_have_this_member_and_its_urls() {
    let check = |arguments: &[&str]| {
        let config = config(arguments);
        InitialCluster::parse(&config.initial_cluster)
            .and_then(|cluster| cluster.check_founding(&config))
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(&[]), Ok(()));
    let (one, other) = ("http://127.0.0.1:2380", "http://127.0.0.1:2381");
    let cluster = |urls: &[&str]| {
        let items: Vec<_> = urls.iter().map(|url| format!("default={url}")).collect();
        format!("--initial-cluster={}", items.join(","))
    };
    let own = |urls: &[&str]| format!("--initial-advertise-peer-urls={}", urls.join(","));
    // What etcd 3.7.1 says to the same.
    for (cluster, own, told) in [
        (cluster(&[one]), own(&[one, one]), None),
        (cluster(&[one, other]), own(&[other, one]), None),
        (
            cluster(&[one]),
            own(&["http://localhost:2380"]),
            Some(
                "--initial-cluster has default=http://127.0.0.1:2380 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \"http://127.0.0.1:2380\")",
            ),
        ),
        (
            cluster(&[one, one]),
            own(&[one]),
            Some(
                "failed to resolve http://127.0.0.1:2380 to match --initial-cluster=default=http://127.0.0.1:2380 (len([\"http://127.0.0.1:2380\"]) != len([\"http://127.0.0.1:2380\" \"http://127.0.0.1:2380\"]))",
            ),
        ),
        (
            cluster(&[one]),
            own(&[one, other]),
            Some(
                "--initial-advertise-peer-urls has http://127.0.0.1:2381 but missing from --initial-cluster=default=http://127.0.0.1:2380,default=http://127.0.0.1:2381",
            ),
        ),
        (
            cluster(&[one, other]),
            own(&[one]),
            Some(
                "--initial-cluster has default=http://127.0.0.1:2381 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2380 (len([\"http://127.0.0.1:2380\"]) != len([\"http://127.0.0.1:2380\" \"http://127.0.0.1:2381\"]))",
            ),
        ),
    ] {
        assert_eq!(check(&[&cluster, &own]).err().as_deref(), told, "{cluster} {own}");
    }
    for (arguments, told) in [
        (
            &["--initial-cluster=a=http://127.0.0.1:2380"][..],
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            &["--initial-cluster=default=http://127.0.0.1:2389"],
            "--initial-cluster has default=http://127.0.0.1:2389 but missing from --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \"http://127.0.0.1:2389\")",
        ),
        (
            &["--initial-cluster=="],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            &["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
        ),
    ] {
        assert_eq!(check(arguments), Err(told.to_owned()));
    }
}

#[test]
fn secrets_of_the_environment_are_not_told() {
    let environment = [
        ("ETCD_DISCOVERY_PASSWORD", "pw"),
        ("ETCD_DISCOVERY_USER", "root:pw"),
        ("ETCD_ROOT_PASSWORD", "pw"),
        ("ETCD_INITIAL_CLUSTER_TOKEN", "shown"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let notices = match from_command_line(&[], &environment) {
        Ok(Outcome::Serve(_, notices)) | Err((_, notices)) => notices,
        Ok(other) => panic!("{other:?}"),
    };
    let told = format!("{notices:?}");
    assert!(!told.contains("pw") && told.contains("shown"), "{told}");
    assert!(told.contains("ETCD_ROOT_PASSWORD=***"), "{told}");
}

#[test]
fn flags_with_nothing_to_change_are_told() {
    let config =
        config(&["--socket-reuse-address", "--snapshot", "--downgrade-check-time=1s", "--name=a"]);
    let told: Vec<_> = config.flags_without_effect().map(|(flag, _)| flag).collect();
    assert_eq!(told, ["socket-reuse-address", "downgrade-check-time", "snapshot"]);
}
