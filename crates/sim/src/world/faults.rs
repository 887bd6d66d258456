//! What goes wrong, and when.

use std::path::PathBuf;
use std::time::Duration;

use base::{MemberId, Moment};
use node::Input;
use storage::datadir::DataDir;
use storage::disk::Disk as _;

use super::{Absence, Event, Failure, World, within};
use crate::coverage::Mark;
use crate::member::ROOT;
use crate::plan::Faults;

/// Kinds of faults, in the order of their declaration in [`Faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    Cut,
    Stop,
    Pause,
    Change,
    Transfer,
    Stall,
    Full,
    SyncError,
    WriteError,
    Rot,
    Jump,
    SlowApply,
    Blackout,
    /// There is room on a disk again.
    Room(MemberId),
    /// A leader is cut off while another one takes over: clients still reach both.
    Desert(MemberId),
}

const KINDS: [Fault; 14] = [
    Fault::Crash,
    Fault::Cut,
    Fault::Stop,
    Fault::Pause,
    Fault::Change,
    Fault::Transfer,
    Fault::Stall,
    Fault::Full,
    Fault::SyncError,
    Fault::WriteError,
    Fault::Rot,
    Fault::Jump,
    Fault::SlowApply,
    Fault::Blackout,
];

/// The longest time that something is suspended, stalled, slow or full.
const TROUBLE_MAX: Duration = Duration::from_secs(4);

/// The furthest that a clock jumps.
const JUMP_MAX: Duration = Duration::from_secs(2);

/// How long after it was told to hand over a leader is cut off.
const DESERT_DELAY_MAX: Duration = Duration::from_millis(12);

/// Operations of a disk before it stops.
const CRASH_OPERATIONS_MAX: u64 = 60;

impl Faults {
    fn mean(&self, fault: Fault) -> Option<Duration> {
        match fault {
            Fault::Crash => self.crash,
            Fault::Cut => self.cut,
            Fault::Stop => self.stop,
            Fault::Pause => self.pause,
            Fault::Change => self.change,
            Fault::Transfer => self.transfer,
            Fault::Stall => self.stall,
            Fault::Full => self.full,
            Fault::SyncError => self.sync_error,
            Fault::WriteError => self.write_error,
            Fault::Rot => self.rot,
            Fault::Jump => self.jump,
            Fault::SlowApply => self.slow_apply,
            Fault::Blackout => self.blackout,
            Fault::Room(_) | Fault::Desert(_) => None,
        }
    }
}

impl World {
    /// Plans the first fault of each kind.
    pub(super) fn plan_faults(&mut self) {
        for kind in KINDS {
            self.plan_fault(kind);
        }
    }

    fn plan_fault(&mut self, fault: Fault) {
        if let Some(mean) = self.faults.mean(fault) {
            let at = self.now() + within(&mut self.rng, 2 * mean);
            self.agenda.plan(at, Event::Fault(fault));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Failure> {
        if let Fault::Room(id) = fault {
            self.give_room(id);
            return Ok(());
        }
        if let Fault::Desert(id) = fault {
            if self.faults.cut.is_some() {
                self.coverage.add(Mark::LeaderDeserted);
                self.isolate(id);
            }
            return Ok(());
        }
        // Healed meanwhile.
        if self.faults.mean(fault).is_none() {
            return Ok(());
        }
        self.plan_fault(fault);
        let ids = self.ids();
        if ids.is_empty() {
            return Ok(());
        }
        let id = *self.rng.pick(&ids);
        self.digest.add(id.get() ^ 0xfa);
        self.tell_story(|| format!("{fault:?} {id}"));
        match fault {
            Fault::Crash if self.member(id).is_some() => {
                let operations = self.rng.below(CRASH_OPERATIONS_MAX);
                self.crash(id, operations);
            }
            Fault::Cut => self.cut_some(),
            Fault::Stop => self.stop(id)?,
            Fault::Pause => self.suffer(id, Mark::Paused, |slot, until| slot.paused_until = until),
            Fault::Stall => {
                self.suffer(id, Mark::DiskStalled, |slot, until| slot.stalled_until = until);
            }
            Fault::SlowApply => {
                self.suffer(id, Mark::SlowApply, |slot, until| slot.slow_until = until);
            }
            Fault::Change => self.change_members(id)?,
            Fault::Transfer => {
                self.desert_leader();
                self.transfer(id)?;
            }
            Fault::Full => self.fill(id),
            Fault::SyncError => self.fail_sync(id),
            Fault::WriteError => self.fail_write(id),
            Fault::Rot => self.rot(),
            Fault::Blackout => self.lose_all_power()?,
            Fault::Jump => self.jump(id),
            Fault::Crash | Fault::Room(_) | Fault::Desert(_) => {}
        }
        Ok(())
    }

    /// Lets a leader, which is about to hand leadership over, not hear whether that went well.
    fn desert_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        if self.rng.one_in(2) {
            let at = self.now() + within(&mut self.rng, DESERT_DELAY_MAX);
            self.agenda.plan(at, Event::Fault(Fault::Desert(leader)));
        }
    }

    fn suffer(&mut self, id: MemberId, mark: Mark, how: impl FnOnce(&mut super::Slot, Moment)) {
        let until = self.now() + within(&mut self.rng, TROUBLE_MAX);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.member.is_some()) else {
            return;
        };
        how(slot, until);
        self.coverage.add(mark);
    }

