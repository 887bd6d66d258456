//! Leases (interim: grants, attachments and revocation; no expiry).
#![allow(missing_docs)]

use base::{LeaseId, Moment};
use bytes::Bytes;
use parking_lot::Mutex;
use proto::leasepb;
use std::collections::{BTreeMap, BTreeSet};
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("n")]
    NotFound,
    #[error("e")]
    Exists,
    #[error("t")]
    TtlTooLarge,
}
#[derive(Default)]
struct Inner {
    leases: BTreeMap<LeaseId, (leasepb::Lease, BTreeSet<Bytes>)>,
    by_key: BTreeMap<Bytes, LeaseId>,
}
pub struct Lessor {
    min: i64,
    inner: Mutex<Inner>,
}
impl Lessor {
    pub fn new(min: i64) -> Self {
        Self { min, inner: Mutex::default() }
    }
    pub fn restore(&self, rows: Vec<leasepb::Lease>, _now: Moment) {
        let mut i = self.inner.lock();
        for r in rows {
            i.leases.insert(LeaseId(r.id), (r, BTreeSet::new()));
        }
    }
    pub fn grant(&self, id: LeaseId, ttl: i64, _now: Moment) -> Result<leasepb::Lease, LeaseError> {
        if id.0 == 0 {
            return Err(LeaseError::NotFound);
        }
        if ttl > 9_000_000_000 {
            return Err(LeaseError::TtlTooLarge);
        }
        let mut i = self.inner.lock();
        if i.leases.contains_key(&id) {
            return Err(LeaseError::Exists);
        }
        let row = leasepb::Lease { id: id.0, ttl: ttl.max(self.min), remaining_ttl: 0 };
        i.leases.insert(id, (row, BTreeSet::new()));
        Ok(row)
    }
    pub fn keys(&self, id: LeaseId) -> Option<Vec<Bytes>> {
        self.inner.lock().leases.get(&id).map(|l| l.1.iter().cloned().collect())
    }
    pub fn remove(&self, id: LeaseId) -> bool {
        self.inner.lock().leases.remove(&id).is_some()
    }
    pub fn exists(&self, id: LeaseId) -> bool {
        self.inner.lock().leases.contains_key(&id)
    }
    pub fn attach(&self, id: LeaseId, key: Bytes) {
        let mut i = self.inner.lock();
        if let Some(l) = i.leases.get_mut(&id) {
            l.1.insert(key.clone());
            i.by_key.insert(key, id);
        }
    }
    pub fn detach(&self, key: &[u8]) {
        let mut i = self.inner.lock();
        if let Some(id) = i.by_key.remove(key)
            && let Some(l) = i.leases.get_mut(&id)
        {
            l.1.remove(key);
        }
    }
    pub fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.inner.lock().by_key.get(key).copied()
    }
    pub fn checkpoint(&self, id: LeaseId, remaining: i64, _now: Moment) -> Option<leasepb::Lease> {
        let mut i = self.inner.lock();
        let l = i.leases.get_mut(&id)?;
        l.0.remaining_ttl = remaining;
        Some(l.0)
    }
}
