//! Taking the cluster's version down.
//!
//! *Absent.* Following the target, and noticing that all members have gone there: the node does,
//! when it is told their versions (`crate::duties`).

use node::requests::Rejected;
use node::requests::versions;
use proto::etcdserverpb::InternalRaftRequest;
use proto::membershippb::DowngradeInfoSetRequest;
use store::Version;

use crate::api::Api;
use crate::log;

/// The version of the cluster, as far as it is decided.
fn cluster_version(api: &Api) -> Option<Version> {
    api.store.cluster_version().as_deref().and_then(Version::parse)
}

/// The cluster's version for an answer.
pub(crate) fn told_version(api: &Api) -> Result<String, Rejected> {
    let version = cluster_version(api).ok_or(Rejected::ClusterVersionUnavailable)?;
    Ok(format!("{}.{}", version.major, version.minor))
}

/// Whether the cluster may be taken down to that version; returns the version read.
pub(crate) async fn validate(api: &Api, target: &str) -> Result<Version, Rejected> {
    let target = versions::parse_target(target)?;
    cluster_version(api).ok_or(Rejected::ClusterVersionUnavailable)?;
    api.read_index().await?;
    versions::check_downgrade(cluster_version(api).as_ref(), &api.store.downgrade(), &target)?;
    Ok(target)
}

/// Begins to take the cluster down to that version.
pub(crate) async fn enable(api: &Api, target: &str) -> Result<(), Rejected> {
    let begun = async {
        let target = validate(api, target).await?;
        set(api, Some(&target)).await
    };
    let begun = begun.await;
    if let Err(error) = &begun {
        log::warn("reject downgrade request").text("error", error).emit();
    }
    begun
}

/// Ends the downgrade under way. That there is none is no error to a client, and as little is
/// that it could not be ended, in etcd and so here.
pub(crate) async fn cancel(api: &Api) {
    let ended = async {
        api.read_index().await?;
        if !api.store.downgrade().enabled {
            return Err(Rejected::NoInflightDowngrade);
        }
        set(api, None).await
    };
    if let Err(error) = ended.await {
        log::warn("failed to cancel downgrade").text("error", &error).emit();
    }
}

async fn set(api: &Api, target: Option<&Version>) -> Result<(), Rejected> {
    let ver = target.map(Version::to_string).unwrap_or_default();
    let set = DowngradeInfoSetRequest { enabled: target.is_some(), ver };
    let request = InternalRaftRequest { downgrade_info_set: Some(set), ..Default::default() };
    api.propose(request).await.map(drop)
}