    /// Suspends a member's process.
    pub fn pause(&mut self, id: MemberId, duration: Duration) {
        let until = self.now() + duration;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.paused_until = until;
        }
    }

    /// Lets a disk not answer for a while.
    pub fn stall(&mut self, id: MemberId, duration: Duration) {
        let until = self.now() + duration;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.stalled_until = until;
        }
    }

    /// Lets a member take long to apply for a while.
    pub fn slow_apply(&mut self, id: MemberId, duration: Duration) {
        let until = self.now() + duration;
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.slow_until = until;
        }
    }

    /// Moves leadership to a member.
    pub fn transfer(&mut self, to: MemberId) -> Result<(), Failure> {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(member) = self.member(leader) else { return Ok(()) };
        let ticket = member.ticket();
        self.coverage.add(Mark::TransferAsked);
        self.tell(leader, Input::TransferLeader { to, ticket })
    }

    fn fill(&mut self, id: MemberId) {
        let until = self.now() + within(&mut self.rng, TROUBLE_MAX);
        let room = self.rng.below(200_000);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.member.is_some()) else {
            return;
        };
        slot.disk.set_capacity(Some(slot.disk.used() + room));
        self.coverage.add(Mark::DiskFull);
        self.agenda.plan(until, Event::Fault(Fault::Room(id)));
    }

    fn give_room(&mut self, id: MemberId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.disk.set_capacity(None);
        }
    }

    fn fail_sync(&mut self, id: MemberId) {
        let successes = self.rng.below(20);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.member.is_some()) else {
            return;
        };
        slot.disk.fail_sync_after(successes);
        self.coverage.add(Mark::SyncFailed);
    }

    fn fail_write(&mut self, id: MemberId) {
        let successes = self.rng.below(40);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.member.is_some()) else {
            return;
        };
        slot.disk.fail_write_after(successes);
        self.coverage.add(Mark::WriteFailed);
    }

    fn jump(&mut self, id: MemberId) {
        let ahead = within(&mut self.rng, JUMP_MAX);
        let Some(slot) = self.slots.get(&id) else { return };
        slot.setup.clock.jump(ahead);
        self.history.clocks.jumps += ahead;
        self.coverage.add(Mark::ClockJumped);
    }

    /// Damages what the disk of one member holds while it is down. Of a cluster that could not
    /// do without that member, nobody is damaged: what only it has would be lost.
    fn rot(&mut self) {
        let voters = self.voters();
        let is_spare = voters.len() >= 3
            && !self.slots.values().any(|slot| {
                slot.absence == Absence::Lost || slot.is_damaged && slot.absence != Absence::Gone
            });
        let is_down = |slot: &super::Slot| {
            slot.member.is_none() && slot.absence == Absence::Down && slot.life >= 2
        };
        let down = self.slots.iter().filter(|(_, slot)| is_down(slot));
        let down: Vec<MemberId> = down.map(|(id, _)| *id).collect();
        if !is_spare || down.is_empty() {
            return;
        }
        let id = *self.rng.pick(&down);
        let files = self.log_files(id);
        if files.is_empty() {
            return;
        }
        let path = self.rng.pick(&files).clone();
        let (bit, place) = (self.rng.below(8), self.rng.next_u64());
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Ok(bytes) = slot.disk.read(&path) else { return };
        // Where something was written: the zeros behind it are of no use.
        let Some(end) = bytes.iter().rposition(|byte| *byte != 0) else { return };
        let offset = place % (end as u64 + 1);
        if slot.disk.corrupt(&path, offset, 1 << bit).is_ok() {
            slot.is_damaged = true;
            self.coverage.add(Mark::Damaged);
        }
    }

    fn log_files(&self, id: MemberId) -> Vec<PathBuf> {
        let Some(slot) = self.slots.get(&id) else { return Vec::new() };
        let dir = DataDir::new(ROOT);
        let names = slot.disk.list(dir.wal()).unwrap_or_default();
        let is_log = |name: &PathBuf| name.extension().is_some_and(|extension| extension == "wal");
        let paths = names.into_iter().map(|name| dir.wal().join(name));
        paths.filter(is_log).collect()
    }
}
