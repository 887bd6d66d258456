//! What `-h` prints.

use std::fmt::Write as _;

use super::flags::{FLAGS, Group};

const GROUPS: [(Group, &str); 9] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Security, "Security"),
    (Group::Auth, "Auth"),
    (Group::Profiling, "Profiling and Monitoring"),
    (Group::Logging, "Logging"),
    (Group::Tracing, "Distributed tracing"),
    (Group::Features, "Features"),
    (Group::Unsafe, "Unsafe feature"),
];

/// How to call the server; also told after a flag that cannot be read.
pub(crate) fn usage() -> &'static str {
    "Usage:

  quorate [flags]
    Run a member. Every flag can also be given as ETCD_*: --data-dir as ETCD_DATA_DIR.

  quorate --version
    Print the version.

  quorate -h | --help
    Print every flag.

  quorate --config-file FILE
    Run a member as a file in YAML or JSON says. Other flags and variables do not count then.
    Durations are whole nanoseconds there: 600000000000 for 10m. SIGHUP reads the file again.

  quorate ctl ...
    Talk to a member.

  quorate utl ...
    Work on the files of a member that does not run: restore snapshots, look for damage.
"
}

/// Every flag, by group.
pub(crate) fn flag_listing() -> String {
    let mut text = String::new();
    for (group, title) in GROUPS {
        let _ = writeln!(text, "\n{title}:");
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            let _ = writeln!(text, "  --{} '{}'\n    {}", flag.name, flag.default, flag.help);
        }
    }
    text
}
