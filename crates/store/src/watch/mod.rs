//! Watchers (interim: only the places where the store tells of changes).
#![allow(missing_docs)]

use crate::mvcc::{Change, View};
use base::Revision;
use std::sync::Arc;
#[derive(Default)]
pub struct Hub;
impl Hub {
    pub fn publish(&self, _v: &Arc<View>, _c: &[Change]) {}
    pub fn compacted(&self, _at: Revision) {}
}
