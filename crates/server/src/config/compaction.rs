//! When a member compacts its history by itself.

use std::time::Duration;

use node::requests::compactor::Retention;

use super::Config;
use super::value::parse_duration_verbose;

impl Config {
    /// What `--auto-compaction-mode` and `--auto-compaction-retention` mean together; `None` is
    /// never. A bare number is hours, or revisions, by the mode.
    pub(crate) fn retention(&self) -> Result<Option<Retention>, String> {
        let text = self.auto_compaction_retention.as_str();
        let is_periodic = self.auto_compaction_mode != "revision";
        let amount = match text.parse::<u64>() {
            Ok(0) => return Ok(None),
            Ok(revisions) if !is_periodic => {
                return Ok(Some(Retention::Revisions(
                    i64::try_from(revisions).unwrap_or(i64::MAX),
                )));
            }
            Ok(hours) => Duration::from_secs(hours.saturating_mul(3_600)),
            Err(_) => parse_duration_verbose(text)
                .map_err(|reason| format!("error parsing CompactionRetention: {reason}"))?,
        };
        Ok(match amount {
            Duration::ZERO => None,
            // etcd takes a duration in this mode as its count of nanoseconds.
            amount if !is_periodic => {
                Some(Retention::Revisions(i64::try_from(amount.as_nanos()).unwrap_or(i64::MAX)))
            }
            amount => Some(Retention::Period(amount)),
        })
    }
}
