//! Versions of cluster, storage and server, of which only major and minor are compared.

use std::fmt;

/// A version as etcd writes it: three numbers, and whatever follows a `-` or `+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The first number.
    pub major: u64,
    /// The second.
    pub minor: u64,
    text: String,
}

impl Version {
    /// The version `major.minor.0`.
    pub fn new(major: u64, minor: u64) -> Self {
        Self { major, minor, text: format!("{major}.{minor}.0") }
    }

    /// Reads a version; `None` when it is not three numbers with dots between.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u64>().ok()).flatten()
        });
        let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then(|| Self { major, minor, text: text.to_owned() })
    }

    /// Major and minor, by which versions are compared.
    pub fn pair(&self) -> (u64, u64) {
        (self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dotted_triples_are_versions() {
        let pair = |text| Version::parse(text).map(|version| version.pair());
        assert_eq!(pair("3.7.0"), Some((3, 7)));
        assert_eq!(pair("3.7.1-quorate+1"), Some((3, 7)));
        for bad in ["", "3", "3.7", "3.7.x", "3.7.0.1", "v3.7.0", "3..0", "+3.7.0", "quorate-0.1"] {
            assert_eq!(pair(bad), None, "{bad}");
        }
        assert_eq!(
            Version::parse("3.7.1-rc.0").map(|v| v.to_string()).as_deref(),
            Some("3.7.1-rc.0")
        );
    }
}
