//! Generates the Rust code of the wire messages and services from our `.proto` files.
//!
//! The result is committed, so that a build needs neither `protoc` nor a build script; a test
//! generates it afresh and fails when the committed files differ.
//!
//! Messages go to `crates/proto` (structs, and the tables of their JSON); services go to
//! `crates/rpc` and refer to them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::jsontable;

/// The proto files that are compiled; what they import is found beside them.
const FILES: [&str; 15] = [
    "authpb.proto",
    "etcdserver.proto",
    "health.proto",
    "leasepb.proto",
    "membershippb.proto",
    "mvccpb.proto",
    "otlp.proto",
    "raft_internal.proto",
    "raftpb.proto",
    "rpc.proto",
    "snappb.proto",
    "v3electionpb.proto",
    "v3lockpb.proto",
    "versionpb.proto",
    "walpb.proto",
];

/// Proto package and the Rust path of its messages, for the services that refer to them.
const PACKAGES: [(&str, &str); 6] = [
    (".etcdserverpb", "::proto::etcdserverpb"),
    (".grpc.health.v1", "::proto::health"),
    (".mvccpb", "::proto::mvccpb"),
    (".opentelemetry.proto.collector.trace.v1", "::proto::otlp"),
    (".v3electionpb", "::proto::v3electionpb"),
    (".v3lockpb", "::proto::v3lockpb"),
];

/// Packages with services.
const SERVICES: [&str; 5] = [
    "etcdserverpb",
    "grpc.health.v1",
    "opentelemetry.proto.collector.trace.v1",
    "v3electionpb",
    "v3lockpb",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}

/// Writes the generated files into the two crates.
pub(crate) fn write() -> Result<()> {
    let root = root();
    generate(
        &root,
        &root.join("crates/proto/src/generated"),
        &root.join("crates/rpc/src/generated"),
    )
}

fn generate(root: &Path, messages: &Path, services: &Path) -> Result<()> {
    let protos = root.join("crates/proto/proto");
    let descriptors = protox::compile(FILES, [&protos]).context("compiling the proto files")?;
    for directory in [messages, services] {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        fs::create_dir_all(directory)?;
    }

    let mut config = prost_build::Config::new();
    config.out_dir(messages).bytes(["."]).disable_comments(["."]);
    config.compile_fds(descriptors.clone()).context("generating messages")?;
    fs::write(messages.join("json.rs"), jsontable::generate(&descriptors)?)?;

    let mut config = prost_build::Config::new();
    config.disable_comments(["."]);
    let mut builder = tonic_prost_build::configure()
        .out_dir(services)
        .build_server(false)
        .build_transport(true)
        .emit_rerun_if_changed(false)
        .disable_comments(["."]);
    for (package, path) in PACKAGES {
        builder = builder.extern_path(package, path);
    }
    builder.compile_fds_with_config(descriptors, config).context("generating services")?;
    // Packages without a service leave files that nothing refers to.
    for file in fs::read_dir(services)? {
        let path = file?.path();
        let package = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !SERVICES.contains(&package) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn contents(directory: &Path) -> BTreeMap<String, String> {
        fs::read_dir(directory)
            .unwrap()
            .map(|file| {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(&path).unwrap())
            })
            .collect()
    }

    #[test]
    fn generated_code_is_current() {
        let scratch = tempfile::tempdir().unwrap();
        let (messages, services) = (scratch.path().join("messages"), scratch.path().join("rpc"));
        let root = root();
        generate(&root, &messages, &services).unwrap();
        for (fresh, committed) in [
            (messages, root.join("crates/proto/src/generated")),
            (services, root.join("crates/rpc/src/generated")),
        ] {
            let (fresh, committed) = (contents(&fresh), contents(&committed));
            assert_eq!(fresh.keys().collect::<Vec<_>>(), committed.keys().collect::<Vec<_>>());
            for (name, text) in &fresh {
                assert!(committed[name] == *text, "{name} is stale: run `cargo xtask codegen`");
            }
        }
    }
}
