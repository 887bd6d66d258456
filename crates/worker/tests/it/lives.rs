//! The lives of one member, each ended by its disk.

use std::sync::Arc;

use base::Rng;
use storage::disk::{Faulty, Image};

use crate::driver::{self, Doing, History, Member, NoStart, Settings, Time};
use crate::judge::Judge;
use crate::workload::{Kinds, Workload};

/// Steps after which a life ends although its disk has not stopped.
const STEPS_MAX: usize = 20_000;

/// A member with everything around it.
pub(crate) struct Run {
    pub(crate) rng: Rng,
    pub(crate) disk: Faulty,
    pub(crate) settings: Settings,
    pub(crate) time: Arc<Time>,
    pub(crate) history: History,
    pub(crate) workload: Workload,
    pub(crate) judge: Judge,
}

impl Run {
    pub(crate) fn new(seed: u64, kinds: Kinds) -> Self {
        let mut rng = Rng::new(seed);
        let disk = Faulty::new(seed);
        let settings = Settings::draw(&mut rng);
        let time = Arc::new(Time::default());
        let workload = Workload::new(seed, kinds);
        let judge = Judge::new(settings.clone(), Arc::clone(&time));
        Self { rng, disk, settings, time, history: History::default(), workload, judge }
    }

    /// Starts and works until the disk stops, at one of its next operations. What was being done
    /// then.
    pub(crate) fn live(&mut self) -> Result<Doing, String> {
        let operations = match self.rng.below(6) {
            0 => self.rng.below(40),
            1 | 2 => self.rng.below(200),
            _ => self.rng.below(900),
        };
        self.live_for(operations)
    }

    /// The same, after so many operations.
    pub(crate) fn live_for(&mut self, operations: u64) -> Result<Doing, String> {
        self.disk.crash_at(self.disk.operations() + operations);
        self.workload.begin();
        self.live_until_crash()
    }

    fn live_until_crash(&mut self) -> Result<Doing, String> {
        let rng = &mut self.rng;
        let made = driver::is_made(&self.disk);
        if let Err(error) = driver::create(&self.disk, &self.settings) {
            return if self.disk.crashed() { Ok(Doing::Create) } else { Err(error.to_string()) };
        }
        let seed = rng.next_u64();
        let (settings, time, history) = (&self.settings, &self.time, &mut self.history);
        let mut member = match Member::open(&self.disk, settings, time, history, seed) {
            Ok(member) => member,
            Err(NoStart::Refused(_)) if self.disk.crashed() => return Ok(Doing::Open),
            Err(NoStart::Refused(error)) => return Err(error.to_string()),
            Err(NoStart::Wrong(what)) => return Err(what),
        };
        if self.disk.crashed() {
            return Ok(if made { Doing::Open } else { Doing::Create });
        }
        for _ in 0..STEPS_MAX {
            let stepped = member.step(rng, history, Some(&mut self.workload));
            if self.disk.crashed() {
                return Ok(member.doing);
            }
            stepped.map_err(|error| error.to_string())?;
        }
        Ok(Doing::Other)
    }

    /// Goes on with what a crash left: in one of three cases the process was killed and what is
    /// not synced is still at risk, otherwise it is `image`.
    pub(crate) fn resume(&mut self, image: &Image) -> Result<(), String> {
        if self.rng.one_in(3) {
            self.disk.restart();
        } else {
            let seed = self.rng.next_u64();
            self.disk = Faulty::from_image(image, seed).map_err(|error| error.to_string())?;
        }
        if !driver::is_made(&self.disk) {
            self.history = History::default();
        }
        Ok(())
    }
}
