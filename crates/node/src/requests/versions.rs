//! Which version the cluster has: how the leader raises it, and how it is taken down on request.
//!
//! *Invariants.* Only major and minor count. A cluster's version is never above that of a member
//! that has joined.
//!
//! *Absent.* Asking the members, and the storage version, which follows when the cluster's is
//! applied (`store`).
//!
//! *Contract.* `server/etcdserver/version` and `convertToClusterVersion` of
//! `server/etcdserver/cluster_util.go` of etcd v3.7.1.

use store::{Downgrade, Version};
use thiserror::Error;

use super::error::Rejected;

/// What a cluster is until every member has told its version.
const LOWEST: (u64, u64) = (3, 0);

/// The operator wants a version that the members cannot go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("invalid downgrade target")]
pub struct BadTarget;

/// Reads the version that a client names: `major.minor`, or with a patch, which does not count.
pub fn parse_target(text: &str) -> Result<Version, Rejected> {
    Version::parse(text)
        .or_else(|| Version::parse(&format!("{text}.0")))
        .map(|version| Version::new(version.major, version.minor))
        .ok_or(Rejected::WrongDowngradeVersionFormat)
}

/// Whether a cluster may go from one version to the other: one minor down.
fn is_one_below(from: (u64, u64), to: (u64, u64)) -> bool {
    from.0 == to.0 && to.1.checked_add(1) == Some(from.1)
}

/// Whether a cluster of this version may be taken down to `target` now. The caller's view is as
/// new as the cluster.
pub fn check_downgrade(
    cluster: Option<&Version>,
    under_way: &Downgrade,
    target: &Version,
) -> Result<(), Rejected> {
    let cluster = cluster.ok_or(Rejected::ClusterVersionUnavailable)?;
    if !is_one_below(cluster.pair(), target.pair()) {
        return Err(Rejected::InvalidDowngradeTargetVersion);
    }
    if under_way.enabled {
        return Err(Rejected::DowngradeInProcess);
    }
    Ok(())
}

/// The version to set, if the leader is to set one. `lowest` is the lowest version of all
/// members; `None` while one of them has not told.
pub fn decide(
    cluster: Option<&Version>,
    lowest: Option<&Version>,
    downgrade: &Downgrade,
) -> Result<Option<Version>, BadTarget> {
    let of = |(major, minor)| Version::new(major, minor);
    let Some(cluster) = cluster.map(Version::pair) else {
        return Ok(Some(of(lowest.map_or(LOWEST, Version::pair))));
    };
    let Some(lowest) = lowest.map(Version::pair) else { return Ok(None) };
    if downgrade.enabled {
        let target = Version::parse(&downgrade.target_version).ok_or(BadTarget)?.pair();
        if target == cluster {
            return Ok(None);
        }
        let is_valid = is_one_below(cluster, target) && is_one_below(lowest, target);
        return if is_valid { Ok(Some(of(target))) } else { Err(BadTarget) };
    }
    let is_raise = cluster.0 == lowest.0 && cluster < lowest;
    Ok(is_raise.then(|| of(lowest)))
}

/// Whether a downgrade is complete: every member has told its version, and it is the target.
pub fn is_downgraded<'a>(
    target: &Version,
    members: impl IntoIterator<Item = Option<&'a Version>>,
) -> bool {
    members.into_iter().all(|member| member.is_some_and(|member| member.pair() == target.pair()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Option<Version> {
        Version::parse(text)
    }

    fn to(target: &str) -> Downgrade {
        Downgrade { target_version: target.to_owned(), enabled: true }
    }

    #[test]
    fn targets_have_two_or_three_numbers() {
        let parsed = |text| parse_target(text).map(|version| version.to_string());
        assert_eq!(parsed("3.6").as_deref(), Ok("3.6.0"));
        assert_eq!(parsed("3.6.14").as_deref(), Ok("3.6.0"));
        for text in ["3", "", "3.x", "3.6.0.1", "v3.6", "3.6-rc"] {
            assert_eq!(parsed(text), Err(Rejected::WrongDowngradeVersionFormat), "{text}");
        }
    }

    #[test]
    fn a_downgrade_goes_one_minor_down_once() {
        use Rejected::*;
        for (cluster, under_way, target, told) in [
            ("3.7.0", Downgrade::default(), "3.6.0", Ok(())),
            ("3.7.0", Downgrade::default(), "3.7.0", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", Downgrade::default(), "3.5.0", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", Downgrade::default(), "2.6.0", Err(InvalidDowngradeTargetVersion)),
            ("3.7.0", to("3.6.0"), "3.6.0", Err(DowngradeInProcess)),
            ("3.7.0", to("3.6.0"), "3.5.0", Err(InvalidDowngradeTargetVersion)),
            ("3.6.0", to("3.6.0"), "3.5.0", Err(DowngradeInProcess)),
            ("", Downgrade::default(), "3.6.0", Err(ClusterVersionUnavailable)),
        ] {
            let target = version(target).unwrap();
            let checked = check_downgrade(version(cluster).as_ref(), &under_way, &target);
            assert_eq!(checked, told, "{cluster} {target}");
        }
    }

    #[test]
    fn the_leader_sets_the_lowest_version() {
        let none = Downgrade::default();
        for (cluster, lowest, downgrade, decided) in [
            ("", "3.7.1", &none, Ok(Some("3.7.0"))),
            ("", "", &none, Ok(Some("3.0.0"))),
            ("3.7.0", "", &none, Ok(None)),
            ("3.0.0", "3.6.14", &none, Ok(Some("3.6.0"))),
            ("3.6.0", "3.7.1", &none, Ok(Some("3.7.0"))),
            ("3.7.0", "3.7.1", &none, Ok(None)),
            // A member that is older than the cluster changes nothing by itself.
            ("3.7.0", "3.6.0", &none, Ok(None)),
            ("3.7.0", "4.0.0", &none, Ok(None)),
            ("3.7.0", "3.7.1", &to("3.6.0"), Ok(Some("3.6.0"))),
            ("3.6.0", "3.7.1", &to("3.6.0"), Ok(None)),
            ("3.7.0", "3.6.0", &to("3.6.0"), Err(BadTarget)),
            ("3.7.0", "3.7.1", &to("3.5.0"), Err(BadTarget)),
            ("3.7.0", "", &to("3.6.0"), Ok(None)),
        ] {
            let set = decide(version(cluster).as_ref(), version(lowest).as_ref(), downgrade);
            let set = set.map(|set| set.map(|set| set.to_string()));
            assert_eq!(set, decided.map(|set| set.map(str::to_owned)), "{cluster} {lowest}");
        }
    }

    #[test]
    fn a_downgrade_is_over_when_every_member_is_there() {
        let (target, new) = (version("3.6.0").unwrap(), version("3.7.1").unwrap());
        let old = version("3.6.14").unwrap();
        assert!(is_downgraded(&target, [Some(&old), Some(&old)]));
        assert!(!is_downgraded(&target, [Some(&old), Some(&new)]));
        assert!(!is_downgraded(&target, [Some(&old), None]));
    }
}
