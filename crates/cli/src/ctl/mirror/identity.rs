//! Looks, after every connection, whose sides they are.
//!
//! *Invariants.* Nothing is written before both are known to be different clusters, or to share
//! no range. History is gone on with only where it is the history that was followed before.
//!
//! *Absent.* A source that was made anew with the same cluster ID and has more revisions by now
//! than the old one had looks as if it had gone on.

use proto::etcdserverpb as pb;

use super::{DESTINATION, Interrupt, Mirror, REQUEST_TIME_MAX, SOURCE, tell};
use crate::ctl::client::{Client, RequestError, bounded};
use crate::failure::{self, Failure};

/// A cluster, at a revision that it has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) cluster_id: u64,
    pub(super) revision: i64,
}

impl Seen {
    /// Whether `later` can be the same history. Both are read with the leader's consent, so that
    /// no member that lags is taken for a cluster that was restored.
    fn leads_to(self, later: Seen) -> bool {
        self.cluster_id == later.cluster_id && self.revision <= later.revision
    }
}

/// Fails where a mirror would feed itself, or has nothing to go on from. Where the source is
/// another than before, a copy is due, as if it were the first.
pub(super) async fn look(
    mirror: &Mirror,
    source: &Client,
    destination: &Client,
) -> Result<(), Interrupt> {
    let now = of_source(mirror, source).await.map_err(|error| Interrupt::of(SOURCE, error))?;
    if mirror.map.overlaps() {
        let found = cluster_id(destination).await;
        if found.map_err(|error| Interrupt::of(DESTINATION, error))? == now.cluster_id {
            let reason = "the destination is the source itself, and what is mirrored would be \
                          mirrored again: give --dest-prefix";
            return Err(Interrupt::End(Failure::new(failure::BAD_ARGS, reason)));
        }
    }
    if mirror.source_seen.get().is_some_and(|before| !before.leads_to(now)) {
        if !mirror.copies {
            let reason = "the source was restored or made anew: its history is not the one that \
                          was mirrored";
            return Err(Interrupt::End(Failure::new(failure::ERROR, reason)));
        }
        mirror.next.set(0);
        mirror.is_known.set(false);
        tell("the source was restored or made anew, copying again", &[]);
    }
    mirror.source_seen.set(Some(now));
    Ok(())
}

/// Reads a key of what is mirrored, whether or not it is there: who may watch may do that.
async fn of_source(mirror: &Mirror, source: &Client) -> Result<Seen, RequestError> {
    let (key, _) = mirror.map.source();
    let request = pb::RangeRequest { key, keys_only: true, ..Default::default() };
    let send = async |r| source.kv().range(r).await;
    let answer = bounded(REQUEST_TIME_MAX, source.ask_repeatable(&request, send)).await?;
    let header = answer.header.unwrap_or_default();
    Ok(Seen { cluster_id: header.cluster_id, revision: header.revision })
}

/// Asks with a transaction that does nothing, for which nobody lacks a permission: who mirrors may
/// be allowed to write alone.
async fn cluster_id(destination: &Client) -> Result<u64, RequestError> {
    let send = async |r| destination.kv().txn(r).await;
    let request = pb::TxnRequest::default();
    let answer = bounded(REQUEST_TIME_MAX, destination.ask_repeatable(&request, send)).await?;
    Ok(answer.header.unwrap_or_default().cluster_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_and_an_older_revision_are_another_history() {
        let before = Seen { cluster_id: 7, revision: 5 };
        for (cluster_id, revision, expected) in
            [(7, 5, true), (7, 6, true), (7, 4, false), (8, 5, false), (8, 6, false)]
        {
            assert_eq!(before.leads_to(Seen { cluster_id, revision }), expected, "{revision}");
        }
    }
}
