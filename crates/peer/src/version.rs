//! Versions in headers, compared as etcd compares them.
//!
//! *Contract.* `checkVersionCompatibility` in `server/etcdserver/api/rafthttp/util.go` of etcd
//! v3.7.1.

use std::fmt;
use std::str::FromStr;

/// A semantic version, without what stands behind its third number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u64,
    /// Second number.
    pub minor: u64,
    /// Third number. No comparison between members looks at it.
    pub patch: u64,
}

/// What a member that names no version has.
const UNNAMED: Version = Version::new(2, 0, 0);

/// The oldest version that has streams.
const STREAMS_SINCE: Version = Version::new(2, 1, 0);

impl Version {
    /// The version that we announce. A malformed one would crash real members.
    pub const ETCD: Self = Self::new(3, 7, 1);

    /// The oldest version that we work with.
    pub const MIN_CLUSTER: Self = Self::new(3, 0, 0);

    /// A version by its numbers.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch }
    }

    /// Reads a header's value; nothing means a member of long ago.
    pub(crate) fn of_header(value: Option<&str>) -> Option<Self> {
        value.filter(|text| !text.is_empty()).map_or(Some(UNNAMED), |text| text.parse().ok())
    }

    const fn line(self) -> (u64, u64) {
        (self.major, self.minor)
    }

    /// Whether this version is older, its third number apart.
    pub fn is_older_than(self, other: Self) -> bool {
        self.line() < other.line()
    }

    /// Whether a member of this version serves the streams that `local` dials. A newer one is
    /// trusted to.
    pub(crate) fn serves_streams(self, local: Self) -> bool {
        !self.is_older_than(local) || !self.is_older_than(STREAMS_SINCE)
    }
}

/// Whether two members may speak, each given its own version and the oldest it works with.
pub(crate) fn are_compatible(local: (Version, Version), remote: (Version, Version)) -> bool {
    !remote.0.is_older_than(local.1) && !local.0.is_older_than(remote.1)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("version is not in dotted-tri format")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let text = text.split_once('+').map_or(text, |(text, _)| text);
        let text = text.split_once('-').map_or(text, |(text, _)| text);
        let mut numbers = text.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u64>().ok()).flatten().ok_or(VersionError)
        });
        let mut next = || numbers.next().ok_or(VersionError)?;
        let version = Self::new(next()?, next()?, next()?);
        if numbers.next().is_some() { Err(VersionError) } else { Ok(version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (text, version) in [
            ("3.7.1", Ok(Version::new(3, 7, 1))),
            ("3.7.1-quorate", Ok(Version::new(3, 7, 1))),
            ("3.6.0-alpha.1+git-1", Ok(Version::new(3, 6, 0))),
            ("quorate-0.1", Err(VersionError)),
            ("3.7", Err(VersionError)),
            ("3.7.", Err(VersionError)),
            ("3.7.1.2", Err(VersionError)),
            ("+3.7.1", Err(VersionError)),
            ("99999999999999999999.0.0", Err(VersionError)),
            ("", Err(VersionError)),
        ] {
            assert_eq!(text.parse(), version, "{text}");
        }
        assert_eq!(Version::of_header(None), Some(Version::new(2, 0, 0)));
        assert_eq!(Version::of_header(Some("")), Some(Version::new(2, 0, 0)));
        assert_eq!(Version::of_header(Some("x")), None);
    }

    #[test]
    fn who_may_speak_with_whom() {
        let local = (Version::ETCD, Version::MIN_CLUSTER);
        for (server, oldest, together) in [
            ("3.7.1", "3.0.0", true),
            ("3.6.14", "3.0.0", true),
            ("3.8.0", "3.7.9", true),
            ("3.8.0", "3.8.0", false),
            ("3.0.0", "3.0.0", true),
            ("2.3.8", "2.1.0", false),
            ("4.0.0", "3.0.0", true),
        ] {
            let remote = (server.parse().expect(server), oldest.parse().expect(oldest));
            assert_eq!(are_compatible(local, remote), together, "{server} {oldest}");
        }
        assert!(Version::new(3, 6, 0).serves_streams(Version::ETCD));
        assert!(Version::new(3, 8, 0).serves_streams(Version::ETCD));
        assert!(!Version::new(0, 1, 0).serves_streams(Version::ETCD));
        assert!(!UNNAMED.serves_streams(Version::ETCD));
    }
}
