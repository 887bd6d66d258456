//! What a power loss may leave, and what not.

use std::sync::Arc;

use base::Rng;
use storage::disk::{Faulty, Image};

use crate::driver::{self, History, Member, NoStart, Settings, Time, own_id};
use crate::oracle::{Oracle, Portrait, portrait};

/// Everything that an image is held against.
pub(crate) struct Judge {
    settings: Settings,
    time: Arc<Time>,
    /// The log's replay as of the image that was checked last.
    pub(crate) oracle: Oracle,
}

impl Judge {
    pub(crate) fn new(settings: Settings, time: Arc<Time>) -> Self {
        let oracle = Oracle::new(settings.store(own_id()));
        Self { settings, time, oracle }
    }

    /// Starts a member on an image and says what is wrong with it. `None` when the image is of a
    /// time before there was one.
    pub(crate) fn check(
        &mut self,
        image: &Image,
        history: &History,
        rng: &mut Rng,
    ) -> Result<Option<Portrait>, String> {
        let disk = Faulty::from_image(image, 1).map_err(|error| error.to_string())?;
        if !driver::is_made(&disk) {
            if history.applied > 0 {
                return Err("the member is gone".into());
            }
            return Ok(None);
        }
        driver::verify_order(&disk)?;
        let disk = Faulty::from_image(image, 1).map_err(|error| error.to_string())?;
        driver::create(&disk, &self.settings).map_err(|error| error.to_string())?;
        let mut after = history.clone();
        let seed = rng.next_u64();
        let opened = Member::open(&disk, &self.settings, &self.time, &mut after, seed);
        let mut member = opened.map_err(|error| match error {
            NoStart::Refused(error) => error.to_string(),
            NoStart::Wrong(what) => what,
        })?;
        let recovered = member.recovered as usize;
        let entries = after.entries[..recovered].to_vec();
        let hashes = member.settle(rng, &mut after)?;
        let found = portrait(&member.shared())?;
        let expected = self.oracle.replay(&entries, &history.answers)?;
        let expected = portrait(&expected)?;
        if found != expected {
            let (found, log) = (found.difference(&expected), expected.difference(&found));
            return Err(format!("found {found}, the log says {log}"));
        }
        if let Some(early) = hashes.iter().find(|early| **early != expected.hash) {
            return Err(format!("{early:?} before compactions had removed their rows"));
        }
        let (revision, acknowledged) = (found.hash.hash_revision, history.acknowledged);
        if revision < acknowledged {
            return Err(format!("revision {revision}, {acknowledged} was acknowledged"));
        }
        Ok(Some(found))
    }
}
