//! When a member compacts its history by itself.

use std::time::Duration;

use super::Config;
use super::value::parse_duration_verbose;

/// What `--auto-compaction-mode` and `--auto-compaction-retention` mean together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AutoCompaction {
    /// Never.
    Off,
    /// Keep the history of this long.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

impl AutoCompaction {
    /// Reads both flags. A bare number is hours, or revisions, by the mode.
    pub(crate) fn of(config: &Config) -> Result<Self, String> {
        let text = config.auto_compaction_retention.as_str();
        let periodic = config.auto_compaction_mode != "revision";
        let amount = match text.parse::<u64>() {
            Ok(0) => return Ok(Self::Off),
            Ok(revisions) if !periodic => {
                return Ok(Self::Revision(i64::try_from(revisions).unwrap_or(i64::MAX)));
            }
            Ok(hours) => Duration::from_secs(hours.saturating_mul(3_600)),
            Err(_) => parse_duration_verbose(text)
                .map_err(|reason| format!("error parsing CompactionRetention: {reason}"))?,
        };
        match amount {
            Duration::ZERO => Ok(Self::Off),
            // etcd takes a duration in this mode as its count of nanoseconds.
            amount if !periodic => {
                Ok(Self::Revision(i64::try_from(amount.as_nanos()).unwrap_or(i64::MAX)))
            }
            amount => Ok(Self::Periodic(amount)),
        }
    }
}
